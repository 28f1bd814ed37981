"""tests/bench.py: what stands in a technique's place does the same work, and the parts run."""
import random
import subprocess
import sys
from unittest.mock import patch

import pytest
import torch

import bench
import student as students
import teacher as teachers
from conftest import ROOT, random_sentence, tiny_llama
from data import decoding, t5
from data.tasks import make_task

TASKS = [make_task({"task": "tree"}), make_task({"task": "slots", "tags": ["O", "B-fare", "I-fare", "B-x"]})]
INPUTS = [random_sentence(random.Random(n), 1 + n % 9) for n in range(24)]


def outputs(student):
    return [label.output for label in students.label(student, INPUTS, quiet=True)]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
@pytest.mark.parametrize("where, name, plain", [
    (t5.T5, "prepare", bench.prepare_apart), (t5.Memory, "extended", bench.copied_memory), (t5, "candidate_logits", bench.all_logits),
    (students, "STAY", 0)], ids=lambda x: x if isinstance(x, str) else "")
def test_tiny_writes_the_same_the_plain_way(fp32, task, where, name, plain):
    made = students.make_student("tiny", task, INPUTS)
    fast = outputs(made)
    with patch.object(where, name, plain), patch.object(t5, "linear", bench.linear_apart):
        assert outputs(made) == fast


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
@pytest.mark.parametrize("where, name, plain", [
    (decoding.PackedDecoder, "feed", bench.each_row_padded), (teachers, "make_cursor", bench.one_by_one),
    (decoding, "candidate_logits", bench.all_logits)], ids=["each_row_padded", "one_by_one", "all_logits"])
def test_a_causal_lm_writes_the_same_the_plain_way(fp32, task, bpe_tokenizer, where, name, plain):
    made = students.CausalStudent(tiny_llama(len(bpe_tokenizer)), bpe_tokenizer, task, torch.device("cpu"))
    with patch.object(students, "PackedDecoder", lambda *a, **k: decoding.PackedDecoder(*a, rows=5, **k)):    # so that rows wait
        fast = outputs(made)
        with patch.object(where, name, plain):
            assert outputs(made) == fast


@pytest.mark.parametrize("arguments, told", [
    (["score", "--n", "40"], "score, 40 trees"), (["scale", "--n", "300"], "scale, three stages of 300 sentences"),
    (["techniques", "--only", "doubling"], "tiny labels: a cache that grows by doubling")], ids=["score", "scale", "techniques"])
def test_parts_run(arguments, told):
    if arguments[0] == "score":
        pytest.importorskip("nltk")
    done = subprocess.run([sys.executable, "tests/bench.py", *arguments, "--repeats", "1"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith(told), done.stdout + done.stderr
