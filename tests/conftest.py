"""What several test modules share: the import path, no network, and a tiny causal LM with a tokenizer of its own."""

import os
import random
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ["HF_HUB_OFFLINE"] = "1"               # a name that is no folder is refused at once, in every environment
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "*"

import data  # noqa: F401 - before torch
import pytest

# Words that break what is careless: brackets, slashes, escapes, tags and special tokens as words, other scripts, odd spaces.
NASTY = ["p(x)", "(", ")", "((", "[1]", "{", "and/or", r"\*", r"a\/b", "-LRB-", "-", "O", "B-", "I-x", "</s>", "<unk>", "<eos>", "▁",
         "α-SMA", "naïve", "e\u0301", "中文", "🧬", "5\u00a0mm", "\u00a0", "\u2028", "x\u0085y", "\u200b", "\ufeffa", "\"", "'", "%",
         "Parse:", "Tags:", "Sentence:"]


@pytest.fixture(autouse=True)
def own_environment(monkeypatch, tmp_path):
    """No key, server or cache of whoever runs the tests; what a test leaves behind goes to its own folder."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def fp32(monkeypatch):
    """bf16 rounds differently from machine to machine and from batch to batch: exact comparisons need fp32."""
    from data import models
    monkeypatch.setattr(models, "fast_bf16", lambda device: False)


class Enough(Exception):
    """A test has seen what it wanted to see."""


def exit_code(monkeypatch, script, *arguments):
    """The exit code of `python SCRIPT ...`, in this process."""
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    try:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    except SystemExit as end:
        return end.code
    return 0


def random_tree(rng, n_words):
    """A random tree's spans of two words and more, outer before inner."""
    spans = []

    def grow(start, end):
        if end - start > 1:
            spans.append((start, end))
            cuts = sorted(rng.sample(range(start + 1, end), rng.randint(1, min(3, end - start - 1))))
            for left, right in zip([start, *cuts], [*cuts, end]):
                if rng.random() < 0.8:
                    grow(left, right)
    grow(0, n_words)
    return spans


def random_sentence(rng, n_words, words=None):
    return " ".join(rng.choice(words or NASTY + ["the", "cat", "sat", "on", "mats", "."]) for _ in range(n_words))


def decode(task, sentence, encode, pick):
    """Drive a Cursor to its end with `pick(options, written)`; (cursor, all tokens that the output is made of)."""
    from data.decoding import Cursor
    cursor, written = Cursor(task, sentence, encode), []
    while not cursor.done:
        written += cursor.queue
        cursor.queue = []
        options = cursor.options()
        assert len(set(options)) == len(options) > 1, "it asks only where there is a choice"
        cursor.choose(pick(options, written), -0.5)
        assert cursor.done or cursor.queue, "nothing new to tell the model, but another choice"
    return cursor, written + cursor.queue


@pytest.fixture(scope="session")
def bpe_tokenizer():
    """A byte-level BPE, as GPT-2's and Llama 3's: any text has tokens, longer words have several."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast
    rng = random.Random(0)
    text = ["Sentence: the cat sat on the mat .\nParse: ( ( the cat ) ( sat ( on ( the mat ) ) ) . )\n\n",
            "Sentence: list fares\nTags: list O fares B-fare B-fare_code I-fare\n\nOutput:", "Bracket each sentence"]
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(text + [random_sentence(rng, 5) for _ in range(20)], trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<pad>", "<bos>", "<eos>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>")


def tiny_llama(vocabulary_size, seed=0):
    """Large weights, so that logits differ by more than rounding."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=vocabulary_size, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=4096, initializer_range=0.3, bos_token_id=1, eos_token_id=2)).eval()


@pytest.fixture(scope="session")
def causal_folder(bpe_tokenizer, tmp_path_factory):
    """A causal LM of two layers with random weights, saved as any pretrained one is."""
    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    tiny_llama(len(bpe_tokenizer)).save_pretrained(folder)
    bpe_tokenizer.save_pretrained(folder)
    return folder
