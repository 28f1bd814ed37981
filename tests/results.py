"""What finished runs found, as the README's tables and its figure: means and deviations over seeds.

    python tests/results.py runs
    python tests/results.py runs --figure notebooks/results.svg         # needs matplotlib: notebooks/requirements.txt

Runs whose folders are named alike but for the seed are one row of the long table. The short one, methods against corpora, and the figure
show of each corpus and method the runs with most unlabeled and test sentences, of any --max-words, all else by default; other students
than `tiny`, tuned: teachers, several outputs voted and gold among the pseudolabels have columns of their own ("trees' defaults": as trees
have them), which the figure leaves out where they have no more than three rows. More gold than 50 is that of `--method sft`.
"""
import re
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from data.runs import Settings  # noqa: E402
from data.folders import finished, read_config  # noqa: E402
from data.command import CommandLine, run_command  # noqa: E402
from data.splits import DataError  # noqa: E402
from student import GOLD_COPIES, SAMPLES  # noqa: E402

COLOURS = {"the LLM, decoding freely": "C4", "the teacher": "C4", "50 gold examples": "C5", "500 gold examples": "C5",
           "1 stage (vanilla KD)": "C1", "2 stages": "C0", "3 stages": "C0", "4 stages": "C0"}        # the figure's bars
METHODS = [*COLOURS, "3 stages, own half", "1,000 gold examples", "as much gold as the pool"]         # the short table's rows


def read_runs(folder):
    """{a run's name without its seed: [(settings, results), …]} of the finished runs in `folder`."""
    groups = {}
    for file in sorted(folder.glob("*/results.json")):
        runs = groups.setdefault(re.sub(r"-seed\d+$", "", file.parent.name), [])
        settings, results = read_config(file.parent)["settings"], finished(file.parent)
        try:
            column_of(settings, results), method_of(settings, results), [stage["pseudolabel_f1"] for stage in results["stages"]]
            results["test"]["f1"], results["test"]["valid"], results["seconds"]
        except (AttributeError, LookupError, TypeError) as error:
            raise DataError(f"{file.parent}: expected config.json and results.json of a finished run ({error!r})") from None
        runs.append((settings, results))
    if not groups:
        raise DataError(f"{folder}: expected folders of finished runs, found none")
    return groups


def mean(values):
    """`mean ± standard deviation`, the mean alone of one value or of equal ones, – where one is missing."""
    if None in values:
        return "–"
    spread = statistics.stdev(values) if len(values) > 1 else 0
    return f"{statistics.mean(values):.1f}" + (f" ± {spread:.1f}" if spread else "")


def every_run(groups):
    lines = ["| runs | seeds | labels that each stage learns from, F1 | test F1 | valid (%) | seconds a seed |", "|---|---:|---:|---:|---:|---:|"]
    for name, runs in groups.items():
        found = [results for _, results in runs]
        labels = ", ".join(mean(stage) for stage in zip(*([s["pseudolabel_f1"] for s in r["stages"]] for r in found)))
        cells = [len(found), labels or "–", mean([r["test"]["f1"] for r in found]), mean([r["test"]["valid"] for r in found]),
                 f"{statistics.mean(r['seconds'] for r in found):,.0f}"]
        lines.append(f"| `{name}` | " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def method_of(settings, results):
    """The short table's row for a run; None for those that it does not show."""
    method, gold = settings["method"], settings["labeled"]
    if method == "teacher":
        return "the LLM, decoding freely" if settings["free"] else None
    plain = {name: getattr(Settings, name) for name in ("votes", "gold_epochs", "epochs", "batch_size", "lr", "free")}
    taught = settings["teacher"].split(":")[0] in ("auto", "tuned") and gold in (None, 50)
    if any(settings.get(name, value) != value for name, value in plain.items()) or method != "sft" and not taught:
        return None
    if method == "sft" and gold is None:                                        # 50, or all of a folder that has fewer
        return f"{re.search(r'([0-9,]+) labeled', results['data'])[1]} gold examples"
    if method == "sft":
        return f"{gold:,} gold examples" if gold in (50, 100, 200, 500, 1000) else "as much gold as the pool"
    stages = "1 stage (vanilla KD)" if settings["stages"] == 1 else f"{settings['stages']} stages"
    return stages + ", own half" * (method == "own")


def column_of(settings, results):
    """The short table's column for a run: its corpus, and what of its students and teacher is not the plain way; "trees' defaults" are
    `tiny`'s. (Runs of older code that say nothing of samples, the teacher's weight and copies had one and none.)"""
    corpus = results["data"].removeprefix("Data: ").split(f" in {Path(settings['data'])}")[0]
    unusual = [Path(settings["student"].removeprefix("gguf:")).name] * (settings["student"] != "tiny") + ["tuned"] * settings["teacher"].startswith("tuned:")
    outputs, weight = settings.get("samples") or 1, settings.get("teacher_weight") or 0
    relabels = settings["student"] == "tiny" and settings["method"] in ("mckd", "own") and settings["stages"] != 1
    reweighted = relabels and weight != outputs // 2
    copies = 0 if settings["method"] == "sft" else settings.get("gold_copies") or 0
    usual = settings["method"] == "sft" or copies == GOLD_COPIES["tiny", "tree"]
    if settings["student"] == "tiny" and outputs == SAMPLES["tiny", "tree"] and usual and not reweighted:
        return ", ".join([corpus, *unusual, "trees' defaults"])
    unusual += [f"{outputs} outputs"] * (outputs > 1)
    unusual += [f"teacher's weight {weight}"] * reweighted
    unusual += [f"gold copies {copies}"] * (copies > 0)
    return ", ".join([corpus, *unusual])


def by_corpus(groups):
    """{corpus: {method: test F1s, one a seed}}"""
    found, pools = {}, {}
    for runs in groups.values():
        settings, results = runs[0]
        corpus = column_of(settings, results)
        method, pool = method_of(settings, results), [int(n.replace(",", "")) for n in re.findall(r"([\d,]+) (?:unlabeled|test)", results["data"])]
        if method in METHODS and pool >= pools.get((corpus, method), []):
            pools[corpus, method] = pool
            found.setdefault(corpus, {})[method] = [results["test"]["f1"] for _, results in runs]
            if settings["method"] == "mckd" and results["teacher"]["f1"] is not None and pool >= pools.get((corpus, "the teacher"), []):
                pools[corpus, "the teacher"] = pool
                found[corpus]["the teacher"] = [results["teacher"]["f1"] for _, results in runs]
    return dict(sorted(found.items()))


def short_table(found):
    lines = ["| test F1 | " + " | ".join(found) + " |", "|---|" + "---:|" * len(found)]
    for method in METHODS:
        lines.append(f"| {method} | " + " | ".join(mean(found[corpus][method]) if method in found[corpus] else "–" for corpus in found) + " |")
    return "\n".join(lines)


def figure(found, file):
    import matplotlib.pyplot as plt
    plt.style.use(ROOT / "notebooks" / "figures.mplstyle")
    fig, axes = plt.subplots(1, len(found), figsize=(2 + 3.3 * len(found), 4.5), sharey=True, layout="constrained", squeeze=False)
    shown = [method for method in reversed(COLOURS) if any(method in f1s for f1s in found.values())]
    for ax, (corpus, f1s) in zip(axes[0], found.items()):
        for method in shown:
            values = f1s.get(method, [0])
            spread = statistics.stdev(values) if len(values) > 1 else 0
            ax.barh(method, statistics.mean(values), xerr=spread or None, capsize=4, color=COLOURS[method])
            ax.text(statistics.mean(values) + spread + 2, method, f"{statistics.mean(values):.1f}" if method in f1s else "–", va="center")
        ax.set(title=corpus.replace(", ", "\n"), xlabel="test F1 (%)", xlim=(0, 105), xticks=range(0, 100, 20))
        ax.grid(axis="y", visible=False)
    fig.savefig(file, metadata={"Date": None})
    print(f"{file}: {', '.join(found)}")


def main():
    parser = CommandLine(description=__doc__)
    parser.add_argument("runs", type=Path, help="the folder that holds runs' folders")
    parser.add_argument("--figure", type=Path, help="draw the figure into this file instead")
    args = parser.parse_args()
    groups = read_runs(args.runs)
    if args.figure:
        found = by_corpus(groups)
        shown = {column: f1s for column, f1s in found.items() if len(f1s) > 3}
        if not shown:
            raise DataError(f"{args.runs}: expected more than three methods on a corpus to draw, found {max(map(len, found.values()), default=0)}")
        figure(shown, args.figure)
    else:
        found = by_corpus(groups)
        print((short_table(found) + "\n\n" if found else "") + every_run(groups))


if __name__ == "__main__":
    run_command(main)
