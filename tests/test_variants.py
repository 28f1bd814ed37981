from types import SimpleNamespace

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
             if "agrees most" not in name}                           # that one is trained for
    made = {name: examples(0) for name, examples in found.items()}

    mixed = made["of each sentence one of five prompts'"]
    assert [x.input for x in mixed] == inputs and {x.output.split()[-1] for x in mixed} == {"B-city", "B-time"}
    assert [x.output for x in made["five prompts', voted"]] == [right] * 40          # each prompt errs where no other does
    assert [x.input for x in made["prompt 0, the 70% of highest score"]] == inputs[-int(KEPT * 40):]
    drawn = made["prompt 0, 70% at random"]
    assert len(drawn) == len(set(x.input for x in drawn)) == int(KEPT * 40) and drawn != found["prompt 0, 70% at random"](1)
    assert made["prompt 0, the gold examples among them twice"] == made["prompt 0"] + labeled * 2
    assert len(made["all five of each sentence, one after the other"]) == PROMPTS * 40
