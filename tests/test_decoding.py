"""data/decoding.py: whatever the model, an output is a well-formed answer about its input; and the packed decoder computes
what the plain model computes."""

import random
import unicodedata
from types import SimpleNamespace

import pytest
import torch
import transformers

from conftest import decode, random_sentence, random_tree, tiny_llama
from data.decoding import Cursor, FreeCursor, PieceEncoder, choose, make_cursor, those_that_fit
from data.packed import PackedDecoder
from data.tasks import make_task
from data.trees import split_words, write_bare
from student import CausalStudent

TREE = make_task({"task": "tree"})
SLOTS = make_task({"task": "slots", "tags": ["O", "B-fare", "I-fare", "B-fare_code", "I-fare_code", "B-fare_code_x", "B-f"]})
TEXT = make_task({"task": "text"})


class ToyTokenizer:
    """Words cut into pieces of two characters, numbered as they come: B-|fa|re is the beginning of B-|fa|re|_c|od|e."""

    def __init__(self):
        self.numbers = {}
        self.unk_token_id = self.pad_token_id = None

    def __call__(self, text, add_special_tokens=True):
        assert not add_special_tokens
        chunks = [word[i:i + 2] for word in text.split(" ") for i in range(0, len(word), 2)]
        return SimpleNamespace(input_ids=[self.numbers.setdefault(chunk, len(self.numbers)) for chunk in chunks])

    def decode(self, tokens, skip_special_tokens):
        names = {number: chunk for chunk, number in self.numbers.items()}
        return " ".join(names[token] for token in tokens)


# ---------------------------------------------------------------------------------------------------------------------
# Cursors

def test_pieces_are_encoded_as_in_the_middle_of_a_text_and_once(bpe_tokenizer):
    encode = PieceEncoder(bpe_tokenizer)
    for piece in ("cat", "B-fare_code", "(", "α-SMA"):
        assert list(encode(piece)) == bpe_tokenizer("x " + piece).input_ids[len(bpe_tokenizer("x").input_ids):]
        assert bpe_tokenizer.decode(encode(piece)) == " " + piece
        assert encode(piece) is encode(piece)
    assert encode.all(["(", "cat", ")"]) == [*encode("("), *encode("cat"), *encode(")")]


def test_worked_example_asks_only_where_there_is_a_choice():
    encode = PieceEncoder(ToyTokenizer())
    (bracket,), (close,) = encode("("), encode(")")
    cursor = Cursor(TREE, "The cat sat", encode)
    assert cursor.queue == [bracket] and set(cursor.options()) == {bracket, encode("The")[0]}
    cursor.queue = []
    cursor.choose(bracket, -0.5)                                    # three words have two brackets at most: The cat are forced
    assert cursor.queue == [bracket, *encode("The"), *encode("cat")] and set(cursor.options()) == {close, encode("sat")[0]}
    cursor.queue = []
    cursor.choose(close, -0.25)
    assert cursor.done and cursor.queue == [close, *encode("sat"), close]
    assert cursor.result() == ("( ( The cat ) sat )", -0.375)


@pytest.mark.parametrize("task", [TREE, SLOTS], ids=["tree", "slots"])
@pytest.mark.parametrize("tokenizer", ["toy", "bpe"])
def test_random_choices_give_valid_outputs_made_of_the_tokens_that_a_student_is_taught(task, tokenizer, bpe_tokenizer):
    rng = random.Random(1)
    encode = PieceEncoder(ToyTokenizer() if tokenizer == "toy" else bpe_tokenizer)
    for _ in range(150):
        sentence = random_sentence(rng, rng.randint(1, 12))
        cursor, tokens = decode(task, sentence, encode, lambda options, _: rng.choice(options))
        output, score = cursor.result()
        task.check(sentence, output)
        assert tokens == encode.all(cursor.pieces)
        assert score == (-0.5 if cursor.choices else 0.0)


def test_every_gold_can_be_decoded_token_by_token(bpe_tokenizer):
    rng = random.Random(2)
    for tokenizer in (ToyTokenizer(), bpe_tokenizer):
        encode = PieceEncoder(tokenizer)
        for _ in range(60):
            sentence = random_sentence(rng, rng.randint(1, 10))
            words = split_words(sentence)
            tags = [rng.choice(["O", "B-fare", "B-fare_code", "B-fare_code_x", "B-f"]) for _ in words]
            for task, gold in ((TREE, write_bare(words, random_tree(rng, len(words)))), (SLOTS, " ".join(tags))):
                target = encode.all(task.pieces(sentence, gold)) + [-1]             # -1: the end
                cursor, tokens = decode(task, sentence, encode, lambda _, written: target[len(written)])
                assert cursor.result()[0] == gold and tokens == target[:-1]


def test_tag_that_another_begins_with_can_end_or_go_on():
    encode = PieceEncoder(ToyTokenizer())
    fare, code = encode("B-fare"), encode("B-fare_code")
    assert code[:len(fare)] == fare
    for after, tag in ((encode("to")[0], "B-fare"), (code[len(fare)], "B-fare_code")):
        cursor = Cursor(SLOTS, "fares to", encode)
        for token in (*fare[:2], after):                            # its third is forced after the second
            assert token in cursor.options() and len(cursor.options()) > 1
            cursor.choose(token, 0.0)
        while cursor.state.written < 3 and not cursor.done:         # B-fare_code may still become B-fare_code_x
            cursor.choose(encode("to")[0] if encode("to")[0] in cursor.options() else cursor.options()[0], 0.0)
        assert cursor.pieces[1] == tag


def test_score_is_the_mean_of_what_was_a_choice():
    """The model is not asked where all tags that are still possible go on alike, as when all pieces begin with the same token."""
    cursor = Cursor(SLOTS, "to to", PieceEncoder(ToyTokenizer()))
    for token in (*cursor.encode("B-f"), cursor.encode("O")[0]):
        cursor.choose(token, -1.0)
    assert cursor.done and cursor.result() == ("B-f O", -1.0)
    cursor = Cursor(make_task({"task": "slots", "tags": ["O", "B-aabb", "B-aacc"]}), "to", PieceEncoder(ToyTokenizer()))
    B, aa, cc = cursor.encode("B-aacc")
    cursor.choose(B, -1.0)
    assert cursor.queue[-2:] == [B, aa], "no choice between them"
    cursor.choose(cc, -3.0)
    assert cursor.done and cursor.result() == ("B-aacc", -2.0)
    cursor = Cursor(make_task({"task": "slots", "tags": ["O", "B-x"]}), "to", lambda piece: (0, *map(ord, piece)))         # 0: a space
    assert cursor.options() == [ord("O"), ord("B")]
    cursor.choose(ord("O"), -2.0)
    assert cursor.done and cursor.result() == ("O", -2.0)


@pytest.mark.parametrize("task, output", [(TREE, "( word )"), (make_task({"task": "slots", "tags": ["O"]}), "O")])
def test_one_word_without_a_choice_is_done_at_once(task, output):
    cursor = Cursor(task, "word", PieceEncoder(ToyTokenizer()))
    assert cursor.done and cursor.result() == (output, 0.0)


@pytest.mark.parametrize("task", [TREE, SLOTS], ids=["tree", "slots"])
def test_word_without_any_token_does_not_stop_the_decoder(task):
    """Some tokenizers drop characters: to the tiny student's a no-break space is nothing at all."""
    tokenizer, rng, word = ToyTokenizer(), random.Random(3), "\u00a0"

    def dropping(text, add_special_tokens):
        return tokenizer(text.removesuffix(f" {word}"), add_special_tokens=add_special_tokens)
    dropping.unk_token_id, dropping.pad_token_id = 1000, None
    for sentence in (f"a {word} b c", f"{word} {word} a", f"a {word} {word} {word}", f"a {word}", word):
        for _ in range(10):
            cursor, _ = decode(task, sentence, PieceEncoder(dropping), lambda options, _: rng.choice(options))
            task.check(sentence, cursor.result()[0])


@pytest.mark.parametrize("words", [["a", "b", "（", "）"], ["a", "b", "（a"]])
def test_a_word_that_the_tokenizer_begins_like_a_bracket(words):
    """As one that normalises does with fullwidth brackets. After each choice there is something to feed, for a batch's rows go on together."""
    def normalising(text, add_special_tokens):
        return SimpleNamespace(input_ids=[ord(character) for character in unicodedata.normalize("NFKC", text).replace(" ", "")])
    normalising.unk_token_id = normalising.pad_token_id = None
    rng = random.Random(4)
    for _ in range(60):
        sentence = random_sentence(rng, rng.randint(1, 7), words)
        cursor = Cursor(TREE, sentence, PieceEncoder(normalising))
        cursor.queue.insert(0, 0)
        while not cursor.done:
            assert cursor.queue
            cursor.queue.clear()
            cursor.choose(rng.choice(cursor.options()), -1.0)        # counted once, also where a token is the start of two pieces
        TREE.check(sentence, cursor.result()[0])
        assert cursor.result()[1] in (-1.0, 0.0)


def test_free_cursor_ends_at_an_end_or_at_the_limit():
    tokenizer = ToyTokenizer()
    a, b, c = tokenizer("aa bb cc", add_special_tokens=False).input_ids
    cursor = FreeCursor(tokenizer, end=[c, 99], limit=5, vocabulary=[a, b, c])
    assert cursor.options() == [a, b, c]
    for token in (b, a):
        cursor.choose(token, -1.0)
        assert not cursor.done and cursor.queue[-1] == token
    cursor.choose(c, -1.0)
    assert cursor.done and cursor.tokens == [b, a] and cursor.result() == ("bb aa", -1.0)
    cursor.tokenizer = SimpleNamespace(decode=lambda *_, **__: " \u00a0a .\n\nb\n")        # a token may end in a line break, and be no end
    assert cursor.result()[0] == "\u00a0a .\n\nb"

    cursor = FreeCursor(tokenizer, end=[c], limit=2, vocabulary=[a, b, c])
    cursor.choose(a, 0.0)
    cursor.choose(a, 0.0)
    assert cursor.done and cursor.result()[0] == "aa aa"

    cursor = FreeCursor(tokenizer, end=[c], limit=2, vocabulary=[a, b, c])
    cursor.choose(a, -1.0)
    cursor.choose(a, -2.0)                                              # the limit ended it: no end was chosen
    assert cursor.result() == ("aa aa", -1.5)


def test_make_cursor_is_free_with_a_vocabulary_and_bound_without():
    encode = PieceEncoder(ToyTokenizer())
    assert isinstance(make_cursor(TEXT, "a b", encode, [0], 9, [0, 1]), FreeCursor)
    assert isinstance(make_cursor(SLOTS, "a b", encode, [0], 9), Cursor)


# ---------------------------------------------------------------------------------------------------------------------
# The likeliest option

@pytest.mark.parametrize("together", [1, 2])
def test_end_of_the_output_is_weighed_by_the_end_token(together):
    """At the last word B-fare may end the output or go on to B-fare_code: any token that may end it stands for the former."""
    encode, end, never = PieceEncoder(ToyTokenizer()), 77, 76
    for favourite, tag in ((end, "B-fare"), (None, "B-fare_code")):
        cursors = [Cursor(SLOTS, "fares", encode) for _ in range(together)]
        for cursor in cursors:
            for token in encode("B-fare")[:2]:         # its third is forced
                cursor.choose(token, 0.0)
            assert sorted(cursor.options())[0] == -1

        def logits_of(ids):
            assert (ids >= 0).all() and (ids == end).any()
            return (ids == end).float() if favourite == end else (ids != end).float() - 9 * (ids == never).float()
        while not cursors[0].done:
            choose(cursors, logits_of if -1 in cursors[0].options() else lambda ids: torch.zeros(ids.shape), [never, end])
        assert all(cursor.pieces[1].startswith(tag) for cursor in cursors)
        assert favourite is None or cursors[0].pieces[1] == "B-fare"


def test_greedy_takes_the_best_option_and_its_probability_among_the_options():
    encode = PieceEncoder(ToyTokenizer())
    few, many = Cursor(TREE, "The cat sat", encode), Cursor(make_task({"task": "slots", "tags": ["O", "B-x", "I-x"]}), "list", encode)
    (bracket,), (tag,) = encode("("), encode("O")
    scores = {bracket: 2.0, encode("The")[0]: 1.0, tag: 0.5, encode("B-x")[0]: -0.5}

    def logits_of(ids):
        return torch.tensor([[scores.get(token, 9.0) for token in row] for row in ids.tolist()])     # 9: what is only padding
    choose([few, many], logits_of, [0])
    assert few.pieces[:3] == ["(", "(", "The"] and many.pieces == ["list", "O"]
    assert many.logprob == pytest.approx(torch.tensor([0.5, -0.5]).log_softmax(0)[0].item(), abs=1e-6)
    assert few.logprob == pytest.approx(torch.tensor([2.0, 1.0]).log_softmax(0)[0].item(), abs=1e-6)


def test_options_are_drawn_as_often_as_they_are_probable():
    encode = PieceEncoder(ToyTokenizer())
    many = [make_cursor(TREE, "The cat sat", encode, [0], 3, rng=random.Random(n)) for n in range(400)]
    probability = {encode("(")[0]: 0.8, encode("The")[0]: 0.2}
    choose(many, lambda ids: torch.tensor([[probability.get(token, 1.0) for token in row] for row in ids.tolist()]).log(), [0])
    opened = [cursor for cursor in many if cursor.pieces[1] == "("]
    assert 290 < len(opened) < 350                                      # 320 are expected, with a deviation of 8
    assert {round(cursor.logprob, 4) for cursor in opened} == {round(torch.tensor(0.8).log().item(), 4)}


# ---------------------------------------------------------------------------------------------------------------------
# The packed decoder

def tiny_gemma(seed=0, **more):
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig
    torch.manual_seed(seed)
    return Gemma3ForCausalLM(Gemma3TextConfig(
        vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, sliding_window=8, layer_types=["sliding_attention", "full_attention"], initializer_range=0.3, **more)).eval()


@pytest.mark.parametrize("make", [lambda: tiny_llama(96), tiny_gemma], ids=["llama", "gemma3"])
@pytest.mark.parametrize("n_prompt", [0, 5, 150])
@torch.inference_mode()
def test_feeding_in_pieces_is_the_full_forward_without_a_cache(make, n_prompt, fp32):
    """150 tokens of prompt take two passes of 128; with 5 + 30 tokens the window of 8 is smaller than the text."""
    model, rng = make(), random.Random(4)
    prompt = [rng.randrange(96) for _ in range(n_prompt)]
    texts = [[rng.randrange(96) for _ in range(length)] for length in (30, 17, 23)]
    model.set_attn_implementation("eager")
    wanted = [model.base_model(torch.tensor([prompt + text]), use_cache=False).last_hidden_state[0, n_prompt:] for text in texts]
    logits = [model(torch.tensor([prompt + text]), use_cache=False).logits[0, -1] for text in texts]

    decoder = PackedDecoder(model, rows=4, prompt=prompt)
    assert decoder.prompt_length == n_prompt
    found, fed = [[] for _ in texts], [0] * len(texts)
    while any(fed[n] < len(text) for n, text in enumerate(texts)):
        rows, positions, tokens = [], [], []
        for n in rng.sample(range(3), 3):                        # rows in any order, with any number of new tokens
            new = texts[n][fed[n]:fed[n] + rng.randint(0, 6)]
            rows += [n + 1] * len(new)
            positions += range(fed[n], fed[n] + len(new))
            tokens += new
            fed[n] += len(new)
        if tokens:
            for row, state in zip(rows, decoder.feed(rows, positions, tokens)):
                found[row - 1].append(state)
    for n, states in enumerate(found):
        torch.testing.assert_close(torch.stack(states), wanted[n], atol=1e-4, rtol=1e-4)
        ids = torch.tensor([[5, 90, 17]])
        torch.testing.assert_close(decoder.logits_of(states[-1][None])(ids)[0], logits[n][ids[0]], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("make", [lambda: tiny_llama(96), tiny_gemma], ids=["llama", "gemma3"])
@torch.inference_mode()
def test_in_bf16_states_are_nearly_those_in_fp32(make, monkeypatch):
    """Autocast leaves keys in fp32, where they are rotated, and makes products bf16."""
    states = []
    for fast in (False, True):
        monkeypatch.setattr("data.models.fast_bf16", lambda device: fast)
        decoder = PackedDecoder(make(), rows=3, prompt=range(3, 40))
        decoder.feed([0] * 5 + [2] * 9, [*range(5), *range(9)], range(40, 54))
        states.append(decoder.feed([2, 0, 0, 0, 1], [9, 5, 6, 7, 0], range(60, 65)))
    assert decoder.keys[0].dtype == decoder.values[0].dtype == torch.bfloat16
    assert (states[0] - states[1]).abs().max() < 0.1 * states[0].abs().max()
    assert not torch.equal(*states)


@torch.inference_mode()
def test_attention_softcapping_is_applied(fp32):
    """Gemma 2's attention scores are squashed: a = tanh(a / cap) * cap."""
    from transformers import Gemma2Config, Gemma2ForCausalLM
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(Gemma2Config(
        vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        sliding_window=4, attn_logit_softcapping=1.0, initializer_range=0.3)).eval()
    model.set_attn_implementation("eager")
    wanted = model.base_model(torch.tensor([range(3, 15)]), use_cache=False).last_hidden_state[0]
    decoder = PackedDecoder(model, rows=1)
    torch.testing.assert_close(decoder.feed([0] * 12, range(12), range(3, 15)), wanted, atol=1e-3, rtol=1e-3)


def test_model_without_the_attention_interface_is_refused():
    """Bloom ignores the choice of an attention function: sequences packed in one row would see each other."""
    from transformers import BloomConfig, BloomForCausalLM
    with pytest.raises(ValueError, match="bloom"):
        PackedDecoder(BloomForCausalLM(BloomConfig(vocab_size=96, hidden_size=32, n_layer=1, n_head=4)), rows=1, prompt=[1, 2])


def test_model_that_mixes_tokens_otherwise_is_refused():
    """LFM2 has convolutions along the row, too."""
    from transformers import Lfm2Config, Lfm2ForCausalLM
    with pytest.raises(ValueError, match="lfm2"):
        PackedDecoder(Lfm2ForCausalLM(Lfm2Config(
            vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            layer_types=["conv", "full_attention"])), rows=1)


@pytest.mark.parametrize("kind, more", [("Phi", {}), ("Granite", {"logits_scaling": 8.0}), ("Cohere", {"logit_scale": 0.0625})])
def test_model_whose_logits_are_more_than_a_product_is_refused(kind, more):
    """A bias, a scale: `logits_of` knows nothing of them."""
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4, pad_token_id=0, **more)
    with pytest.raises(ValueError, match=f"{kind.lower()}: .* logits"):
        PackedDecoder(getattr(transformers, f"{kind}ForCausalLM")(config), rows=1)


def test_model_that_hands_no_keywords_on_to_its_attention_is_refused():
    config = transformers.StableLmConfig(vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
                                         num_key_value_heads=2)
    with pytest.raises(ValueError, match="stablelm"):
        PackedDecoder(transformers.StableLmForCausalLM(config), rows=1, prompt=[1, 2])


def test_a_causal_student_that_could_not_label_is_refused_before_it_is_trained(bpe_tokenizer):
    config = transformers.PhiConfig(vocab_size=len(bpe_tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1,
                                    num_attention_heads=4)
    with pytest.raises(ValueError, match="phi"):
        CausalStudent(transformers.PhiForCausalLM(config), bpe_tokenizer, TREE, torch.device("cpu"))


@torch.inference_mode()
def test_final_logit_softcapping_is_applied(fp32):
    model = tiny_gemma(final_logit_softcapping=2.0)
    model.set_attn_implementation("eager")
    wanted = model(torch.tensor([[3, 4, 5]]), use_cache=False).logits[0, -1]
    decoder = PackedDecoder(model, rows=1)
    found = decoder.logits_of(decoder.feed([0, 0, 0], [0, 1, 2], [3, 4, 5])[-1:])(torch.arange(96)[None])[0]
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    assert found.abs().max() <= 2.0


def test_a_row_is_used_again_without_what_stood_in_it(fp32):
    model = tiny_llama(96)
    decoder = PackedDecoder(model, rows=1, prompt=[1, 2, 3])
    alone = decoder.feed([0] * 4, range(4), [9, 8, 7, 6])
    decoder.feed([0] * 20, range(20), range(20, 40))
    torch.testing.assert_close(decoder.feed([0] * 4, range(4), [9, 8, 7, 6]), alone, atol=1e-5, rtol=1e-5)


def labels(model, tokenizer, task, inputs, rows, prompt=(1, 40, 41, 42)):
    from teacher import label_with_causal_lm
    decoder = PackedDecoder(model, rows=rows, prompt=prompt)
    found = dict(label_with_causal_lm(decoder, task, inputs, PieceEncoder(tokenizer),
                                      list(range(len(tokenizer))) if task.kind == "text" else None))
    assert sorted(found) == list(range(len(inputs)))
    return [found[i] for i in range(len(inputs))]


@pytest.mark.parametrize("task", [TREE, SLOTS], ids=["tree", "slots"])
def test_rolling_batch_gives_the_labels_of_one_batch_and_all_are_valid(task, bpe_tokenizer, fp32):
    rng = random.Random(5)
    inputs = [random_sentence(rng, rng.randint(1, 9)) for _ in range(16)]
    model = tiny_llama(len(bpe_tokenizer))
    few, many, one = (labels(model, bpe_tokenizer, task, inputs, rows) for rows in (2, 16, 1))
    assert [x.output for x in few] == [x.output for x in many] == [x.output for x in one]
    assert [x.score for x in few] == pytest.approx([x.score for x in many], abs=1e-3)
    assert [x.input for x in few] == inputs
    for label in few:
        task.check(label.input, label.output)
    assert len({x.output for x in few}) > 5


def test_constrained_labels_are_the_best_allowed_token_at_every_choice(bpe_tokenizer, fp32):
    """The same decoding once more, in the plainest way: one sentence, no cache, the full output layer."""
    rng, prompt = random.Random(6), [1, 40, 41, 42]
    inputs = [random_sentence(rng, rng.randint(2, 6)) for _ in range(4)]
    model, encode = tiny_llama(len(bpe_tokenizer)), PieceEncoder(bpe_tokenizer)
    for task in (TREE, SLOTS):
        packed = labels(model, bpe_tokenizer, task, inputs, 3, prompt)
        model.set_attn_implementation("eager")
        for input, label in zip(inputs, packed):
            start = prompt + bpe_tokenizer(f"Sentence: {input}\n{task.answer_name}", add_special_tokens=False).input_ids

            def best(options, written):
                with torch.inference_mode():
                    logits = model(torch.tensor([start + written]), use_cache=False).logits[0, -1]
                return max(options, key=lambda token: logits[token if token >= 0 else min(ends)].item())
            ends = {bpe_tokenizer.eos_token_id, bpe_tokenizer("x\n").input_ids[-1], bpe_tokenizer("x\n\n").input_ids[-1]}
            assert decode(task, input, encode, best)[0].result()[0] == label.output


def test_text_is_what_generate_gives(bpe_tokenizer, fp32):
    from teacher import line_ends
    rng, prompt = random.Random(8), [1, 40, 41, 42]
    inputs = [random_sentence(rng, n) for n in (3, 1, 2)]
    model = tiny_llama(len(bpe_tokenizer), seed=3)
    found = labels(model, bpe_tokenizer, TEXT, inputs, 2, prompt)
    model.set_attn_implementation("eager")
    for input, label in zip(inputs, found):
        asked = bpe_tokenizer(f"Sentence: {input}\nOutput:", add_special_tokens=False).input_ids
        ids = torch.tensor([prompt + asked])
        made = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=4 * len(asked) + 32,
                              eos_token_id=line_ends(bpe_tokenizer), pad_token_id=0)[0, ids.shape[1]:].tolist()
        made = [token for token in made if token not in line_ends(bpe_tokenizer)]
        assert label.output == bpe_tokenizer.decode(made, skip_special_tokens=True).strip()


def test_text_stops_at_the_first_end(bpe_tokenizer, fp32):
    """With a third of the vocabulary as ends the outputs of a random model have all lengths."""
    model, vocabulary = tiny_llama(96, seed=1), list(range(96))
    end, starts = list(range(0, 96, 3)), [[n, 2 * n, 5] for n in range(1, 13)]
    cursors = [FreeCursor(bpe_tokenizer, end, 12, vocabulary) for _ in starts]
    assert sorted(PackedDecoder(model, rows=5).run(cursors, starts, end)) == list(range(len(starts)))
    model.set_attn_implementation("eager")
    for cursor, start in zip(cursors, starts):
        ids = torch.tensor([start])
        made = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12, eos_token_id=end,
                              pad_token_id=0)[0, 3:].tolist()
        assert cursor.tokens == [token for token in made if token not in end]
    assert len({len(cursor.tokens) for cursor in cursors}) > 2


def test_input_longer_than_the_model_takes_gets_the_fallback(bpe_tokenizer, fp32):
    model = tiny_llama(len(bpe_tokenizer))
    model.config.max_position_embeddings = 120
    inputs = ["the cat sat", " ".join(["the"] * 60), "the mat"]
    found = labels(model, bpe_tokenizer, TREE, inputs, 4)
    assert found[1] == (inputs[1], f"( {inputs[1]} )", None)
    assert found[0].score is not None and found[2].output == "( the mat )"


def test_long_prompts_are_admitted_in_turn(fp32):
    """`admit` bounds the tokens of one pass, and every sequence is decoded all the same."""
    model, vocabulary, largest = tiny_llama(96), list(range(96)), []
    decoder = PackedDecoder(model, rows=8)
    feed = decoder.feed
    decoder.feed = lambda rows, positions, tokens: largest.append(len(tokens)) or feed(rows, positions, tokens)
    cursors = [FreeCursor(SimpleNamespace(decode=None), [], 3, vocabulary) for _ in range(8)]
    assert sorted(decoder.run(cursors, [[n] * 10 for n in range(8)], [0], admit=20)) == list(range(8))
    assert max(largest) <= 20 + 8 and all(len(cursor.tokens) == 3 for cursor in cursors)


@pytest.mark.parametrize("same", [False, True], ids=["three prompts", "one prompt"])
def test_a_prompt_longer_than_a_pass_is_read_in_parts(same, bpe_tokenizer, fp32):
    model, largest = tiny_llama(96), []
    prompts = [[3 + (7 * n * (1 if same else k)) % 90 for n in range(50)] for k in (1, 2, 3)]
    alone, together = ([FreeCursor(bpe_tokenizer, [0], 4, list(range(96))) for _ in prompts] for _ in range(2))
    for cursor, prompt in zip(alone, prompts):
        assert list(PackedDecoder(model, rows=1).run([cursor], [prompt], [0])) == [0]
    decoder = PackedDecoder(model, rows=3)
    feed = decoder.feed
    decoder.feed = lambda rows, positions, tokens: largest.append(len(tokens)) or feed(rows, positions, tokens)
    assert sorted(decoder.run(together, prompts, [0], admit=16)) == [0, 1, 2]
    assert [cursor.tokens for cursor in together] == [cursor.tokens for cursor in alone]
    assert 16 <= max(largest) <= 16 + 3


def test_of_long_inputs_fewer_are_decoded_at_a_time(bpe_tokenizer, fp32, monkeypatch):
    """So that their keys and values have room in memory; those that are much shorter come afterwards, more at a time."""
    inputs, model, held = [" ".join(["the"] * n) for n in (40, 40, 20, 3, 3, 3, 3)], tiny_llama(len(bpe_tokenizer)), []
    wanted = labels(model, bpe_tokenizer, SLOTS, inputs, 8)
    monkeypatch.setattr("data.packed.HELD", 600)
    stored = PackedDecoder.stored

    def spy(self, store, layer, *more):
        found = stored(self, store, layer, *more)
        held.append(store[layer].shape[:3:2])
        return found
    monkeypatch.setattr(PackedDecoder, "stored", spy)
    assert [x.output for x in labels(model, bpe_tokenizer, SLOTS, inputs, 8)] == [x.output for x in wanted]
    assert max(rows * length for rows, length in held) <= 600 and {rows for rows, _ in held} == {3, 8}

@pytest.mark.parametrize("make", [lambda: tiny_llama(96), tiny_gemma], ids=["llama", "gemma3"])
@pytest.mark.parametrize("rows", [1, 2, 3, 20])
def test_outputs_of_one_sentence_share_its_prompt(make, rows, bpe_tokenizer, fp32):
    """Four of each of three: each prompt's tokens but the last are read once, or as often as it has left the rows, and what is drawn is
    what a decoder that sees each alone draws."""
    model, vocabulary, fed = make(), list(range(96)), []
    prompts = [[n, 7, 2 * n + 1] * 4 for n in (1, 2, 3) for _ in range(4)]

    def cursors():
        made = [FreeCursor(bpe_tokenizer, [0, 1, 2], 9, vocabulary) for _ in prompts]
        for n, cursor in enumerate(made):
            cursor.rng = random.Random(n)
        return made
    together, alone = cursors(), cursors()
    decoder = PackedDecoder(model, rows=rows, prompt=[3, 4])
    feed = decoder.feed
    decoder.feed = lambda rows, positions, tokens: fed.extend(positions) or feed(rows, positions, tokens)
    assert sorted(decoder.run(together, prompts, [0, 1, 2])) == list(range(12))
    for cursor, prompt in zip(alone, prompts):
        assert list(PackedDecoder(model, rows=1, prompt=[3, 4]).run([cursor], [prompt], [0, 1, 2])) == [0]
    assert [cursor.tokens for cursor in together] == [cursor.tokens for cursor in alone]
    assert len({tuple(cursor.tokens) for cursor in together}) > 8
    assert fed.count(0) == fed.count(10) and fed.count(11) == 12
    assert fed.count(0) == 3 if rows in (1, 20) else fed.count(0) < 9               # with few rows others take its place too soon


def test_an_input_whose_output_would_just_not_fit_is_left_out():
    one = lambda piece: (1,)                                            # noqa: E731 - every piece is one token
    task = make_task({"task": "slots", "tags": ["O"]})                  # the input, its words once more with their tags, an end: 3 + 6 + 1 tokens
    assert [those_that_fit([0], ["a b c"], [3], task, one, room)[0] for room in (10, 11)] == [[], [0]]
