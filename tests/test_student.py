"""student.py: a fresh student is valid, a trained one fits, and what is saved is what is used."""

import io
import json
import os
import random
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from conftest import NASTY, decode, exit_code, random_sentence, random_tree
from data.decoding import make_cursor
from data.splits import DataError, Example, Label, save_folder
from data.tasks import make_task
from data.trees import split_words, write_bare
import student
from data.batches import TokenArrays, labelling_batches, length_bucketed_batches, padded
from data.vocabulary import train_tokenizer
from student import RECIPES, SAMPLES, Recipe, TunedTeacher, label, load_student, make_student, save_student, train, tuned_teacher

TREE = make_task({"task": "tree"})
SLOTS = make_task({"task": "slots", "tags": ["O", "B-fare", "I-fare", "B-fare_code", "B-fare.code", "B-x"]})
TEXT = make_task({"task": "text"})
TASKS = {"tree": TREE, "slots": SLOTS, "text": TEXT}
PLAIN = "the cat sat on a mat with two old dogs .".split()
INPUTS = [random_sentence(random.Random(n), 2 + n % 9, PLAIN) for n in range(30)]
BRACKETED = ["the cat ( two old dogs ) sat on a mat .", "( the ) ( cat )", "a mat ( old"]      # brackets as words


def gold(task, input, rng):
    words = split_words(input)
    if task.kind == "tree":
        return write_bare(words, random_tree(rng, len(words)))
    if task.kind == "slots":
        return " ".join(rng.choice(["O", "B-fare", "B-x"]) for _ in words)
    return " ".join(words[::-1])


def examples(task, inputs=INPUTS, seed=0):
    rng = random.Random(seed)
    return [Example(input, gold(task, input, rng)) for input in inputs]


def weights(student):
    return {name: weight.clone() for name, weight in student.model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def brief(kind, steps=3, **more):
    """The recipe of this kind of student, for a few steps only."""
    return replace(RECIPES[kind], epochs=1, min_steps=steps, **more)


# ---------------------------------------------------------------------------------------------------------------------
# The vocabulary

@pytest.mark.parametrize("task", [TREE, SLOTS], ids=["tree", "slots"])
def test_brackets_and_tags_are_items_of_their_own(task):
    symbols = ["(", ")"] if task is TREE else SLOTS.tags
    fresh = make_student("tiny", task, INPUTS)
    ids = [fresh.encode(symbol) for symbol in symbols]
    assert all(len(x) == 1 for x in ids) and len(set(ids)) == len(symbols)
    assert fresh.tokenizer.unk_token_id not in {x for x, in ids}
    target = fresh.encode_example(*examples(task)[3])[1]
    assert sum(fresh.encode(symbol)[0] in target for symbol in symbols) >= 2


def test_words_of_the_inputs_are_known_and_frequent_ones_are_one_item():
    tokenizer = train_tokenizer(INPUTS, ["(", ")"])
    fresh = make_student("tiny", TREE, INPUTS)
    for word in PLAIN:
        ids = fresh.encode(word)
        assert ids and tokenizer.unk_token_id not in ids, word
    assert len(fresh.encode("the")) == 1
    assert fresh.encode_input("the cat")[-1] == fresh.tokenizer.eos_token_id


@pytest.mark.parametrize("task", [TREE, SLOTS], ids=["tree", "slots"])
def test_no_word_is_without_a_token(task):
    """The decoder could not tell the model that it has passed such a word. Nor could it if a word were padding."""
    fresh = make_student("tiny", task, INPUTS)
    assert [word for word in [*NASTY, "<pad>"] if not fresh.encode(word) or fresh.pad in fresh.encode(word)] == []


def test_free_text_may_hold_what_other_vocabularies_reserve(tmp_path):
    """Corpora have <unk> in them; a loaded tokenizer writes it, too."""
    text, fresh = "<unk> red <pad> end </s> red \u00a0 <s>", make_student("tiny", TEXT, ["<unk> red <pad> end </s> \u00a0 <s>"] * 2)
    save_student(fresh, tmp_path / "final")
    for made in (fresh, load_student(tmp_path / "final")):
        ids = made.encode(text)
        assert not {made.pad, made.tokenizer.unk_token_id, *made.end} & set(ids)
        assert made.tokenizer.decode(ids, skip_special_tokens=True).strip() == text


def test_one_odd_character_does_not_cost_a_texts_others_their_place():
    made = make_student("tiny", TEXT, ["a \u2585 zebra", *["the cat"] * 30])
    assert made.tokenizer.unk_token_id not in made.encode("a zebra")


@pytest.mark.parametrize("text", ["\u2585", "\u2581 \u2581"])
def test_texts_that_sentencepiece_cannot_learn_from_are_said(text):
    with pytest.raises(DataError, match=r"expected inputs with characters other than U\+2581 and U\+2585"):
        make_student("tiny", TREE, [text] * 3)


def test_vocabulary_does_not_depend_on_chance():
    one, two = (train_tokenizer(INPUTS, SLOTS.tags).get_vocab() for _ in range(2))
    assert one == two


def test_texts_may_hold_more_characters_than_the_vocabulary_has_items():
    """Of which SentencePiece takes those that make up 99.95% of the text."""
    characters = [chr(0x4e00 + n) for n in range(5000)]
    tokenizer = train_tokenizer([" ".join(characters[n:n + 50]) for n in range(0, 5000, 50)], ["(", ")"])
    tokens = tokenizer(" ".join(characters), add_special_tokens=False).input_ids
    assert tokens.count(tokenizer.unk_token_id) < 10


# ---------------------------------------------------------------------------------------------------------------------
# Batches

@pytest.mark.parametrize("n, size", [(1, 4), (4, 4), (9, 4), (1000, 8), (333, 1)])
def test_batches_cover_every_example_once(n, size):
    rng = random.Random(n)
    lengths = [rng.randint(2, 90) for _ in range(n)]
    batches = length_bucketed_batches(lengths, size, random.Random(0))
    assert sorted(i for batch in batches for i in batch) == list(range(n))
    assert all(0 < len(batch) <= size for batch in batches) and len(batches) == -(-n // size)


def test_batches_hold_similar_lengths_in_an_order_that_changes():
    rng = random.Random(0)
    lengths = [rng.randint(1, 100) for _ in range(640)]
    shuffle = random.Random(0)
    one, two = (length_bucketed_batches(lengths, 8, shuffle) for _ in range(2))
    padding = sum(max(lengths[i] for i in batch) * len(batch) - sum(lengths[i] for i in batch) for batch in one)
    assert padding < 0.1 * sum(lengths)                             # in random batches it is 0.8
    assert one != two and one == length_bucketed_batches(lengths, 8, random.Random(0))
    firsts = [min(lengths[i] for i in batch) for batch in one]
    assert firsts != sorted(firsts) and firsts != sorted(firsts, reverse=True)


def test_labelling_batches_are_bounded_in_rows_and_in_tokens():
    ordinary = [100] * 300 + [90] * 300
    assert list(labelling_batches(list(range(600)), ordinary, 256)) == [list(range(256)), list(range(256, 512)), list(range(512, 600))]
    lengths = [500] + [99] * 400 + [10 ** 6]
    order = sorted(range(402), key=lambda i: -lengths[i])
    batches = list(labelling_batches(order, lengths, 256))
    assert [i for batch in batches for i in batch] == order and batches[0] == [401]
    assert all(len(batch) * max(lengths[i] for i in batch) <= 32_768 for batch in batches[1:]) and len(batches) <= 4


@pytest.mark.parametrize("size, width", [(2 ** 16, 2), (2 ** 31, 4)])
def test_token_arrays_give_back_what_they_were_given(size, width):
    rng = random.Random(0)
    pairs = [tuple([rng.randrange(size) for _ in range(rng.randint(0, 5))] for _ in range(2)) for _ in range(50)]
    kept = TokenArrays(iter(pairs), size)
    assert kept.ends[-1] == width * sum(len(ids) for pair in pairs for ids in pair)
    for _ in range(2):
        assert len(kept) == 50 and list(kept) == pairs and kept[49] == pairs[49]
        kept.tokens.rollover()                              # from memory to the file, as of a large pool


# ---------------------------------------------------------------------------------------------------------------------
# The tiny student

@pytest.mark.parametrize("kind", ["tree", "slots"])
def test_untrained_student_is_valid_and_keeps_the_order(kind):
    """About words, too, that it has never seen: unknown characters, brackets, words without any token."""
    task, rng = TASKS[kind], random.Random(0)
    inputs = [random_sentence(rng, rng.randint(1, 9)) for _ in range(20)] + [f"a {word} {word} b" for word in NASTY] + ["one"]
    found = label(make_student("tiny", task, INPUTS), inputs, quiet=True)
    assert [x.input for x in found] == inputs
    for x in found:
        task.check(x.input, x.output)
        assert x.score is not None and x.score <= 0
    assert len({x.output for x in found}) > 10


def test_tiny_writes_what_its_texts_hold_also_characters_seen_once():
    fresh = make_student("tiny", TEXT, 200 * INPUTS + ["SELECT ＊ FROM ½ µl"])
    assert fresh.tokenizer.decode(fresh.encode.all(["½ µl ＊ SELECT"])) == "½ µl ＊ SELECT"


def test_text_may_be_as_long_as_the_longest_labeled_output():
    task = make_task({"task": "text"})
    fresh = make_student("tiny", task, INPUTS)
    short = make_cursor(task, "the cat", fresh.encode, fresh.end, 3, [5])
    task.learn([Example("a", "b " * 100)])
    longer = make_cursor(make_task(task.config()), "the cat", fresh.encode, fresh.end, 3, [5])
    assert short.limit < 100 <= longer.limit


def test_untrained_student_of_text_ends():
    found = label(make_student("tiny", TEXT, INPUTS), INPUTS[:4], quiet=True)
    assert [x.input for x in found] == INPUTS[:4] and all(isinstance(x.output, str) for x in found)


def test_nothing_to_label():
    assert label(make_student("tiny", TREE, INPUTS), [], quiet=True) == []


@pytest.mark.parametrize("kind", ["tree", "slots"])
def test_label_does_not_depend_on_what_stands_beside_it(kind, fp32):
    """Padding, the batch, and finished sentences that leave it change nothing."""
    fresh, task = make_student("tiny", TASKS[kind], INPUTS), TASKS[kind]
    train(fresh, examples(task), brief("tiny"), quiet=True)
    inputs = INPUTS[:12] + BRACKETED
    together = dict(fresh.label_each(inputs))
    assert [together[i] for i in range(len(inputs))] == label(fresh, inputs, quiet=True, samples=1)
    for batch_size in (1, 4):
        few = dict(fresh.label_each(inputs, batch_size=batch_size))
        assert all(few[i].output == together[i].output for i in few) and len(few) == len(inputs)
        assert all(few[i].score == pytest.approx(together[i].score, abs=1e-3) for i in few)


@pytest.mark.parametrize("kind", ["tree", "slots"])
def test_what_is_drawn_depends_on_the_seed_and_the_sentence_alone(kind, fp32, monkeypatch):
    fresh = make_student("tiny", TASKS[kind], INPUTS)
    together = label(fresh, INPUTS[:12], quiet=True, samples=3)
    assert [label(fresh, [x], quiet=True, samples=3)[0].output for x in INPUTS[:12]] == [found.output for found in together]
    monkeypatch.setattr(student, "DRAWN", 5)
    assert [found.output for found in label(fresh, INPUTS[:12], quiet=True, samples=3)] == [found.output for found in together]
    fresh.seed = 1
    assert label(fresh, INPUTS[:12], quiet=True, samples=3) != together
    assert all(found.score < 0 for found in together if len(found.input.split()) > 2)


@pytest.mark.parametrize("kind", ["tree", "text"])
@pytest.mark.parametrize("pretrained", ["causal_folder", "t5_folder"])
def test_pretrained_students_draw_too_and_alone_as_in_company(pretrained, kind, fp32, request):
    made = make_student(str(request.getfixturevalue(pretrained)), TASKS[kind], INPUTS)
    train(made, examples(TASKS[kind]), brief(made.kind), quiet=True)
    together = label(made, INPUTS[:6], quiet=True, samples=2)
    assert [label(made, [x], quiet=True, samples=2)[0].output for x in INPUTS[:6]] == [found.output for found in together]
    made.seed = 1
    assert label(made, INPUTS[:6], quiet=True, samples=2) != together


@pytest.mark.parametrize("kind, samples", [("tree", SAMPLES["tiny", "tree"]), ("slots", 1), ("text", 1)])
def test_of_trees_several_outputs_are_drawn(kind, samples):
    fresh = make_student("tiny", TASKS[kind], INPUTS)
    assert label(fresh, INPUTS[:12], quiet=True) == label(fresh, INPUTS[:12], quiet=True, samples=samples)
    assert samples == 1 or label(fresh, INPUTS[:12], quiet=True, samples=1) != label(fresh, INPUTS[:12], quiet=True)


@pytest.mark.parametrize("kind", TASKS)
def test_samples_are_voted_and_the_same_seed_draws_the_same(kind, monkeypatch):
    fresh, task, votes = make_student("tiny", TASKS[kind], INPUTS), TASKS[kind], []
    vote = type(task).vote
    monkeypatch.setattr(type(task), "vote", lambda self, input, outputs, least: votes.append((input, outputs)) or vote(self, input, outputs, least))
    monkeypatch.setattr(student, "DRAWN", 5)
    inputs = INPUTS[:12]
    found = label(fresh, inputs, quiet=True, samples=3)
    assert [x.input for x in found] == inputs == [input for input, _ in votes]
    assert [x.output for x in found] == [vote(task, *given) for given in votes]
    assert all(len(outputs) == 3 for _, outputs in votes) and any(len(set(outputs)) > 1 for _, outputs in votes)
    assert label(fresh, inputs, quiet=True, samples=3) == found
    votes.clear()
    assert label(fresh, inputs, quiet=True, samples=1) != found and not votes


def test_the_teachers_label_votes_beside_the_samples_and_a_bracket_needs_as_many_votes():
    task, x, y, z = TREE, *INPUTS[5:8]
    fresh = make_student("tiny", task, INPUTS)
    teachers = {x: Label(x, task.fallback(x)), y: Label(y, task.fallback(y))}
    alone = {found.input: found for found in label(fresh, [x, y, z], quiet=True, samples=4)}
    drawn = {found.input: found for found in label(fresh, [x, y, z], quiet=True, samples=4, beside=teachers, weight=2)}
    assert drawn[z] == alone[z]                                         # of which the teacher has no label
    for input in (x, y):
        outputs = [dict(fresh.label_each([input], [random.Random(f"{fresh.seed} {n} {input}")]))[0].output for n in range(4)]
        assert drawn[input].output == task.vote(input, outputs + [task.fallback(input)] * 2, 2) and drawn[input].score == alone[input].score
    assert {drawn[x].output, drawn[y].output} != {alone[x].output, alone[y].output}


def test_saved_student_draws_as_many_outputs_as_in_its_run(tmp_path):
    fresh = make_student("tiny", TREE, INPUTS)
    fresh.samples = 2
    save_student(fresh, tmp_path / "final")
    loaded = load_student(tmp_path / "final")
    two, four = (label(fresh, INPUTS[:8], quiet=True, samples=n) for n in (2, 4))
    assert label(loaded, INPUTS[:8], quiet=True) == two != four


def test_no_examples_are_refused():
    with pytest.raises(DataError, match="expected at least one example"):
        train(make_student("tiny", TREE, INPUTS), [], brief("tiny"), quiet=True)


def test_same_seed_same_student_from_the_first_weight_to_the_last():
    def make(seed, order, between):
        fresh = make_student("tiny", TREE, INPUTS, seed)
        start = weights(fresh)
        torch.rand(between)                                         # whatever else draws random numbers
        train(fresh, examples(TREE), brief("tiny", batch_size=10), order, quiet=True)
        return start, weights(fresh)
    (start, end), (start_again, end_again) = make(0, 1, 3), make(0, 1, 5)
    assert same(start, start_again) and same(end, end_again) and not same(start, end)
    other_order, other_start = make(0, 2, 3), make(1, 1, 3)
    assert same(start, other_order[0]) and not same(end, other_order[1]) and not same(start, other_start[0])


class Abacus:
    """A student of one weight, whose gradient is `slope`, that notes what `train` does to it."""

    def __init__(self, slope):
        self.model, self.slope, self.cut, self.tokenizer = torch.nn.Linear(1, 1), slope, 0, [0]
        self.batches, self.modes = [], []

    def encode_example(self, input, output):
        return [int(input)], [int(output)]

    def weights(self):
        return [self.model.weight]

    def loss(self, batch):
        self.batches.append(sorted(source[0] for source, _ in batch))
        self.modes.append(self.model.training)
        return self.slope * self.model.weight.sum()


def abacus_trained(monkeypatch, optimizer="AdamW", seed=0, quiet=True):
    """An Abacus after 10 epochs of 10 examples; of each of the 100 steps the learning rate, the gradient's norm and the weight decay."""
    steps, kind = [], getattr(torch.optim, optimizer)

    class Watched(kind):
        def step(self, *arguments):
            group, = self.param_groups
            steps.append((group["lr"], group["params"][0].grad.norm().item(), group["weight_decay"]))
            return super().step(*arguments)
    abacus = Abacus(1000.0)
    with monkeypatch.context() as patched:
        patched.setattr(torch.optim, optimizer, Watched)
        train(abacus, [Example(str(i), "1") for i in range(10)], Recipe(10, 0.5, 1, 0, optimizer), seed, "counting", quiet)
    return abacus, *zip(*steps)


def test_learning_rate_rises_over_a_twentieth_of_the_steps_and_falls_linearly(monkeypatch):
    _, rates, _, decays = abacus_trained(monkeypatch)
    assert rates == pytest.approx([0.5 * min((n + 1) / 5, (100 - n) / 95) for n in range(100)]) and set(decays) == {0.0}


def test_gradients_are_a_steps_own_and_clipped_for_AdamW(monkeypatch):
    assert abacus_trained(monkeypatch)[2] == pytest.approx([1.0] * 100, rel=1e-4)
    assert abacus_trained(monkeypatch, "Adafactor")[2] == pytest.approx([1000.0] * 100)


def test_the_seed_decides_the_order_and_training_is_in_training_mode(monkeypatch):
    one, again, other = (abacus_trained(monkeypatch, seed=seed)[0] for seed in (1, 1, 2))
    assert one.batches == again.batches != other.batches and sorted(one.batches[:10]) == sorted(other.batches[:10])
    assert set(one.modes) == {True} and not one.model.training


def test_training_has_a_progress_bar_unless_it_is_quiet(monkeypatch, capsys):
    abacus_trained(monkeypatch)
    assert capsys.readouterr().err == ""
    abacus_trained(monkeypatch, quiet=False)
    assert "counting: 100%" in capsys.readouterr().err


def test_tiny_drops_out_in_training_alone():
    made = make_student("tiny", SLOTS, INPUTS)
    batch = [made.encode_example(*x) for x in examples(SLOTS)[:3]]
    made.model.train()
    assert made.loss(batch).item() != made.loss(batch).item()
    made.model.eval()
    assert made.loss(batch).item() == made.loss(batch).item()


def test_recipe_of_the_papers_student():
    assert RECIPES["encoder-decoder"] == Recipe(epochs=20, lr=3e-4, batch_size=32, min_steps=0, optimizer="AdamW")


def test_epochs_and_steps_are_what_the_recipe_says():
    seen = []
    recipe = Recipe(epochs=2, lr=1e-2, batch_size=8, min_steps=0, optimizer="Adafactor")
    fresh = make_student("tiny", SLOTS, INPUTS)
    train(fresh, examples(SLOTS), recipe, quiet=True, on_epoch=seen.append)
    assert [x["epoch"] for x in seen] == [1, 2] and [x["steps"] for x in seen] == [4, 8]       # 30 examples are 4 batches
    assert all(x["loss"] > 0 and x["seconds"] >= 0 for x in seen) and not fresh.model.training
    seen.clear()
    train(fresh, examples(SLOTS), Recipe(2, 1e-2, 8, 9, "Adafactor"), quiet=True, on_epoch=seen.append)
    assert [x["epoch"] for x in seen] == [1, 2, 3]                  # short of 9 steps there is another epoch


@pytest.mark.parametrize("kind, output", [("tree", "( ( the old cat ) sat )"), ("slots", "O B-fare_code B-x O"), ("text", "cat the")])
def test_one_repeated_example_is_fitted(kind, output):
    sentence, losses = "the old cat sat", []
    fresh = make_student("tiny", TASKS[kind], INPUTS + [sentence])
    before = label(fresh, [sentence], quiet=True, samples=1)[0]
    for _ in range(5):                                              # as long as it needs, 5 x 30 steps at most
        train(fresh, [Example(sentence, output)], Recipe(30, 1e-2, 1, 0, "Adafactor"), quiet=True,
              on_epoch=lambda epoch: losses.append(epoch["loss"]))
        found = label(fresh, [sentence], quiet=True, samples=1)[0]
        if found.output == output and losses[-1] < 0.25 * losses[0]:
            break
    assert found.output == output and losses[-1] < 0.25 * losses[0] and before.output != output


@pytest.mark.parametrize("kind", ["tree", "slots"])
def test_saved_student_gives_the_same_labels(kind, tmp_path):
    task = TASKS[kind]
    made = make_student("tiny", task, INPUTS)
    train(made, examples(task), brief("tiny"), quiet=True)
    made.seed = 7                                                   # which decides what is drawn
    save_student(made, tmp_path / "final")
    loaded = load_student(tmp_path / "final")
    inputs = INPUTS[:6] + [f"a {word} b" for word in NASTY]
    assert label(loaded, inputs, quiet=True) == label(made, inputs, quiet=True)
    assert loaded.task.config() == task.config()
    names = os.listdir(tmp_path / "final")
    assert "model.safetensors" in names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".h5"))]


def test_white_space_that_is_no_space_is_kept_in_free_text(tmp_path):
    outputs = ["10\u00a0km far", "a\u2028b c", "x\u3000y"]
    save_student(make_student("tiny", TEXT, outputs), tmp_path / "final")
    loaded = load_student(tmp_path / "final")
    for output in outputs:
        assert loaded.tokenizer.decode(loaded.encode_example("a b", output)[1], skip_special_tokens=True) == output


def test_vocabulary_is_learnt_from_texts_of_any_length():
    tokenizer = train_tokenizer(["zebra quokka " * 1000], [])
    assert tokenizer.tokenize("zebra quokka") == ["▁zebra", "▁quokka"]


# ---------------------------------------------------------------------------------------------------------------------
# Pretrained ones

@pytest.fixture(scope="module")
def t5_folder(bpe_tokenizer, tmp_path_factory):
    """An encoder-decoder as anyone would have it pretrained: tags are several tokens of its vocabulary."""
    from transformers import T5Config, T5ForConditionalGeneration
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "t5"
    T5ForConditionalGeneration(T5Config(
        vocab_size=len(bpe_tokenizer), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0, pad_token_id=0,
        eos_token_id=2)).save_pretrained(folder)
    bpe_tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("model", ["causal_folder", "t5_folder"])
@pytest.mark.parametrize("kind", ["tree", "slots", "text"])
def test_pretrained_student_trains_saves_loads_and_labels(model, kind, tmp_path, request):
    folder, task = str(request.getfixturevalue(model)), TASKS[kind]
    made = make_student(folder, task, INPUTS)
    assert made.kind == {"causal_folder": "causal", "t5_folder": "encoder-decoder"}[model]
    start, rng = weights(made), random.Random(0)
    assert same(start, weights(make_student(folder, task, INPUTS, seed=9)))
    train(made, examples(task), brief(made.kind, steps=2), quiet=True)
    assert not same(start, weights(made))
    inputs = INPUTS[:5] + ([] if kind == "text" else [random_sentence(rng, rng.randint(1, 8)) for _ in range(15)] + ["one"])
    found = label(made, inputs, quiet=True)
    for x in found if kind != "text" else []:
        task.check(x.input, x.output)
    save_student(made, tmp_path / "final")
    assert label(load_student(tmp_path / "final"), inputs, quiet=True) == found
    assert [file.name for file in (tmp_path / "final").glob("*.safetensors")]
    assert not [file for file in (tmp_path / "final").iterdir() if file.suffix in (".bin", ".pt", ".pth")]
    assert label(made, inputs[:1], quiet=True)[0].input == inputs[0]          # a batch of one


@pytest.fixture(scope="module")
def letters_folder(tmp_path_factory):
    """A vocabulary of letters: every word, bracket and tag begins with the same token, the space."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration
    letters = ["<pad>", "<eos>", "<unk>", "\u0120", *sorted(set("".join(PLAIN + SLOTS.tags) + "()x"))]
    made = Tokenizer(models.BPE({letter: n for n, letter in enumerate(letters)}, [], unk_token="<unk>"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    folder = tmp_path_factory.mktemp("models") / "letters"
    PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>").save_pretrained(folder)
    torch.manual_seed(0)
    T5ForConditionalGeneration(T5Config(
        vocab_size=len(letters), d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4, decoder_start_token_id=0, pad_token_id=0,
        eos_token_id=1, initializer_factor=3.0)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("model", ["t5_folder", "letters_folder"])
@pytest.mark.parametrize("kind", ["tree", "slots"])
def test_labels_are_the_best_allowed_token_at_every_choice(model, kind, request, fp32):
    """The same decoding in the plainest way: one sentence, no cache."""
    task = TASKS[kind]
    made = make_student(str(request.getfixturevalue(model)), task, INPUTS)
    train(made, examples(task), brief(made.kind, steps=2, lr=1e-2), quiet=True)
    end, = made.end
    inputs = INPUTS[:8]
    for batch in (inputs, inputs[:1]):
        for x in label(made, batch, quiet=True):
            source = torch.tensor([made.encode_input(x.input)])

            def best(options, written):
                with torch.inference_mode():
                    logits = made.model(input_ids=source, decoder_input_ids=torch.tensor([[0, *written]]), use_cache=False).logits[0, -1]
                return max(options, key=lambda token: logits[token if token >= 0 else end].item())
            assert decode(task, x.input, made.encode, best)[0].result()[0] == x.output


@pytest.mark.parametrize("kind", ["tree", "slots"])
def test_tiny_is_told_which_word_comes_next(kind, fp32):
    """The same decoding in the plainest way: to every token fed, the encoder's state of the next word's is added."""
    task = TASKS[kind]
    made = make_student("tiny", task, INPUTS + BRACKETED)
    train(made, examples(task, INPUTS + BRACKETED), brief("tiny", steps=20), quiet=True)
    words = {token for input in INPUTS + BRACKETED for token in made.encode_input(input)[:-1]}
    for x in label(made, INPUTS[:5] + BRACKETED, quiet=True, samples=1):
        source = made.encode_input(x.input)

        def best(options, written):
            with torch.inference_mode():
                read = made.model.get_encoder()(input_ids=torch.tensor([source])).last_hidden_state
                fed, copied = [], 0
                for token in [0, *written]:
                    copied += token in words
                    assert copied == 0 or token not in words or source[copied - 1] == token
                    fed.append(made.model.get_input_embeddings().weight[token] + read[0, copied])
                logits = made.model(encoder_outputs=(read,), decoder_inputs_embeds=torch.stack(fed)[None], use_cache=False).logits[0, -1]
            return max(options, key=lambda token: logits[token if token >= 0 else made.end[0]].item())
        assert decode(task, x.input, made.encode, best)[0].result()[0] == x.output


TAGGED = ["play O mio babbino", "O", "B-x O B-x", "the O'Brien mat O"]


def test_word_that_is_spelled_like_a_tag_counts_as_copied(fp32):
    """Training and labelling alike are told the word that comes next."""
    made, told = make_student("tiny", SLOTS, INPUTS + TAGGED), []
    for x in examples(SLOTS, TAGGED[:3] + INPUTS[:3]):
        pieces = SLOTS.pieces(*x)
        wanted = [False] + [n % 2 == 0 for n, piece in enumerate(pieces) for _ in made.encode(piece)]
        assert made.is_word(torch.tensor([[made.start, *made.encode.all(pieces)]]))[0].tolist() == wanted
    fed = made.fed
    made.fed = lambda tokens, copied, *more: told.append((tokens[0].tolist(), copied[0].tolist())) or fed(tokens, copied, *more)
    for input in TAGGED[:3]:
        told.clear()
        output = label(made, [input], quiet=True)[0].output
        tokens = [token for step in told for token in step[0]]
        assert tokens == [made.start, *made.encode.all(SLOTS.pieces(input, output))][:len(tokens)] and len(tokens) > 1
        assert [n for step in told for n in step[1]] == made.is_word(torch.tensor([tokens])).cumsum(1)[0].tolist()


def test_a_letter_that_is_a_tag_elsewhere_is_part_of_its_word():
    made, pieces = make_student("tiny", SLOTS, ["CHO KO LOT TOP", "a b c"]), SLOTS.pieces("a POT b", "O B-x O")
    wanted = [False] + [n % 2 == 0 for n, piece in enumerate(pieces) for _ in made.encode(piece)]
    assert made.is_word(torch.tensor([[made.start, *made.encode.all(pieces)]]))[0].tolist() == wanted


def test_tiny_learns_as_it_labels(fp32):
    """The loss of a batch is the mean of what the examples lose one by one: padding changes nothing."""
    made = make_student("tiny", TREE, INPUTS + BRACKETED)
    batch = [made.encode_example(*x) for x in examples(TREE, INPUTS[:4] + BRACKETED)]
    with torch.no_grad():
        alone = sum(made.loss([one]).item() * len(one[1]) for one in batch) / sum(len(target) for _, target in batch)
        assert made.loss(batch).item() == pytest.approx(alone, rel=1e-4)


def test_causal_student_fits_one_example_and_its_embeddings_stay(causal_folder):
    made = make_student(str(causal_folder), SLOTS, INPUTS)
    embeddings = made.model.get_input_embeddings().weight.clone(), made.model.get_output_embeddings().weight.clone()
    sentence, output = "the cat sat on", "O B-fare_code B-x O"
    train(made, [Example(sentence, output)] * 4, Recipe(40, 1e-2, 4, 0, "AdamW"), quiet=True)
    assert label(made, [sentence], quiet=True)[0].output == output
    assert torch.equal(embeddings[0], made.model.get_input_embeddings().weight)
    assert torch.equal(embeddings[1], made.model.get_output_embeddings().weight)


@pytest.fixture(scope="module")
def gemma_2_folder(bpe_tokenizer, tmp_path_factory):
    """It squashes its logits, and has no fused attention."""
    from transformers import Gemma2Config, Gemma2ForCausalLM
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("gemma")
    Gemma2ForCausalLM(Gemma2Config(
        vocab_size=len(bpe_tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, final_logit_softcapping=0.5, initializer_range=0.3)).save_pretrained(folder)
    bpe_tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("model", ["causal_folder", "gemma_2_folder"])
def test_causal_loss_is_the_cross_entropy_over_the_tokens_of_targets(model, request, fp32):
    """Against the whole model's logits, one example at a time and without padding; also after it has labelled."""
    made = make_student(str(request.getfixturevalue(model)), TREE, INPUTS)
    label(made, INPUTS[:1], quiet=True)
    batch = [made.encode_example(*x) for x in examples(TREE)[:5]]
    known = sorted(made.vocabulary)
    assert known != list(range(len(made.tokenizer))) and made.tokenizer.bos_token_id == batch[0][0][0]
    with torch.no_grad():
        found = made.loss(batch)
        losses = []
        for source, target in batch:
            logits = made.model(torch.tensor([source + target])).logits[0, len(source) - 1:-1, known]
            aim = torch.tensor([known.index(token) for token in target])
            losses += torch.nn.functional.cross_entropy(logits, aim, reduction="none").tolist()
    assert found.item() == pytest.approx(sum(losses) / len(losses), abs=1e-4)


@pytest.mark.parametrize("kind", ["tree", "slots"])
def test_pretrained_t5_learns_to_tell_apart_the_tokens_of_its_examples(kind, t5_folder, fp32):
    """Its loss is transformers' over these tokens, and a step leaves all other embeddings as they are; free text is written in all."""
    task = TASKS[kind]
    made = make_student(str(t5_folder), task, INPUTS)
    batch = [made.encode_example(x.input, x.output) for x in examples(task)[:5]]
    known = sorted(made.vocabulary)
    assert set(made.encode.all(task.symbols)) < set(known) and len(known) < made.model.config.vocab_size
    losses = []
    for source, target in batch:
        with torch.no_grad():
            logits = made.model(torch.tensor([source]), decoder_input_ids=torch.tensor([[0] + target[:-1]])).logits[0][:, known]
        losses += torch.nn.functional.cross_entropy(logits, torch.tensor([known.index(t) for t in target]), reduction="none").tolist()
    assert made.loss(batch).item() == pytest.approx(sum(losses) / len(losses), abs=1e-4)
    before = made.model.shared.weight.clone()
    train(made, examples(task)[:5], brief("encoder-decoder"), quiet=True)
    changed = (made.model.shared.weight != before).any(1).nonzero().flatten().tolist()
    assert changed == known
    assert make_student(str(t5_folder), TEXT, INPUTS).vocabulary == set(range(made.model.config.vocab_size))


def test_loss_that_is_no_number_is_said():
    """Else its labels would have scores that no file of labels may have."""
    with pytest.raises(DataError, match=r"^s: the loss is nan in epoch 2: the learning rate, 1e\+38, is too high"):
        train(make_student("tiny", SLOTS, INPUTS), examples(SLOTS), replace(brief("encoder-decoder"), lr=1e38, epochs=3), title="s", quiet=True)


def test_scores_that_the_last_step_has_made_no_numbers_are_said(causal_folder):
    made = make_student(str(causal_folder), SLOTS, INPUTS)
    train(made, examples(SLOTS)[:2], replace(brief("causal", steps=1), lr=1e38, epochs=1), quiet=True)      # after the only loss, which was sound
    with pytest.raises(DataError, match="^s: the score of a label is nan: the learning rate was too high"):
        label(made, INPUTS[:2], "s", quiet=True)


def test_batch_that_is_larger_than_any_number_of_examples():
    train(make_student("tiny", SLOTS, INPUTS), examples(SLOTS), replace(brief("tiny", steps=1), batch_size=10 ** 400), quiet=True)


def test_student_that_has_lost_its_vocabulary_is_said(tmp_path):
    save_student(make_student("tiny", SLOTS, INPUTS), tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=f"^{tmp_path}: expected a trained student, .*: expected a tokenizer of about [0-9,]+ items, found [0-9,]+: "):
        load_student(tmp_path)


@pytest.fixture(scope="module")
def bart_folder(bpe_tokenizer, tmp_path_factory):
    """An encoder-decoder that is no T5, of 80 positions."""
    from transformers import BartConfig, BartForConditionalGeneration
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("bart")
    BartForConditionalGeneration(BartConfig(
        vocab_size=len(bpe_tokenizer), d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=80, init_std=0.3, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=2)).save_pretrained(folder)
    bpe_tokenizer.save_pretrained(folder)
    return str(folder)


def test_padding_changes_nothing_in_an_encoder_decoders_loss(bart_folder, fp32):
    made = make_student(bart_folder, TREE, [])
    batch = [made.encode_example(*x) for x in examples(TREE)[:5]]
    with torch.no_grad():
        alone = sum(made.loss([one]).item() * len(one[1]) for one in batch) / sum(len(target) for _, target in batch)
        assert made.loss(batch).item() == pytest.approx(alone, rel=1e-4)


def test_a_causal_students_example_keeps_its_beginning_where_it_is_cut(causal_folder):
    made, row = make_student(str(causal_folder), TREE, INPUTS), examples(TREE)[0]
    source, target = made.encode_example(*row)
    made.limit = len(source) + 2
    assert made.encode_example(*row) == (source, target[:2])
    made.limit = len(source) - 2
    assert made.encode_example(*row) == (source[:-3], target[:1])


def test_free_text_may_be_as_long_as_what_an_encoder_decoder_reads(bart_folder, capsys):
    made = make_student(bart_folder, TEXT, [])
    within, beyond = (" ".join(["the"] * n) for n in (70, 90))         # a token each; it has 80 positions
    found = label(made, [within, beyond], quiet=True)
    assert found[0].score is not None and found[1] == (beyond, "", None)
    assert capsys.readouterr().err.startswith("1 inputs are longer than the model takes")


def test_a_causal_student_of_free_text_can_copy_what_no_target_held(causal_folder):
    made, trees = (make_student(str(causal_folder), task, ["copy mats"]) for task in (TEXT, TREE))
    assert {*made.encode("copy"), *made.encode("mats")} < made.vocabulary and len(trees.vocabulary) == 1


def test_a_trained_tiny_is_no_pretrained_model(tmp_path):
    save_student(make_student("tiny", TREE, INPUTS), tmp_path / "final")
    with pytest.raises(DataError, match="final: expected a pretrained model, found a trained `tiny`"):
        make_student(str(tmp_path / "final"), TREE, INPUTS)


def test_sentence_longer_than_an_encoder_decoder_takes_is_kept(bart_folder, capsys):
    """BART's positions end at a fixed number, T5's do not. Such a sentence gets the flat tree; training goes on without its end."""
    made, long = make_student(bart_folder, TREE, []), " ".join(["the"] * 100)
    train(made, [*examples(TREE)[:3], Example(long, f"( {long} )")], brief(made.kind, steps=1), title="s", quiet=True)
    assert capsys.readouterr().err == "s: 1 of 4 examples are longer than the model takes and are cut\n"
    train(made, examples(TREE)[:3], brief(made.kind, steps=1), quiet=True)
    assert not capsys.readouterr().err
    found = label(made, [INPUTS[3], long], quiet=True)
    assert found[1].output == f"( {long} )" and found[0].score is not None
    TREE.check(*found[0][:2])
    brackets = " ".join(["("] * 14)                                     # a token each, but four in an output: -LRB-
    assert label(made, [brackets], quiet=True)[0][1:] == (TREE.fallback(brackets), None)
    fits = " ".join(["("] * 12)                                         # input and output have 80 positions each
    assert label(made, [fits], quiet=True)[0].score is not None
    capsys.readouterr()
    task = make_task({"task": "slots", "instruction": "", "tags": ["O", "B-depart_time.time_relative_to_now"]})     # a tag is many tokens
    found = label(make_student(bart_folder, task, []), ["the", " ".join(["the"] * 12)], quiet=True)
    assert found[0].score is not None and found[1] == (" ".join(["the"] * 12), " ".join(["O"] * 12), None)
    assert capsys.readouterr().err == f"1 inputs are longer than the model takes; they get {task.last_resort}\n"


@pytest.mark.parametrize("kind", ["tree", "slots"])
def test_sentence_of_two_thousand_words_is_said_and_takes_little_memory(kind, capsys, monkeypatch):
    """T5's positions have no end, but its attention takes the square of a sentence's length."""
    task, long, seen = TASKS[kind], " ".join(["the"] * 2000), []
    made = make_student("tiny", task, INPUTS)
    source, target = made.encode_example(long, task.fallback(long))
    assert max(len(source), len(target)) <= 1024 and source[-1:] == target[-1:] == made.end
    monkeypatch.setattr(student, "padded", lambda rows, *more: seen.append(max(map(len, rows))) or padded(rows, *more))
    found = label(made, [INPUTS[0], long, INPUTS[1]], quiet=True)
    assert found[1] == (long, task.fallback(long), None) and found[0].score is not None and max(seen) < 50
    assert capsys.readouterr().err == f"1 inputs are longer than the model takes; they get {task.last_resort}\n"
    assert label(made, [long], quiet=True, samples=2) == found[1:2]
    assert capsys.readouterr().err == f"1 inputs are longer than the model takes; they get {task.last_resort}\n"


@pytest.mark.parametrize("model", ["tiny", "causal_folder"])
def test_an_example_is_cut_only_where_it_is_longer_than_the_model_takes(model, request, capsys):
    made, row = make_student(model if model == "tiny" else str(request.getfixturevalue(model)), TREE, INPUTS), examples(TREE)[0]
    lengths = list(map(len, made.encode_example(*row)))
    name, longest = ("longest", max(lengths)) if model == "tiny" else ("limit", sum(lengths))
    for shorter, said in ((0, ""), (1, "s: 1 of 1 examples are longer than the model takes and are cut\n")):
        setattr(made, name, longest - shorter)
        train(made, [row], brief(made.kind, steps=1), title="s", quiet=True)
        assert capsys.readouterr().err == said


@pytest.mark.parametrize("limit, endless", [(None, 2048), (80, 80)])
def test_free_output_of_an_encoder_decoder_ends_where_the_model_does(limit, endless, monkeypatch):
    task, limits = make_task({"task": "text", "longest": 10 ** 5}), []
    made = make_student("tiny", task, INPUTS)
    if limit:
        made.limit = limit

    def make(*arguments):
        limits.append(make_cursor(*arguments).limit)
        return make_cursor(TREE, *arguments[1:5])
    monkeypatch.setattr(student, "make_cursor", make)
    label(made, INPUTS[:2], quiet=True)
    assert limits == [endless] * 2


@pytest.mark.parametrize("spec", ["no/such-model", "no-such-folder", "gguf:no-such.gguf", "", "gguf:", "a/b/c/d"])
def test_bad_student_is_one_line(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as error:
        make_student(spec, TREE, INPUTS)
    assert "\n" not in str(error.value) and str(error.value)


@pytest.mark.parametrize("model", ["causal_folder", "t5_folder"])
def test_damaged_weights_are_one_line(model, tmp_path, request):
    made = make_student(str(request.getfixturevalue(model)), TREE, INPUTS)
    save_student(made, tmp_path / "final")
    os.truncate(tmp_path / "final" / "model.safetensors", 1000)
    for load, said in ((load_student, "expected a trained student"), (lambda folder: make_student(str(folder), TREE, INPUTS), "that can be loaded")):
        with pytest.raises(DataError, match=said) as error:
            load(tmp_path / "final")
        assert "\n" not in str(error.value) and "final" in str(error.value)


@pytest.mark.parametrize("error, said", [
    (Exception("No space left on device"), "final.part: the model cannot be written: No space left on device"),      # as Rust's libraries say it
    (OSError(28, "No space left on device"), "No space left on device: '.*final'")])
def test_full_disk_where_a_student_is_saved_names_the_folder(error, said, tmp_path):
    student = make_student("tiny", SLOTS, ["a b"])

    def full(folder):
        raise error
    student.tokenizer.save_pretrained = full
    with pytest.raises((DataError, OSError), match=said):
        save_folder(tmp_path / "final", lambda folder: save_student(student, folder))
    assert os.listdir(tmp_path) == []


def test_tuned_teachers_that_vote_have_other_seeds():
    made = tuned_teacher("tuned:tiny", TREE, SimpleNamespace(labeled=examples(TREE)[:3], texts=list), seed=5, votes=3)
    assert [member.seed for member in made.members] == [5, 1005, 2005]


def test_tuned_teacher_of_another_model_at_the_same_place_is_another(causal_folder, tmp_path):
    data = SimpleNamespace(labeled=[], unlabeled=[])
    shutil.copytree(causal_folder, tmp_path / "model")
    one, two = [(os.truncate(tmp_path / "model" / "model.safetensors", size),
                 TunedTeacher(str(tmp_path / "model"), TREE, data, 0, "cpu").key)[1] for size in (2000, 1000)]
    assert one != two


# ---------------------------------------------------------------------------------------------------------------------
# The command line

def run_student(monkeypatch, text, *arguments):
    """The exit code of `python student.py ... < text`, in this process."""
    given = io.BytesIO(text if isinstance(text, bytes) else text.encode())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(given, encoding="ascii", errors="surrogateescape"))      # as in the C locale
    return exit_code(monkeypatch, "student.py", *arguments)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "final"
    save_student(make_student("tiny", TREE, INPUTS), folder)
    return folder


def test_command_line_labels_every_line(trained, monkeypatch, capsys):
    sentences = ["the cat sat", "a  mat\u2028x (too)", "dogs"]
    assert run_student(monkeypatch, "\r\n".join(sentences), "--model", trained) == 0
    lines = capsys.readouterr().out.rstrip("\n").split("\n")
    assert len(lines) == 3
    for sentence, line in zip(sentences, lines):
        TREE.check(sentence, line)


def test_byte_order_mark_is_no_part_of_a_word_and_a_lone_return_ends_no_line(trained, monkeypatch, capsys):
    assert run_student(monkeypatch, b"\xef\xbb\xbfna\xc3\xafve cat\r\na\rb \xef\xbb\xbfc\n", "--model", trained) == 0
    written = capsys.readouterr()
    lines = written.out.rstrip("\n").split("\n")
    TREE.check("naïve cat", lines[0])
    TREE.check("a\rb \ufeffc", lines[1])
    assert len(lines) == 2 and written.err == ""


def test_progress_is_shown_to_a_terminal(trained, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert run_student(monkeypatch, "the cat\n", "--model", trained) == 0
    assert "labelling" in capsys.readouterr().err


def test_help_shows_an_example_to_paste(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    assert run_student(monkeypatch, "", "--help") == 0
    assert "echo 'The mice were treated with tamoxifen .' | python student.py --model runs/NAME/final --pretty\n" in capsys.readouterr().out


def test_pretty_draws_the_tree(trained, monkeypatch, capsys):
    assert run_student(monkeypatch, "the (old) cat\n", "--model", trained, "--pretty") == 0
    drawn = capsys.readouterr().out
    assert "(old)" in drawn and "──" in drawn and "LRB" not in drawn
    assert [line.split(" ")[-1] for line in drawn.strip().split("\n")] == ["the", "(old)", "cat"]


@pytest.mark.parametrize("text, model, said", [
    ("the cat\n\nthe dog\n", None, ":2"), (" \n", None, ":1"), ("the cat\n", "no-such-folder", "no-such-folder"), ("", None, "sentence"),
    (b"the cat\nthe caf\xe9\n", None, "input:2: expected UTF-8, found the byte 0xe9"),
    ], ids=["empty line", "blank", "no model", "no input", "Latin-1"])
def test_command_line_says_what_is_wrong_in_one_line(trained, monkeypatch, capsys, text, model, said):
    assert run_student(monkeypatch, text, "--model", model or trained) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and said in error


def test_samples_of_the_command_line(trained, monkeypatch, capsys):
    assert run_student(monkeypatch, "the (old) cat\n", "--model", trained, "--samples", "3") == 0
    assert [word for word in capsys.readouterr().out.split() if word not in "()"] == ["the", "-LRB-old-RRB-", "cat"]
    assert run_student(monkeypatch, "the cat\n", "--model", trained, "--samples", "0") == 2
    assert "--samples: expected at least 1, found 0" in capsys.readouterr().err


def test_white_space_between_words_changes_nothing(trained, monkeypatch, capsys):
    """It is the sentence that decides what is drawn."""
    assert run_student(monkeypatch, "the old cat\nthe old cat \n the  old\tcat\n", "--model", trained, "--samples", "4") == 0
    assert len(set(capsys.readouterr().out.splitlines())) == 1


@pytest.mark.parametrize("file, key, value", [
    ("student.json", "most_at_once", "x"), ("student.json", "task", "slots"), ("config.json", "decoder_start_token_id", -1),
    ("config.json", "num_decoder_layers", -1)])
def test_a_damaged_student_is_said_when_it_is_loaded(trained, tmp_path, file, key, value):
    shutil.copytree(trained, tmp_path / "final")
    about = json.loads((tmp_path / "final" / file).read_text())
    (tmp_path / "final" / file).write_text(json.dumps({**about, key: value}))
    with pytest.raises(DataError, match="expected a trained student") as error:
        load_student(tmp_path / "final")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("about", ["", "{}", "[]", '{"kind": "tiny", "task": "slots", "tags": 5}', '{"kind": "tiny", "task": "zebra"}'])
def test_folder_that_is_no_student_is_one_line(tmp_path, about):
    (tmp_path / "student.json").write_text(about)
    with pytest.raises(DataError, match="expected a trained student") as error:
        load_student(tmp_path)
    assert "\n" not in str(error.value)
