"""tests/bootstrap.py: the sides' F1 are the scores of all sentences, and the drawn differences spread as they should."""
import json
import random

import numpy as np
import pytest

import metrics
from bootstrap import bootstrap, parts
from conftest import exit_code
from data.grammar import sample
from data.splits import Example, Label, write_jsonl
from data.tasks import make_task

SLOTS = {"task": "slots", "tags": ["O", "B-x", "I-x"]}


def noisy_tags(rng, tags):
    return " ".join(rng.choice(["O", "B-x", "I-x"]) if rng.random() < 0.3 else tag for tag in tags)


@pytest.mark.parametrize("kind", ["tree", "slots", "text"])
def test_sums_of_parts_are_the_score(kind):
    rng = random.Random(0)
    if kind == "tree":
        gold = [Example("Methods", "( Methods )"), *(Example(**row) for row in sample(3)["labeled"][:20])]
        outputs = [x.output if rng.random() < 0.5 else "" for x in gold]
    elif kind == "slots":
        gold = [Example("w " * 7 + "w", noisy_tags(rng, ["O"] * 8)) for _ in range(20)]
        outputs = [noisy_tags(rng, x.output.split()) for x in gold]
        gold += [Example("v w", "v O w B-x"), Example("v w", "O B-x"), Example("v w", "O O")]      # tags between words; one tag too many
        outputs += ["v O w B-x", "O B-x O", "O O"]
    else:
        gold = [Example("w", "a b"), Example("w", "c")]
        outputs = ["a c", "c"]
    task = make_task(SLOTS if kind == "slots" else {"task": kind})
    found = parts(task, gold, outputs).sum(0)
    expected = metrics.score(kind, [task.gold(x) for x in gold], outputs, [x.input for x in gold])["f1"]
    assert found[0] / found[1] == pytest.approx(expected) and 0 < expected < 100


def test_differences_spread_as_the_error_of_a_mean():
    rng = np.random.default_rng(1)
    pairs = rng.normal(60, 20, 400), rng.normal(58, 20, 400)
    sides = [[np.stack([f1s, np.ones(400)], 1)] for f1s in pairs]
    assert bootstrap([np.zeros((3, 2))], [np.zeros((3, 2))], samples=2)[0] == 0, "nothing to score"
    one, other, differences = bootstrap(*sides, samples=4000)
    assert one == pytest.approx(pairs[0].mean()) and other == pytest.approx(pairs[1].mean())
    assert differences.mean() == pytest.approx(one - other, abs=0.15)
    assert differences.std() == pytest.approx((pairs[0] - pairs[1]).std() / 20, rel=0.08)
    assert abs(bootstrap(sides[0], sides[0] * 3, samples=50)[2]).max() < 1e-9, "paired: equal sides never differ"


def test_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "task.json").write_text('{"task": "slots"}')             # the labeled examples tell which tags there are
    tags = ["B-x I-x O", "O B-x O", "O O B-x", "O O O"]
    gold = [Example(f"a b {i}", tags[i % 4]) for i in range(24)]
    for split, some in (("labeled", gold[:4]), ("unlabeled", gold[4:12]), ("test", gold[12:])):
        write_jsonl(folder / f"{split}.jsonl", some)
    common = ("--data", "data", "--teacher", "noisy:0.2", "--stages", 1, "--epochs", 1, "--gold-epochs", 0, "--quiet")
    assert exit_code(monkeypatch, "mckd.py", *common, "--out", "run") in (0, None)
    f1 = json.loads((tmp_path / "run/results.json").read_text())["test"]["f1"]
    write_jsonl(tmp_path / "right.jsonl", [Label(x.input, x.output, None) for x in gold])
    capsys.readouterr()
    assert exit_code(monkeypatch, "tests/bootstrap.py", "right.jsonl", "--against", "run") in (0, None)
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"F1 100.00 and {f1:.2f} on 12 test sentences: {100 - f1:+.2f}"
    assert second.startswith("95% interval: ") and second.endswith("not above in 0.0% of the drawn test sets")
    write_jsonl(tmp_path / "answers.jsonl", [Label(x.input, f"Tags: {x.output}", None) for x in gold])
    assert exit_code(monkeypatch, "tests/bootstrap.py", "answers.jsonl", "--against", "run") in (0, None)
    assert capsys.readouterr().out.startswith("F1 100.00 and "), "read as a teacher's answers are"

    def refused(*arguments):
        assert exit_code(monkeypatch, "tests/bootstrap.py", *arguments) == 2
        return capsys.readouterr().err
    assert "expected the folder of a finished run, on one side" in refused("right.jsonl", "--against", "right.jsonl")
    assert "data/config.json: expected the settings of a run" in refused("run", "--against", "data")
    write_jsonl(tmp_path / "some.jsonl", [Label(gold[12].input, "O O O", None)])
    assert "11 are missing" in refused("run", "--against", "some.jsonl")
    assert exit_code(monkeypatch, "mckd.py", *common, "--test", 5, "--out", "other") in (0, None)
    capsys.readouterr()
    assert "other: expected the test sentences of run, found others" in refused("run", "--against", "other")
