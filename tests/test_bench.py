"""tests/bench.py: what stands in a technique's place does the same work, and the parts run."""
import random
import sys
from contextlib import nullcontext
from unittest.mock import patch

import pytest
import torch

import bench
import student as students
import teacher as teachers
from conftest import random_sentence, tiny_llama
from data import decoding, packed, t5
from data.batches import padded
from data.splits import Example
from data.tasks import make_task

TASKS = [make_task({"task": "tree"}), make_task({"task": "slots", "tags": ["O", "B-fare", "I-fare", "B-x"]})]
INPUTS = [random_sentence(random.Random(n), 1 + n % 9) for n in range(24)]


def outputs(student):
    return [label.output for label in students.label(student, INPUTS, quiet=True, samples=1)]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
@pytest.mark.parametrize("where, name, plain", [
    (t5.T5, "prepare", bench.prepare_apart), (t5.Memory, "extended", bench.copied_memory), (t5, "candidate_logits", bench.all_logits),
    (t5.T5Decoder, "feed", bench.feed_and_read_anew), (t5, "Memory", bench.Scattered), (decoding, "STAY", 0)],
    ids=lambda x: x if isinstance(x, str) else "")
def test_tiny_writes_the_same_the_plain_way(fp32, task, where, name, plain):
    made = students.make_student("tiny", task, INPUTS)
    fast = outputs(made)
    with patch.object(where, name, plain), patch.object(t5, "linear", bench.linear_apart):
        assert outputs(made) == fast


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
@pytest.mark.parametrize("where, name, plain", [
    (packed.PackedDecoder, "feed", bench.each_row_padded), (teachers, "make_cursor", bench.one_by_one),
    (packed, "candidate_logits", bench.all_logits), (packed.PackedDecoder, "with_own", bench.gathered)],
    ids=["each_row_padded", "one_by_one", "all_logits", "gathered"])
def test_a_causal_lm_writes_the_same_the_plain_way(fp32, task, bpe_tokenizer, where, name, plain):
    made = students.CausalStudent(tiny_llama(len(bpe_tokenizer)), bpe_tokenizer, task, torch.device("cpu"))
    with patch.object(students, "PackedDecoder", lambda *a, **k: packed.PackedDecoder(*a, rows=5, **k)):    # so that rows wait
        fast = outputs(made)
        with patch.object(where, name, plain):
            assert outputs(made) == fast


def test_transformers_has_the_same_model(fp32):
    """Told where in the input it is, its loss is ours, and generate writes what we write."""
    rows, task = bench.gold(20)
    inputs = [x.input for x in rows]
    made = bench.pointed_tiny(inputs, task)
    batch = [made.encode_example(x.input, x.output) for x in rows]
    sources, targets = (padded(column, fill, bench.CPU) for column, fill in zip(zip(*batch), (made.pad, -100)))
    with torch.no_grad():
        theirs = made.model(input_ids=sources, attention_mask=(sources != made.pad).long(), labels=targets).loss
        assert theirs.item() == pytest.approx(made.loss(batch).item(), abs=1e-4)
    found = [label.output for label in students.label(made, inputs, quiet=True, samples=1)]
    assert bench.generate(made, inputs, 8) == found == bench.generate(made, inputs, 5, ordered=True)


def test_weights_by_themselves_learn_the_same(fp32):
    examples = [Example(x, TASKS[0].fallback(x)) for x in INPUTS]
    recipe = students.RECIPES["encoder-decoder"].changed(epochs=2, batch_size=8)
    found = []
    for apart in (False, True):
        made = students.make_student("tiny", TASKS[0], INPUTS)
        with bench.separate_weights(made) if apart else nullcontext():
            students.train(made, examples, recipe, quiet=True)
        found.append(made.model.state_dict())
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("arguments, told", [
    (["score", "--n", "40"], "score, 40 trees"), (["scale", "--n", "300"], "scale, three stages of 300 sentences"),
    (["techniques", "--n", "16", "--only", "doubling"], "tiny labels: a cache that grows by doubling"),
    (["train", "--n", "16", "--only", "train, tiny, 16 examples, Seq"], "train, tiny, 16 examples, Seq2SeqTrainer's defaults")],
    ids=["score", "scale", "techniques", "train"])
def test_parts_run(arguments, told, monkeypatch, capsys):
    if arguments[0] in ("score", "train"):
        pytest.importorskip({"score": "nltk", "train": "accelerate"}[arguments[0]])
    monkeypatch.setattr(sys, "argv", ["bench.py", *arguments, "--repeats", "1"])
    monkeypatch.setattr(bench, "ONLY", "")              # what `--only` sets
    bench.main()
    assert capsys.readouterr().out.startswith(told)
