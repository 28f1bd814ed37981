"""Two students at a time, each in a process of its own."""
import ctypes
import multiprocessing
import os
import signal
import sys
from functools import partial

FORKS = sys.platform == "linux"          # elsewhere a forked process may not use what the libraries have set up
PR_SET_PDEATHSIG = 1


def in_processes(*works):
    """Call these functions at the same time, each in a forked process, and wait for all. What one returns is lost: what it does must
    show in files. Returns whether none of them failed."""
    parent = os.getpid()

    def run(work):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)       # it ends when this process is killed,
        if os.getppid() != parent:                                      # or if that has happened already
            os._exit(1)
        try:
            work()
        except BaseException:
            os._exit(1)
    processes = [multiprocessing.get_context("fork").Process(target=run, args=(work,), daemon=True) for work in works]
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    finally:
        for process in processes:                                       # interrupted, as a notebook's cell may be
            if process.is_alive():
                process.terminate()
    return not any(process.exitcode for process in processes)


def train_and_label(*labellings):
    """Train the students of (student, inputs) pairs, mckd.py's Student, where they have not been; returns their labels {input: Label} of
    these inputs. Where a student fills no more than one core, each works in a process of its own: two take 1.3 to 2.3 times as long as
    one. What they do reaches this process through the run's folder; if one fails, this process repeats its work and reports the error."""
    def work(student, inputs, place):
        student.place = place
        student.label(inputs)
    if FORKS and labellings[0][0].one_core and not all(student.is_finished() for student, _ in labellings):
        if not in_processes(*(partial(work, *labelling, place) for place, labelling in enumerate(labellings))):
            print("a student's process has failed; what it has not finished is done again here, one after the other", file=sys.stderr)
    return {x: y for student, inputs in labellings for x, y in student.label(inputs).items()}
