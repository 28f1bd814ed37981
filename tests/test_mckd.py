"""mckd.py: the algorithm as Figure 1 draws it, and runs that continue, repeat and refuse as they should."""

import ast
import inspect
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import asdict, fields
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import T5Config

from conftest import ROOT, Enough, exit_code, random_tree
from data import folders, parallel
from data.runs import Run, Settings, summary, table
from data.splits import DataError, Example, load_data, read_jsonl, read_pseudolabels, write_jsonl
from data.tasks import make_task
from data.trees import write_bare
import errors
import mckd
import student as student_module
from mckd import GOLD_COPIES, partition
from teacher import Label, label_with_cache

WORDS = "the cat sat on a mat with two old dogs".split()
CONFIG = {"tree": {"task": "tree", "name": "kitchen"}, "slots": {"task": "slots", "tags": ["O", "B-x", "I-x", "B-y"]}, "text": {"task": "text"}}


def gold(kind, words, rng):
    if kind == "tree":
        return write_bare(words, random_tree(rng, len(words)))
    if kind == "slots":
        return " ".join(rng.choice(["O", "B-x", "B-y"]) for _ in words)
    return " ".join(words[::-1])


def make_folder(folder, kind="text", n_labeled=6, n_unlabeled=12, n_test=4):
    """A user's own data folder. Every input is another one."""
    folder.mkdir(parents=True)
    (folder / "task.json").write_text(json.dumps(CONFIG[kind]))
    rng, seen = random.Random(0), set()
    for split, n in (("labeled", n_labeled), ("unlabeled", n_unlabeled), ("valid", 1), ("test", n_test)):
        rows = []
        while len(rows) < n:
            words = [rng.choice(WORDS) for _ in range(rng.randint(2, 5))]
            if (sentence := " ".join(words)) not in seen:
                seen.add(sentence)
                rows.append(Example(sentence, gold(kind, words, rng)))
        if n:
            write_jsonl(folder / f"{split}.jsonl", rows)
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(monkeypatch, *arguments):
    """`python mckd.py ...`, in this process; a DataError comes through."""
    monkeypatch.setattr(sys, "argv", ["mckd.py", *map(str, arguments), "--quiet"])
    mckd.main()


def files(folder):
    """Every file under it with its content."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(Path(folder).rglob("*")) if file.is_file()}


def pseudolabels(folder):
    return files(Path(folder) / "pseudolabels")


def inputs_of(folder, split="unlabeled"):
    return [x.input for x in read_jsonl(Path(folder) / f"{split}.jsonl")]


# ---------------------------------------------------------------------------------------------------------------------
# The partition

@pytest.mark.parametrize("n", [4, 5, 12, 1001])
def test_partition_is_two_random_halves(n):
    inputs = [f"input {i}" for i in range(n)]
    A, B = partition(inputs, 0)
    assert len(A) + len(B) == n and 0 <= len(A) - len(B) <= 1
    assert set(A) | set(B) == set(inputs) and not set(A) & set(B)
    assert partition(inputs, 0) == (A, B)
    if n > 10:
        assert partition(inputs, 1) != (A, B) and sorted(A) != sorted(inputs[:len(A)]) and sorted(A) != sorted(inputs[len(B):])


@pytest.mark.parametrize("n", [0, 1, 3])
def test_too_few_inputs_for_two_partitions(n):
    with pytest.raises(DataError, match=f"found {n}"):
        partition([f"input {i}" for i in range(n)], 0)


# ---------------------------------------------------------------------------------------------------------------------
# The algorithm, with students that only remember what is done to them

class Spy:
    """In place of make_student, train, label and save_student. A student's labels of text say who gave them: `by 3`."""

    def __init__(self, monkeypatch, breaks_at=None):
        self.students, self.breaks_at = [], breaks_at
        monkeypatch.setattr(parallel, "FORKS", False)                 # what another process does, this one cannot see
        for name in ("make_student", "train", "label", "save_student"):
            monkeypatch.setattr(mckd, name, getattr(self, name))

    def make_student(self, *arguments, **named):
        made = SimpleNamespace(kind="tiny", number=len(self.students), made_with=(arguments, named), examples=None, gold=None,
                               labelled=[])
        self.students.append(made)
        return made

    def train(self, student, examples, *arguments, **named):
        if student.examples is None:
            student.examples, student.trained_with = list(examples), (arguments, named)
        else:
            assert student.gold is None, "a student is trained once, and once more on gold"
            student.gold, student.finetuned_with = list(examples), (arguments, named)
        return student

    def label(self, student, inputs, *arguments, samples, beside, weight):
        assert student.examples is not None
        if student.number == self.breaks_at:
            raise KeyboardInterrupt
        student.labelled += inputs
        student.samples, student.teachers, student.weight = samples, beside, weight
        task = student.made_with[0][1]
        return [Label(x, f"by {student.number}" if task.kind == "text" else task.fallback(x), -0.25) for x in inputs]

    def save_student(self, student, folder):
        Path(folder).mkdir()
        (Path(folder) / "model.safetensors").write_text(str(student.number))
        for name in ("config.json", "student.json"):
            (Path(folder) / name).write_text("{}")


def replay(here, data="data"):
    write_jsonl(here / "labels.jsonl", [Example(x, "by teacher") for x in dict.fromkeys(inputs_of(here / data))])
    return "replay:labels.jsonl"


def spy_on(here, monkeypatch, *arguments, out="run", **more):
    if not (here / "data").exists():
        make_folder(here / "data")
    spy = Spy(monkeypatch, **more)
    run(monkeypatch, "--data", "data", "--teacher", replay(here), "--out", out, "--gold-epochs", 0, *arguments)
    return spy.students


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_n_stages_train_2n_minus_1_students_from_the_same_fresh_initialisation(n, here, monkeypatch):
    students = spy_on(here, monkeypatch, "--stages", n)
    assert len(students) == 2 * n - 1
    D = set(inputs_of("data"))
    for first, second in zip(students[0:-1:2], students[1:-1:2]):
        A, B = ({x.input for x in student.examples} for student in (first, second))
        assert A | B == D and not A & B and abs(len(A) - len(B)) <= 1
        assert len(first.examples) == len(A) and len(second.examples) == len(B)
    assert sorted(x.input for x in students[-1].examples) == sorted(D)
    halves = [frozenset(x.input for x in student.examples) for student in students[:-1]]
    assert len(set(halves)) == (2 if n > 1 else 0)                  # the partition is the same in every stage
    made = [repr(student.made_with) for student in students]
    assert len(set(made)) == 1


def test_first_students_learn_from_the_teacher_and_later_ones_from_the_stage_before(here, monkeypatch):
    students = spy_on(here, monkeypatch, "--stages", 3)
    given = [{x.output for x in student.examples} for student in students]
    assert given == [{"by teacher"}, {"by teacher"}, {"by 1"}, {"by 0"}, {"by 2", "by 3"}]


@pytest.mark.parametrize("method", ["mckd", "own"])
def test_students_label_what_they_have_not_seen_and_with_own_exactly_what_they_have(method, here, monkeypatch):
    students = spy_on(here, monkeypatch, "--stages", 3, "--method", method)
    test = inputs_of("data", "test")
    D = set(inputs_of("data"))
    for student in students[:-1]:
        seen, asked = {x.input for x in student.examples}, set(student.labelled) - set(test) - set(inputs_of("data", "valid"))
        assert asked == (D - seen if method == "mckd" else seen)
    for student in students[2:]:
        for x in student.examples:
            labeller = students[int(x.output.removeprefix("by "))]
            assert (x.input in {y.input for y in labeller.examples}) == (method == "own")
    for student in students:
        assert set(test) <= set(student.labelled)


@pytest.mark.parametrize("epochs", [1, 3])
def test_every_student_is_finetuned_on_the_labeled_examples_after_its_pseudolabels(epochs, here, monkeypatch):
    students = spy_on(here, monkeypatch, "--stages", 3, "--gold-epochs", epochs, "--gold-copies", 0)
    assert [len(student.examples) for student in students] == [6] * 4 + [12]
    for student in students:
        assert all(x.output.startswith("by ") for x in student.examples) and student.gold == read_jsonl("data/labeled.jsonl")
        assert student.finetuned_with[0][0].epochs == epochs and student.finetuned_with[0][0].min_steps == 0


@pytest.mark.parametrize("copies", [3, None])
def test_gold_stands_among_the_pseudolabels_too(copies, here, monkeypatch):
    make_folder(here / "data", "tree")
    times = GOLD_COPIES["tiny", "tree"] if copies is None else copies
    for student in spy_on(here, monkeypatch, "--stages", 2, "--gold-epochs", 1, *(() if copies is None else ("--gold-copies", copies))):
        assert times and student.gold and student.examples[-times * len(student.gold):] == student.gold * times
        assert not {x.input for x in student.gold} & {x.input for x in student.examples[:-times * len(student.gold)]}


def test_a_student_never_sees_gold_of_what_it_labels(here, monkeypatch):
    make_folder(here / "data")
    labeled = read_jsonl("data/labeled.jsonl")
    write_jsonl(here / "data/unlabeled.jsonl", [labeled[0], *read_jsonl("data/unlabeled.jsonl")])
    students = spy_on(here, monkeypatch, "--stages", 2, "--gold-epochs", 1)
    assert all(student.gold == labeled[1:] for student in students)
    alone = spy_on(here, monkeypatch, "--stages", 2, "--gold-epochs", 0, out="alone")
    assert all(student.gold is None for student in alone)


def test_students_of_free_text_know_the_words_of_outputs_too(here, monkeypatch):
    students = spy_on(here, monkeypatch, "--stages", 1)
    texts = students[0].made_with[0][2]
    assert texts == inputs_of("data", "labeled") + inputs_of("data") + [x.output for x in read_jsonl("data/labeled.jsonl")] + ["by teacher"] * 12


def test_students_differ_in_the_order_of_training_only(here, monkeypatch):
    students = spy_on(here, monkeypatch, "--stages", 3)
    seeds = [next(x for x in student.trained_with[0] if isinstance(x, int)) for student in students]
    assert len(set(seeds)) == 5
    again = spy_on(here, monkeypatch, "--stages", 3, out="again")
    assert [next(x for x in student.trained_with[0] if isinstance(x, int)) for student in again] == seeds


def test_settings_reach_every_student(here, monkeypatch):
    make_folder(here / "data")
    spy = Spy(monkeypatch)
    run(monkeypatch, "--data", "data", "--teacher", replay(here), "--out", "run", "--stages", 2, "--seed", 4, "--lr", 0.5,
        "--batch-size", 3, "--epochs", 7, "--gold-epochs", 2)
    for student in spy.students:
        (spec, _, _, seed, _), _ = student.made_with
        recipe, on_gold = student.trained_with[0][0], student.finetuned_with[0][0]
        assert (spec, seed) == ("tiny", 4)
        assert (recipe.lr, recipe.batch_size, recipe.epochs, recipe.min_steps) == (0.5, 3, 7, 0)
        assert (on_gold.lr, on_gold.batch_size, on_gold.epochs) == (0.5 * recipe.gold_lr, 3, 2) and recipe.gold_lr < 1


def test_labels_of_earlier_stages_do_not_stay_in_memory(here, monkeypatch):
    runs, real = [], mckd.mckd

    def watched(run, D_labeled, D_unlabeled, t, *arguments, **named):
        runs.append(run)
        return real(run, D_labeled, D_unlabeled, t, *arguments, **named)
    monkeypatch.setattr(mckd, "mckd", watched)
    spy_on(here, monkeypatch, "--stages", 3)
    assert len(runs[0].students) == 5 and all(student.y is None for student in runs[0].students)


def test_final_student_is_what_is_saved(here, monkeypatch):
    spy_on(here, monkeypatch, "--stages", 2)
    assert (here / "run/final/model.safetensors").read_text() == "2"


def test_sft_learns_from_the_labeled_split_alone(here, monkeypatch):
    students = spy_on(here, monkeypatch, "--method", "sft", "--labeled", 5)
    assert len(students) == 1
    assert [(x.input, x.output) for x in students[0].examples] == [(x.input, x.output) for x in read_jsonl("data/labeled.jsonl")][:5]


def test_teacher_method_trains_nobody(here, monkeypatch):
    make_folder(here / "data")
    spy = Spy(monkeypatch)
    run(monkeypatch, "--data", "data", "--teacher", "noisy:0.5", "--method", "teacher", "--out", "run")
    assert spy.students == []
    results = json.loads((here / "run/results.json").read_text())
    assert results["stages"] == [] and 0 < results["test"]["f1"] == results["teacher"]["f1"] < 100


def test_teacher_whose_labels_are_all_known_already(here, monkeypatch):
    make_folder(here / "data")
    for out in ("one", "two"):
        run(monkeypatch, "--data", "data", "--teacher", "noisy:0.5", "--method", "teacher", "--out", out)
    assert json.loads((here / "two/results.json").read_text())["seconds"] == 0


def test_gold_of_the_unlabeled_valid_and_test_splits_never_reaches_a_student(here, monkeypatch):
    make_folder(here / "data")
    for split in ("unlabeled", "valid", "test"):
        write_jsonl(here / f"data/{split}.jsonl", [Example(x, "POISON") for x in inputs_of("data", split)])
    for number, arguments in enumerate((["--stages", 3, "--gold-epochs", 2], ["--method", "own", "--stages", 2], ["--method", "sft"])):
        for student in spy_on(here, monkeypatch, *arguments, out=f"run{number}"):
            assert student.examples and "POISON" not in repr((student.examples, student.gold, student.made_with, student.trained_with[0][:3]))


def test_gold_of_the_unlabeled_split_never_reaches_a_tuned_teacher(here, monkeypatch):
    make_folder(here / "data")
    write_jsonl(here / "data/unlabeled.jsonl", [Example(x, "POISON") for x in inputs_of("data")])
    trained = []

    class Tuned(SimpleNamespace):
        def label_each(self, inputs):
            return ((i, Label(x, "by tuned", -0.5)) for i, x in enumerate(inputs))
    monkeypatch.setattr(student_module, "make_student", lambda *made_with: Tuned(kind="tiny", made_with=made_with))
    monkeypatch.setattr(student_module, "train", lambda student, examples, *_, **__: trained.append((student, list(examples))))
    spy = Spy(monkeypatch)
    run(monkeypatch, "--data", "data", "--teacher", "tuned:tiny", "--out", "run", "--stages", 2, "--gold-epochs", 0)
    (student, examples), = trained
    assert [x.input for x in examples] == inputs_of("data", "labeled") and "POISON" not in repr((student, examples))
    assert {x.output for x in spy.students[0].examples} == {"by tuned"}


def test_pseudolabels_are_in_the_order_of_the_split_doubles_too(here, monkeypatch):
    make_folder(here / "data")
    inputs = inputs_of("data")
    write_jsonl(here / "data/unlabeled.jsonl", [Example(x) for x in [inputs[3], *inputs, inputs[0]]])
    students = spy_on(here, monkeypatch, "--stages", 3)
    assert [len(student.examples) for student in students] == [6, 6, 6, 6, 12]
    for stage, by in ((0, {"by teacher"}), (1, {"by 0", "by 1"}), (2, {"by 2", "by 3"})):
        rows = list(read_pseudolabels(f"run/pseudolabels/stage{stage}.jsonl"))
        assert [x.input for x in rows] == [inputs[3], *inputs, inputs[0]] and {x.output for x in rows} == by
        assert all(x.score == (None if stage == 0 else -0.25) for x in rows)


@pytest.mark.parametrize("of", [lambda student: student.examples, lambda student: student.trained_with])
def test_the_runs_seed_decides_the_partition_and_how_students_are_trained(of, here, monkeypatch):
    one, other = (repr([of(student) for student in spy_on(here, monkeypatch, "--stages", 2, "--seed", seed, out=f"run{seed}")[:2]])
                  for seed in (0, 1))
    assert one != other


def test_no_two_students_of_two_seeds_are_trained_with_the_same(here, monkeypatch):
    seeds = [student.seed for seed in (0, 1) for student in spy_on(here, monkeypatch, "--stages", 2, "--seed", seed, out=f"run{seed}")]
    assert len(set(seeds)) == 6


def test_score_of_a_run_is_that_of_its_last_student(here, monkeypatch):
    gold = {x.input: x.output for x in read_jsonl(make_folder(here / "data") / "test.jsonl")}
    monkeypatch.setattr(Spy, "label", lambda self, student, inputs, *_, **__: [
        Label(x, gold[x] if x in gold and student.number == 2 else "wrong") for x in inputs])
    spy_on(here, monkeypatch, "--stages", 2)
    results = json.loads((here / "run/results.json").read_text())
    assert [student["test_f1"] for stage in results["stages"] for student in stage["students"]] == [0, 0, 100]
    assert results["test"]["f1"] == 100


def test_students_are_compared_on_test_where_there_is_no_valid_split():
    test = [Example(f"sentence {i}") for i in range(9)]
    splits = SimpleNamespace(labeled=test[:1], unlabeled=test[1:3], valid=[], test=test)
    assert Run(None, splits, None, None, None, None).held_out == [x.input for x in test[3:]]


@pytest.mark.parametrize("spec", ["openai:m", "tuned:tiny"])
def test_options_reach_the_data_and_the_teacher(spec, here, monkeypatch):
    make_folder(here / "data")
    given, real = {}, mckd.load_data

    def load(*arguments):
        given.update(inspect.signature(real).bind(*arguments).arguments)
        return real("data")
    monkeypatch.setattr(mckd, "load_data", load)
    monkeypatch.setattr(mckd, "check_options", lambda *_: None)
    for name in ("make_teacher", "tuned_teacher"):
        def make(*arguments, signature=inspect.signature(getattr(mckd, name)), **named):
            given.update(signature.bind(*arguments, **named).arguments)
            raise Enough
        monkeypatch.setattr(mckd, name, make)
    with pytest.raises(Enough):
        run(monkeypatch, "--data", "data", "--teacher", spec, "--labeled", 5, "--unlabeled", 8, "--test", 3, "--max-words", 7, "--seed", 4,
            "--base-url", "http://h/v1", "--free", "--votes", 3)
    wanted = {"labeled": 5, "unlabeled": 8, "test": 3, "max_words": 7, "spec": spec, "seed": 4, "votes": 3, "quiet": True}
    if spec == "openai:m":
        wanted.update(base_url="http://h/v1", free=True)
    assert {name: given[name] for name in wanted} == wanted


# ---------------------------------------------------------------------------------------------------------------------
# Going on

def test_same_command_again_trains_nothing_and_changes_no_label(here, monkeypatch):
    assert len(spy_on(here, monkeypatch, "--stages", 3)) == 5
    before = files(here / "run")
    assert spy_on(here, monkeypatch, "--stages", 3) == []
    assert files(here / "run") == before


def test_runs_of_more_or_fewer_stages_share_their_pairs_and_give_the_bytes_that_they_would_alone(here, monkeypatch):
    def students(*arguments):
        spy = Spy(monkeypatch)
        run(monkeypatch, "--data", "data", "--teacher", replay(here), "--gold-epochs", 0, *arguments)
        return len(spy.students)
    assert len(spy_on(here, monkeypatch, "--stages", 3, out="alone")) == 5
    assert students("--stages", 4) == 7
    assert students("--stages", 3) == 1                                                     # the final one
    assert students("--stages", 3, "--method", "own") == students("--stages", 3, "--seed", 1) == 5
    assert students("--stages", 3, "--out", "runs/of-its-own") == 5
    shared = here / "runs" / "data-mckd3-replay-labels.jsonl-tiny-gold_epochs0-seed0"
    assert pseudolabels(shared) == pseudolabels(here / "alone")
    for pair in ("stage1_A", "stage1_B", "stage2_A", "stage2_B"):
        assert (shared / f"students/{pair}.jsonl").read_bytes() == (here / f"alone/students/{pair}.jsonl").read_bytes()
    found = json.loads((shared / "results.json").read_text())
    assert [student["seconds"] is not None for stage in found["stages"] for student in stage["students"]] == [True] * 5
    assert (shared / "log.jsonl").read_text().count('"event": "student"') == 5


@pytest.mark.parametrize("breaks_at", [0, 1, 2, 4])
def test_interrupted_run_goes_on_with_the_student_that_it_was_at(breaks_at, here, monkeypatch):
    students = spy_on(here, monkeypatch, "--stages", 3, out="whole")
    with pytest.raises(KeyboardInterrupt):
        spy_on(here, monkeypatch, "--stages", 3, breaks_at=breaks_at)
    assert not (here / "run/results.json").exists() and not (here / "run/final").exists()
    rest = spy_on(here, monkeypatch, "--stages", 3)
    assert len(rest) == 5 - breaks_at
    for one, other in zip(students[breaks_at:], rest):              # the same students as without the interruption
        assert [x.input for x in one.examples] == [x.input for x in other.examples] and one.labelled == other.labelled
        assert one.trained_with[0][1] == other.trained_with[0][1]
    assert len(json.loads((here / "run/results.json").read_text())["stages"]) == 3


def test_log_cut_off_by_a_crash_does_not_stop_the_next_run(here, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        spy_on(here, monkeypatch, "--stages", 2, breaks_at=1)
    with open(here / "run/log.jsonl", "a") as log:
        log.write('{"event": "epoch", "stud')
    spy_on(here, monkeypatch, "--stages", 2)
    assert json.loads((here / "run/results.json").read_text())["seconds"] >= 0


def test_run_with_other_settings_is_refused_and_says_which(here, monkeypatch):
    spy_on(here, monkeypatch, "--stages", 2, "--epochs", 1, "--labeled", 5)
    before = files(here / "run")
    for more, said in ((["--epochs", 2], "epochs 1 there, 2 here"), (["--epochs", 1, "--seed", 4], "seed 0 there, 4 here"),
                       ([], "epochs 1 there, None here"), (["--epochs", 1, "--method", "own"], "'own' here")):
        with pytest.raises(DataError) as error:
            spy_on(here, monkeypatch, "--stages", 2, "--labeled", 5, *more)
        assert said in str(error.value) and "run" in str(error.value) and "\n" not in str(error.value)
    assert files(here / "run") == before
    (here / "data/labeled.jsonl").write_text((here / "data/labeled.jsonl").read_text().replace("cat", "cow"))
    with pytest.raises(DataError, match="fingerprint"):
        spy_on(here, monkeypatch, "--stages", 2, "--epochs", 1, "--labeled", 5)


@pytest.mark.parametrize("kind, more, samples, weight, copies", [
    ("tree", [], 4, 2, 2), ("slots", [], 1, 0, 0), ("text", [], 1, 0, 0), ("tree", ["--samples", 1, "--gold-copies", 0], 1, 0, 0),
    ("tree", ["--gold-epochs", 0], 4, 2, 0), ("tree", ["--samples", 8], 8, 4, 2), ("tree", ["--teacher-weight", 0], 4, 0, 2),
    ("tree", ["--method", "own", "--teacher-weight", 3], 4, 3, 2), ("slots", ["--samples", 3, "--teacher-weight", 1], 3, 1, 0)])
def test_config_says_what_the_kinds_of_student_and_task_decided(kind, more, samples, weight, copies, here, monkeypatch):
    make_folder(here / "data", kind)
    students = spy_on(here, monkeypatch, "--stages", 2, "--gold-epochs", 1, *more)
    settings = json.loads((here / "run/config.json").read_text())["settings"]
    assert (settings["samples"], settings["teacher_weight"], settings["gold_copies"]) == (samples, weight, copies)
    assert {student.samples for student in students} == {samples} and len({student.seed for student in students}) == 3


@pytest.mark.parametrize("weight", [0, 2])
def test_the_teacher_votes_on_what_a_pair_relabels_and_on_nothing_else(weight, here, monkeypatch):
    make_folder(here / "data", "tree")
    pool, test = inputs_of(here / "data"), inputs_of(here / "data", "test")
    *pairs, final = spy_on(here, monkeypatch, "--stages", 3, "--teacher-weight", weight)
    teachers = {label.input: label for label in read_pseudolabels(here / "run/pseudolabels/stage0.jsonl")}
    assert len(pairs) == 4 and final.teachers == {}
    for student in pairs:
        relabelled = {x for x in pool if x not in {example.input for example in student.examples}}
        assert student.weight == weight and set(student.labelled) >= relabelled | set(test)
        assert student.teachers == {x: teachers[x] for x in relabelled if weight}


def test_one_stage_and_auto_leave_the_teacher_no_vote(here, monkeypatch):
    make_folder(here / "data", "tree")
    for stages in (1, "auto"):
        spy_on(here, monkeypatch, "--stages", stages, out=f"run{stages}")
        assert json.loads((here / f"run{stages}/config.json").read_text())["settings"]["teacher_weight"] == 0


def test_quiet_and_device_may_change(here, monkeypatch):
    spy_on(here, monkeypatch, "--stages", 2)
    assert spy_on(here, monkeypatch, "--stages", 2, "--device", "cpu") == []
    spy = Spy(monkeypatch)
    monkeypatch.setattr(sys, "argv", ["mckd.py", *"--data data --teacher replay:labels.jsonl --out run --gold-epochs 0 --stages 2".split()])
    mckd.main()                                                     # without --quiet
    assert spy.students == []


def test_settings_that_change_nothing_may_change(here, monkeypatch):
    assert len(spy_on(here, monkeypatch, "--stages", 2)) == 3
    spy = Spy(monkeypatch)
    run(monkeypatch, "--data", "data/", "--teacher", "replay:labels.jsonl", "--out", "run", "--gold-epochs", 0, "--stages", 2)
    assert spy.students == []
    spy_on(here, monkeypatch, "--method", "sft", out="gold")
    assert spy_on(here, monkeypatch, "--method", "sft", "--stages", 1, out="gold") == []
    with pytest.raises(DataError, match="epochs None there, 3 here"):
        spy_on(here, monkeypatch, "--method", "sft", "--epochs", 3, out="gold")


@pytest.mark.parametrize("method", ["mckd", "teacher"])
def test_finished_run_asks_its_teacher_nothing(method, here, monkeypatch):
    make_folder(here / "data")
    options = "--data", "data", "--method", method, "--teacher", "noisy:0.5", "--stages", 1, "--out", "run"
    Spy(monkeypatch)
    run(monkeypatch, *options)
    before = files(here / "run")
    shutil.rmtree(here / "runs/teacher")                                # its labels are kept there

    def ask(*_):
        raise AssertionError("asked")
    monkeypatch.setattr(mckd, "label_with_cache", ask)
    run(monkeypatch, *options)
    assert files(here / "run") == before


def test_labels_of_the_pool_are_those_that_a_student_may_have_learnt(here, monkeypatch):
    """An interrupted run goes on with its own labels, where the teacher's are lost, too."""
    with pytest.raises(KeyboardInterrupt):
        spy_on(here, monkeypatch, "--stages", 2, breaks_at=1)
    shutil.rmtree(here / "runs/teacher")
    write_jsonl(here / "run/pseudolabels/stage0.jsonl", [Example(x, "by teacher, then") for x in inputs_of(here / "data")])
    students = spy_on(here, monkeypatch, "--stages", 2)
    assert {x.output for x in students[0].examples} == {"by teacher, then"}


@pytest.mark.parametrize("method", ["mckd", "teacher"])
def test_config_names_the_code_that_made_the_run(method, here, monkeypatch, capsys):
    """Not that of a run that came to nothing; a finished run's stays."""
    make_folder(here / "data")
    options = "--data", "data", "--method", method, "--teacher", "noisy:0.5", "--stages", 1, "--out", "run"

    def interrupt(*_):
        raise KeyboardInterrupt
    for code, named in (("old", "old"), ("new", "new"), ("newer", "new")):
        Spy(monkeypatch)
        monkeypatch.setattr(folders, "source_digest", lambda code=code: code)
        monkeypatch.setattr(mckd, "label_with_cache", interrupt if code == "old" else label_with_cache)
        with pytest.raises(KeyboardInterrupt) if code == "old" else nullcontext():
            run(monkeypatch, *options)
        assert json.loads((here / "run/config.json").read_text())["code"] == named
        assert ("made with other code" in capsys.readouterr().err) == (code == "newer")


def test_what_a_crash_left_unfinished_does_not_stand_in_the_way(here, monkeypatch):
    (here / "run").mkdir()
    (here / "run/.config.json.123.tmp").write_text("{")
    assert len(spy_on(here, monkeypatch, "--stages", 1)) == 1
    assert not list((here / "run").glob(".*"))


@pytest.mark.parametrize("lost, trained", [("students", 3), ("pseudolabels", 0)])
def test_lost_folder_is_made_again(lost, trained, here, monkeypatch):
    spy_on(here, monkeypatch, "--stages", 2)
    before = files(here / "run").keys()
    shutil.rmtree(here / "run" / lost)
    assert len(spy_on(here, monkeypatch, "--stages", 2)) == trained
    assert files(here / "run").keys() == before


@pytest.mark.parametrize("name", ["stage1_A", "stage2_final"])
def test_file_that_lacks_labels_of_a_student_is_said_and_nothing_is_written_over(name, here, monkeypatch):
    spy_on(here, monkeypatch, "--stages", 2)
    file = here / "run/students" / f"{name}.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:1]))
    before = files(here / "run")
    with pytest.raises(DataError, match=f"{name}.jsonl: expected labels of .* are missing; delete it"):
        spy_on(here, monkeypatch, "--stages", 2)
    assert files(here / "run") == before


@pytest.mark.parametrize("file, remedy", [("students/stage1_A.jsonl", "delete it to train this student again"),
                                          ("log.jsonl", "that line can be deleted"), ("results.json", "delete it to have them made again")])
def test_file_of_a_run_that_is_damaged_is_said_with_the_remedy(file, remedy, here, monkeypatch):
    spy_on(here, monkeypatch, "--stages", 2)
    with open(here / "run" / file, "a") as damaged:
        damaged.write("{damaged\n")
    before = files(here / "run")
    with pytest.raises(DataError, match=f"{file}:?.* expected .*; {remedy}"):
        spy_on(here, monkeypatch, "--stages", 2)
    assert files(here / "run") == before


@pytest.mark.parametrize("file, remedy", [("pseudolabels/stage0", "delete run to make it anew"),
                                          ("students/stage1_A", "delete it to train this student again")])
@pytest.mark.parametrize("kind, damage, said", [("tree", (' )"', '"'), "expected a bracketing"), ("slots", ('": "', '": "B-zebra '), "expected . tags"),
                                                ("slots", ("O", "B-zebra"), "unknown tag 'B-zebra'")])
def test_label_that_is_no_answer_any_more_is_said_with_its_line(kind, damage, said, file, remedy, here, monkeypatch):
    """Before a student learns it, and before it has a vote."""
    make_folder(here / "data", kind)
    arguments = ["--data", "data", "--teacher", "noisy:0.1", "--stages", 2, "--out", "run"]
    Spy(monkeypatch, breaks_at=2)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, *arguments)
    rows = (here / f"run/{file}.jsonl").read_text().splitlines(keepends=True)
    for at in range(6):                                 # labels that students learn, or relabel
        start, end = rows[at].split('"output')
        damaged = f'{start}"output{end.replace(*damage, 1)}'
        if damaged == rows[at]:
            continue
        (here / f"run/{file}.jsonl").write_text("".join([*rows[:at], damaged, *rows[at + 1:]]))
        students = Spy(monkeypatch).students
        with pytest.raises(DataError, match=f"run/{file}.jsonl:{at + 1}: {said}.*; {remedy}"):
            run(monkeypatch, *arguments)
        assert not students


def test_lost_final_student_is_trained_again(here, monkeypatch):
    spy_on(here, monkeypatch, "--stages", 2)
    before = files(here / "run")
    shutil.rmtree(here / "run/final")
    assert len(spy_on(here, monkeypatch, "--stages", 2)) == 1
    assert files(here / "run").keys() == before.keys()
    events = [json.loads(line) for line in open(here / "run/log.jsonl")]
    twice = [event["seconds"] for event in events if event.get("student") == "stage2_final" and event["event"] == "student"]
    assert len(twice) == 2
    assert json.loads((here / "run/results.json").read_text())["stages"][-1]["students"][0]["seconds"] == twice[-1]     # not both


def test_what_a_run_that_came_to_nothing_leaves_is_not_counted_by_the_next(here, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        spy_on(here, monkeypatch, "--stages", 2, breaks_at=0)
    assert (here / "run/pseudolabels/stage0.jsonl").exists() and (here / "run/log.jsonl").read_text()
    shutil.copytree(here / "run", here / "saved")
    spy_on(here, monkeypatch, "--stages", 1, "--seed", 3)
    assert '"seed": 3' in (here / "run/config.json").read_text()
    assert (here / "run/log.jsonl").read_text().count('"event": "stage"') == 1
    (here / "saved/final").mkdir()                      # a last student was saved, and its labels not yet
    (here / "saved/final/model.safetensors").touch()
    with pytest.raises(DataError, match="seed 0 there, 3 here"):
        spy_on(here, monkeypatch, "--stages", 1, "--seed", 3, out="saved")


def test_run_interrupted_in_its_first_student_keeps_its_log(here, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        spy_on(here, monkeypatch, "--stages", 2, breaks_at=0)
    before = (here / "run/log.jsonl").read_text()
    assert '"event": "teacher"' in before
    spy_on(here, monkeypatch, "--stages", 2)
    assert (here / "run/log.jsonl").read_text().startswith(before)


@pytest.mark.parametrize("content", ["{}", "[]", '{"settings": []}', "{"])
def test_damaged_config_is_one_line(content, here, monkeypatch):
    spy_on(here, monkeypatch, "--stages", 1)
    (here / "run/config.json").write_text(content)
    with pytest.raises(DataError, match="run/config.json: expected the settings of a run") as error:
        spy_on(here, monkeypatch, "--stages", 1)
    assert "\n" not in str(error.value)


def test_folder_beside_that_is_no_run_does_not_stand_in_the_way(here, monkeypatch):
    make_folder(here / "data")
    for name, content in (("empty", None), ("damaged", '{"settings"')):
        (here / "runs" / name / "students").mkdir(parents=True)
        (here / "runs" / name / "students/stage1_A.jsonl").write_text("")
        if content:
            (here / "runs" / name / "config.json").write_text(content)
    spy = Spy(monkeypatch)
    run(monkeypatch, "--data", "data", "--teacher", replay(here), "--stages", 2)
    assert len(spy.students) == 3


def test_missing_pseudolabel_is_said_before_anything_is_written(here, monkeypatch):
    make_folder(here / "data")
    spec = replay(here)
    (here / "labels.jsonl").write_text("".join((here / "labels.jsonl").read_text().splitlines(True)[:-1]))
    with pytest.raises(DataError, match="no pseudolabel for"):
        run(monkeypatch, "--data", "data", "--teacher", spec, "--out", "run")
    assert not (here / "run").exists()


def test_labels_that_changed_are_not_mixed_with_students_of_the_old_ones(here, monkeypatch):
    spy_on(here, monkeypatch, "--stages", 2)
    (here / "labels.jsonl").write_text((here / "labels.jsonl").read_text().replace("by teacher", "by another"))
    with pytest.raises(DataError, match="teacher_fingerprint"):
        run(monkeypatch, "--data", "data", "--teacher", "replay:labels.jsonl", "--out", "run", "--stages", 2, "--gold-epochs", 0)
    shutil.copytree(here / "data", here / "elsewhere/data")         # of the same name
    write_jsonl(here / "elsewhere/data/labeled.jsonl", read_jsonl(here / "data/labeled.jsonl")[:-1])
    with pytest.raises(DataError, match=r"other data \(data as it was then, here elsewhere/data\): .*fingerprint"):
        run(monkeypatch, "--data", "elsewhere/data", "--teacher", "replay:labels.jsonl", "--out", "run", "--stages", 2, "--gold-epochs", 0)


def test_recipe_that_changed_is_refused(here, monkeypatch):
    spy_on(here, monkeypatch, "--stages", 1)
    monkeypatch.setitem(mckd.RECIPES, "tiny", mckd.replace(mckd.RECIPES["tiny"], epochs=7))
    with pytest.raises(DataError, match="recipes"):
        spy_on(here, monkeypatch, "--stages", 1)


def test_another_model_at_the_same_place_is_another_student(here, monkeypatch, causal_folder):
    shutil.copytree(causal_folder, here / "model")
    spy_on(here, monkeypatch, "--stages", 1, "--student", "model")
    with open(here / "model/config.json", "a") as file:
        file.write("\n")
    with pytest.raises(DataError, match="student_fingerprint"):
        spy_on(here, monkeypatch, "--stages", 1, "--student", "model")


def test_prompted_and_tuned_llm_have_folders_of_their_own(here, monkeypatch):
    data = make_folder(here / "data")
    folders = {mckd.run_folder(mckd.Settings(teacher=teacher), data).name for teacher in ("gguf:/a/m.gguf", "tuned:gguf:/a/m.gguf", "tuned:/a/m", "hf:/a/m")}
    assert len(folders) == 4


@pytest.mark.parametrize("wrong", [["--teacher", "noisy:3"], ["--teacher", "replay:no-such-file"], ["--teacher", "auto"]])
def test_run_that_never_began_does_not_stand_in_the_way_of_the_next(wrong, here, monkeypatch):
    make_folder(here / "data")
    with pytest.raises(DataError):
        run(monkeypatch, "--data", "data", "--out", "run", *wrong)
    spy_on(here, monkeypatch, "--stages", 1)
    assert (here / "run/results.json").exists()


@pytest.mark.parametrize("wrong", [
    ["--student", "no/such-model"], ["--free"], ["--votes", 2], ["--base-url", "http://user:secret@host"], ["--teacher", "tuned:tiny", "--free"],
    ["--teacher", "tuned:no/such-model"], ["--teacher", "tuned:"],
    ["--method", "sft", "--teacher", "openai:model", "--base-url", "http://user:secret@host"]])
def test_wrong_student_or_option_is_refused_before_anything_is_made(wrong, here, monkeypatch):
    make_folder(here / "data")
    with pytest.raises(DataError) as error:
        run(monkeypatch, "--data", "data", "--out", "run", "--teacher", "noisy:0.1", *wrong)
    assert not (here / "run").exists() and "secret" not in str(error.value)


@pytest.mark.parametrize("option", ["--student=", "--teacher=tuned:"])
def test_student_without_weights_is_refused_before_the_teacher_labels(option, here, monkeypatch):
    make_folder(here / "data")
    T5Config(vocab_size=10).save_pretrained(here / "model")
    (here / "model/pytorch_model.bin").write_bytes(b"pickled")
    with pytest.raises(DataError, match="model: expected weights in a safetensors file, found none"):
        run(monkeypatch, "--data", "data", "--out", "run", "--teacher", "noisy:0.1", f"{option}{here / 'model'}")
    assert not (here / "run").exists()


@pytest.mark.skipif(not folders.fcntl, reason="Windows does not lock folders")
def test_second_process_is_kept_out_of_a_run(here, monkeypatch):
    with folders.alone_in(here / "run"):
        with pytest.raises(DataError, match="run: another process is at work on this run"):
            spy_on(here, monkeypatch, "--stages", 1)
        assert not list((here / "run").iterdir())
    with pytest.raises(KeyboardInterrupt):
        spy_on(here, monkeypatch, "--stages", 1, breaks_at=0)
    assert len(spy_on(here, monkeypatch, "--stages", 1)) == 1           # one that was interrupted keeps nobody out


@pytest.mark.skipif(not folders.fcntl, reason="Windows does not lock folders")
def test_a_forked_process_that_lives_on_keeps_nobody_out(here):
    with folders.alone_in(here / "run"):
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
        child.start()
    try:
        with folders.alone_in(here / "run"):
            assert child.is_alive()
    finally:
        child.kill()


@pytest.mark.parametrize("nothing_locks", [None, SimpleNamespace(LOCK_EX=2, LOCK_NB=4, LOCK_UN=8, flock=lambda *_: os.close(-1))])
def test_where_folders_cannot_be_locked_a_run_is_made_all_the_same(nothing_locks, here, monkeypatch):
    monkeypatch.setattr(folders, "fcntl", nothing_locks)
    assert len(spy_on(here, monkeypatch, "--stages", 1)) == 1


def test_the_only_teachers_summary_names_no_student(here, monkeypatch, capsys):
    make_folder(here / "data")
    run(monkeypatch, "--data", "data", "--method", "teacher", "--teacher", "noisy:0.1", "--seeds", 2)
    shown = capsys.readouterr().out
    assert "teacher:" in shown and "final student" not in shown


@pytest.mark.parametrize("file, content", [
    ("results.json", "{"), ("results.json", "[1]"), ("results.json", '{"teacher": 1}'), ("log.jsonl", "{bad}\n"), ("log.jsonl", "\n[1]\n")])
def test_damaged_file_of_a_run_is_one_line(file, content, here, monkeypatch):
    make_folder(here / "data")
    spy_on(here, monkeypatch, "--stages", 1)
    (here / "run" / file).write_text(content)
    with pytest.raises(DataError, match=f"run/{file}(:1)?: expected") as error:
        spy_on(here, monkeypatch, "--stages", 1)
    assert "\n" not in str(error.value) and (here / "run" / file).read_text() == content


@pytest.mark.parametrize("options, said", [
    (["--method", "sft", "--stages", 5, "--gold-copies", 2], "--method sft takes no notice of --stages, --gold-copies\n"),
    (["--method", "teacher", "--teacher", "noisy:0.1", "--epochs", 3], "--method teacher takes no notice of --epochs\n"),
    (["--stages", 1, "--teacher", "noisy:0.1", "--epochs", 1], "")])
def test_options_that_a_method_takes_no_notice_of_are_named(options, said, here, monkeypatch, capsys):
    make_folder(here / "data")
    Spy(monkeypatch)
    run(monkeypatch, "--data", "data", "--out", "run", "--quiet", *options)
    assert capsys.readouterr().err == said


def test_an_answer_that_cannot_be_read_is_shown(here, monkeypatch, capsys):
    folder = make_folder(here / "data", "tree")
    Spy(monkeypatch)
    write_jsonl(here / "labels.jsonl", [Label(x, "nonsense") for x in inputs_of(folder)])
    run(monkeypatch, "--data", "data", "--out", "run", "--teacher", "replay:labels.jsonl", "--stages", 1)
    assert "answers cannot be read, such as 'nonsense' about" in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_said_before_the_first_of_several_seeds(here, monkeypatch):
    make_folder(here / "data")
    (here / "run-seed1").mkdir()
    (here / "run-seed1/thesis.txt").write_text("mine")
    students = Spy(monkeypatch).students
    with pytest.raises(DataError, match="run-seed1: expected a new folder"):
        run(monkeypatch, "--data", "data", "--teacher", "noisy:0.1", "--out", "run", "--seeds", 2)
    assert not students and not (here / "run-seed0").exists()


def test_folder_that_is_no_run_is_left_alone(here, monkeypatch):
    make_folder(here / "data")
    (here / "run/final").mkdir(parents=True)
    (here / "run/final/thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="expected a new folder"):
        run(monkeypatch, "--data", "data", "--out", "run", "--teacher", "noisy:0.1", "--stages", 1)
    assert [x.name for x in (here / "run").rglob("*")] == ["final", "thesis.txt"]


@pytest.mark.parametrize("file, change, trained", [
    ("*/students/stage1_A.jsonl", lambda rows: rows[1:], 4),                                                    # stage1_B alone is taken
    ("teacher/*.jsonl", lambda rows: [x._replace(output=f"another {x.output}") for x in rows], 5)])             # none is
def test_student_that_has_lost_a_label_or_learnt_others_is_not_adopted(file, change, trained, here, monkeypatch):
    """Others: a server may answer otherwise the second time, when the cache of its first answers is gone."""
    make_folder(here / "data")
    arguments = ["--data", "data", "--teacher", "noisy:0.1", "--seed", 1]
    Spy(monkeypatch)
    run(monkeypatch, *arguments, "--stages", 2)
    file, = (here / "runs").glob(file)
    write_jsonl(file, change(list(read_pseudolabels(file))))
    students = Spy(monkeypatch).students
    run(monkeypatch, *arguments, "--stages", 3)
    assert len(students) == trained


@pytest.mark.parametrize("kind, damage", [("text", lambda content: content[:30]), ("tree", lambda content: content.replace(b' )"', b'"', 1))],
                         ids=["cut off within a line", "no tree any more"])
def test_students_of_a_damaged_run_beside_are_not_adopted(kind, damage, here, monkeypatch):
    make_folder(here / "data", kind)
    arguments = ["--data", "data", "--teacher", "noisy:0.1"]
    Spy(monkeypatch)
    run(monkeypatch, *arguments, "--stages", 2)
    file, = (here / "runs").glob("*/students/stage1_A.jsonl")
    file.write_bytes(damage(file.read_bytes()))
    students = Spy(monkeypatch).students
    run(monkeypatch, *arguments, "--stages", 3)
    assert len(students) == 4                                           # stage1_B alone is taken


def test_run_beside_whose_settings_are_of_other_types_is_passed_over(here, monkeypatch):
    make_folder(here / "data")
    arguments = ["--data", "data", "--teacher", "noisy:0.1"]
    Spy(monkeypatch)
    run(monkeypatch, *arguments, "--stages", 2)
    file, = (here / "runs").glob("*/config.json")
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "settings": {**config["settings"], "method": ["mckd"]}}))
    students = Spy(monkeypatch).students
    run(monkeypatch, *arguments, "--stages", 3)
    assert len(students) == 5


@pytest.mark.parametrize("changed", ["versions", "device", "threads", "precision"])
def test_other_library_or_number_of_threads_is_said(here, monkeypatch, capsys, changed):
    make_folder(here / "data")
    Spy(monkeypatch)
    arguments = ["--data", "data", "--teacher", "noisy:0.1", "--stages", 1, "--out", "run"]
    run(monkeypatch, *arguments)
    config = json.loads((here / "run/config.json").read_text())
    (here / "run/config.json").write_text(json.dumps({**config, changed: "other"}))
    capsys.readouterr()
    run(monkeypatch, *arguments)
    assert f"made with other {changed} than this" in capsys.readouterr().err


def test_gold_of_test_sentences_is_said(here, monkeypatch, capsys):
    make_folder(here / "data")
    shutil.copy(here / "data/labeled.jsonl", here / "data/test.jsonl")
    for method, gold_epochs in (("mckd", 6), ("sft", 6), ("mckd", 0), ("teacher", 6)):
        Spy(monkeypatch)
        run(monkeypatch, "--data", "data", "--teacher", "noisy:0.1", "--stages", 1, "--method", method, "--gold-epochs", gold_epochs)
        said = "test inputs stand in the labeled split too; students learn their gold" in capsys.readouterr().err
        assert said == (gold_epochs > 0 and method != "teacher")


def test_vanilla_kd_says_that_its_teacher_has_no_votes(here, monkeypatch, capsys):
    make_folder(here / "data")
    Spy(monkeypatch)
    run(monkeypatch, "--data", "data", "--teacher", "noisy:0.1", "--stages", 1, "--samples", 4, "--teacher-weight", 2)
    assert "--stages 1 takes no notice of --teacher-weight" in capsys.readouterr().err


@pytest.mark.parametrize("where, name, other", [
    (folders.transformers, "__version__", "other"), (mckd, "device_named", lambda name: torch.device("meta")),
    (torch, "get_num_threads", lambda: 77), (folders, "fast_dtype", lambda device: torch.float64)],
    ids=["versions", "device", "threads", "precision"])
def test_students_of_other_libraries_or_another_machine_are_not_adopted(where, name, other, here, monkeypatch):
    make_folder(here / "data")
    with monkeypatch.context() as patched:
        Spy(patched)
        patched.setattr(where, name, other)
        run(patched, "--data", "data", "--teacher", "noisy:0.1", "--stages", 2)
    students = Spy(monkeypatch).students
    run(monkeypatch, "--data", "data", "--teacher", "noisy:0.1", "--stages", 3)
    assert len(students) == 5


def test_any_module_that_changes_is_other_code(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(folders, "__file__", str(tmp_path / "data/folders.py"))
    digests = set()
    for name in ("mckd.py", "data/t5.py"):
        for content in ("one", "other"):
            (tmp_path / name).write_text(content)
            digests.add(folders.source_digest())
    assert len(digests) == 4


def test_every_setting_counts_but_those_that_change_nothing():
    counted = folders.settings_that_count(asdict(Settings()))
    assert {field.name for field in fields(Settings)} - counted.keys() == {"data", "out", "quiet", "device"}


def test_changed_code_is_said_and_its_students_are_not_adopted(here, monkeypatch, capsys):
    make_folder(here / "data")
    arguments = ["--data", "data", "--teacher", "noisy:0.1", "--seed", 1]
    for code, stages, said, trained in (("one", 2, False, 3), ("one", 3, False, 3), ("other", 3, True, 0), ("other", 4, False, 7)):
        monkeypatch.setattr(folders, "source_digest", lambda: code)
        students = Spy(monkeypatch).students
        run(monkeypatch, *arguments, "--stages", stages)
        assert ("made with other code" in capsys.readouterr().err) == said and len(students) == trained


def test_students_of_a_run_that_went_on_with_other_code_are_not_adopted(here, monkeypatch):
    """What counts is what each student was trained with, not what config.json names, which tells how the run began."""
    make_folder(here / "data")

    def trained(stages, code, breaks_at=None):
        monkeypatch.setattr(folders, "source_digest", lambda: code)
        spy = Spy(monkeypatch, breaks_at)
        with pytest.raises(KeyboardInterrupt) if breaks_at else nullcontext():
            run(monkeypatch, "--data", "data", "--teacher", "noisy:0.1", "--stages", stages)
        return len(spy.students)
    trained(3, "one", breaks_at=2)
    assert trained(3, "other") == 3                     # the second pair and the last
    assert trained(4, "one") == 5                       # the first pair is as here
    shutil.rmtree(here / "runs/data-mckd4-noisy-0.1-tiny-seed0")
    (here / "runs/data-mckd3-noisy-0.1-tiny-seed0/students/stage1_A.jsonl").unlink()        # of a finished run
    assert trained(3, "other") == 1
    assert trained(4, "one") == 6


# ---------------------------------------------------------------------------------------------------------------------
# What is printed and written

def test_first_line_says_which_data(here, monkeypatch, capsys):
    (make_folder(here / "data", "tree") / "task.json").write_text(json.dumps({**CONFIG["tree"], "sample": True}))
    run(monkeypatch, "--data", "data", "--method", "teacher", "--teacher", "noisy:0.3", "--out", "run")
    lines = capsys.readouterr().out.split("\n")
    assert lines[0] == ("Data: kitchen in data (bundled synthetic sample, not real text): 6 labeled, 12 unlabeled, 1 valid, 4 test")
    assert lines[1].startswith("Teacher: noisy:0.3")


def test_seeds_make_a_folder_each_and_a_mean(here, monkeypatch, capsys):
    make_folder(here / "data")
    Spy(monkeypatch)
    arguments = ["--data", "data", "--teacher", "noisy:0.5", "--stages", 1, "--seeds", 2, "--seed", 7]
    run(monkeypatch, *arguments, "--out", "run/")               # as a shell completes it
    assert sorted(file.name for file in here.iterdir() if file.name.startswith("run-")) == ["run-seed7", "run-seed8"]
    f1s = [json.loads((here / f"run-seed{seed}/results.json").read_text())["teacher"]["f1"] for seed in (7, 8)]
    assert f1s[0] != f1s[1] and f"{sum(f1s) / 2:.2f} ± {abs(f1s[0] - f1s[1]) / 2 ** 0.5:.2f}" in capsys.readouterr().out
    run(monkeypatch, *arguments)
    names = sorted(folder.name for folder in (here / "runs").iterdir() if folder.name != "teacher")
    assert len(names) == 2 and names[0].endswith("seed7") and names[1].endswith("seed8")
    (here / "data/test.jsonl").unlink()
    capsys.readouterr()
    run(monkeypatch, "--data", "data", "--method", "sft", "--seeds", 2, "--out", "unscored")
    assert capsys.readouterr().out.endswith("over seeds [0, 1]: nothing was scored\n")


@pytest.mark.parametrize("words, f1", [(["the cat sat", "mats"], 100.0), (["cats", "mats"], None)])
def test_sentences_without_anything_to_score_are_said(words, f1, here, monkeypatch, capsys):
    make_folder(here / "data", "tree")
    write_jsonl(here / "data/test.jsonl", [Example(x, f"( {x} )") for x in words])
    spy = Spy(monkeypatch)
    monkeypatch.setattr(mckd, "label", lambda student, inputs, *_, **__: [Label(x, f"( {x} )", 0.0) for x in inputs])
    run(monkeypatch, "--data", "data", "--method", "sft", "--out", "run")
    results, left_out = json.loads((here / "run/results.json").read_text()), 1 if f1 else 2
    assert results["test"] == {"f1": f1, "valid": f1} and results["test_left_out"] == left_out and spy.students
    assert f"{left_out} of 2 test sentences have no bracket to score" in capsys.readouterr().out


@pytest.mark.parametrize("kind, gold, said", [
    ("tree", "(S (ART die) (NN Katze))", "words whose gold tags are not the Penn Treebank's do not count"),
    ("slots", "B-x B-zebra", "neither task.json nor the labeled examples have, so that no student can write them: B-zebra")])
def test_tags_that_cannot_be_scored_or_written_are_said_before_the_work_and_after(kind, gold, said, here, monkeypatch, capsys):
    make_folder(here / "data", kind)
    (here / "data/task.json").write_text(json.dumps({"task": kind}))
    write_jsonl(here / "data/test.jsonl", [Example("die Katze", gold)])
    Spy(monkeypatch, breaks_at=0)
    with pytest.raises(KeyboardInterrupt):
        run(monkeypatch, "--data", "data", "--teacher", "noisy:0.1", "--out", "run")
    assert said in capsys.readouterr().err
    Spy(monkeypatch)
    run(monkeypatch, "--data", "data", "--teacher", "noisy:0.1", "--out", "run")
    assert said in (here / "run/report.md").read_text()


def test_labeled_inputs_that_repeat_others_are_said(here, monkeypatch, capsys):
    make_folder(here / "data")
    write_jsonl(here / "data/labeled.jsonl", [Example("a b", "first"), Example("c", "d"), Example("a b", "last")])
    spy = Spy(monkeypatch)
    run(monkeypatch, "--data", "data", "--method", "sft", "--out", "run")
    assert [x.output for x in spy.students[0].examples] == ["last", "d"]
    assert "1 labeled inputs repeat others; of each the last is learnt" in capsys.readouterr().err
    students = Spy(monkeypatch).students                # the same gold after pseudolabels
    run(monkeypatch, "--data", "data", "--teacher", "noisy:0.1", "--stages", 1, "--out", "other")
    assert [x.output for x in students[0].gold] == ["last", "d"]
    assert "1 labeled inputs repeat others; of each the last is learnt" in capsys.readouterr().err


def test_a_teacher_alone_without_a_test_split_is_refused(here, monkeypatch):
    make_folder(here / "data", n_test=0)
    with pytest.raises(DataError, match="^data/test.jsonl: expected sentences to score, found none"):
        run(monkeypatch, "--data", "data", "--method", "teacher", "--teacher", "noisy:0.3", "--out", "run")
    assert not (here / "run").exists()


def test_missing_gold_gives_nulls(here, monkeypatch):
    make_folder(here / "data", n_test=0)
    write_jsonl(here / "data/unlabeled.jsonl", [Example(x) for x in inputs_of("data")])
    spy_on(here, monkeypatch, "--stages", 2)
    results = json.loads((here / "run/results.json").read_text())
    assert results["teacher"] == results["test"] == {"f1": None, "valid": None}
    assert [stage["pseudolabel_f1"] for stage in results["stages"]] == [None, None]
    assert [student["test_f1"] for stage in results["stages"] for student in stage["students"]] == [None] * 3


def test_answer_that_cannot_be_read_scores_0_and_becomes_the_fallback(here, monkeypatch, capsys):
    make_folder(here / "data", "tree")
    inputs, asked = inputs_of("data"), inputs_of("data", "test")
    answers = [Example(x, "I cannot do that.") for x in inputs[:2] + asked]
    answers += [Example(x, f"( {x}") for x in inputs[2:]]
    write_jsonl(here / "labels.jsonl", answers)
    Spy(monkeypatch)
    run(monkeypatch, "--data", "data", "--teacher", "replay:labels.jsonl", "--out", "run", "--stages", 1)
    assert [x.output for x in read_pseudolabels("run/pseudolabels/stage0.jsonl")] == [f"( {x} )" for x in inputs]
    assert json.loads((here / "run/results.json").read_text())["teacher"] == {"f1": 0.0, "valid": 0.0}
    assert "2 of the teacher's 12 answers" in capsys.readouterr().err


def test_missing_labels_of_the_test_split_leave_the_teacher_without_a_score(here, monkeypatch, capsys):
    spy_on(here, monkeypatch, "--stages", 1)
    results = json.loads((here / "run/results.json").read_text())
    assert results["teacher"] == {"f1": None, "valid": None} and results["test"]["f1"] is not None
    assert "so it has no score" in capsys.readouterr().err
    with pytest.raises(DataError, match="no pseudolabel for"):
        run(monkeypatch, "--data", "data", "--method", "teacher", "--teacher", "replay:labels.jsonl", "--out", "other")
    assert not (here / "other").exists()


def test_pseudolabel_f1_is_that_of_the_labels_that_the_stage_learnt_from(here, monkeypatch):
    make_folder(here / "data")
    inputs = inputs_of("data")
    write_jsonl(here / "data/unlabeled.jsonl", [Example(x, "by teacher" if i < 6 else "by 0" if i < 9 else None) for i, x in enumerate(inputs)])
    students = spy_on(here, monkeypatch, "--stages", 2)
    results = json.loads((here / "run/results.json").read_text())
    # Token F1 over the nine with gold: `by` alone agrees in the others, 50. By the second stage nobody says `teacher`.
    assert results["stages"][0]["pseudolabel_f1"] == pytest.approx((6 * 100 + 3 * 50) / 9, abs=0.01)
    right = sum(x.output == "by 0" for x in list(read_pseudolabels("run/pseudolabels/stage1.jsonl"))[6:9])
    assert results["stages"][1]["pseudolabel_f1"] == pytest.approx((6 * 50 + right * 100 + (3 - right) * 50) / 9, abs=0.01)
    assert len(students) == 3


def agreeing(here, monkeypatch, agreements, likeness=0.0):
    """The students that `--stages auto` trains, where those of stage i agree to agreements[i - 1]."""
    monkeypatch.setattr(mckd.Run, "agreement", lambda self, stage: agreements[stage - 1])
    monkeypatch.setattr(mckd.Run, "likeness", lambda self, stage: likeness)
    return spy_on(here, monkeypatch, "--stages", "auto")


@pytest.mark.parametrize("agreements, pairs, stages", [([50, 50.9], 2, 2), ([50, 51, 51], 3, 3), ([50, 40], 2, 2), ([10, 20, 30, 40, 50, 60, 70], 5, 6)])
def test_stages_auto_go_on_while_agreement_rises(agreements, pairs, stages, here, monkeypatch):
    """The last student learns the labels of the last pair whose agreement rose: it is that of so many stages."""
    *_, last = students = agreeing(here, monkeypatch, agreements)
    assert len(students) == 2 * pairs + 1
    results = json.loads((here / "run/results.json").read_text())
    assert results["stages"][-1]["stage"] == max(pairs, stages) and results["stages"][-1]["students"][-1]["name"] == f"stage{stages}_final"
    assert {x.output for x in last.examples} == {f"by {2 * stages - 4}", f"by {2 * stages - 3}"}
    assert len(results["stages"][pairs - 1]["students"]) == (2 if stages > pairs else 3)


def test_stages_auto_without_inputs_to_compare_students_on_is_refused(here, monkeypatch):
    make_folder(here / "data", n_test=0)
    (here / "data/valid.jsonl").unlink()
    with pytest.raises(DataError, match="^--stages auto: expected inputs in data/valid.jsonl or test.jsonl"):
        spy_on(here, monkeypatch, "--stages", "auto")
    assert not (here / "run").exists()


def test_stages_auto_end_where_there_is_nothing_to_compare(here, monkeypatch, capsys):
    """Students that write no slot."""
    make_folder(here / "data", "slots")
    spy = Spy(monkeypatch)
    write_jsonl(here / "labels.jsonl", [Example(x, " ".join("O" for _ in x.split())) for x in inputs_of("data")])
    run(monkeypatch, "--data", "data", "--teacher", "replay:labels.jsonl", "--out", "run", "--stages", "auto")
    first, = json.loads((here / "run/results.json").read_text())["stages"]
    assert len(spy.students) == 3 and first["agreement"] is None and first["likeness"] is None and first["left_out"]
    assert "Stage 1: agreement 0.0, needed 8.00" in capsys.readouterr().out


@pytest.mark.parametrize("likeness, pairs", [(42, 2), (42.1, 1)])
def test_stages_auto_leave_out_a_first_pair_that_agrees_hardly_more_than_its_labels_do_with_the_teacher(likeness, pairs, here, monkeypatch, capsys):
    *_, last = students = agreeing(here, monkeypatch, [50, 50], likeness)
    assert len(students) == 2 * pairs + 1
    assert {x.output for x in last.examples} == ({"by teacher"} if pairs == 1 else {"by 0", "by 1"})
    assert ("Stage 1: agreement 50, needed 50.10 (likeness to the teacher's labels 42.1, and 8.0)" in capsys.readouterr().out) == (pairs == 1)
    results = json.loads((here / "run/results.json").read_text())
    assert results["stages"][-1]["students"][-1]["name"] == f"stage{pairs}_final" and results["test"]["f1"] is not None
    assert [stage["left_out"] for stage in results["stages"]] == [False] * (pairs - 1) + [True]


def test_own_half_is_not_compared_with_the_teacher(here, monkeypatch):
    """What a student was trained on it labels alike."""
    monkeypatch.setattr(mckd.Run, "likeness", lambda self, stage: 100.0)
    assert len(spy_on(here, monkeypatch, "--stages", "auto", "--method", "own")) == 5


def test_agreement_is_between_the_two_students_of_a_stage_on_what_neither_was_trained_on(here, monkeypatch):
    students = spy_on(here, monkeypatch, "--stages", 2)
    held_out = inputs_of("data", "valid")
    assert all(set(held_out) <= set(student.labelled) and not set(held_out) & {x.input for x in student.examples} for student in students[:2])
    # `by 0` and `by 1`: one token of two in common.
    assert [stage["agreement"] for stage in json.loads((here / "run/results.json").read_text())["stages"]] == [50.0, None]


def test_likeness_is_between_labels_of_the_pool_and_those_before(here, monkeypatch):
    make_folder(here / "data")
    monkeypatch.setattr(Spy, "label", lambda self, student, inputs, *_, **__: [Label(x, f"{student.number // 2} by noone at all") for x in inputs])
    spy_on(here, monkeypatch, "--stages", 3)
    # `by teacher` and `0 by noone at all`: one token in common, of two and of five; then four of five.
    stages = json.loads((here / "run/results.json").read_text())["stages"]
    assert [stage["likeness"] for stage in stages] == [pytest.approx(200 / 7, abs=0.01), 80.0, None]
    assert [stage["agreement"] for stage in stages] == [100.0, 100.0, None]


@pytest.mark.parametrize("lost", ["model.safetensors", "config.json", "student.json"])
def test_final_folder_that_lacks_a_file_is_made_again(lost, here, monkeypatch):
    spy_on(here, monkeypatch, "--stages", 2)
    before = files(here / "run")
    (here / "run/final" / lost).unlink()
    assert len(spy_on(here, monkeypatch, "--stages", 2)) == 1
    assert files(here / "run").keys() == before.keys()


@pytest.mark.parametrize("stage", [0, 1])
def test_pseudolabels_that_have_lost_a_line(stage, here, monkeypatch):
    """The teacher's are refused: nobody may know them any more. A pair's are written again, from what its students labelled."""
    spy_on(here, monkeypatch, "--stages", 2)
    file = here / f"run/pseudolabels/stage{stage}.jsonl"
    whole = file.read_bytes()
    file.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    if stage == 0:
        with pytest.raises(DataError, match="stage0.jsonl: expected labels of 12 inputs, 1 are missing"):
            spy_on(here, monkeypatch, "--stages", 2)
    else:
        assert spy_on(here, monkeypatch, "--stages", 2) == [] and file.read_bytes() == whole


@pytest.mark.parametrize("event", [{"event": "teacher", "seconds": "x"}, {"event": "student", "student": ["a"], "seconds": 1}])
def test_log_line_of_other_types_is_refused(event, here, monkeypatch):
    spy_on(here, monkeypatch, "--stages", 2)
    with open(here / "run/log.jsonl", "a") as log:
        log.write(json.dumps(event) + "\n")
    with pytest.raises(DataError, match=r"log.jsonl:\d+: expected seconds"):
        spy_on(here, monkeypatch, "--stages", 2)


def test_student_without_labels_of_what_students_are_compared_on_is_refused(here, monkeypatch):
    spy_on(here, monkeypatch, "--stages", 2)
    file = here / "run/students/stage1_A.jsonl"
    write_jsonl(file, [x for x in read_pseudolabels(file) if x.input not in inputs_of("data", "valid")])
    with pytest.raises(DataError, match="stage1_A.jsonl: expected labels of 1 inputs, 1 are missing; delete it"):
        spy_on(here, monkeypatch, "--stages", 2)


def test_execute_checks_its_settings(here):
    """As a notebook calls it."""
    with pytest.raises(DataError, match="--gold-copies"):
        mckd.execute(mckd.Settings(gold_copies=1, gold_epochs=0))
    with pytest.raises(DataError, match="--method: expected one of mckd, own, sft, teacher, found 'MCKD'"):
        mckd.execute(mckd.Settings(method="MCKD"))
    with pytest.raises(DataError, match="--stages: expected a whole number of at least 1, found '3'"):
        mckd.execute(mckd.Settings(stages="3"))
    with pytest.raises(DataError, match="--samples: expected a whole number of at least 1, found 'auto'"):
        mckd.execute(mckd.Settings(samples="auto"))
    for name, value in (("teacher", None), ("student", 3), ("seed", "a"), ("lr", "1")):
        with pytest.raises(DataError, match=f"--{name}: expected .*, found {value!r}"):
            mckd.execute(mckd.Settings(**{name: value}))
    with pytest.raises(DataError, match="no such data folder"):
        mckd.execute(mckd.Settings(data=here / "none", out=here / "run"))      # a Path will do
    (here / "file").touch()
    with pytest.raises(DataError, match="file: expected a data folder, found a file"):
        mckd.execute(mckd.Settings(data="file"))


def test_students_are_compared_on_a_sample_of_valid_and_not_on_its_first_sentences(here):
    """A split may be in the order of intents or of articles."""
    valid = [Example(f"sentence {i}", None) for i in range(1000)]
    run = SimpleNamespace(data=SimpleNamespace(labeled=valid[:5], unlabeled=valid[5:10], valid=valid, test=[]))
    compared = [int(x.split()[1]) for x in mckd.Run.held_out.func(run)]
    assert len(set(compared)) == 200 and min(compared) >= 10                        # none that students are trained on
    assert 70 < sum(i < 500 for i in compared) < 130


def test_gold_tags_between_their_words_are_scored(here, monkeypatch):
    make_folder(here / "data", "slots")
    found = {}
    for name in ("plain", "interleaved"):
        if name == "interleaved":
            for split in ("labeled", "unlabeled", "valid", "test"):
                write_jsonl(here / f"data/{split}.jsonl", [
                    Example(x.input, " ".join(f"{word} {tag}" for word, tag in zip(x.input.split(" "), x.output.split(" "))))
                    for x in read_jsonl(here / f"data/{split}.jsonl")])
        run(monkeypatch, "--data", "data", "--method", "teacher", "--teacher", "noisy:0", "--out", name)
        found[name] = json.loads((here / name / "results.json").read_text())["test"]
    assert found["plain"] == found["interleaved"] == {"f1": 100.0, "valid": 100.0}


def test_git_is_not_needed(here, monkeypatch):
    monkeypatch.setenv("PATH", "")
    spy_on(here, monkeypatch, "--stages", 1)
    assert json.loads((here / "run/config.json").read_text())["git_commit"] is None


def test_table_worked_example():
    A, final = ({"name": name, "trained_on": 500, "test_f1": f1, "valid": 99.0, "seconds": 40.0}
                for name, f1 in (("stage1_A", 69.1), ("stage2_final", 71.3)))
    results = {"method": "mckd", "teacher": {"f1": 60.3, "valid": 98.0}, "teacher_seconds": 1.5, "stages": [
        {"pseudolabel_f1": 62.1, "agreement": 79.0, "students": [A]},
        {"pseudolabel_f1": None, "agreement": None, "students": [final]}]}
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in table(results).split("\n")][2:] == [
        ["teacher", "–", "–", "–", "60.3", "98.0", "1.5"], ["stage1 A", "500", "62.1", "79.0", "69.1", "99.0", "40.0"],
        ["stage2 final", "500", "–", "–", "71.3", "99.0", "40.0"]]


def test_summary_worked_example(capsys):
    summary([{"method": "mckd", "teacher": {"f1": 50.0}, "stages": [{"stage": 1, "pseudolabel_f1": f1 - 20}], "test": {"f1": f1, "valid": 100.0}}
             for f1 in (60.0, 64.0)], [0, 1])
    assert [line.strip() for line in capsys.readouterr().out.strip().split("\n")[1:]] == [
        "teacher: 50.00 ± 0.00", "labels that stage 1 learns: 42.00 ± 2.83", "final student: 62.00 ± 2.83"]


def test_log_has_an_event_for_every_epoch(here, monkeypatch):
    monkeypatch.setattr(Spy, "train", lambda self, student, examples, recipe, seed, title, quiet, on_epoch, place:
                        (setattr(student, "examples", list(examples)), on_epoch({"epoch": 1, "loss": 0.5})))
    spy_on(here, monkeypatch, "--stages", 1)
    events = [json.loads(line) for line in open(here / "run/log.jsonl")]
    assert {"event": "epoch", "student": "stage1_final", "what": "training", "epoch": 1, "loss": 0.5} in events


def test_seconds_of_a_teacher_that_was_interrupted_add_up(tmp_path):
    for event in ({"event": "teacher", "seconds": 2.0}, {"event": "student", "student": "a", "seconds": 9.0},
                  {"event": "teacher", "seconds": 3.0}, {"event": "student", "student": "a", "seconds": 4.0}):
        folders.log_event(tmp_path, event)
    assert folders.logged_seconds(tmp_path) == {"teacher": 5.0, "a": 4.0}


@pytest.mark.skipif(not (ROOT / ".git").exists() or not shutil.which("git"), reason="no checkout, or no git")
def test_commit_is_that_of_the_code_wherever_it_is_run(here):
    found = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    assert folders.git_commit() == (found or None)                      # nothing where the checkout is another user's


@pytest.mark.parametrize("epochs, said", [(0, "tiny; each learns from pseudolabels alone"), (1, "6 labeled examples, 1 epoch on them")])
def test_what_students_learn_from_is_said(epochs, said, here, monkeypatch, capsys):
    spy_on(here, monkeypatch, "--stages", 1, "--gold-epochs", epochs)
    assert said in capsys.readouterr().out


def test_labels_have_a_score_in_their_file_also_where_it_is_none(here, monkeypatch):
    spy_on(here, monkeypatch, "--stages", 2)
    for stage, score in (0, None), (1, -0.25):
        rows = [json.loads(line) for line in open(here / f"run/pseudolabels/stage{stage}.jsonl")]
        assert all(row["score"] == score and list(row) == ["input", "output", "score"] for row in rows)


def test_tags_that_only_test_has_are_said_below_the_table(here, monkeypatch):
    (make_folder(here / "data", "slots") / "task.json").write_text('{"task": "slots"}')
    with open(here / "data/test.jsonl", "a") as file:
        file.write('{"input": "a cat slept", "output": "O B-zebra I-zebra"}\n')
    run(monkeypatch, "--data", "data", "--teacher", "noisy:0.3", "--method", "teacher", "--out", "run")
    assert "no student can write them: B-zebra, I-zebra" in (here / "run/report.md").read_text()


def test_tags_of_a_teacher_that_are_unknown_are_said(here, monkeypatch, capsys):
    folder = make_folder(here / "data", "slots")
    write_jsonl(here / "labels.jsonl", [Label(x, " ".join(["B-zebra"] * len(x.split()))) for x in inputs_of(folder, "test")])
    run(monkeypatch, "--data", "data", "--out", "run", "--teacher", "replay:labels.jsonl", "--method", "teacher")
    assert "tags that the task does not know, such as 'B-zebra'; they become O" in capsys.readouterr().err


@pytest.mark.parametrize("module, later", [("metrics", {"teacher", "student", "mckd"}), ("teacher", {"student", "mckd"}),
                                           ("student", {"mckd"}), ("data/*", {"metrics", "teacher", "student", "mckd"})])
def test_no_module_knows_one_that_is_built_on_it(module, later):
    """data <- metrics, teacher <- student <- mckd. (prepare.py and grammar.py are scripts as well.)"""
    files = list(ROOT.glob(f"{module}.py"))
    assert files
    for file in files:
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        found |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
        assert not found & later, file


# ---------------------------------------------------------------------------------------------------------------------
# Wrong arguments: one line, exit code 2

@pytest.mark.parametrize("arguments, said", [
    (["--stages", 0], "--stages"), (["--epochs", 0], "--epochs"), (["--batch-size", 0], "--batch-size"), (["--samples", 0], "--samples"),
    (["--teacher-weight", -1], "--teacher-weight"), (["--teacher-weight", 1, "--samples", 1, "--method", "mckd"], "--teacher-weight"),
    (["--teacher-weight", 2, "--stages", "auto"], "--stages auto"), (["--gold-copies", -1], "--gold-copies"),
    (["--gold-copies", 2, "--gold-epochs", 0], "--gold-copies"), (["--labeled", 0], "--labeled"),
    (["--unlabeled", 0], "--unlabeled"), (["--labeled", 99], "99"), (["--unlabeled", 99], "99"), (["--test", -1], "--test"),
    (["--teacher", "zebra"], "zebra"), (["--teacher", "auto"], "pseudolabels.jsonl"), (["--data", "nowhere"], "nowhere"),
    (["--max-words", 1], "1 words"), (["--seeds", 0], "--seeds"), (["--device", "zebra"], "zebra"), (["--out", "file"], "file"),
    (["--device", "meta"], "meta"), (["--seed", -1], "--seed"), (["--seed", 2 ** 32], "--seed"), (["--seed", 2 ** 32 - 1, "--seeds", 2], "--seed"),
    (["--teacher", "hf:nothing", "--method", "mckd"], "nothing")])
def test_wrong_argument_is_one_line(arguments, said, here, monkeypatch, capsys):
    make_folder(here / "data")
    (here / "file").write_text("")
    assert exit_code(monkeypatch, "mckd.py", "--data", "data", "--teacher", "noisy:0.3", "--epochs", 1, "--method", "teacher", *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and said in error
    assert not (here / "runs").exists()


def test_option_is_not_guessed_from_its_beginning(here, monkeypatch):
    make_folder(here / "data")
    assert exit_code(monkeypatch, "mckd.py", "--data", "data", "--teacher", "noisy:0.3", "--stage", 1) == 2 and not (here / "runs").exists()


def test_test_sentences_and_repetitions_among_the_unlabeled_are_counted(here, monkeypatch, capsys):
    make_folder(here / "data")
    unlabeled = read_jsonl("data/unlabeled.jsonl")
    write_jsonl(here / "data/unlabeled.jsonl", unlabeled + unlabeled[:2] + read_jsonl("data/test.jsonl")[:3])
    spy_on(here, monkeypatch, "--stages", 1)
    said = capsys.readouterr().err
    assert "3 test inputs stand in the unlabeled split too" in said
    assert "2 unlabeled inputs repeat others and are left out" in said


def test_exact_match_of_free_text_is_reported_too(here, monkeypatch, capsys):
    make_folder(here / "data")
    first, *others = read_jsonl("data/test.jsonl")
    write_jsonl(here / "data/test.jsonl", [first, *(x._replace(output=f"{x.output} again") for x in others)])
    monkeypatch.setattr(mckd, "train", lambda student, *_: student)
    monkeypatch.setattr(mckd, "label", lambda student, inputs, *_, **__: [Label(x, " ".join(x.split()[::-1])) for x in inputs])
    run(monkeypatch, "--data", "data", "--teacher", "noisy:0", "--stages", 1, "--out", "run")
    assert "Exact match of the final student: 25.0%" in capsys.readouterr().out
    assert check_results(here / "run", 1)["stages"][0]["students"][0]["complete"] == 25


def test_too_few_unlabeled_are_refused_before_the_teacher_is_asked(here, monkeypatch):
    make_folder(here / "data", n_unlabeled=3)
    with pytest.raises(DataError, match="found 3"):
        run(monkeypatch, "--data", "data", "--teacher", "noisy:0.3", "--out", "run")
    assert not (here / "runs").exists() and not (here / "run").exists()


@pytest.mark.parametrize("line, said", [('{"input": "a b"', ":2"), ('{"output": "a"}', '"input"'), ('{"input": "a b"}', '"output"')])
def test_malformed_data_is_one_line_that_names_file_and_line(line, said, here, monkeypatch, capsys):
    make_folder(here / "data")
    rows = (here / "data/labeled.jsonl").read_text().split("\n")
    (here / "data/labeled.jsonl").write_text("\n".join([rows[0], line, *rows[1:]]))
    assert exit_code(monkeypatch, "mckd.py", "--data", "data", "--teacher", "noisy:0.3", "--out", "run") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "labeled.jsonl:2" in error and said in error and not (here / "run").exists()


def test_exit_code_of_a_process_of_its_own(here):
    make_folder(here / "data")
    found = subprocess.run([sys.executable, ROOT / "mckd.py", "--data", "data", "--teacher", "auto", "--out", "run"], cwd=here, text=True,
                           capture_output=True)
    assert found.returncode == 2 and found.stdout.startswith("Data: data in data")
    assert found.stderr.startswith("error: ") and found.stderr.count("\n") == 1


# ---------------------------------------------------------------------------------------------------------------------
# The real thing, in miniature

MINIATURE = ["--data", "data", "--teacher", "noisy:0.3", "--epochs", 1, "--gold-epochs", 1, "--batch-size", 4]


def test_every_student_begins_with_the_same_weights(here, monkeypatch):
    make_folder(here / "data", "tree")
    spy, begun = Spy(monkeypatch), []
    real = student_module.make_student

    def make_student(*arguments, **named):
        begun.append(real(*arguments, **named).model.state_dict())
        return spy.make_student(*arguments, **named)
    monkeypatch.setattr(mckd, "make_student", make_student)
    monkeypatch.setattr(mckd, "label", lambda student, inputs, *_, **__: [Label(x, f"( {x} )", -0.5) for x in inputs])
    run(monkeypatch, *MINIATURE, "--stages", 2, "--out", "run")
    assert len(begun) == 3
    for weights in begun[1:]:
        assert all(torch.equal(weight, weights[name]) for name, weight in begun[0].items())


def check_results(folder, n_stages, method="mckd"):
    """The files and keys that design.md promises."""
    results = json.loads((folder / "results.json").read_text())
    assert {"teacher", "stages", "test", "seconds"} <= results.keys() and results["seconds"] >= 0
    assert results["teacher"].keys() == results["test"].keys() == {"f1", "valid"}
    assert [stage["stage"] for stage in results["stages"]] == list(range(1, n_stages + 1))
    assert [len(stage["students"]) for stage in results["stages"]] == [2] * (n_stages - 1) + [1] * bool(n_stages)
    scores = [results["test"]["f1"], results["test"]["valid"]]
    for stage in results["stages"]:
        assert "pseudolabel_f1" in stage and all("test_f1" in student for student in stage["students"])
        scores += [student["test_f1"] for student in stage["students"]]
        scores += [] if method == "sft" else [stage["pseudolabel_f1"], results["teacher"]["f1"]]
    assert all(0 <= score <= 100 for score in scores)
    config = json.loads((folder / "config.json").read_text())
    assert config["settings"]["method"] == method and config["settings"]["fingerprint"] and "torch" in config["versions"]
    assert "git_commit" in config
    for line in (folder / "log.jsonl").read_text().splitlines():
        assert isinstance(json.loads(line), dict)
    names = [f"stage{i}.jsonl" for i in range(n_stages)] if method in ("mckd", "own") else []
    assert sorted(file.name for file in (folder / "pseudolabels").iterdir()) == names
    assert "F1" in (folder / "report.md").read_text()
    assert not [file for file in folder.rglob("*") if file.suffix in (".tmp", ".part", ".bin", ".pt", ".pth", ".pkl")]
    if n_stages:
        assert (folder / "final/model.safetensors").is_file() and (folder / "final/tokenizer.json").is_file()
    return results


@pytest.mark.parametrize("kind", ["tree", "slots", "text"])
def test_miniature_run_end_to_end(kind, here, monkeypatch, capsys):
    make_folder(here / "data", kind)
    run(monkeypatch, *MINIATURE, "--stages", 2, "--out", "runs/one")
    results = check_results(here / "runs/one", 2)
    shown = capsys.readouterr().out
    assert shown.startswith("Data: ") and "teacher" in shown and "stage2 final" in shown and (here / "runs/one/report.md").read_text() != ""
    task = make_task(CONFIG[kind])
    for stage in (0, 1):
        rows = list(read_pseudolabels(here / f"runs/one/pseudolabels/stage{stage}.jsonl"))
        assert [x.input for x in rows] == inputs_of("data")
        for x in rows if kind != "text" else []:
            task.check(x.input, x.output)
    if kind != "text":
        assert results["test"]["valid"] == results["teacher"]["valid"] == 100

    # The same command again: nothing is trained, every byte stays.
    labels, weights = pseudolabels("runs/one"), (here / "runs/one/final/model.safetensors").read_bytes()
    before = files("runs/one")
    with monkeypatch.context() as patched:
        patched.setattr(mckd, "train", None)
        run(monkeypatch, *MINIATURE, "--stages", 2, "--out", "runs/one")
    assert files("runs/one") == before

    # Stage 2 lost: it is made again, the same to the byte. And so is the whole run, elsewhere, without the teacher's cache.
    for lost in (here / "runs/one/students").glob("stage2_*"):
        lost.unlink()
    run(monkeypatch, *MINIATURE, "--stages", 2, "--out", "runs/one")
    assert pseudolabels("runs/one") == labels and (here / "runs/one/final/model.safetensors").read_bytes() == weights
    run(monkeypatch, *MINIATURE, "--stages", 2, "--out", "elsewhere/two")
    assert pseudolabels("elsewhere/two") == labels
    assert (here / "elsewhere/two/final/model.safetensors").read_bytes() == weights


@pytest.mark.parametrize("learnt, said", [([60, 70.5, 65], "got worse, from F1 70.5 to 65.0"), ([60, 65, 70], None), ([60, 70.5, 70.4], None), ([60, None], None), ([], None)])
def test_labels_that_get_worse_are_said_below_the_table(learnt, said):
    student = {"name": "stage1_final", "trained_on": 4, "test_f1": 50.0, "valid": 100.0, "complete": 0.0, "seconds": 1.0}
    results = {"method": "mckd", "teacher": {"f1": None, "valid": None}, "test_left_out": 0, "seconds": 1.0, "teacher_seconds": 0.0,
               "stages": [{"stage": i, "pseudolabel_f1": f1, "agreement": None, "left_out": i == len(learnt), "students": [student]}
                          for i, f1 in enumerate(learnt, start=1)]}         # where --stages auto leaves a pair out the last one learns what it learnt
    report = Run.report(SimpleNamespace(data=SimpleNamespace(test=[]), task=SimpleNamespace(kind="slots"), odd_tags=lambda: None), results)
    assert (said in report) if said else ("got worse" not in report)


@pytest.mark.skipif(not parallel.FORKS, reason="students work side by side only on Linux")
def test_two_students_side_by_side_give_the_bytes_of_one_after_the_other(here, monkeypatch, capfd):
    make_folder(here / "data", "tree")
    monkeypatch.setattr(sys, "argv", ["mckd.py", *map(str, MINIATURE), "--stages", "2", "--out", "side"])
    mckd.main()                                         # not quiet: with two progress bars
    said = capfd.readouterr().err
    assert "stage1_A: training" in said and "stage1_B: training" in said and "has failed" not in said and "Traceback" not in said
    monkeypatch.setattr(parallel, "FORKS", False)
    run(monkeypatch, *MINIATURE, "--stages", 2, "--out", "after")
    assert {name: content for name, content in files("side").items() if "labels" in name or "students" in name or "final" in name} \
        == {name: content for name, content in files("after").items() if "labels" in name or "students" in name or "final" in name}
    assert {json.loads(line)["student"] for line in open("side/log.jsonl") if "student" in line} \
        == {"stage1_A", "stage1_B", "stage2_final"}


@pytest.mark.skipif(not parallel.FORKS, reason="students work side by side only on Linux")
def test_what_another_process_fails_at_is_said_by_this_one(here, monkeypatch, capsys):
    make_folder(here / "data", "tree")

    def train(*_, **__):
        raise DataError("the reason")
    monkeypatch.setattr(mckd, "train", train)
    with pytest.raises(DataError, match="the reason"):
        run(monkeypatch, *MINIATURE, "--stages", 2, "--out", "run")
    assert "a student's process has failed" in capsys.readouterr().err


@pytest.mark.skipif(not parallel.FORKS, reason="students work side by side only on Linux")
def test_who_is_interrupted_leaves_no_process_behind(monkeypatch):
    """As a notebook's cell is, while it waits for the two: its own process goes on."""
    def interrupted(*_):
        raise KeyboardInterrupt
    monkeypatch.setattr(multiprocessing.process.BaseProcess, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        parallel.in_processes(lambda: time.sleep(600), lambda: time.sleep(600))
    deadline = time.monotonic() + 60
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("method, stages", [("own", 2), ("sft", 1), ("teacher", 0), ("mckd", 1)])
def test_every_other_method_end_to_end(method, stages, here, monkeypatch):
    make_folder(here / "data", "tree")
    run(monkeypatch, *MINIATURE, "--method", method, *(["--stages", stages] if method in ("own", "mckd") else []), "--out", "run")
    check_results(here / "run", stages, method)


def test_three_stages_go_on_after_the_second_is_lost(here, monkeypatch):
    make_folder(here / "data", "slots")
    run(monkeypatch, *MINIATURE, "--stages", 3, "--out", "run")
    labels = pseudolabels("run")
    assert len(labels) == 3 and labels["stage1.jsonl"] != labels["stage2.jsonl"]
    for lost in [*(here / "run/students").glob("stage2_*"), *(here / "run/pseudolabels").iterdir()]:
        lost.unlink()
    monkeypatch.setattr(parallel, "FORKS", False)
    made, real = [], mckd.make_student
    monkeypatch.setattr(mckd, "make_student", lambda *arguments: made.append(1) or real(*arguments))
    run(monkeypatch, *MINIATURE, "--stages", 3, "--out", "run")
    assert len(made) == 2 and pseudolabels("run") == labels


def test_tuned_teacher_end_to_end(here, monkeypatch, capsys, causal_folder):
    make_folder(here / "data", "slots")
    shutil.copytree(causal_folder, here / "model")
    run(monkeypatch, "--data", "data", "--teacher", "tuned:model", "--method", "teacher", "--out", "run")
    assert check_results(here / "run", 0, "teacher")["teacher"]["valid"] == 100
    shown = capsys.readouterr()
    assert "Teacher: tuned:model, trained on 6 gold examples" in shown.out and shown.err == ""        # --quiet: no progress bars


def test_errors_of_an_llm_that_is_finetuned_again_and_again(here, monkeypatch, capsys, causal_folder):
    """tests/errors.py with `tuned:`: every finetuning has a seed, and so labels, of its own."""
    make_folder(here / "data", "slots", n_labeled=20)               # more than a batch, so that their order counts
    shutil.copytree(causal_folder, here / "model")
    monkeypatch.setattr(sys, "argv", ["errors.py", "--data", "data", "--teacher", "tuned:model", "--prompts", "2", "--unlabeled", "12"])
    errors.main()
    assert "| made by | 1 of 2 | 2 of 2 |" in capsys.readouterr().out
    labels = [file.read_text(encoding="utf-8") for file in (here / "runs/teacher").iterdir()]
    assert len(set(labels)) == 2 and all(text.count("\n") == 12 for text in labels)


def test_tuned_teacher_of_other_examples_inputs_or_tags_is_another_one(here, causal_folder):
    """`tuned:tiny` learns its vocabulary from the unlabeled inputs: with others its labels are others, so its cache is another. A pretrained
    model does not: with a larger pool only what is new is labelled."""
    make_folder(here / "data", "slots")
    data = [load_data("data", labeled=labeled, unlabeled=unlabeled) for labeled, unlabeled in ((6, 12), (5, 12), (6, 11))]
    tasks = [make_task({"task": "slots", "tags": tags}) for tags in (["O", "B-x", "B-y"], ["O", "B-x", "B-y", "I-y"])]
    keys = [student_module.TunedTeacher("tiny", task, some, seed, torch.device("cpu")).key
            for task, some, seed in ((tasks[0], data[0], 0), (tasks[0], data[1], 0), (tasks[0], data[2], 0), (tasks[1], data[0], 0),
                                     (tasks[0], data[0], 1))]
    assert len(set(keys)) == len(keys)
    pretrained = [student_module.TunedTeacher(str(causal_folder), tasks[0], some, 0, torch.device("cpu")).key for some in data]
    assert pretrained[0] == pretrained[2] != pretrained[1]


def test_causal_student_and_local_llm_end_to_end(here, monkeypatch, causal_folder):
    make_folder(here / "data", "tree", n_unlabeled=6)
    shutil.copytree(causal_folder, here / "model")
    run(monkeypatch, "--data", "data", "--teacher", "hf:model", "--student", "model", "--stages", 2, "--epochs", 1, "--out", "run")
    results = check_results(here / "run", 2)
    assert results["test"]["valid"] == results["teacher"]["valid"] == 100


@pytest.mark.skipif(not parallel.FORKS, reason="students work side by side only on Linux")
def test_two_processes_work_at_the_same_time():
    meeting = multiprocessing.get_context("fork").Barrier(2, timeout=20)
    assert parallel.in_processes(meeting.wait, meeting.wait)


def test_students_of_a_large_pool_are_trained_one_after_the_other(monkeypatch):
    monkeypatch.setattr(mckd, "LARGE", 3)
    made = SimpleNamespace(folder=Path("."), settings=SimpleNamespace(student="tiny"), device=torch.device("cpu"), students=[])
    assert [mckd.Student(made, 1, "A", ["x"] * n, {}).one_core for n in (2, 3)] == [True, False]
