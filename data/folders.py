"""A run's folder: its name, its opening or refusal, what it takes from the folders beside it, its lock, its log.

    runs/NAME/config.json            every setting, versions, git commit, data fingerprint
             log.jsonl               one JSON object per epoch, student, stage and call of the teacher
             pseudolabels/           stage0.jsonl, stage1.jsonl, …: {"input", "output", "score"} a line, in the split's order
             students/               every student's labels, from which an interrupted run goes on
             final/                  the last student: its weights (safetensors), its tokenizer, and student.json: what else it needs
             results.json, report.md
"""
import errno
import filecmp
import hashlib
import json
import os
import platform
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:                     # Windows
    fcntl = None

import sentencepiece
import tokenizers
import torch
import transformers

from data.models import fast_dtype
from data.splits import DataError, named, parse_object, read_labels, write_atomically

# Settings that may differ when a run goes on: the fingerprint tells whether the data does, and of another device MADE_WITH warns.
NOT_COMPARED = ("data", "out", "quiet", "device")
NOT_COMPARED_OF_METHOD = {
    "teacher": ("stages", "student", "student_fingerprint", "epochs", "batch_size", "lr", "gold_epochs", "gold_copies", "samples",
                "teacher_weight", "recipes"),
    "sft": ("stages", "teacher", "base_url", "free", "votes", "teacher_weight", "gold_epochs", "gold_copies")}
UNFINISHED = ".*.[0-9]*.tmp"            # what a crash leaves of a file: write_atomically in splits.py
MADE_WITH = ("code", "versions", "device", "threads", "precision")       # decide the bytes, too: a run goes on with others, with a warning


def run_folder(settings, data):
    """Where a run with these settings goes: --out, else a name that tells runs apart. `data`: the folder that was loaded."""
    if settings.out:
        return Path(settings.out)
    trained = settings.method != "teacher"
    parts = ["-".join(data.parts[-2:]) if data.name == "real" else data.resolve().name]
    parts += [f"{settings.method}{settings.stages}" if settings.method in ("mckd", "own") else settings.method]
    if settings.method != "sft":
        teacher = Path(settings.teacher.removeprefix("tuned:")).name
        parts.append(f"tuned-{teacher}" if settings.teacher.startswith("tuned:") else teacher)
    if trained:
        parts.append(settings.student)
    optional = ("free", "votes", "samples", "teacher_weight", "labeled", "gold_epochs", "gold_copies", "unlabeled", "test", "max_words",
                "epochs", "batch_size", "lr")
    changed = {name: getattr(settings, name) for name in optional if getattr(settings, name) != getattr(type(settings), name)
               and name not in NOT_COMPARED_OF_METHOD.get(settings.method, ())}
    parts += [name if value is True else f"{name}{value}" for name, value in changed.items()]
    return Path("runs") / "-".join(Path(part).name.replace(":", "-") for part in [*parts, f"seed{settings.seed}"])


def check_place(folder):
    """DataError where no run can have its folder: in a file's place, or among other files."""
    if (folder / "config.json").exists():
        return
    if folder.is_file() or any(path.is_file() and not path.match(UNFINISHED) for path in folder.rglob("*")):     # but what a crash has left
        raise DataError(f"{folder}: expected a new folder, an empty one or that of a run, found other files")


def open_folder(folder, settings, device):
    """Make the run's folder, or find it as a run with the same `settings` (a dict) left it. DataError where a run with other settings has
    trained a student there; where it has not, what it left is deleted. Returns a digest of MADE_WITH, as it is here."""
    libraries = (torch, transformers, tokenizers, sentencepiece)
    versions = {"python": platform.python_version(), **{library.__name__: library.__version__ for library in libraries}}
    here = {"settings": settings, "code": source_digest(), "versions": versions, "threads": torch.get_num_threads(),
            "precision": str(fast_dtype(device)).removeprefix("torch."), "device": str(device), "git_commit": git_commit()}
    begun = same = False
    check_place(folder)
    if (folder / "config.json").exists():
        begun = (folder / "results.json").exists() or any(any(folder.glob(made)) for made in ("students/*.jsonl", "final/*.safetensors"))
        same = compare_or_clear(folder, here, begun)
    (folder / "students").mkdir(parents=True, exist_ok=True)
    (folder / "pseudolabels").mkdir(exist_ok=True)
    for left in folder.rglob(UNFINISHED):
        left.unlink()
    if not (begun or same):
        write_atomically(folder / "config.json", json.dumps(here, indent=2) + "\n")
    log = folder / "log.jsonl"
    log.touch()                                         # a run whose labels are all known logs nothing
    if (events := log.read_bytes()) and not events.endswith(b"\n"):                            # cut off by a crash
        write_atomically(log, events[:events.rfind(b"\n") + 1])
    logged(folder)                                      # what is damaged is said now, not after hours
    return hashlib.sha256(json.dumps([here[name] for name in MADE_WITH]).encode()).hexdigest()[:16]


def compare_or_clear(folder, here, begun):
    """Whether the run in this folder was made with the configuration `here` (a dict, as in config.json). Where it has `begun`, other
    settings are a DataError, other code or versions a warning; where not, labels that were made with other settings are deleted."""
    there = read_config(folder)
    differences = [f"{name} {there['settings'].get(name)!r} there, {value!r} here"
                   for name, value in settings_that_count(here["settings"]).items() if there["settings"].get(name) != value]
    others = [name for name in MADE_WITH if there.get(name, here[name]) != here[name]]
    if begun and differences:
        what = "settings"
        if any(x.startswith("fingerprint") for x in differences):
            what = f"data ({there['settings'].get('data')} as it was then, here {here['settings'].get('data')})"
        raise DataError(f"{folder} was made with other {what}: {'; '.join(differences)}; give another --out, or delete it")
    if begun and others:
        print(f"{folder}: what it holds was made with other {' and '.join(others)} than this (commit {there.get('git_commit')}) and stays "
              "as it is, what it lacks is made with these; delete it to make all of it anew", file=sys.stderr)
    if differences:
        for left in (folder / "log.jsonl", *(folder / "pseudolabels").glob("*.jsonl")):
            left.unlink(missing_ok=True)
    return not differences and not others


def settings_that_count(settings):
    """Those of a run's settings (a dict) that change what it computes."""
    left_out = NOT_COMPARED + NOT_COMPARED_OF_METHOD.get(settings["method"], ())
    return {name: value for name, value in settings.items() if name not in left_out}


def read_config(folder):
    """config.json as a dict; DataError where it is not a run's."""
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        found["settings"]["method"]
        return found
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"{folder}/config.json: expected the settings of a run ({error!r})") from None


def kept_labels(file, inputs, remedy, check=None):
    """The labels {input: Label} that a file of a run holds of these inputs; DataError, with the `remedy`, where it is damaged or has lost
    some. `check`: as in read_labels."""
    try:
        found = read_labels(file, inputs, check)
    except DataError as error:
        raise DataError(f"{error}; {remedy}") from None
    if missing := sum(label is None for label in found.values()):
        raise DataError(f"{file}: expected labels of {len(found)} inputs, {missing} are missing; {remedy}")
    return found


def adopt_student(run, stage, name, inputs):
    """Copy a student from a run beside this one that differs only in its number of stages, where it learnt from the same labels, by the
    same code and on the same device: it is the same student. What is copied are its labels (these inputs' must be among them, undamaged)
    and its lines of the log. Returns whether there was one."""
    folder = run.folder

    def about(place):
        return {**settings_that_count(read_config(place)["settings"]), "stages": None}
    learnt = Path("pseudolabels", f"stage{stage - 1}.jsonl")
    for labels in sorted(folder.parent.glob(f"*/students/{name}.jsonl")):
        other = labels.parent.parent
        try:
            events = [event for event in logged(other) if event.get("student") == name]
            same = (events and events[-1].get("made_with") == run.made_with and about(other) == about(folder)
                    and filecmp.cmp(other / learnt, folder / learnt, shallow=False)
                    and None not in read_labels(labels, inputs, run.check_label).values())
        except (OSError, ValueError, TypeError):        # no run's folder, or a damaged one
            continue
        if same:
            print(f"{name}: as in {other}, trained there with the same settings", flush=True)
            for event in events:
                log_event(folder, event)
            write_atomically(folder / "students" / labels.name, labels.read_bytes())
            return True
    return False


def source_digest():
    """A digest of all modules: another one means that the code has changed, wherever."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for file in sorted([*root.glob("*.py"), *(root / "data").glob("*.py")]):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def git_commit():
    """The commit of this checkout; None where there is none, or no git."""
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True)
    except OSError:
        return None
    return found.stdout.strip() or None


@contextmanager
def alone_in(folder):
    """Make a run's folder, and keep other processes out of it for as long as this one works there; DataError where another one does. (On
    Windows, and where the file system cannot lock a folder, there is no lock.)"""
    if not fcntl or folder.is_file():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{folder}: another process is at work on this run; wait for it, or give another --out") from None
        except OSError:
            pass
        yield
    finally:
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_UN)            # for processes, too, that this one has forked
        os.close(lock)


@contextmanager
def one_at_a_time(file):
    """Wait until no other process is inside with this open file. (Not on Windows, and not where a file system cannot lock.)"""
    if fcntl:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{file.name}: waiting for another process that adds to it", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            pass
    yield                                               # closing the file releases the lock


def log_event(folder, event):
    """Append a JSON object to log.jsonl: a whole line, or on a full disk none, so that what is logged later begins a line, too."""
    line = (json.dumps(event) + "\n").encode()
    with named(folder / "log.jsonl"), open(folder / "log.jsonl", "ab", buffering=0) as file:
        if (written := file.write(line)) < len(line):
            file.truncate(file.tell() - written)            # not to where it began: the other student may have added a line meanwhile
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def logged(folder):
    """The events in log.jsonl, but for a last line that a crash has cut off. DataError where another line is damaged."""
    lines = (folder / "log.jsonl").read_bytes().split(b"\n")[:-1]
    try:
        events = [parse_object(line, f"{folder}/log.jsonl:{number}") for number, line in enumerate(lines, 1)]
    except DataError as error:
        raise DataError(f"{error}; that line can be deleted: the log tells only losses, how long work took, and what did it") from None
    for number, event in enumerate(events, 1):
        if type(event.get("seconds", 0)) not in (int, float) or type(event.get("student", "")) is not str:
            raise DataError(f"{folder}/log.jsonl:{number}: expected seconds to be a number and student a name")
    return events


def finished(folder):
    """results.json as a dict, of a run that has been finished before; else None. DataError where it is damaged."""
    file = folder / "results.json"
    if not file.exists():
        return None
    try:
        found = parse_object(file.read_bytes(), file)
        found["teacher"]["f1"], found["teacher"]["valid"]
        return found
    except (DataError, LookupError, TypeError):
        raise DataError(f"{file}: expected the results of a run; delete it to have them made again") from None


def logged_seconds(folder):
    """The seconds that the log has, {"teacher" or a student's name: seconds}. Interrupted work is not counted; work that was repeated
    because of a crash is counted once."""
    seconds = {}
    for event in logged(folder):
        if event.get("event") == "teacher":
            seconds["teacher"] = round(seconds.get("teacher", 0) + event.get("seconds", 0), 1)
        elif event.get("event") == "student":
            seconds[event.get("student")] = event.get("seconds", 0)
    return seconds
