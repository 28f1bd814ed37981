"""tests/on_valid.py: a finished run's last student is scored on valid as it was on test."""
import json

import pytest

from conftest import exit_code
from data.grammar import sample
from data.splits import DataError, Example, write_jsonl
import on_valid
from on_valid import f1_on_valid


def test_valid_is_scored_as_test_was(fp32, tmp_path, monkeypatch, capsys):
    """Valid holds the same sentences as test here, so both scores are one."""
    monkeypatch.chdir(tmp_path)
    rows = [Example(**row) for row in sample(3)["labeled"][:40]]
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "task.json").write_text('{"task": "tree"}')
    scored = [Example("Methods", "( Methods )"), *rows[20:]]           # the first has no bracket to score
    for split, some in (("labeled", rows[:5]), ("unlabeled", rows[5:20]), ("valid", scored), ("test", scored)):
        write_jsonl(folder / f"{split}.jsonl", some)
    assert exit_code(monkeypatch, "mckd.py", "--data", "data", "--teacher", "noisy:0.1", "--stages", 1, "--epochs", 1,
                     "--gold-epochs", 1, "--samples", 1, "--out", "run", "--quiet") in (0, None)
    on_test = json.loads((tmp_path / "run/results.json").read_text())["test"]["f1"]
    f1 = f1_on_valid(tmp_path / "run")
    assert 0 < f1 == pytest.approx(on_test, abs=0.01)

    capsys.readouterr()
    assert exit_code(monkeypatch, "tests/on_valid.py", "run", "run", "--quiet") in (0, None)
    assert capsys.readouterr().out == f"run: {f1:.2f}\nrun: {f1:.2f}\nmean: {f1:.1f}\n"

    asked, real = [], on_valid.label
    monkeypatch.setattr(on_valid, "label", lambda student, inputs, *_: asked.extend(inputs) or real(student, inputs, quiet=True))
    f1_on_valid(tmp_path / "run", first=5)
    assert asked == [x.input for x in scored[:5]]
    with pytest.raises(DataError, match="valid.jsonl: expected sentences with something to score, found none"):
        f1_on_valid(tmp_path / "run", first=1)

    write_jsonl(folder / "valid.jsonl", rows[20:30])
    with pytest.raises(DataError, match="expected the data of .*run, found other data"):
        f1_on_valid(tmp_path / "run")
