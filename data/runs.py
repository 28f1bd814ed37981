"""A run: its settings, its scores, and its folder: its name, its opening or refusal, its log, its final table.

    runs/NAME/config.json            every setting, versions, git commit, data fingerprint
             log.jsonl               one JSON object per epoch, student, stage and call of the teacher
             pseudolabels/           stage0.jsonl, stage1.jsonl, …: {"input", "output", "score"} a line, in the split's order
             students/               every student's labels, from which an interrupted run goes on
             final/                  the last student: its weights (safetensors), its tokenizer
             results.json, report.md
"""
import argparse
import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

try:
    import fcntl
except ImportError:                     # Windows
    fcntl = None

import torch
import transformers

from data.splits import Data, DataError, fixed_sample, parse_object, read_labels, read_pseudolabels, write_atomically, write_jsonl


def number_of_stages(text):
    """What --stages takes: a number, or auto."""
    try:
        return text if text == "auto" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number or auto, found {text!r}") from None


@dataclass
class Settings:
    """Every setting of a run; the command line is made of these fields, their defaults and their help. None leaves the choice to
    `with_defaults` in mckd.py, to the student's recipe, or to what the data has."""
    data: str = field(default="data/craft", metadata={"help": "a data folder"})
    method: str = field(default="mckd", metadata={
        "choices": ["mckd", "own", "sft", "teacher"],
        "help": "mckd; own: no cross-partition labelling; sft: supervised finetuning on the labeled split; teacher: only that"})
    stages: int = field(default=3, metadata={
        "type": number_of_stages,
        "help": "number of stages, the final one included; 1 is vanilla KD; auto: for as long as a pair's labels seem better than those it "
                "learnt from, by how far the two students agree (six at most; a pair that has learnt next to nothing is not found out); "
                "the first labels that do not are left out"})
    teacher: str = field(default="auto", metadata={
        "help": "auto (the data folder's pseudolabels.jsonl), replay:FILE, hf:NAME_OR_FOLDER, gguf:FILE, openai:MODEL, "
                "noisy:RATE, or tuned:MODEL (that student, trained on the labeled split)"})
    base_url: str = field(default=None, metadata={"help": "of an OpenAI-compatible server, for --teacher openai:MODEL"})
    free: bool = field(default=False, metadata={
        "help": "a local LLM as teacher decodes freely, as in the paper, not under the task's constraint; an unreadable answer scores 0"})
    votes: int = field(default=1, metadata={
        "help": "labels of an input that the teacher gives, each with other demonstrations or in another order (tuned: from another seed), "
                "and that are voted"})
    student: str = field(default="tiny", metadata={
        "help": "tiny, gguf:FILE, or the name or folder of any pretrained encoder-decoder (t5-base) or causal LM"})
    samples: int = field(default=None, metadata={
        "help": "outputs that a student draws by their probability for an input, and that are voted; 1 is the paper's way: it decodes "
                "greedily (tiny, of trees: 4, else 1)"})
    teacher_weight: int = field(default=None, metadata={
        "help": "in that vote, where a pair relabels, the teacher's own label of an input counts as so many outputs, and a bracket needs "
                "as many votes; 0 is the paper's way (tiny, of trees: half of --samples, else 0; none with --stages auto)"})
    labeled: int = field(default=None, metadata={"help": "gold examples to use (50, or all where there are fewer)"})
    gold_epochs: int = field(default=6, metadata={
        "help": "epochs on the labeled examples, after those on the pseudolabels; 0 is the paper's way: pseudolabels alone"})
    gold_copies: int = field(default=None, metadata={
        "help": "how often the labeled examples stand among the pseudolabels, too (tiny, of trees: 2, else 0; none with --gold-epochs 0)"})
    unlabeled: int = field(default=None, metadata={"help": "unlabeled inputs to use (all)"})
    test: int = field(default=1000, metadata={"help": "test sentences to score, a fixed sample; 0 for all"})
    max_words: int = field(default=None, metadata={"help": "leave longer sentences out"})
    seed: int = field(default=0, metadata={"help": "of the partition, the initialisation, the order of training and what --samples draws"})
    epochs: int = field(default=None, metadata={
        "help": "on the pseudolabels; where it is given there is no least number of steps (the student's kind decides: see RECIPES in "
                "student.py)"})
    batch_size: int = field(default=None, metadata={"help": "the student's kind decides"})
    lr: float = field(default=None, metadata={"help": "learning rate; the student's kind decides"})
    out: str = field(default=None, metadata={"help": "the run's folder (runs/ and a name made of the settings)"})
    device: str = field(default="auto", metadata={"help": "cpu, cuda, … (auto: cuda where there is one)"})
    quiet: bool = field(default=False, metadata={"help": "no progress bars"})

    def check(self):
        """DataError for a number, or a combination, that no run can have."""
        for name, least in (("stages", 1), ("gold_epochs", 0), ("epochs", 1), ("batch_size", 1), ("samples", 1), ("teacher_weight", 0),
                            ("gold_copies", 0)):
            if isinstance(getattr(self, name), int) and getattr(self, name) < least:
                raise DataError(f"--{name.replace('_', '-')}: expected at least {least}, found {getattr(self, name)}")
        if self.gold_copies and not self.gold_epochs:
            raise DataError("--gold-copies: expected --gold-epochs of at least 1 beside it, found 0")
        if self.teacher_weight and self.stages == "auto":
            raise DataError("--teacher-weight: expected 0 beside --stages auto, which compares students with their teacher")
        if self.lr is not None and not 0 < self.lr < float("inf"):
            raise DataError(f"--lr: expected more than 0, found {self.lr}")
        if not 0 <= self.seed < 2 ** 32:
            raise DataError(f"--seed: expected a number from 0 to {2 ** 32 - 1}, found {self.seed}")

    def ignored(self):
        """The options that are given, though this method takes no notice of them."""
        return [f"--{name.replace('_', '-')}" for name in NOT_COMPARED_OF_METHOD.get(self.method, ())
                if getattr(self, name, None) != getattr(Settings, name, None)]


COMPARED = 200                          # sentences on which a stage's two students are compared
LEAST_LEAD, LEAST_RISE = 8.0, 1.0       # of their agreement, F1, for --stages auto: over their likeness to the teacher, and by a stage

# Settings that do not change what a run computes: a run may go on with other values of them. What the data is, its fingerprint tells.
NOT_COMPARED = ("data", "out", "quiet", "device")
NOT_COMPARED_OF_METHOD = {
    "teacher": ("stages", "student", "student_fingerprint", "epochs", "batch_size", "lr", "gold_epochs", "gold_copies", "samples",
                "teacher_weight", "recipes"),
    "sft": ("stages", "teacher", "base_url", "free", "votes", "teacher_weight", "gold_epochs", "gold_copies")}


@dataclass
class Run:
    """One run in its folder: what to compute with, what is finished."""
    settings: Settings
    data: Data
    task: object
    folder: Path
    device: torch.device
    metrics: object                         # the module: it may know this package, not this package it
    students: list = field(default_factory=list)

    @property
    def unlabeled_inputs(self):
        return list(dict.fromkeys(x.input for x in self.data.unlabeled))

    @property
    def test_inputs(self):
        return list(dict.fromkeys(x.input for x in self.data.test))

    @cached_property
    def held_out(self):
        """At most COMPARED inputs that no student is trained on, of valid or else of test: where two students are compared. Their gold
        is not looked at. They are a sample: the first ones may all be of one kind (Snips' splits are in order of intents)."""
        trained_on = {x.input for x in self.data.labeled + self.data.unlabeled}
        for split in (self.data.valid, self.data.test):
            if inputs := [x for x in dict.fromkeys(x.input for x in split) if x not in trained_on]:
                return fixed_sample(inputs, COMPARED)
        return []

    @property
    def vocabulary_texts(self):
        """What `tiny` learns its vocabulary from: the inputs; of free text the labeled outputs too, and the teacher's."""
        texts = [x.input for x in self.data.labeled + self.data.unlabeled]
        if self.task.kind == "text":
            texts += [x.output for x in self.data.labeled]
            if self.settings.method != "sft":
                texts += [x.output for x in read_pseudolabels(self.folder / "pseudolabels" / "stage0.jsonl")]
        return texts

    def save_pseudolabels(self, stage, y):
        """pseudolabels/stageN.jsonl: the labels of the unlabeled split, in its order."""
        file = self.folder / "pseudolabels" / f"stage{stage}.jsonl"
        if not file.exists():
            log_event(self.folder, {"event": "stage", "stage": stage, "pseudolabels": len(self.data.unlabeled)})
        write_jsonl(file, (y[x.input] for x in self.data.unlabeled))

    def pseudolabels(self, stage):
        """What `save_pseudolabels` saved. DataError where the file has lost some."""
        file = self.folder / "pseudolabels" / f"stage{stage}.jsonl"
        return kept_labels(file, self.unlabeled_inputs, f"delete {self.folder} to make it anew")

    def pseudolabel_f1(self, stage):
        """F1 of these pseudolabels against the unlabeled split's gold, to report only; None where there is no gold."""
        known = [x for x in self.data.unlabeled if x.output is not None]
        pairs = zip(self.data.unlabeled, read_pseudolabels(self.folder / "pseudolabels" / f"stage{stage}.jsonl"))
        return self.scores(known, [label.output for x, label in pairs if x.output is not None])["f1"] if known else None

    def pair(self, stage):
        """The two students of an intermediate stage; none of the last."""
        return [student for student in self.students if student.stage == stage and student.which != "final"]

    def agreement(self, stage):
        """F1 between a pair's labels of inputs that neither was trained on; None where there are none. Two that were trained on
        different halves agree where they have learnt the same pattern, and less where they guess: a sign of quality without
        gold, but a hopeful one, because errors that both have learnt from the same teacher count as agreement."""
        if not self.held_out:
            return None
        one, other = ([found.output for found in student.given(self.held_out).values()] for student in self.pair(stage))
        return round(self.metrics.agreement(self.task.kind, one, other, self.held_out), 2)

    def likeness(self, stage):
        """F1 between a stage's pseudolabels of the pool and those of the stage before, in the first the teacher's, on at most 1,000 inputs.
        With cross-partition labelling the student that relabels an input has not learnt its old label. (With `--teacher-weight` the
        teacher's label has votes on the new ones, so that they are like it; --stages auto leaves it none.)"""
        inputs = fixed_sample(self.unlabeled_inputs, 1000)
        new, old = ([x.output for x in read_labels(self.folder / "pseudolabels" / f"stage{i}.jsonl", inputs).values()]
                    for i in (stage, stage - 1))
        return round(self.metrics.agreement(self.task.kind, new, old, inputs), 2)

    def gains(self, stage):
        """Whether a pair's labels seem better than those that it learnt from, without gold: the rule of --stages auto.

        If labellers were right independently of each other, say in shares p (each student) and q (their teacher), the students would
        agree in p·p and each of them with the teacher in p·q: the former is more just where the student is the better one (Platanios et
        al., UAI 2014, estimate accuracy from agreement). But students share what they learnt, and we compare them on other sentences
        than those that the teacher has labelled, so agreement must lead by LEAST_LEAD; and of a later stage, whose teachers are
        students themselves, it must rise by LEAST_RISE. Of its own half (`--method own`) a student has learnt the teacher's labels,
        so its first pair is not compared. A pair that has learnt next to nothing writes alike, and is not found out.
        """
        if stage == 1 and self.settings.method == "own":
            return True
        if stage == 1:
            than, what, least, kept = self.likeness(1), "likeness to the teacher's labels", LEAST_LEAD, "the teacher"
        else:
            than, what, least, kept = self.agreement(stage - 1), "agreement in the stage before", LEAST_RISE, f"stage {stage - 1}"
        agreed = self.agreement(stage)
        better = agreed >= than + least
        verdict = "its labels are used" if better else f"its labels are left out, the last student learns those of {kept}"
        print(f"Stage {stage}: agreement {agreed}, needed {than + least:.2f} ({what} {than}, and {least}): {verdict}", flush=True)
        return better

    def score_test(self, labels):
        """{"f1", "valid", "complete"} of labels (a dict of input -> Label); None where there is no test split."""
        if not self.data.test:
            return {"f1": None, "valid": None, "complete": None}
        return self.scores(self.data.test, [labels[x.input].output for x in self.data.test])

    def scores(self, gold, outputs):
        found = self.metrics.score(self.task.kind, [self.task.gold(x) for x in gold], outputs, [x.input for x in gold])
        return {name: round(found[name], 2) for name in ("f1", "valid", "complete")}

    def results(self, teacher):
        """What results.json holds. `teacher`: the teacher's scores on the test split."""
        stages = []
        for i in sorted({student.stage for student in self.students}):
            students = [student for student in self.students if student.stage == i]
            paired = bool(self.pair(i))
            stages.append({"stage": i, "pseudolabel_f1": self.pseudolabel_f1(i - 1) if self.settings.method != "sft" else None,
                           "agreement": self.agreement(i) if paired else None,
                           "likeness": self.likeness(i) if paired else None,
                           "left_out": paired and students[-1].which == "final",       # --stages auto did not use this pair's labels
                           "students": [student.test_scores() for student in students]})
        last = stages[-1]["students"][-1] if stages else {"test_f1": teacher["f1"], "valid": teacher["valid"]}
        return {"method": self.settings.method, "data": self.data.headline(),
                "teacher": {"f1": teacher["f1"], "valid": teacher["valid"]}, "stages": stages,
                "test": {"f1": last["test_f1"], "valid": last["valid"]}, "seconds": logged_seconds(self.folder),
                "teacher_seconds": logged_seconds(self.folder, "teacher")}


def run_folder(settings, data):
    """Where a run with these settings goes: --out, else a name that tells runs apart. `data`: the folder that was loaded."""
    if settings.out:
        return Path(settings.out)
    trained = settings.method != "teacher"
    parts = ["-".join(data.parts[-2:]) if data.name == "real" else data.resolve().name]
    parts += [f"{settings.method}{settings.stages}" if settings.method in ("mckd", "own") else settings.method]
    teacher = "tuned-" * settings.teacher.startswith("tuned:") + Path(settings.teacher.removeprefix("tuned:")).name
    parts += [teacher] * (settings.method != "sft") + [settings.student] * trained
    optional = ("free", "votes", "samples", "teacher_weight", "labeled", "gold_epochs", "gold_copies", "unlabeled", "test", "max_words",
                "epochs", "batch_size", "lr")
    changed = {name: getattr(settings, name) for name in optional if getattr(settings, name) != getattr(type(settings), name)
               and name not in NOT_COMPARED_OF_METHOD.get(settings.method, ())}
    parts += [name if value is True else f"{name}{value}" for name, value in changed.items()]
    return Path("runs") / "-".join(Path(part).name.replace(":", "-") for part in [*parts, f"seed{settings.seed}"])


def open_folder(folder, settings, device):
    """Make the run's folder, or find it as a run with the same `settings` (a dict) left it. DataError where a run with others has
    trained a student there; what such a run left before its first student is thrown away."""
    differences, code, begun, about = [], source_digest(), False, {}
    if (folder / "config.json").exists():
        about = read_config(folder)
        found = about["settings"]
        differences = [f"{name} {found.get(name)!r} there, {value!r} here" for name, value in settings_that_count(settings).items()
                       if found.get(name) != value]
        begun = (folder / "results.json").exists() or any((folder / "students").glob("*.jsonl"))
        if begun and about.get("code") != code:
            print(f"{folder}: what it holds was made by other code than this (commit {about.get('git_commit')}) and stays as it is, "
                  "what it lacks is made by this code; delete it to make all of it anew", file=sys.stderr)
        if differences and begun:
            what = "data" if any(x.startswith("fingerprint") for x in differences) else "settings"
            raise DataError(f"{folder} was made with other {what}: {'; '.join(differences)}; give another --out, or delete it")
        for left in (folder / "log.jsonl", *(folder / "pseudolabels").glob("*.jsonl")) if differences else ():
            left.unlink(missing_ok=True)
    elif folder.is_file() or any(path.is_file() and not path.match(".*.tmp") for path in folder.rglob("*")):   # left by a crash
        raise DataError(f"{folder}: expected a new folder, an empty one or that of a run, found other files")
    (folder / "students").mkdir(parents=True, exist_ok=True)
    (folder / "pseudolabels").mkdir(exist_ok=True)
    for left in folder.rglob(".*.tmp"):
        left.unlink()
    if differences or not begun and about.get("code") != code:
        versions = {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__}
        about = {"settings": settings, "versions": versions, "git_commit": git_commit(), "code": code, "device": str(device)}
        write_atomically(folder / "config.json", json.dumps(about, indent=2) + "\n")
    log = folder / "log.jsonl"
    log.touch()                                         # a run whose labels are all known logs nothing
    if (events := log.read_bytes()) and not events.endswith(b"\n"):                            # cut off by a crash
        write_atomically(log, events[:events.rfind(b"\n") + 1])
    logged(folder)                                      # what is damaged is said now, not after hours


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


def kept_labels(file, inputs, remedy):
    """The labels {input: Label} that a file of a run holds of these inputs; DataError, with the `remedy`, where it has lost some."""
    found = read_labels(file, inputs)
    if missing := sum(label is None for label in found.values()):
        raise DataError(f"{file}: expected labels of {len(found)} inputs, {missing} are missing; {remedy}")
    return found


def adopt_student(folder, name, inputs):
    """Take a student from a run beside this one that differs in its number of stages alone, and so has trained the very same
    student: its labels (these inputs' must be among them), and its lines of the log. Returns whether there was one."""
    def about(run):
        found = read_config(run)
        return {**found, "settings": {**settings_that_count(found["settings"]), "stages": None}, "git_commit": None}
    for labels in sorted(folder.parent.glob(f"*/students/{name}.jsonl")):
        other = labels.parent.parent
        try:
            events = [event for event in logged(other) if event.get("student") == name] if about(other) == about(folder) else None
        except (OSError, ValueError):                   # no run's folder, or a damaged one
            continue
        if events is not None and None not in read_labels(labels, inputs).values():
            print(f"{name}: as in {other}, trained there with the same settings", flush=True)
            for event in events:
                log_event(folder, event)
            write_atomically(folder / "students" / labels.name, labels.read_bytes())
            return True
    return False


def source_digest():
    """A digest of the modules that decide what a run computes: another one means that the code has changed."""
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
    Windows, and where the file system cannot lock a folder, nobody is kept out.)"""
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


def log_event(folder, event):
    """Append a JSON object to log.jsonl."""
    with open(folder / "log.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(event) + "\n")


def logged(folder):
    """The events in log.jsonl, but for a last line that a crash has cut off. DataError where another line is damaged."""
    lines = (folder / "log.jsonl").read_bytes().split(b"\n")[:-1]
    events = [parse_object(line, f"{folder}/log.jsonl:{number}") for number, line in enumerate(lines, 1)]
    for number, event in enumerate(events, 1):
        if type(event.get("seconds", 0)) not in (int, float) or type(event.get("student", "")) is not str:
            raise DataError(f"{folder}/log.jsonl:{number}: expected seconds to be a number and student a name")
    return events


def finished(folder):
    """results.json as a dict, of a run that has been finished before; else None. DataError where it is damaged."""
    file = folder / "results.json"
    if not file.exists():
        return None
    found = parse_object(file.read_bytes(), file)
    try:
        found["teacher"]["f1"], found["teacher"]["valid"]
        return found
    except (LookupError, TypeError):
        raise DataError(f"{file}: expected the results of a run; delete it to have them made again") from None


def logged_seconds(folder, who=None):
    """What the log says that this student, or "teacher", or all of them took; None where it says nothing. What was interrupted is not
    counted, and what was done twice, because a crash came before its file was written, once."""
    seconds = {}
    for event in logged(folder):
        if event.get("event") == "teacher":
            seconds["teacher"] = seconds.get("teacher", 0) + event.get("seconds", 0)
        elif event.get("event") == "student":
            seconds[event.get("student")] = event.get("seconds", 0)
    if who is None:
        return round(sum(seconds.values()), 1)
    return round(seconds[who], 1) if who in seconds else None


def table(results):
    """The final table, in Markdown: the teacher, each stage's students, the final one."""
    def row(name, *cells):
        shown = ["–" if cell is None else f"{cell:.1f}" if isinstance(cell, float) else str(cell) for cell in cells]
        return f"| {name:<13} | " + " | ".join(f"{cell:>10}" for cell in shown) + " |"
    lines = [row("", "trained on", "label F1", "agreement", "test F1", "valid (%)", "seconds"), "|---|" + "---:|" * 6]
    if results["method"] != "sft":
        lines.append(row("teacher", None, None, None, results["teacher"]["f1"], results["teacher"]["valid"],
                         results["teacher_seconds"]))
    for stage in results["stages"]:
        for student in stage["students"]:
            agreement = None if student["name"].endswith("final") else stage["agreement"]
            lines.append(row(student["name"].replace("_", " "), student["trained_on"], stage["pseudolabel_f1"], agreement,
                             student["test_f1"], student["valid"], student["seconds"]))
    return "\n".join(lines)


def summary(all_results, seeds):
    """Mean and standard deviation over several seeds; with --stages auto, of the stages that all of them have."""
    found = {"teacher": [r["teacher"]["f1"] for r in all_results]}
    for stages in zip(*(r["stages"] for r in all_results)):
        found[f"labels that stage {stages[0]['stage']} learns"] = [stage["pseudolabel_f1"] for stage in stages]
    if all_results[0]["method"] != "teacher":
        found["final student"] = [r["test"]["f1"] for r in all_results]
    print(f"\nF1, mean ± standard deviation over seeds {seeds}")
    for name, f1s in found.items():
        if None not in f1s:
            print(f"{name:>26}: {statistics.mean(f1s):.2f} ± {statistics.stdev(f1s):.2f}")
