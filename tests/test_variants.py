"""tests/variants.py: what it makes of the prompts' labels."""
import random
from types import SimpleNamespace

import pytest
import torch
import variants
from variants import KEPT, PROMPTS, Trial

from data.splits import Example, Label
from data.tasks import make_task


def test_variants_are_made_of_the_prompts_labels():
    inputs = [f"fly to {i}" for i in range(40)]
    task = make_task({"task": "slots", "tags": ["B-city", "B-time"]})
    right, wrong = "O O B-city", "O O B-time"
    prompts = [{x: Label(x, right if (i + k) % PROMPTS else wrong, i / 40) for i, x in enumerate(inputs)} for k in range(PROMPTS)]
    labeled = [Example("fly home", "O O")]
    found = {name: examples for name, (examples, _) in Trial(SimpleNamespace(labeled=labeled, unlabeled=[]), task, prompts).variants().items()
             if " student" not in name}                              # those are trained for
    made = {name: examples(0) for name, examples in found.items()}

    mixed = made["of each sentence one of five prompts'"]
    assert [x.input for x in mixed] == inputs and {x.output.split()[-1] for x in mixed} == {"B-city", "B-time"}
    assert [x.output for x in made["five prompts', voted"]] == [right] * 40          # each prompt errs where no other does
    assert [x.input for x in made["prompt 0, the 70% of highest score"]] == inputs[-int(KEPT * 40):]
    drawn = made["prompt 0, 70% at random"]
    assert len(drawn) == len(set(x.input for x in drawn)) == int(KEPT * 40) and drawn != found["prompt 0, 70% at random"](1)
    assert made["prompt 0, the gold examples among them twice"] == made["prompt 0"] + labeled * 2
    assert len(made["all five of each sentence, one after the other"]) == PROMPTS * 40
    probable = [int(x.input.split()[-1]) for x in made["prompt 0, drawn as often as they are probable"]]
    assert sum(probable) > sum(random.Random(0).choices(range(40), k=40))        # the later an input, the higher its score


def test_an_input_is_relabelled_by_a_student_that_was_not_taught_it(monkeypatch):
    def train(taught, examples, *_, **__):
        taught.extend(examples)
        return taught

    def label(taught, inputs, quiet, samples, beside, weight):
        assert (samples, weight) == (1, 0) and beside is trial.prompts[0]
        assert len(taught) == 9 + 1 and taught[-1] == gold            # three of four parts, then gold
        assert not set(inputs).intersection(x.input for x in taught)
        return [Label(x, "student's") for x in inputs]
    inputs, gold = [f"fly to {i}" for i in range(12)], Example("fly home", "O O")
    trial = Trial(SimpleNamespace(labeled=[gold], unlabeled=[]), make_task({"task": "slots"}), [{x: Label(x, "LLM's") for x in inputs}])
    monkeypatch.setattr(variants, "train", train)
    monkeypatch.setattr(variants, "label", label)
    monkeypatch.setattr(trial, "student", lambda seed: [])
    assert trial.relabelled(0, 4) == {x: Label(x, "student's") for x in inputs}


def test_weights_are_averaged_over_the_last_two_epochs(monkeypatch):
    """A student whose one weight is the number of epochs that it has had."""
    def train(taught, examples, recipe, seed, quiet, on_epoch=lambda _: None):
        for _ in range(recipe.epochs if examples != [gold] else 0):
            taught.model.bias.data += 1
            on_epoch({})
    gold = Example("fly home", "O O")
    trial = Trial(SimpleNamespace(labeled=[gold], unlabeled=[]), make_task({"task": "slots"}), [{}])
    monkeypatch.setattr(variants, "train", train)

    def made(seed):
        model = torch.nn.Linear(1, 1)
        model.config = SimpleNamespace(dropout_rate=0.1)
        return SimpleNamespace(model=model)
    monkeypatch.setattr(trial, "student", made)
    monkeypatch.setattr(trial, "valid_f1", lambda taught, samples: taught.model.bias.item() - start)
    torch.manual_seed(0)
    start = torch.nn.Linear(1, 1).bias.item()
    for how, epochs in (({}, 4), ({"averaged": True}, 3.5), ({"epochs": 0.5}, 2), ({"epochs": 2}, 8)):
        torch.manual_seed(0)
        assert trial.measure([], 0, **how) == (pytest.approx(epochs), pytest.approx(epochs))


def test_noise_replaces_its_share_of_an_inputs_tokens():
    inputs = [f"fly to city {i}" for i in range(300)]
    task = make_task({"task": "tree"})
    trial = Trial(SimpleNamespace(labeled=[], unlabeled=[Example(x) for x in inputs]), task, [dict.fromkeys(inputs)])
    made = trial.student(0)
    examples = [Example(x, task.fallback(x)) for x in inputs]
    plain = [made.encode_example(*x) for x in examples]
    with trial.noise(made, 0.3, 0):
        noisy = [made.encode_example(*x) for x in examples]
    assert [made.encode_example(*x) for x in examples] == plain
    pairs = [pair for (source, target), (other, same) in zip(plain, noisy) for pair in zip(source[:-1], other[:-1], strict=True)]
    assert all(source[-1] == other[-1] and target == same for (source, target), (other, same) in zip(plain, noisy))
    assert 0.1 < sum(a != b for a, b in pairs) / len(pairs) < 0.32          # some are replaced by what they are


def test_relabelling_by_default_has_gold_among_the_labels_and_prompt_0s_vote(monkeypatch):
    inputs, gold = [f"the cat {i}" for i in range(8)], Example("the dog sat", "( ( the dog ) sat )")
    task = make_task({"task": "tree"})
    llms = {x: Label(x, "( ( {} {} ) {} )".format(*x.split())) for x in inputs}
    trial = Trial(SimpleNamespace(labeled=[gold], unlabeled=[]), task, [llms])
    taught, asked = [], []
    monkeypatch.setattr(variants, "train", lambda student, examples, *_, **__: taught.append(examples))
    monkeypatch.setattr(trial, "student", lambda seed: None)

    def label(student, inputs, quiet, samples, beside, weight):
        asked.append((samples, weight, beside))
        return [Label(x, task.fallback(x)) for x in inputs]
    monkeypatch.setattr(variants, "label", label)
    rows = trial.variants()
    one, two, three = (rows[f"as by default, {name}"] for name in ("prompt 0", "a student's of the other half", "a student's and prompt 0's votes"))
    assert one[1] == two[1] == three[1] == {"samples": 4}
    assert one[0](0) == [Example(x, llms[x].output) for x in inputs] + [gold] * 2 and not taught
    for variant, weight in ((two, 0), (three, 2)):
        assert sorted(variant[0](0)) == sorted([Example(x, task.fallback(x)) for x in inputs] + [gold] * 2)
        assert asked == [(4, weight, llms)] * 2 and [len(examples) for examples in taught] == [4 + 2, 1] * 2
        taught.clear(), asked.clear()
