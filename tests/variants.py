"""What does a student make of other labels of the same inputs, or of the same labels in another way? Measured on valid, never on test.

    python tests/variants.py --data data/craft --teacher gguf:FILE --max-words 20 --unlabeled 1000
    python tests/variants.py --data data/craft --teacher replay:FILE --max-words 20 --unlabeled 2000 --prompts 1 --only "as by default"

Labels the inputs under five prompts (--prompts 1: one; kept in runs/teacher, where --votes finds them), then trains `tiny` on each
variant. Printed is its F1 on the valid split after the labels alone, and after the epochs on gold that follow in a run. `tiny` has one
thread, as a run's pairs have. It has no gold among its labels and decodes greedily, unless a variant says otherwise.
"""
import math
import random
import sys
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from unittest.mock import patch

sys.path[:0] = map(str, Path(__file__).resolve().parents[:2])           # tests/, and the project's folder

import data  # noqa: E402, F401 - before torch
import torch  # noqa: E402

import student as students  # noqa: E402
from data.runs import Settings  # noqa: E402
from data.command import GOES_ON, CommandLine, run_command  # noqa: E402
from data.models import device_named  # noqa: E402
from data.splits import DataError, Example, check_least, load_data  # noqa: E402
from data.tasks import make_task  # noqa: E402
from metrics import agreement, score  # noqa: E402
from results import mean  # noqa: E402
from student import GOLD_COPIES, RECIPES, SAMPLES, label, make_student, train  # noqa: E402
from teacher import cache_file, label_with_cache, make_teacher, read_answers  # noqa: E402

PROMPTS, KEPT = 5, 0.7


class Trial:
    """A data folder, and its inputs' labels (dicts input -> Label) under several prompts."""

    def __init__(self, data, task, prompts):
        self.data, self.task, self.prompts, self.inputs = data, task, prompts, list(prompts[0])
        self.recipe = RECIPES["tiny"]
        self.on_gold = self.recipe.on_gold(Settings.gold_epochs)

    def student(self, seed):
        made = make_student("tiny", self.task, [x.input for x in self.data.labeled + self.data.unlabeled], seed)
        made.seed = seed
        return made

    def f1(self, outputs, gold):
        """Of outputs against Examples with gold."""
        return score(self.task.kind, [self.task.gold(x) for x in gold], outputs, [x.input for x in gold])["f1"]

    def examples(self, labels, inputs=None):
        return [Example(x, labels[x].output) for x in inputs or self.inputs]

    def best(self, key):
        """The KEPT share of the inputs for which key(input) is highest, in their order."""
        kept = set(sorted(self.inputs, key=key, reverse=True)[:int(KEPT * len(self.inputs))])
        return [x for x in self.inputs if x in kept]

    @cache
    def relabelled(self, seed, parts=2, copies=0, samples=1, weight=0):
        """Every input's label by a student that was taught by prompt 0's labels of the other parts, gold `copies` times among them, then
        by gold. Of `samples` outputs and `weight` times prompt 0's label it is the vote."""
        shuffled, found = random.Random(seed).sample(self.inputs, len(self.inputs)), {}
        for k in range(parts):
            asked = shuffled[k::parts]
            others = [x for n, x in enumerate(shuffled) if n % parts != k]
            examples = self.examples(self.prompts[0], others) + self.data.labeled * copies
            taught = train(self.student(seed), examples, self.recipe, seed, quiet=True)
            train(taught, self.data.labeled, self.on_gold, seed, quiet=True)
            found |= dict(zip(asked, label(taught, asked, quiet=True, samples=samples, beside=self.prompts[0], weight=weight)))
        return found

    def by_default(self):
        """variants() of what a last student of trees learns by default, after one stage and after two."""
        copies, samples = GOLD_COPIES["tiny", "tree"], SAMPLES["tiny", "tree"]

        def variant(labels):
            return lambda seed: self.examples(labels(seed)) + self.data.labeled * copies, {"samples": samples}
        return {"as by default, prompt 0": variant(lambda seed: self.prompts[0]),
                "as by default, a student's of the other half": variant(lambda seed: self.relabelled(seed, 2, copies, samples)),
                "as by default, a student's and prompt 0's votes": variant(
                    lambda seed: self.relabelled(seed, 2, copies, samples, samples // 2))}

    def on_which_students_agree(self, seed):
        """The inputs whose label is most like that of a student of the other half."""
        others = self.relabelled(seed)
        return self.best(lambda x: agreement(self.task.kind, [self.prompts[0][x].output], [others[x].output], [x]) or 0.0)

    def variants(self):
        """{name: (examples of a seed, {what is trained with otherwise})}"""
        first, inputs, task, gold = self.prompts[0], self.inputs, self.task, self.data.labeled
        copied = [Example(x, task.fallback(x)) for x in inputs]
        scores = {x: found.score for x, found in first.items()}
        found = {f"prompt {k}": (lambda seed, k=k: self.examples(self.prompts[k]), {}) for k in range(len(self.prompts))}
        if None not in scores.values():                                 # an API gives none
            found |= {
                "prompt 0, the 70% of highest score": (lambda seed: self.examples(first, self.best(scores.get)), {}),
                "prompt 0, drawn as often as they are probable": (lambda seed: self.examples(
                    first, random.Random(seed).choices(inputs, [math.exp(scores[x]) for x in inputs], k=len(inputs))), {})}
        if len(self.prompts) == PROMPTS:
            mixed = {x: self.prompts[random.Random(f"mix{x}").randrange(PROMPTS)][x] for x in inputs}
            vote = {x: first[x]._replace(output=task.vote(x, [labels[x].output for labels in self.prompts])) for x in inputs}
            found |= {
                "of each sentence one of five prompts'": (lambda seed: self.examples(mixed), {}),
                "five prompts', voted": (lambda seed: self.examples(vote), {}),
                "all five of each sentence, one after the other": (
                    lambda seed: [x for labels in self.prompts for x in self.examples(labels)], {})}
        if task.kind == "tree":
            found |= self.by_default()
        return found | {
            "prompt 0, label smoothing 0.1": (lambda seed: self.examples(first), {"smoothing": 0.1}),
            "prompt 0, no dropout": (lambda seed: self.examples(first), {"dropout": 0.0}),
            "prompt 0, dropout 0.2": (lambda seed: self.examples(first), {"dropout": 0.2}),
            "prompt 0, the 70% on which a student of the other half agrees most": (
                lambda seed: self.examples(first, self.on_which_students_agree(seed)), {}),
            "prompt 0, 70% at random": (
                lambda seed: self.examples(first, random.Random(seed).sample(inputs, int(KEPT * len(inputs)))), {}),
            "prompt 0, the gold examples among them twice": (lambda seed: self.examples(first) + gold * 2, {}),
            "prompt 0, after two epochs of copying sentences": (lambda seed: self.examples(first), {"before": (copied, 2, 0.0)}),
            "prompt 0, after four epochs of denoising sentences": (lambda seed: self.examples(first), {"before": (copied * 4, 1, 0.3)}),
            "prompt 0, after twelve epochs of denoising sentences": (lambda seed: self.examples(first), {"before": (copied * 12, 1, 0.3)}),
            "prompt 0, half the epochs": (lambda seed: self.examples(first), {"epochs": 0.5}),
            "prompt 0, twice the epochs": (lambda seed: self.examples(first), {"epochs": 2}),
            "prompt 0, the mean of the weights after the last two epochs": (lambda seed: self.examples(first), {"averaged": True}),
            "a student's of the other half (two stages)": (lambda seed: self.examples(self.relabelled(seed)), {}),
            "a student's of the other three quarters (two stages, four parts)": (lambda seed: self.examples(self.relabelled(seed, 4)), {}),
            "prompt 0's and a student's of the other half": (lambda seed: self.examples(first) + self.examples(self.relabelled(seed)), {})}

    @contextmanager
    def noise(self, student, rate, seed):
        """Inside, each token of an example's input is with probability `rate` another one, drawn from those of all inputs."""
        rng, encode = random.Random(seed), student.encode_example
        tokens = [token for x in self.inputs for token in student.encode_input(x)[:-1]]

        def noisy(input, output):
            source, target = encode(input, output)
            return [rng.choice(tokens) if rng.random() < rate else token for token in source[:-1]] + source[-1:], target
        with patch.object(student, "encode_example", noisy):
            yield

    def measure(self, examples, seed, smoothing=0.0, dropout=0.1, before=None, epochs=1, averaged=False, samples=1):
        """F1 on valid after the labels alone, and after gold. `before`: what is learnt first, for how many epochs, and the rate of noise
        in its inputs (an epoch has noise of its own only if the examples are repeated). `epochs`: times as many as the recipe has. `samples`:
        so many outputs are voted."""
        made, plain, after_epoch = self.student(seed), students.cross_entropy, []
        made.model.config.dropout_rate = dropout
        recipe = replace(self.recipe, epochs=int(epochs * self.recipe.epochs), min_steps=int(epochs * self.recipe.min_steps))
        with patch.object(students, "cross_entropy", lambda *given: plain(*given, label_smoothing=smoothing)):
            if before:
                copies, times, rate = before
                with self.noise(made, rate, seed):
                    train(made, copies, replace(self.recipe, epochs=times, min_steps=0), seed, quiet=True)
            train(made, examples, recipe, seed, quiet=True,
                  on_epoch=lambda _: after_epoch.append({name: weight.clone() for name, weight in made.model.state_dict().items()}))
        if averaged:
            made.model.load_state_dict({name: (weight + after_epoch[-2][name]) / 2 for name, weight in after_epoch[-1].items()})
        alone = self.valid_f1(made, samples)
        train(made, self.data.labeled, self.on_gold, seed, quiet=True)
        return alone, self.valid_f1(made, samples)

    def valid_f1(self, student, samples):
        found = label(student, [x.input for x in self.data.valid], quiet=True, samples=samples)
        return self.f1([x.output for x in found], self.data.valid)


def main():
    parser = CommandLine(description=__doc__)
    parser.add_argument("--data", required=True, help="a data folder with a valid split; with gold in unlabeled.jsonl")
    parser.add_argument("--teacher", required=True,
                        help="hf:NAME_OR_FOLDER, gguf:FILE or openai:MODEL; with --prompts 1 also auto, replay:FILE or noisy:RATE")
    parser.add_argument("--prompts", type=int, default=PROMPTS, choices=[1, PROMPTS], help="1: only variants of prompt 0's labels")
    parser.add_argument("--unlabeled", type=int, default=1000, help="how many inputs (1000)")
    parser.add_argument("--max-words", type=int, help="leave longer sentences out")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds of the student (1)")
    parser.add_argument("--only", default="", help="only variants that have this in their name")
    args = parser.parse_args()
    check_least("--seeds", args.seeds, 1)
    data = load_data(args.data, unlabeled=args.unlabeled, max_words=args.max_words)
    task = make_task(data.config)
    if task.kind == "text":
        raise DataError(f"{args.data}: expected trees or slots, found text")
    task.learn(data.labeled)
    print(data.headline())
    inputs = list(dict.fromkeys(x.input for x in data.unlabeled))
    if not data.valid or None in [x.output for x in data.unlabeled + data.valid]:
        raise DataError(f"{args.data}: expected gold in valid.jsonl and unlabeled.jsonl")
    device = device_named("auto")
    teacher = make_teacher(args.teacher, task, data, device=device, votes=args.prompts)
    answers = teacher.answers(inputs) if args.prompts > 1 else [label_with_cache(teacher, inputs, cache_file(teacher))]
    prompts = [read_answers(task, given) for given in answers]
    torch.set_num_threads(1)
    trial, gold = Trial(data, task, prompts), {x.input: x for x in data.unlabeled}
    print("| labels | F1 | `tiny` taught by them alone, on valid | then by gold |\n|---|---:|---:|---:|")
    for name, (examples, how) in trial.variants().items():
        if args.only not in name:
            continue
        taken = [examples(seed) for seed in range(args.seeds)]
        f1s = [mean(f1) for f1 in zip(*(trial.measure(given, seed, **how) for seed, given in enumerate(taken)))]
        pseudolabels = [x for x in taken[0] if x.input in gold]
        labels = trial.f1([x.output for x in pseudolabels], [gold[x.input] for x in pseudolabels])
        print(f"| {name} | {labels:.1f} | {f1s[0]} | {f1s[1]} |", flush=True)


if __name__ == "__main__":
    run_command(main, GOES_ON)
