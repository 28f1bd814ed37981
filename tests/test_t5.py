"""data/t5.py: transformers' T5, number for number."""

import re

import pytest
import torch
from transformers import T5Config, T5ForConditionalGeneration

from data.t5 import T5, Memory

SMALL = {"vocab_size": 60, "d_model": 24, "d_kv": 8, "d_ff": 40, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 3,
         "decoder_start_token_id": 0, "relative_attention_max_distance": 12, "relative_attention_num_buckets": 8}
# t5-base is of the first kind; Flan-T5 and T5 1.1 of the second, whose heads are not as wide as the model either.
KINDS = {"t5": {}, "gated": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "d_kv": 5}}


@pytest.fixture(params=KINDS)
def model(request):
    torch.manual_seed(0)
    return T5ForConditionalGeneration(T5Config(**{**SMALL, **KINDS[request.param]})).eval()


def batch():
    generator = torch.Generator().manual_seed(1)
    ids, targets = (torch.randint(1, 60, (3, n), generator=generator) for n in (9, 30))
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, 4:] = False
    return ids, mask, targets


def test_logits_are_transformers(model):
    ids, mask, targets = batch()
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask.long(), decoder_input_ids=targets).logits
        t5 = T5(model).prepare(torch.float32)
        states = t5.decode(t5.embed(targets), Memory(t5, t5.encode(ids, mask), mask))
        torch.testing.assert_close(states @ t5.output_matrix.T, expected, rtol=1e-4, atol=1e-4)
        again = model(input_ids=ids, attention_mask=mask.long(), decoder_input_ids=targets).logits
    assert torch.equal(again, expected)                                 # the model itself is what it was


def test_decoding_in_pieces_is_decoding_at_once(model):
    """With one row leaving on the way, and more tokens than there was room for."""
    ids, mask, targets = batch()
    with torch.no_grad():
        t5 = T5(model).prepare(torch.float32)
        read = t5.encode(ids, mask)
        expected = t5.decode(t5.embed(targets), Memory(t5, read, mask))
        memory = Memory(t5, read, mask, room=4)
        for begin, end in ((0, 1), (1, 4), (4, 5), (5, 17)):
            found = t5.decode(t5.embed(targets[:, begin:end]), memory)
            torch.testing.assert_close(found, expected[:, begin:end], rtol=1e-4, atol=1e-4)
        memory.keep(torch.tensor([0, 2]))
        found = t5.decode(t5.embed(targets[[0, 2], 17:]), memory)
        torch.testing.assert_close(found, expected[[0, 2], 17:], rtol=1e-4, atol=1e-4)


def test_gradients_are_transformers(model):
    """Of the stacked weights, against those of a model whose weights stand alone; and a step reaches the model itself."""
    ids, mask, targets = batch()
    alone = T5ForConditionalGeneration(model.config).eval()
    alone.load_state_dict(model.state_dict())
    alone(input_ids=ids, attention_mask=mask.long(), decoder_input_ids=targets).logits.square().mean().backward()
    t5 = T5(model)
    t5.prepare(torch.float32)
    states = t5.decode(t5.embed(targets), Memory(t5, t5.encode(ids, mask), mask))
    (states @ t5.output_matrix.T).square().mean().backward()
    found = {}
    for name, weight in alone.named_parameters():
        found.setdefault(re.sub(r"block\.\d\.|\.weight$", "", name), []).append(weight.grad)
    assert found.keys() == t5.stacks.keys()
    for role, grads in found.items():
        torch.testing.assert_close(t5.stacks[role].grad, torch.stack(grads), rtol=1e-3, atol=1e-5)
    before = model.state_dict()["encoder.block.1.layer.1.DenseReluDense.wo.weight"].clone()
    torch.optim.SGD(t5.stacks.values(), lr=1.0).step()
    assert not torch.equal(model.state_dict()["encoder.block.1.layer.1.DenseReluDense.wo.weight"], before)


def test_known_tokens_alone_give_their_logits(model):
    ids, mask, targets = batch()
    with torch.no_grad():
        t5 = T5(model).prepare(torch.float32)
        expected = t5.decode(t5.embed(targets), Memory(t5, t5.encode(ids, mask), mask)) @ t5.output_matrix.T
        known = torch.cat([ids, targets], 1).unique()
        t5.prepare(torch.float32, known=known)
        ids, targets = torch.searchsorted(known, ids), torch.searchsorted(known, targets)
        states = t5.decode(t5.embed(targets), Memory(t5, t5.encode(ids, mask), mask))
    assert len(known) < len(expected[0, 0])
    torch.testing.assert_close(states @ t5.output_matrix.T, expected[..., known], rtol=1e-4, atol=1e-4)


def test_dropout_drops_its_share_and_keeps_the_mean(model):
    t5 = T5(model).prepare(torch.float32, training=True)
    torch.manual_seed(0)
    x = torch.ones(7, 3, 10_001)
    found = t5.drop(x)
    rate = round(256 * model.config.dropout_rate) / 256
    assert (found == 0).float().mean().item() == pytest.approx(rate, abs=0.003)
    assert found.max().item() == pytest.approx(1 / (1 - rate)) and found.mean().item() == pytest.approx(1, abs=0.005)
    assert not torch.equal(t5.drop(x), found)
    assert torch.equal(t5.prepare(torch.float32).drop(x), x)
