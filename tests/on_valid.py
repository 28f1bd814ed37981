"""How good are the last students of finished runs on the valid split? A run scores test alone; settings are chosen here.

    python tests/on_valid.py runs/NAME-seed0 runs/NAME-seed1 runs/NAME-seed2 --first 1000

Prints the F1 of each and, of several (seeds of the same settings), their mean and standard deviation. A student votes on as many outputs
as in its run.
"""
import sys
from pathlib import Path

sys.path[:0] = map(str, Path(__file__).resolve().parents[:2])           # tests/, and the project's folder

import data  # noqa: E402, F401 - before torch
from data.command import CommandLine, run_command  # noqa: E402
from data.folders import read_config  # noqa: E402
from data.models import device_named  # noqa: E402
from data.splits import DataError, check_least, load_data  # noqa: E402
from metrics import score  # noqa: E402
from results import mean  # noqa: E402
from student import label, load_student  # noqa: E402


def data_of(run):
    """The splits that the run in this folder used. DataError where they are no longer the same."""
    settings = read_config(run)["settings"]
    splits = load_data(*(settings.get(name) for name in ("data", "labeled", "unlabeled", "test", "max_words")))
    if splits.fingerprint[:16] != settings.get("fingerprint"):
        raise DataError(f"{splits.folder}: expected the data of {run}, found other data")
    return splits


def f1_on_valid(run, first=None, quiet=True):
    """F1 of the last student of the run in this folder on the first so many sentences of its data's valid split (None: all). DataError
    where there is nothing to score."""
    splits = data_of(run)
    gold, student = splits.valid[:first], load_student(run / "final", device_named("auto"))
    labels = label(student, [x.input for x in gold], f"{run.name}: labelling", quiet)
    found = score(student.task.kind, [student.task.gold(x) for x in gold], [x.output for x in labels], [x.input for x in gold])
    if not found["n"]:
        raise DataError(f"{splits.folder}/valid.jsonl: expected sentences with something to score, found none")
    return found["f1"]


def main():
    parser = CommandLine(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished runs")
    parser.add_argument("--first", type=int, help="so many sentences of the valid split (all)")
    parser.add_argument("--quiet", action="store_true")
    args = parser.parse_args()
    check_least("--first", args.first, 1)
    found = []
    for run in args.runs:
        found.append(f1_on_valid(run, args.first, args.quiet))
        print(f"{run}: {found[-1]:.2f}", flush=True)
    if len(found) > 1:
        print(f"mean: {mean(found)}")


if __name__ == "__main__":
    run_command(main)
