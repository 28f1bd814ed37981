"""What notebooks 02 to 06 share: the unlabeled sentences with the LLM's labels, how these are scored, and numbers over several seeds."""
import numpy as np

from data.tasks import make_task
from mckd import partition
from metrics import agreement, score
from student import label
from teacher import make_teacher, read_answers


class LabelledPool:
    """Unlabeled sentences whose gold is known (to look at, never to train on), in two halves, with a teacher's labels of them.

    inputs: the sentences; D_A, D_B: their halves, the same for all seeds; y_0: {input: Label}, the teacher's; gold: {input: output}.
    """

    def __init__(self, data, teacher="auto"):
        self.task = make_task(data.config)
        self.task.learn(data.labeled)
        self.gold = {x.input: self.task.gold(x) for x in data.unlabeled if x.output}
        self.inputs = list(self.gold)
        self.y_0 = read_answers(self.task, [answer for _, answer in make_teacher(teacher, self.task, data).label(self.inputs)])
        self.D_A, self.D_B = partition(self.inputs, seed=0)

    def f1(self, labels, inputs):
        """F1, in percent, of labels {input: Label} of these inputs against gold."""
        return score(self.task.kind, [self.gold[x] for x in inputs], [labels[x].output for x in inputs], inputs)["f1"]

    def agreement_with_llm(self, labels, inputs):
        """The same measure against the LLM's labels, right or wrong."""
        return agreement(self.task.kind, [labels[x].output for x in inputs], [self.y_0[x].output for x in inputs], inputs) or 0.0

    def ranked(self, inputs):
        """The inputs, from the one whose label by the LLM has the lowest F1 to the one with the highest; without those where there is
        nothing to score (no slot in gold and none in the label, or a tree with no bracket)."""
        given = [self.y_0[x].output for x in inputs]
        each = score(self.task.kind, [self.gold[x] for x in inputs], given, inputs)["per_sentence"]
        f1s = {x: found["f1"] for x, found in zip(inputs, each) if found and (found["f1"] or self.y_0[x].output != self.gold[x])}
        return sorted(f1s, key=f1s.get)

    def labels_by(self, student, inputs):
        """{input: Label}: the student's labels, decoded greedily, as in the paper."""
        return dict(zip(inputs, label(student, inputs, quiet=True, samples=1)))


def mean_and_spread(values):
    """The mean and the sample standard deviation over the first axis, one entry a seed; with one seed the deviation is 0."""
    return np.mean(values, 0), np.std(values, 0, ddof=1 if len(values) > 1 else 0)


def written(mean, spread, seeds):
    """`61.0 ± 1.1`, and with one seed, which has no spread, `61.0`."""
    return f"{mean:.1f} ± {spread:.1f}" if len(seeds) > 1 else f"{mean:.1f}"


def title(data, llm, seeds):
    """A figure's title: which data, whose labels, how many seeds."""
    return f"{data.name}{' (synthetic)' if data.sample else ''}, labels by {llm}, {len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
