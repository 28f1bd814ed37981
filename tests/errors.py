"""Which of an LLM's errors come and go with the demonstrations in its prompt, and which repeat? A student averages out the first
best, and learns the second more often.

    python tests/errors.py --data data/atis --teacher gguf:FILE --unlabeled 300

Labels the same inputs under several prompts, each with other demonstrations (or the same in another order), and compares the
labels with gold; with `--teacher tuned:MODEL`, by an LLM that is finetuned on the labeled split several times, with other seeds. The
labels are kept in runs/teacher, where --votes finds them. With `--taught runs/NAME/pseudolabels/stage1.jsonl`, of a run with the same
teacher in which this has no vote on the students' labels (--teacher-weight 0, or --samples 1), it also counts which of these errors the
run's students make on inputs that they were not taught.
"""
import statistics
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import data  # noqa: E402, F401 - before torch

from data.command import GOES_ON, CommandLine, run_command  # noqa: E402
from data.models import device_named  # noqa: E402
from data.splits import DataError, check_least, load_data, read_labels  # noqa: E402
from data.tasks import make_task  # noqa: E402
from data.trees import bare_spans, read_tree, split_words  # noqa: E402
from metrics import chunks, score  # noqa: E402
from student import tuned_teacher  # noqa: E402
from teacher import make_teacher, read_answers  # noqa: E402


def errors(kind, gold, labelings, inputs):
    """Yields ("extra" or "missing", the numbers of the labelings that make it), for every error that some of these labelings make: a span
    (tree) or slot that is not gold's, or the lack of one that is. Punctuation counts here."""
    def items(output, words):
        return set(bare_spans(read_tree(output, words)) if kind == "tree" else chunks(split_words(output)))
    for gold_text, sentence, *outputs in zip(gold, inputs, *labelings):
        words = split_words(sentence)
        wanted, given = items(gold_text, words), [items(output, words) for output in outputs]
        for x in wanted.union(*given):
            if makers := {n for n, found in enumerate(given) if (x in found) != (x in wanted)}:
                yield "missing" if x in wanted else "extra", makers


def repeated_errors(kind, gold, labelings, inputs):
    """How many of several labelings of the same inputs share an error: is it systematic, or does it come and go?

    `labelings`: say, an LLM's labels of these inputs under five prompts. Returns {"extra": Counter, "missing": Counter}, how many errors
    are made by exactly k of them, for k from 1 on.
    """
    found = {"extra": Counter(), "missing": Counter()}
    for what, makers in errors(kind, gold, labelings, inputs):
        found[what][len(makers)] += 1
    return found


def learnt_errors(kind, gold, labelings, taught, inputs):
    """How many of the first labeling's errors, of those that exactly k labelings share, are made in `taught`, too: labels by students that
    learnt from the first labeling of other inputs. Returns {"extra": ({k: [errors, made in `taught`, too]}, errors of `taught` alone),
    "missing": …}; alone means that the first labeling does not make them."""
    shared = {what: {k: [0, 0] for k in range(1, len(labelings) + 1)} for what in ("extra", "missing")}
    alone = Counter()
    for what, makers in errors(kind, gold, [*labelings, taught], inputs):
        if 0 in makers:
            counts = shared[what][len(makers - {len(labelings)})]
            counts[0] += 1
            counts[1] += len(labelings) in makers
        else:
            alone[what] += len(labelings) in makers
    return {what: (shared[what], alone[what]) for what in shared}


def main():
    parser = CommandLine(description=__doc__)
    parser.add_argument("--data", required=True, help="a data folder whose unlabeled split has gold")
    parser.add_argument("--teacher", required=True, help="hf:NAME_OR_FOLDER, gguf:FILE, openai:MODEL or tuned:MODEL")
    parser.add_argument("--prompts", type=int, default=5, help="how many prompts (5)")
    parser.add_argument("--unlabeled", type=int, default=300, help="how many inputs (300)")
    parser.add_argument("--max-words", type=int, help="leave longer sentences out")
    parser.add_argument("--taught", help="labels of these inputs by students that learnt from the first prompt's labels of others")
    args = parser.parse_args()
    check_least("--prompts", args.prompts, 2)
    data = load_data(args.data, unlabeled=args.unlabeled, max_words=args.max_words)
    task = make_task(data.config)
    task.learn(data.labeled)
    print(data.headline())
    known = [x for x in data.unlabeled if x.output is not None]
    if task.kind == "text" or not known:
        raise DataError(f"{args.data}: expected trees or slots with gold in unlabeled.jsonl")
    inputs, gold = [x.input for x in known], [task.gold(x) for x in known]

    make = tuned_teacher if args.teacher.startswith("tuned:") else make_teacher
    voting = make(args.teacher, task, data, device=device_named("auto"), votes=args.prompts)
    labelings = []
    for answers in voting.answers(inputs):
        labels = read_answers(task, answers)
        labelings.append([labels[input].output for input in inputs])

    def f1(outputs):
        return score(task.kind, gold, outputs, inputs)["f1"]
    alone = [f1(outputs) for outputs in labelings]
    labels = read_answers(task, (label for _, label in voting.label(inputs)))
    voted = f1([labels[input].output for input in inputs])
    print(f"F1 of one prompt: {statistics.mean(alone):.1f} ± {statistics.stdev(alone):.1f}; of {args.prompts} prompts, voted: {voted:.1f}\n")
    found = repeated_errors(task.kind, gold, labelings, inputs)
    print(f"| made by | {' | '.join(f'{k} of {args.prompts}' for k in range(1, args.prompts + 1))} | share of all errors made by all but one or all |")
    print("|---|" + "---:|" * (args.prompts + 1))
    for name, counts in found.items():
        made = {k: k * counts[k] for k in range(1, args.prompts + 1)}           # an error of k prompts is made k times
        share = 100 * sum(made[k] for k in made if k >= args.prompts - 1) / max(1, sum(made.values()))
        print(f"| {name} | {' | '.join(f'{counts[k]:,}' for k in made)} | {share:.0f}% |")
    if args.taught:
        taught = read_labels(args.taught, inputs)
        if None in taught.values():
            raise DataError(f"{args.taught}: expected labels of all {len(inputs)} inputs")
        print("\nof the first prompt's errors the students make, too; last, how many others they make:\n")
        for name, (shared, alone) in learnt_errors(task.kind, gold, labelings, [taught[input].output for input in inputs], inputs).items():
            print(f"| {name} | {' | '.join(f'{100 * made / max(1, of):.0f}% of {of:,}' for of, made in shared.values())} | {alone:,} |")


if __name__ == "__main__":
    run_command(main, GOES_ON)
