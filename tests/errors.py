"""Which of an LLM's errors come and go with the demonstrations in its prompt, and which repeat? A student averages out the first only.

    python tests/errors.py --data data/atis --teacher gguf:FILE --unlabeled 300

Labels the same inputs under several prompts, each with other demonstrations (or the same in another order), and compares the
labels with gold. The labels are kept in runs/teacher, where --votes finds them.
"""
import statistics
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import data  # noqa: E402, F401 - before torch
import torch  # noqa: E402

from data.splits import CommandLine, DataError, load_data, run_command  # noqa: E402
from data.tasks import make_task  # noqa: E402
from data.trees import bare_spans, read_tree, split_words  # noqa: E402
from metrics import chunks, score  # noqa: E402
from teacher import make_teacher, read_answers  # noqa: E402


def repeated_errors(kind: str, gold: list[str], labelings: list[list[str]], inputs: list[str]) -> dict:
    """How many of several labelings of the same inputs share an error: is it systematic, or does it come and go?

    `labelings`: say, an LLM's labels of these inputs under five prompts. Returns {"extra": Counter, "missing": Counter}: of
    spans (tree) or slots that are not gold's, how many stand in exactly k labelings, and of those that are gold's, how
    many lack in exactly k, for k from 1 on. Punctuation counts here. A student averages out what few labelings share.
    """
    def items(output, words):
        if kind == "tree":
            return set(bare_spans(read_tree(output, words)))
        return chunks(split_words(output))
    found = {"extra": Counter(), "missing": Counter()}
    for gold_text, sentence, *outputs in zip(gold, inputs, *labelings):
        words = split_words(sentence)
        wanted, given = items(gold_text, words), Counter()
        for output in outputs:
            given.update(items(output, words))
        found["extra"].update(given[x] for x in given if x not in wanted)
        found["missing"].update(len(labelings) - given[x] for x in wanted if given[x] < len(labelings))
    return found


def main():
    parser = CommandLine(description=__doc__)
    parser.add_argument("--data", required=True, help="a data folder whose unlabeled split has gold")
    parser.add_argument("--teacher", required=True, help="hf:NAME_OR_FOLDER, gguf:FILE or openai:MODEL")
    parser.add_argument("--prompts", type=int, default=5, help="how many prompts (5)")
    parser.add_argument("--unlabeled", type=int, default=300, help="how many inputs (300)")
    parser.add_argument("--max-words", type=int, help="leave longer sentences out")
    args = parser.parse_args()
    if args.prompts < 2:
        raise DataError(f"--prompts: expected at least 2, found {args.prompts}")
    data = load_data(args.data, unlabeled=args.unlabeled, max_words=args.max_words)
    task = make_task(data.config)
    task.learn(data.labeled)
    print(data.headline())
    known = [x for x in data.unlabeled if x.output is not None]
    if task.kind == "text" or not known:
        raise DataError(f"{args.data}: expected trees or slots with gold in unlabeled.jsonl")
    inputs, gold = [x.input for x in known], [task.gold(x) for x in known]

    voting = make_teacher(args.teacher, task, data, device=torch.device("cuda" if torch.cuda.is_available() else "cpu"), votes=args.prompts)
    labelings = []
    for answers in voting.answers(inputs):
        labels = read_answers(task, answers)
        labelings.append([labels[input].output for input in inputs])

    def f1(outputs):
        return score(task.kind, gold, outputs, inputs)["f1"]
    alone = [f1(outputs) for outputs in labelings]
    voted = f1([task.vote(input, outputs) for input, outputs in zip(inputs, zip(*labelings))])
    print(f"F1 of one prompt: {statistics.mean(alone):.1f} ± {statistics.stdev(alone):.1f}; of {args.prompts} prompts, voted: {voted:.1f}\n")
    found = repeated_errors(task.kind, gold, labelings, inputs)
    print(f"| made by | {' | '.join(f'{k} of {args.prompts}' for k in range(1, args.prompts + 1))} | share of all errors made by all but one or all |")
    print("|---|" + "---:|" * (args.prompts + 1))
    for name, counts in found.items():
        made = {k: k * counts[k] for k in range(1, args.prompts + 1)}           # an error of k prompts is made k times
        share = 100 * sum(made[k] for k in made if k >= args.prompts - 1) / max(1, sum(made.values()))
        print(f"| {name} | {' | '.join(f'{counts[k]:,}' for k in made)} | {share:.0f}% |")


if __name__ == "__main__":
    run_command(main)
