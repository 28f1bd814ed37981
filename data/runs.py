"""A run: its settings, its scores, its final table. (Its folder: folders.py.)"""
import argparse
import statistics
import sys
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path

import torch

from data.folders import NOT_COMPARED_OF_METHOD, kept_labels, log_event, logged_seconds
from data.splits import Data, DataError, check_least, fixed_sample, read_labels, read_pseudolabels, write_jsonl
from data.trees import split_words


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
                "learnt from, by how far the two students agree (six at most; a pair that has learnt next to nothing is not detected); "
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
    seed: int = field(default=0, metadata={
        "help": "of the partition, the initialisation, the order of training, what --samples draws, and of noisy: and tuned: teachers"})
    epochs: int = field(default=None, metadata={
        "help": "on the pseudolabels; where it is given there is no least number of steps (the student's kind decides: see RECIPES in "
                "student.py)"})
    batch_size: int = field(default=None, metadata={"help": "the student's kind decides"})
    lr: float = field(default=None, metadata={"help": "learning rate; the student's kind decides"})
    out: str = field(default=None, metadata={"help": "the run's folder (runs/ and a name made of the settings)"})
    device: str = field(default="auto", metadata={"help": "cpu, cuda, … (auto: cuda where there is one)"})
    quiet: bool = field(default=False, metadata={"help": "no progress bars"})

    def __post_init__(self):
        self.data, self.out = (str(place) if isinstance(place, Path) else place for place in (self.data, self.out))

    def check(self):
        """DataError for a method, a number, or a combination, that no run can have."""
        for setting in fields(self):
            value, choices, option = getattr(self, setting.name), setting.metadata.get("choices"), f"--{setting.name.replace('_', '-')}"
            if choices and value not in choices:
                raise DataError(f"{option}: expected one of {', '.join(choices)}, found {value!r}")
            if setting.type is str and not isinstance(value, str) and value is not setting.default:
                raise DataError(f"{option}: expected a string, found {value!r}")
        for name, least in (("stages", 1), ("gold_epochs", 0), ("epochs", 1), ("batch_size", 1), ("samples", 1), ("teacher_weight", 0),
                            ("gold_copies", 0)):
            if not (name == "stages" and self.stages == "auto"):
                check_least(f"--{name.replace('_', '-')}", getattr(self, name), least)
        if self.gold_copies and not self.gold_epochs:
            raise DataError("--gold-copies: expected --gold-epochs of at least 1 beside it, found 0")
        if self.teacher_weight and self.stages == "auto":
            raise DataError("--teacher-weight: expected 0 beside --stages auto, which compares students with their teacher")
        if self.lr is not None and not (isinstance(self.lr, (int, float)) and 0 < self.lr < float("inf")):
            raise DataError(f"--lr: expected a number of more than 0, found {self.lr!r}")
        if not (isinstance(self.seed, int) and 0 <= self.seed < 2 ** 32):
            raise DataError(f"--seed: expected a whole number from 0 to {2 ** 32 - 1}, found {self.seed!r}")

    def ignored(self):
        """The options that are given, though this method, or vanilla KD, takes no notice of them."""
        unused = NOT_COMPARED_OF_METHOD.get(self.method, ()) + (("teacher_weight",) if self.stages == 1 else ())
        return [f"--{name.replace('_', '-')}" for name in dict.fromkeys(unused)
                if getattr(self, name, None) != getattr(Settings, name, None)]


COMPARED = 200                          # sentences on which a stage's two students are compared
LEAST_LEAD, LEAST_RISE = 8.0, 1.0       # of their agreement, F1, for --stages auto: over their likeness to the teacher, and by a stage


@dataclass
class Run:
    """One run in its folder: what to compute with, what is finished."""
    settings: Settings
    data: Data
    task: object
    folder: Path
    device: torch.device
    metrics: object                         # the module, passed in: it imports this package, never the reverse
    made_with: str = ""                     # a digest of the code, versions and device, as open_folder has it
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

    def splits_to_learn(self):
        """(D_labeled, D_unlabeled): the Examples that students are finetuned on, and the inputs that they label, each once. Says what is
        left out of the two splits, and what is odd about them."""
        settings, D_unlabeled = self.settings, self.unlabeled_inputs
        if repeated := len(self.data.unlabeled) - len(D_unlabeled):
            print(f"{repeated} unlabeled inputs repeat others and are left out", file=sys.stderr)
        seen = {x.input for x in self.data.labeled}.intersection(D_unlabeled)           # gold of what a student is to label
        D_labeled = list(self.gold_to_learn(left_out=seen).values()) if settings.gold_epochs else []
        if seen and settings.gold_epochs:
            print(f"{len(seen)} labeled inputs stand in the unlabeled split too; no student is finetuned on their gold", file=sys.stderr)
        if tested := set(self.test_inputs).intersection(D_unlabeled):
            print(f"{len(tested)} test inputs stand in the unlabeled split too; students are trained on pseudolabels of them, and a "
                  "pair's scores on them count the teacher's vote, where it has one", file=sys.stderr)
        learnt = "each learns from pseudolabels alone, the paper's way"
        if D_labeled:
            copies = f"{settings.gold_copies} times among its pseudolabels, then " if settings.gold_copies else ""
            learnt = (f"each also learns from {counted(len(D_labeled), 'labeled example')}, {copies}"
                      f"{counted(settings.gold_epochs, 'epoch')} on them alone (--gold-epochs 0, the paper's way: not at all)")
        print(f"Students: {settings.student}; {learnt}", flush=True)
        return D_labeled, D_unlabeled

    def gold_to_learn(self, left_out=()):
        """{input: Example} of the labeled split, but for the inputs `left_out`: what `--method sft` learns, too. Says what is odd about
        it."""
        gold = {x.input: x for x in self.data.labeled if x.input not in left_out}
        if tested := gold.keys() & set(self.test_inputs):
            print(f"{len(tested)} test inputs stand in the labeled split too; students learn their gold", file=sys.stderr)
        if repeated := sum(x.input in gold for x in self.data.labeled) - len(gold):
            print(f"{repeated} labeled inputs repeat others; of each the last is learnt", file=sys.stderr)
        return gold

    @property
    def vocabulary_texts(self):
        """What `tiny` learns its vocabulary from: the inputs; of free text the labeled outputs too, and the teacher's."""
        texts = self.data.texts()
        if self.task.kind == "text" and self.settings.method != "sft":
            texts += [x.output for x in read_pseudolabels(self.folder / "pseudolabels" / "stage0.jsonl")]
        return texts

    def save_pseudolabels(self, stage, y):
        """pseudolabels/stageN.jsonl: the labels of the unlabeled split, in its order, made by stage N (stage 0 is the teacher)."""
        file = self.folder / "pseudolabels" / f"stage{stage}.jsonl"
        if not file.exists():
            log_event(self.folder, {"event": "stage", "stage": stage, "pseudolabels": len(self.data.unlabeled)})
        write_jsonl(file, (y[x.input] for x in self.data.unlabeled))

    def pseudolabels(self, stage):
        """What `save_pseudolabels` saved. DataError where the file has lost some."""
        file = self.folder / "pseudolabels" / f"stage{stage}.jsonl"
        return kept_labels(file, self.unlabeled_inputs, f"delete {self.folder} to make it anew", self.check_label)

    @property
    def check_label(self):
        """check(input, output), which raises ValueError for a label that is no answer about its input; None for free text."""
        return None if self.task.kind == "text" else self.task.check

    def pseudolabel_f1(self, stage):
        """F1 of these pseudolabels against the unlabeled split's gold, to report only; None where there is no gold."""
        known = [x for x in self.data.unlabeled if x.output is not None]
        pairs = zip(self.data.unlabeled, read_pseudolabels(self.folder / "pseudolabels" / f"stage{stage}.jsonl"))
        return self.scores(known, [label.output for x, label in pairs if x.output is not None])["f1"] if known else None

    def pair(self, stage):
        """The two students of an intermediate stage; none of the last."""
        return [student for student in self.students if student.stage == stage and student.which != "final"]

    def agreement(self, stage):
        """F1 between a pair's labels of inputs that neither was trained on; None where there is nothing to compare. Two that were trained
        on different halves agree where they have learnt the same pattern, and less where they guess: a sign of quality without gold, but
        a hopeful one, because errors that both have learnt from the same teacher count as agreement."""
        one, other = ([found.output for found in student.given(self.held_out).values()] for student in self.pair(stage))
        return self.alike(one, other, self.held_out)

    def likeness(self, stage):
        """F1 between a stage's pseudolabels of the pool and those of the stage before, in the first the teacher's, on at most 1,000 inputs.
        With cross-partition labelling the student that relabels an input has not learnt its old label. (With `--teacher-weight` the
        teacher's label has votes on the new ones, so that they are like it; --stages auto leaves it none.)"""
        inputs = fixed_sample(self.unlabeled_inputs, 1000)
        new, old = ([x.output for x in read_labels(self.folder / "pseudolabels" / f"stage{i}.jsonl", inputs).values()]
                    for i in (stage, stage - 1))
        return self.alike(new, old, inputs)

    def alike(self, one, other, inputs):
        """The F1 between two lists of outputs about these inputs; None where there is nothing to compare."""
        found = self.metrics.agreement(self.task.kind, one, other, inputs)
        return None if found is None else round(found, 2)

    def gains(self, stage):
        """Whether a pair's labels seem better than those that it learnt from, without gold: the rule of --stages auto.

        If labellers were right independently of each other, say in shares p (each student) and q (their teacher), the students would
        agree in p·p and each of them with the teacher in p·q: the first is larger exactly where the student is the better one (Platanios
        et al., UAI 2014, estimate accuracy from agreement). But students share what they learnt, and we compare them on other sentences
        than those that the teacher has labelled, so agreement must lead by LEAST_LEAD; and of a later stage, whose teachers are
        students themselves, it must rise by LEAST_RISE. Of its own half (`--method own`) a student has learnt the teacher's labels,
        so its first pair is not compared. A pair that has learnt next to nothing gives near-identical outputs, and is not detected.
        """
        if stage == 1 and self.settings.method == "own":
            return True
        if stage == 1:
            before, least = self.likeness(1), LEAST_LEAD
            what, kept = "likeness to the teacher's labels", "the teacher"
        else:
            before, least = self.agreement(stage - 1), LEAST_RISE
            what, kept = "agreement in the stage before", f"stage {stage - 1}"
        agreed = self.agreement(stage)
        agreed, before = agreed or 0.0, before or 0.0               # None where there is nothing to compare
        better = agreed >= before + least
        verdict = "its labels are used" if better else f"its labels are left out, the last student learns those of {kept}"
        print(f"Stage {stage}: agreement {agreed}, needed {before + least:.2f} ({what} {before}, and {least}): {verdict}", flush=True)
        return better

    def score_test(self, labels):
        """{"f1", "valid", "complete"} of labels (a dict of input -> Label); None where there is no test split."""
        if not self.data.test:
            return {"f1": None, "valid": None, "complete": None}
        return self.scores(self.data.test, [labels[x.input].output for x in self.data.test])

    def scores(self, gold, outputs):
        """"f1", "valid" and "complete" of these outputs against gold (Examples); None where not one has anything to score."""
        found = self.metrics.score(self.task.kind, [self.task.gold(x) for x in gold], outputs, [x.input for x in gold])
        return {name: round(found[name], 2) if found["n"] else None for name in ("f1", "valid", "complete")}

    @property
    def test_left_out(self):
        """How many test sentences the score has nothing to say about: of trees those without a bracket of two words."""
        gold = [self.task.gold(x) for x in self.data.test]
        return self.metrics.score(self.task.kind, gold, gold, [x.input for x in self.data.test]).get("left_out", 0)

    def odd_tags(self):
        """A line about tags of the test split that scores do not count, or that no student can write; None where there are none."""
        gold = [self.task.gold(x) for x in self.data.test]
        if self.task.kind == "tree" and (tags := self.metrics.foreign_tags(gold, [x.input for x in self.data.test])):
            return f"In the test split, {self.metrics.NOT_PENN}: {', '.join(tags[:10])}"
        if self.task.kind == "slots" and (tags := {tag for text in gold for tag in split_words(text)}.difference(self.task.tags)):
            return ("The test split has tags that neither task.json nor the labeled examples have, so that no student can write them: "
                    + ", ".join(sorted(tags)[:10]))
        return None

    def results(self, teacher):
        """What results.json holds. `teacher`: the teacher's scores on the test split. ("teacher_seconds" is None where all of its labels
        were there before.)"""
        stages = []
        for i in sorted({student.stage for student in self.students}):
            students = [student for student in self.students if student.stage == i]
            paired = bool(self.pair(i))
            stages.append({"stage": i, "pseudolabel_f1": self.pseudolabel_f1(i - 1) if self.settings.method != "sft" else None,
                           "agreement": self.agreement(i) if paired else None,
                           "likeness": self.likeness(i) if paired else None,
                           "left_out": paired and students[-1].which == "final",       # --stages auto did not use this pair's labels
                           "students": [student.test_scores() for student in students]})
        seconds = logged_seconds(self.folder)
        last = stages[-1]["students"][-1] if stages else {"test_f1": teacher["f1"], "valid": teacher["valid"]}
        return {"method": self.settings.method, "data": self.data.headline(),
                "teacher": {"f1": teacher["f1"], "valid": teacher["valid"]}, "stages": stages,
                "test": {"f1": last["test_f1"], "valid": last["valid"]}, "test_left_out": self.test_left_out,
                "seconds": round(sum(seconds.values()), 1), "teacher_seconds": seconds.get("teacher")}

    def report(self, results):
        """The final table of these results, and below it what its numbers do not show."""
        report = table(results)
        if left_out := results["test_left_out"]:
            report += f"\n\n{left_out:,} of {len(self.data.test):,} test sentences have no bracket to score, and are left out of the mean"
        if self.task.kind == "text" and results["stages"] and self.data.test:
            exact = results["stages"][-1]["students"][-1]["complete"]
            report += f"\n\nExact match of the final student: {exact:.1f}% (F1 does not look at the order of words)"
        if odd := self.odd_tags():
            report += f"\n\n{odd}"
        learnt = [stage["pseudolabel_f1"] for stage in results["stages"]]       # those of a pair that is left out no student has learnt
        if learnt and None not in learnt and learnt[-1] < max(learnt) - 0.5:
            report += (f"\n\nThe labels that students learnt from got worse, from F1 {max(learnt):.1f} to {learnt[-1]:.1f}: fewer stages, "
                       "or more unlabeled sentences, may end higher")
        return report


def counted(n, what):
    """`1 epoch`, `6 epochs`."""
    return f"{n} {what}{'' if n == 1 else 's'}"


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
    known = {name: f1s for name, f1s in found.items() if None not in f1s}
    print(f"\nF1, mean ± standard deviation over seeds {seeds}" + (":" if known else ": nothing was scored"))
    for name, f1s in known.items():
        print(f"{name:>26}: {statistics.mean(f1s):.2f} ± {statistics.stdev(f1s):.2f}")
