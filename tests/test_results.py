"""tests/results.py: the tables are the means and deviations of the runs in the folder."""
import json
from dataclasses import asdict, replace

import pytest

from data.runs import Settings
from data.splits import DataError
from results import by_corpus, column_of, every_run, method_of, read_runs, short_table


def finished(folder, settings, f1, label_f1s=()):
    """A run's folder, as far as the tables read it."""
    run = folder / f"{settings.method}{settings.stages}-{settings.unlabeled}-{settings.labeled}-seed{settings.seed}"
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"settings": asdict(settings)}))
    stages = [{"pseudolabel_f1": label_f1} for label_f1 in label_f1s]
    (run / "results.json").write_text(json.dumps({
        "data": f"Data: ATIS in data/atis (real data): {settings.labeled or 50} labeled (the first of 3,000), {settings.unlabeled or 900:,} unlabeled, 893 test",
        "teacher": {"f1": 40.0, "valid": 100.0}, "stages": stages, "test": {"f1": f1, "valid": 100.0}, "seconds": 10 * f1}))


def test_mean_and_deviation_of_the_largest_pool(tmp_path):
    plain = Settings(data="data/atis", unlabeled=1500, samples=1, gold_copies=0)
    for seed, f1 in enumerate([60.0, 62.0, 64.0]):
        finished(tmp_path, replace(plain, seed=seed), f1, [50.0, f1 - 10])
    finished(tmp_path, replace(plain, unlabeled=500), 10.0)
    finished(tmp_path, replace(plain, unlabeled=None, max_words=20), 11.0)          # a whole pool, of 900
    finished(tmp_path, replace(plain, stages=2, votes=5), 99.0)
    finished(tmp_path, replace(plain, stages=1, samples=4, gold_copies=2), 65.0)
    finished(tmp_path, replace(plain, stages=2, unlabeled=1400, samples=4, teacher_weight=2, gold_copies=2), 66.0)
    finished(tmp_path, replace(plain, stages=2, unlabeled=1300, samples=4, teacher_weight=0), 64.0)
    finished(tmp_path, replace(plain, method="sft", labeled=50, samples=4, gold_copies=2), 45.0)
    finished(tmp_path, replace(plain, stages=4, student="gguf:x.gguf", teacher="tuned:gguf:x.gguf"), 70.0)
    finished(tmp_path, replace(plain, stages=4, unlabeled=1200, student="gguf:x.gguf", samples=4, gold_copies=2), 71.0)
    finished(tmp_path, replace(plain, method="sft", labeled=500, samples=None, gold_copies=None), 80.0)        # of code that did not say
    groups = read_runs(tmp_path)
    assert by_corpus(groups) == {
        "ATIS, trees' defaults": {"50 gold examples": [45.0], "1 stage (vanilla KD)": [65.0], "2 stages": [66.0], "the teacher": [40.0]},
        "ATIS, 4 outputs, teacher's weight 0": {"2 stages": [64.0], "the teacher": [40.0]},
        "ATIS": {"3 stages": [60.0, 62.0, 64.0], "500 gold examples": [80.0], "the teacher": [40.0, 40.0, 40.0]},
        "ATIS, x.gguf, 4 outputs, gold copies 2": {"4 stages": [71.0], "the teacher": [40.0]},
        "ATIS, x.gguf, tuned": {"4 stages": [70.0], "the teacher": [40.0]}}
    rows = short_table(by_corpus(groups)).split("\n")
    assert "| 3 stages | 62.0 ± 2.0 | – | – | – | – |" in rows and "| 4 stages | – | – | – | 71.0 | 70.0 |" in rows
    assert "| 2 stages | – | 64.0 | 66.0 | – | – |" in rows and "| 3 stages, own half | – | – | – | – | – |" in rows
    assert "| `mckd3-1500-None` | 3 | 50.0, 52.0 ± 2.0 | 62.0 ± 2.0 | 100.0 | 620 |" in every_run(groups).split("\n")


@pytest.mark.parametrize("file, content", [
    ("config.json", "{}"), ("config.json", '{"settings": {"method": "teacher"}}'), ("results.json", "{}"), ("results.json", '{"a":'),
    ("results.json", '{"teacher": {"f1": 1, "valid": 1}}'), ("results.json", '{"teacher": {"f1": 1, "valid": 1}, "data": "x"}')])
def test_damaged_run_is_one_line(file, content, tmp_path):
    finished(tmp_path, Settings(method="sft", data="data/atis"), 60.0)
    (next(tmp_path.iterdir()) / file).write_text(content)
    with pytest.raises(DataError, match=file):
        read_runs(tmp_path)


def test_corpus_is_the_name_in_the_headline():
    settings = asdict(Settings(data="in use/my data", samples=1))
    for name in ("ATIS", "Wiki in German", "Penn Treebank, Wall Street Journal"):
        for folder in ("in use/my data", "in use/my data/real"):
            assert column_of(settings, {"data": f"Data: {name} in {folder} (real data): 30 labeled"}) == name
    sft = {**settings, "method": "sft"}
    assert method_of(settings, {"data": "30 labeled"}) == "3 stages" and method_of(sft, {"data": "30 labeled"}) == "30 gold examples"


def test_no_runs_is_one_line(tmp_path):
    with pytest.raises(DataError, match="found none"):
        read_runs(tmp_path)
