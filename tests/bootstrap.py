"""Is one way above another by more than the choice of test sentences explains? A paired bootstrap over them, of finished runs.

    python tests/bootstrap.py runs/THREE-STAGES-seed* --against runs/ONE-STAGE-seed*
    python tests/bootstrap.py runs/THREE-STAGES-seed* --against data/atis/pseudolabels.jsonl        # ... its teacher

Each side is one run or several (seeds of the same settings, whose F1 is averaged), or a file of labels of the same test sentences. Prints
both sides' F1, the difference and where it is to be expected over all such sentences: its 95% interval in 10,000 test sets drawn with
replacement from these (Koehn, EMNLP 2004), and the share of them in which the first side is not above the second. That is for these
students: what other seeds change, the summary of --seeds tells.
"""
import sys
from pathlib import Path

sys.path[:0] = map(str, Path(__file__).resolve().parents[:2])           # tests/, and the project's folder

import data  # noqa: E402, F401 - before torch
import numpy as np  # noqa: E402

from data.command import CommandLine, run_command  # noqa: E402
from data.folders import finished, kept_labels  # noqa: E402
from data.splits import DataError  # noqa: E402
from data.tasks import make_task, without_words  # noqa: E402
from data.trees import split_words  # noqa: E402
from metrics import chunks, score  # noqa: E402
from on_valid import data_of  # noqa: E402
from teacher import read_answers  # noqa: E402


def labels_of(side, task, inputs):
    """The outputs that the last student of the run in this folder gave these inputs, or the answers that a file of labels holds, as a run
    scores a teacher's."""
    is_run = side.is_dir()
    if is_run:
        stages = (finished(side) or {}).get("stages")
        if not stages:
            raise DataError(f"{side}: expected a finished run that has trained a student")
        side = side / "students" / f"{stages[-1]['students'][-1]['name']}.jsonl"
    found = kept_labels(side, inputs, "labels of the same test sentences can be compared")
    found = found if is_run else read_answers(task, found.values(), scored=True)
    return [found[x].output for x in inputs]


def parts(task, gold, outputs):
    """Two numbers a sentence, whose sums' ratio is the F1 of any sample of these sentences: of slots twice the right chunks, and gold's
    and the predicted ones together; else the sentence's F1 and 1, or two zeros where it has nothing to score."""
    if task.kind == "slots":
        pairs = []
        for x, output in zip(gold, outputs):
            right, tags = split_words(task.gold(x)), without_words(split_words(x.input), split_words(output))
            pairs.append((chunks(right), chunks(tags if len(tags) == len(right) else [])))
        return np.array([(200 * len(one & other), len(one) + len(other)) for one, other in pairs], float)
    found = score(task.kind, [task.gold(x) for x in gold], outputs, [x.input for x in gold])["per_sentence"]
    return np.array([(each["f1"], 1) if each else (0, 0) for each in found], float)


def bootstrap(ones, others, samples=10_000, seed=0):
    """F1 of both sides, each a list of `parts` of the same sentences, and the differences in `samples` drawn test sets."""
    sides = [np.stack(side) for side in (ones, others)]                 # seeds, sentences, 2
    draws, n = np.random.default_rng(seed), sides[0].shape[1]

    def f1s(times):
        """The mean over seeds, each sentence counted so many times."""
        sums = [times @ side for side in sides]
        return [(each[:, 0] / np.maximum(each[:, 1], 1)).mean() for each in sums]
    drawn = [f1s(np.bincount(draws.integers(n, size=n), minlength=n).astype(float)) for _ in range(samples)]
    return *f1s(np.ones(n)), np.array([one - other for one, other in drawn])


def main():
    parser = CommandLine(description=__doc__)
    parser.add_argument("ones", nargs="+", type=Path, help="folders of finished runs, or a file of labels")
    parser.add_argument("--against", nargs="+", type=Path, required=True, help="the same")
    args = parser.parse_args()
    sides = args.ones + args.against
    if not (runs := [side for side in sides if side.is_dir()]):
        raise DataError(f"{sides[0]}: expected the folder of a finished run, on one side at least")
    splits = data_of(runs[0])
    task, gold = make_task(splits.config), splits.test
    task.learn(splits.labeled)
    for run in runs[1:]:
        if data_of(run).test != gold:
            raise DataError(f"{run}: expected the test sentences of {runs[0]}, found others")
    if not gold:
        raise DataError(f"{runs[0]}: expected test sentences, found none")
    found = {side: parts(task, gold, labels_of(side, task, [x.input for x in gold])) for side in sides}
    one, other, differences = bootstrap([found[side] for side in args.ones], [found[side] for side in args.against])
    low, high = np.percentile(differences, [2.5, 97.5])
    print(f"F1 {one:.2f} and {other:.2f} on {len(gold):,} test sentences: {one - other:+.2f}")
    print(f"95% interval: {low:+.2f} to {high:+.2f}; not above in {100 * np.mean(differences < 1e-9):.1f}% of the drawn test sets")


if __name__ == "__main__":
    run_command(main)
