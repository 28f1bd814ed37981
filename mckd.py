"""Multistage Collaborative Knowledge Distillation (Zhao et al., ACL 2024): the algorithm, and its command line.

    python mckd.py --data data/craft --stages 3                     # the method
    python mckd.py --data data/craft --stages 1                     # vanilla knowledge distillation
    python mckd.py --data data/craft --stages 3 --method own        # without cross-partition labelling
    python mckd.py --data data/craft --method sft --labeled 50      # supervised finetuning on gold
    python mckd.py --data data/craft --method teacher               # the prompted LLM alone

A student trained on an LLM's noisy pseudolabels learns the pattern of the good ones; the bad ones have no pattern, so it
can only memorise them, one by one. Hence it is often better than the LLM on inputs that it was *not* trained on. So two
students, each trained on one half of the unlabeled data, relabel each other's half, stage after stage, and a last student
is trained on both halves. (Beyond the paper, students learn from the labeled examples, too, and `tiny` writes a tree by the
vote of several outputs, and of the teacher's label where a pair relabels; the paper's way: --gold-epochs 0 --samples 1. Students
decode under the task's constraint in any case.) Read `mckd()` first; below it stand what it calls, and the command line.
"""
import hashlib
import json
import random
import sys
import time
from dataclasses import asdict, fields, replace
from itertools import chain
from pathlib import Path

import data  # noqa: F401 - first: it says how torch's threads wait
import torch

import metrics
from data.command import GOES_ON, CommandLine, run_command
from data.folders import adopt_student, alone_in, check_place, finished, kept_labels, log_event, logged_seconds, open_folder, run_folder
from data.models import device_named, identified, load_config
from data.parallel import train_and_label
from data.runs import Run, Settings, summary
from data.splits import DataError, Example, check_least, load_data, read_labels, save_folder, write_atomically, write_jsonl
from data.tasks import make_task
from student import GOLD_COPIES, RECIPES, SAMPLES, label, make_student, save_student, student_kind, train, tuned_teacher
from teacher import cache_file, check_options, label_with_cache, make_teacher, read_answers

THREADS = torch.get_num_threads()
MOST_STAGES = 6                          # of --stages auto
LARGE = 20_000                           # inputs of a half: from there on a pair's students are trained one after the other, to save memory


# ----------------------------------------------------------------------------------------------------
# The algorithm, as in Figure 1 of the paper and with its names. Labels y map every input to its label.

def mckd(run, D_labeled, D_unlabeled, t, n, cross=True):
    """n-stage MCKD (Figure 1 of the paper). Returns the final student, s^n, trained.

    D_labeled: Examples with gold. Every student learns these, too: `--gold-copies` times among its pseudolabels, then `--gold-epochs`
        on them alone. The paper's students learn from pseudolabels only: then this list is empty (`--gold-epochs 0`)
    D_unlabeled: inputs (str), all different; DataError for fewer than 4
    t: the teacher; t.label(inputs) gives {input: Label}
    n: stages, the final one included; 1 is vanilla KD. "auto": as long as a pair's labels seem better than those that it learnt from
        (`Run.gains`); the first that do not are left out
    cross: False is the paper's ablation: a student relabels the half that it was trained on, not the other one

    Where a student's outputs are voted (`--samples`), ŷ_0 may have votes on a pair's ŷ_i, too (`--teacher-weight`). To save
    memory, students empty y as they are trained; `run` has all labels in files.
    """
    D_A, D_B = partition(D_unlabeled, run.settings.seed)            # fixed for the whole run
    y = t.label(D_unlabeled)                                        # ŷ_0, by the teacher
    run.save_pseudolabels(0, y)

    i = 0
    for i in range(1, MOST_STAGES if n == "auto" else n):           # n - 1 intermediate stages, each a new pair of students
        s_A = Student(run, i, "A", D_A, y, D_labeled)               # is to learn (A, ŷ_{i-1}), then D_labeled
        s_B = Student(run, i, "B", D_B, y, D_labeled)               # is to learn (B, ŷ_{i-1}), then D_labeled
        if cross:
            y = train_and_label((s_A, D_B), (s_B, D_A))             # ŷ_i: s_A labels B and s_B labels A, what they have not seen
        else:
            y = train_and_label((s_A, D_A), (s_B, D_B))
        run.save_pseudolabels(i, y)
        if n == "auto" and not run.gains(i):
            i, y = i - 1, run.pseudolabels(i - 1)                   # the last student learns what this pair learnt, not what it labelled
            break

    s_n = Student(run, i + 1, "final", D_A + D_B, y, D_labeled)     # final stage: one student, trained on both halves
    s_n.learn()
    return s_n


def partition(inputs, seed):
    """Two random halves A and B: disjoint, together everything, of sizes that differ by one at most. DataError for fewer than 4 inputs."""
    if len(inputs) < 4:
        raise DataError(f"expected at least 4 different unlabeled inputs for two partitions, found {len(inputs)}")
    shuffled = random.Random(seed).sample(inputs, len(inputs))
    half = (len(inputs) + 1) // 2
    return shuffled[:half], shuffled[half:]


class Student:
    """A student of this run, trained from a fresh initialisation (the same weights for all of a run's) on D with its labels y, then
    on the examples of `gold`.

    It is trained when labels are first asked of it. They are kept in the run's folder, together with those on which students are
    scored and compared, so a run that goes on after an interruption does not train it again.
    """

    def __init__(self, run, stage, which, D, y, gold=()):
        self.run, self.stage, self.which, self.D, self.y, self.gold = run, stage, which, D, y, gold
        self.name = f"stage{stage}_{which}"
        self.file = run.folder / "students" / f"{self.name}.jsonl"
        # A step of `tiny` is too short for two cores to share. (Of a large pool each process would need a copy.)
        self.one_core = which != "final" and run.settings.student == "tiny" and run.device.type == "cpu" and len(D) < LARGE
        self.place = None                                               # of its progress bars, where two students work
        run.students.append(self)

    def is_finished(self):
        final = self.run.folder / "final"
        saved = (final / "student.json").exists() and (final / "config.json").exists() and any(final.glob("*.safetensors"))
        return self.file.exists() and (self.which != "final" or saved)

    def learn(self):
        """Train it, if it has not been, and let it label what students are scored and compared on."""
        self.label([])

    def label(self, inputs):
        """Its labels {input: Label} of these sentences; of a student that is finished those that it gave then."""
        run, kept = self.run, self.is_finished()
        shared = self.which != "final" and not run.settings.out                 # with runs of more or fewer stages
        compared = run.test_inputs + ([] if self.which == "final" else run.held_out)
        if not (kept or shared and adopt_student(run, self.stage, self.name, inputs + compared)):
            self.learn_and_label(inputs, compared)
        self.y = None                               # the run keeps its students, to score them; their labels need not stay
        return self.given(inputs, run.check_label if kept else None)

    def given(self, inputs, check=None):
        """The labels that it gave these inputs, as they were kept."""
        return kept_labels(self.file, inputs, "delete it to train this student again", check)

    def learn_and_label(self, inputs, compared):
        """Train it; then it labels `inputs`, for the next pair, and `compared`, on which students are scored and compared."""
        run, began = self.run, time.perf_counter()
        seed = random.Random(f"{run.settings.seed} {self.name}").randrange(2 ** 31)         # of order, dropout and --samples
        torch.set_num_threads(1 if self.one_core else THREADS)
        model = make_student(run.settings.student, run.task, run.vocabulary_texts, run.settings.seed, run.device)
        model.seed, model.samples = seed, run.settings.samples
        recipe = RECIPES[model.kind].changed(epochs=run.settings.epochs, lr=run.settings.lr, batch_size=run.settings.batch_size)
        # These labels are for this student alone. Taken out of y, they leave room in memory for those that it will give.
        examples = chain((Example(x, self.y.pop(x).output) for x in self.D), self.gold * run.settings.gold_copies)
        self.fit(model, examples, recipe, seed, "training")
        if self.gold:
            self.fit(model, self.gold, recipe.on_gold(run.settings.gold_epochs), seed, "finetuning on gold")
        weight = run.settings.teacher_weight
        y_0 = read_labels(run.folder / "pseudolabels" / "stage0.jsonl", inputs) if inputs and weight else {}    # of what it relabels
        labels = label(model, list(dict.fromkeys(inputs + compared)), f"{self.name}: labelling", run.settings.quiet, self.place,
                       samples=run.settings.samples, beside=y_0, weight=weight)
        if self.which == "final":
            save_folder(run.folder / "final", lambda folder: save_student(model, folder))
        log_event(run.folder, {"event": "student", "student": self.name, "trained_on": len(self.D),
                               "seconds": round(time.perf_counter() - began, 1), "made_with": run.made_with})
        write_jsonl(self.file, labels)

    def fit(self, model, examples, recipe, seed, what):
        train(model, examples, recipe, seed, f"{self.name}: {what}", self.run.settings.quiet,
              lambda epoch: log_event(self.run.folder, {"event": "epoch", "student": self.name, "what": what, **epoch}), self.place)

    def test_scores(self):
        """"test_f1", "valid" and "complete" on the test split, with "seconds" of training and labelling."""
        found = self.run.score_test(self.given(self.run.test_inputs))
        return {"name": self.name, "trained_on": len(self.D), "test_f1": found.pop("f1"), **found,
                "seconds": logged_seconds(self.run.folder).get(self.name)}


class CachedTeacher:
    """A teacher's labels, taken from its cache where they are there. `label` is that of t in the algorithm above."""

    def __init__(self, run, teacher):
        self.run, self.teacher = run, teacher

    def label(self, inputs):
        if (self.run.folder / "pseudolabels" / "stage0.jsonl").exists():    # what students may have learnt, whatever the cache holds
            return self.run.pseudolabels(0)
        # The test split's labels are asked for together with these: a teacher may have to be trained, or its prompt to be read, first.
        tested = self.run.test_inputs if self.teacher.can_label(self.run.test_inputs) else []
        answers = self.answers(list(dict.fromkeys(inputs + tested)))
        return read_answers(self.run.task, (answers.pop(x) for x in inputs))          # as they were given they need not stay

    def answers(self, inputs):
        def log(labels, seconds):
            log_event(self.run.folder, {"event": "teacher", "labels": labels, "seconds": round(seconds, 1)})
        return dict(zip(inputs, label_with_cache(self.teacher, inputs, cache_file(self.teacher), self.run.settings.quiet, log)))

    def test_scores(self):
        """"f1" and "valid" on the test split; an answer that cannot be read scores 0."""
        if not self.teacher.can_label(self.run.test_inputs):
            print(f"{self.teacher.name} has no label for some inputs of the test split, so it has no score (python teacher.py --split "
                  "unlabeled,test labels both)", file=sys.stderr)
            return {"f1": None, "valid": None}
        answers = self.answers(self.run.test_inputs)
        return self.run.score_test(read_answers(self.run.task, answers.values(), scored=True))


# ----------------------------------------------------------------------------------------------------
# A run, from its settings to its results.

def make_run(settings):
    """Load the data and say which it is. Returns the run, its teacher, and what its config.json is to hold; nothing is written yet."""
    splits = load_data(settings.data, settings.labeled, settings.unlabeled, settings.test, settings.max_words)
    print(splits.headline(), flush=True)
    task = make_task(splits.config)
    task.learn(splits.labeled)
    device = device_named(settings.device)
    check_options(settings.teacher, settings.base_url, settings.free, settings.votes)
    kind = None if settings.method == "teacher" else student_kind(settings.student)     # one that is not there is refused now
    inputs = list(dict.fromkeys(x.input for x in splits.unlabeled))
    if settings.method in ("mckd", "own"):
        try:
            partition(inputs, settings.seed)                            # too few are refused now
        except DataError as error:
            raise DataError(f"{splits.folder}/unlabeled.jsonl: {error}") from None
    teacher = None
    if settings.method != "sft" and settings.teacher.startswith("tuned:"):
        teacher = tuned_teacher(settings.teacher, task, splits, settings.seed, device, settings.votes, settings.quiet)
    elif settings.method != "sft":
        teacher = make_teacher(settings.teacher, task, splits, settings.seed, device, settings.base_url,
                               settings.free, settings.votes, settings.quiet)
    if teacher and settings.teacher.startswith("hf:") and not cache_file(teacher).exists():
        load_config(settings.teacher.removeprefix("hf:"), "the folder or name of a causal LM")
    if settings.method == "teacher" and not splits.test:
        raise DataError(f"{splits.folder}/test.jsonl: expected sentences to score, found none")
    needed = [x.input for x in splits.test] if settings.method == "teacher" else inputs
    if teacher and not teacher.can_label(needed):
        list(teacher.label(needed))                                     # says now of which inputs it knows nothing
    folder = run_folder(settings, splits.folder)
    settings = with_defaults(settings, kind, task)
    config = {**asdict(settings), "fingerprint": splits.fingerprint[:16],
              "recipes": {kind: asdict(recipe) for kind, recipe in RECIPES.items()},
              "student_fingerprint": identified(settings.student) if kind else None,
              "teacher_fingerprint": hashlib.sha256(teacher.key.encode()).hexdigest()[:16] if teacher else None}
    run = Run(settings, splits, task, folder, device, metrics)
    if settings.method in ("mckd", "own") and settings.stages == "auto" and not run.held_out:
        raise DataError(f"--stages auto: expected inputs in {splits.folder}/valid.jsonl or test.jsonl on which to compare two students")
    return run, teacher, config


def with_defaults(settings, kind, task):
    """These settings, and in place of None what this kind of student has by default for this task. DataError where the teacher would
    outvote the samples."""
    samples, copies, weight = settings.samples, settings.gold_copies, settings.teacher_weight
    if samples is None:
        samples = SAMPLES.get((kind, task.kind), 1)
    if copies is None:
        copies = GOLD_COPIES.get((kind, task.kind), 0) if settings.gold_epochs else 0
    relabels = settings.method in ("mckd", "own")
    if weight is None:
        votes_too = (kind, task.kind) in SAMPLES and relabels and settings.stages not in (1, "auto")
        weight = samples // 2 if votes_too else 0
    elif relabels and settings.stages != 1 and weight >= samples:
        raise DataError(f"--teacher-weight: expected less than the outputs that are voted (--samples {samples}), found {weight}")
    return replace(settings, samples=samples, gold_copies=copies, teacher_weight=weight)


def execute(settings):
    """One run, from the settings to results.json, report.md and the final table; returns the results."""
    settings.check()
    torch.set_num_threads(THREADS)                                      # whatever an interrupted pair has left
    run, teacher, config = make_run(settings)
    with alone_in(run.folder):
        run.made_with = open_folder(run.folder, config, run.device)
        if ignored := settings.ignored():
            what = f"--method {settings.method}" if settings.method in ("sft", "teacher") else "--stages 1"
            print(f"{what} takes no notice of {', '.join(ignored)}", file=sys.stderr)
        return finish(run, teacher)


def finish(run, teacher):
    """Make what a run's folder lacks; returns the results. `teacher`: None for `--method sft`."""
    settings, t, before = run.settings, teacher and CachedTeacher(run, teacher), finished(run.folder)
    if before:
        print(f"{run.folder}: finished before; what follows is read from it, what is missing is made again "
              "(delete it to make all of it anew)", flush=True)
    elif odd := run.odd_tags():
        print(odd, file=sys.stderr)                                     # now, not after hours
    if settings.method == "sft":
        gold = run.gold_to_learn()
        Student(run, 1, "final", list(gold), gold).learn()
    else:
        print(f"Teacher: {teacher.name}", flush=True)
        if settings.method != "teacher":
            D_labeled, D_unlabeled = run.splits_to_learn()
            mckd(run, D_labeled, D_unlabeled, t, settings.stages, cross=settings.method == "mckd")

    results = run.results(before["teacher"] if before else t.test_scores() if t else {"f1": None, "valid": None})
    report = run.report(results)
    write_atomically(run.folder / "results.json", json.dumps(results, indent=2) + "\n")
    write_atomically(run.folder / "report.md", f"# {run.folder.resolve().name}\n\n{results['data']}\n\n{report}\n")
    print(f"\n{report}\n\n{run.folder}: {results['seconds']:.0f} seconds of work", flush=True)
    return results


def main():
    parser = CommandLine(description=__doc__)
    for setting in fields(Settings):
        kind = {"action": "store_true"} if setting.type is bool else {"type": setting.type, "default": setting.default}
        options = {**kind, **setting.metadata}
        if setting.default is not None and setting.type is not bool:
            options["help"] += f" (default: {setting.default})"
        parser.add_argument(f"--{setting.name.replace('_', '-')}", **options)
    parser.add_argument("--seeds", type=int, default=1,
                        help="run this many seeds, from --seed on (--out DIR then makes DIR-seedN), and print mean and deviation")
    args = vars(parser.parse_args())
    check_least("--seeds", args["seeds"], 1)
    seeds = range(args["seed"], args["seed"] + args.pop("seeds"))
    settings = Settings(**args)
    for seed in (seeds[0], seeds[-1]):
        replace(settings, seed=seed).check()                            # now, not after hours
    runs = [replace(settings, seed=seed, out=f"{Path(settings.out)}-seed{seed}" if settings.out and len(seeds) > 1 else settings.out)
            for seed in seeds]
    for run in runs:
        if run.out:
            check_place(Path(run.out))
    results = [execute(run) for run in runs]
    if len(results) > 1:
        summary(results, list(seeds))


if __name__ == "__main__":
    run_command(main, GOES_ON)
