"""Decoding under a task's constraint, for any tokenizer and model.

A task speaks of pieces (words, brackets, tags); a model speaks of tokens. A Cursor stands between them: it knows which
tokens may come next in one output, takes what is forced without asking the model, and asks only where there is a choice.
Cursors serve every model: a PackedDecoder drives many of them with a causal LM, student.py with an encoder-decoder.
"""
import copy
import sys
from contextlib import contextmanager

import torch
import transformers
from transformers import DynamicCache, EncoderDecoderCache

from data.splits import DataError, Label
from data.trees import split_words


class PieceEncoder:
    """Piece -> token ids as they stand in the middle of a text, remembered, so that each piece is tokenised once (of a large pool's
    words the first `most`: there are always new ones).

    Training targets and decoded outputs are both made of these, so a model is asked for exactly what it was taught.
    """

    def __init__(self, tokenizer, most=100_000):
        self.tokenizer, self.known, self.most = tokenizer, {}, most
        self.lead = len(tokenizer("x", add_special_tokens=False).input_ids)

    def __call__(self, piece):
        ids = self.known.get(piece)
        if ids is None:
            unknown, pad = self.tokenizer.unk_token_id or 0, self.tokenizer.pad_token_id
            ids = self.tokenizer("x " + piece, add_special_tokens=False).input_ids[self.lead:]
            ids = tuple(unknown if i == pad else i for i in ids)                # the word <pad>, where there is an unknown token
            if piece and not ids:               # a word of characters that the tokenizer drops: it must not vanish
                ids = (unknown,)
            if len(self.known) < self.most:
                self.known[piece] = ids
        return ids

    def all(self, pieces):
        return [token for piece in pieces for token in self(piece)]


def context_length(model):
    """How many tokens the model takes. Where its config names no limit, memory sets one to an encoder-decoder such as T5: its
    attention takes the square of a sentence's length. A causal LM then has practically none."""
    return getattr(model.config, "max_position_embeddings", None) or (2048 if model.config.is_encoder_decoder else 10 ** 9)


def those_that_fit(order, inputs, lengths, task, encode, room):
    """(fits, too_long): of `order`, indices of inputs, those that the model has room for, and (index, Label) of the others, with the
    task's fallback; says how many these are.

    An input needs room for its own tokens (`lengths`) and for the longest output that there may be about it: its words once more, with
    two brackets a word (trees) or one tag a word (slots), and an end; for three times its own tokens at least. `room`: in tokens.
    """
    symbol = max((len(encode(symbol)) for symbol in task.symbols), default=1) * (2 if task.kind == "tree" else 1)
    fits, too_long = [], []
    for i in order:
        needed = lengths[i] + max(3 * lengths[i], 1 + sum(len(encode(word)) + symbol for word in task.copied(inputs[i])))
        (fits if needed < room else too_long).append(i)
    if too_long:
        print(f"{len({inputs[i] for i in too_long})} inputs are longer than the model takes; they get {task.last_resort}", file=sys.stderr)
    return fits, [(i, Label(inputs[i], task.fallback(inputs[i]))) for i in too_long]


class Cursor:
    """One output in the making.

    `queue` holds the tokens decided on but not yet fed to the model. When it is empty, `options()` are the tokens that may
    come next and `choose` takes one. `done` says that the output is complete; what is then left in `queue` need not be fed.
    `chance` is a random.Random of its own if its options are to be drawn; all cursors of a batch have one, or none has.
    """
    chance = None

    def __init__(self, task, input, encode):
        self.task, self.words, self.encode = task, split_words(input), encode
        self.state = task.start(self.words)
        self.queue, self.pieces = [], []
        self.live, self.depth = [], 0           # the pieces still possible here, and how many tokens of them are written
        self.done, self.logprob, self.choices = False, 0.0, 0
        self._settle()

    def _settle(self):
        """Take every piece that is forced, up to the next choice or the end."""
        while True:
            pieces = self.state.choices()
            live = {}
            for piece in pieces:                    # of two that the tokenizer writes alike, as it may ( and a fullwidth one, the first:
                live.setdefault(self.encode(piece), piece)                      # a model could not tell them apart
            if len(live) > 1:
                self.live, self.depth = [(piece, ids) for ids, piece in live.items()], 0
                return
            if not pieces:
                self.done = True
                return
            self.queue.extend(self.encode(pieces[0]))
            self._take(pieces[0])

    def _take(self, piece):
        self.pieces.append(piece)
        self.state.take(piece)

    def options(self):
        """The token ids that may come next, each once."""
        found = {ids[self.depth]: None for _, ids in self.live if len(ids) > self.depth}
        for piece, ids in self.live:
            if len(ids) == self.depth:              # a whole piece that longer ones continue, as B-fare and B-fare_code
                found.setdefault(self._after(piece))
        return list(found)

    def _after(self, piece):
        """The token that would follow if `piece` ended here: the next word's first (-1 at the end of the output)."""
        state = copy.copy(self.state)
        state.take(piece)
        following = state.choices()
        return self.encode(following[0])[0] if following else -1

    def choose(self, token, logprob):
        """Take one of the options; `logprob` is its log-probability among them."""
        self.logprob += logprob
        self.choices += 1
        going_on = [(piece, ids) for piece, ids in self.live if ids[self.depth:self.depth + 1] == (token,)]
        if not going_on:
            self._take(next(piece for piece, ids in self.live if len(ids) == self.depth))
            self._settle()
            if not (self.queue or self.done):       # what follows is a choice as well, and `token` the beginning of it
                self.choose(token, 0.0)
            return
        self.queue.append(token)
        self.depth += 1
        self.live = going_on
        if len(going_on) == 1:
            piece, ids = going_on[0]
            self.queue.extend(ids[self.depth:])
            self._take(piece)
            self._settle()

    def result(self):
        """(output, score): the score is the mean log-probability of the choices made, 0.0 where none was open."""
        return self.task.write(self.words, self.pieces), round(self.logprob / max(1, self.choices), 6)


class FreeCursor:
    """An output about which the task assumes nothing: any of `vocabulary` may come next, until `end` or `limit` tokens."""
    chance = None

    def __init__(self, tokenizer, end, limit, vocabulary):
        self.tokenizer, self.end, self.limit, self.vocabulary = tokenizer, end, limit, vocabulary
        self.queue, self.tokens, self.done, self.logprob = [], [], False, 0.0

    def options(self):
        return self.vocabulary

    def choose(self, token, logprob):
        self.logprob += logprob
        if token in self.end:
            self.done = True
        else:
            self.tokens.append(token)
            self.queue.append(token)
            self.done = len(self.tokens) == self.limit

    def result(self):
        text = self.tokenizer.decode(self.tokens, skip_special_tokens=True).strip(" \t\r\n")
        return text, round(self.logprob / (len(self.tokens) + 1), 6)


def make_cursor(task, input, encode, end, length, vocabulary=None, room=10 ** 9, chance=None):
    """The cursor for one output of this task, bound by its constraint; with a `vocabulary`, a list of the token ids that it may
    use, a free one. That ends after 32 tokens, 4 for each of its input's (`length` in all) and 4 for each word of the longest labeled
    output, or where the model has no more `room` (in tokens). `chance`: as in Cursor."""
    if vocabulary is None:
        cursor = Cursor(task, input, encode)
    else:
        cursor = FreeCursor(encode.tokenizer, end, min(room, 32 + 4 * length + 4 * getattr(task, "longest", 0)), vocabulary)
    cursor.chance = chance
    return cursor


def choose(cursors, logits_of, end):
    """Let every cursor take its likeliest option or, if they have a `chance`, one drawn by its probability. `end`: a list of the token
    ids that end an output; where a constrained one may end or go on, the likeliest of them stands for its end.

    `logits_of(ids)` gives the logits of the candidates, (cursors, K) for a (cursors, K) tensor of token ids: only these few
    rows of the output matrix are ever computed, not the whole vocabulary.
    """
    options = [cursor.options() for cursor in cursors]
    if isinstance(cursors[0], FreeCursor):                              # free text: one list for all
        ids, real = torch.tensor(options[0]).expand(len(cursors), -1), None
    else:
        # What ends an output (-1) may be any of `end`: each of these tokens stands for that option.
        pairs = [[(token, option) for option in x for token in (end if option < 0 else [option])] for x in options]
        tokens = [[token for token, _ in x] for x in pairs]
        options = [[option for _, option in x] for x in pairs]
        width = max(map(len, tokens))
        ids = torch.tensor([x + [0] * (width - len(x)) for x in tokens])
        real = torch.arange(width) < torch.tensor([len(x) for x in tokens])[:, None]
    logits = logits_of(ids).float().cpu()
    if real is not None:
        logits = logits.masked_fill(~real, -torch.inf)
    logprobs = logits.log_softmax(-1)
    if cursors[0].chance:                           # each of its own, so that what it draws does not depend on who else is in the batch
        upto = logprobs.exp().cumsum(-1)
        drawn = torch.tensor([[cursor.chance.random()] for cursor in cursors], dtype=torch.float64)
        taken = (upto <= drawn * upto[:, -1:]).sum(-1, keepdim=True)
    else:
        taken = logprobs.argmax(-1, keepdim=True)
    for cursor, which, logprob, ids in zip(cursors, taken[:, 0].tolist(), logprobs.gather(1, taken)[:, 0].tolist(), options):
        cursor.choose(ids[which], logprob)


@torch.no_grad()
def candidate_logits(states, output_matrix, ids, cap=None):
    """(N, K) logits of the candidates `ids` (N, K) after `states` (N, size): only these rows of the output matrix are read, a
    few dozen instead of 32,128 or 262,144. (The LLM labels 2.5 times as fast; for `tiny` it counts for nothing.) `cap`: what tanh bounds
    them by, as in Gemma 2."""
    if len(ids) == 1 or ids.stride(0) == 0:                         # one row, or the same candidates for all: one matrix product
        every = ids.shape[1] == len(output_matrix)                  # and free text may use them all: nothing to pick out
        found = states.float() @ (output_matrix if every else output_matrix[ids[0].to(states.device)]).float().T
    else:
        found = torch.einsum("nd,nkd->nk", states.float(), output_matrix[ids.to(states.device)].float())
    return torch.tanh(found / cap) * cap if cap else found


# ----------------------------------------------------------------------------------------------------
# An encoder-decoder.

class AnyDecoder:
    """One batch of outputs in the making, by any encoder-decoder of transformers: what T5Decoder in t5.py is for a T5."""

    def __init__(self, model, sources, mask):
        self.model, self.mask, self.device = model, mask.long(), mask.device
        self.cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        with autocast(self.device):
            self.read = self.model.get_encoder()(input_ids=sources, attention_mask=self.mask)

    def feed(self, new):
        """Feed one token id a row; returns a function from rows and candidates (len(rows), K) to their logits."""
        with autocast(self.device):
            logits = self.model(
                decoder_input_ids=torch.tensor(new, device=self.device)[:, None], encoder_outputs=self.read, attention_mask=self.mask,
                past_key_values=self.cache, use_cache=True).logits[:, -1]
        return lambda rows, ids: logits[rows].gather(1, ids.to(logits.device))

    def keep(self, rows):
        """Keep these rows (a tensor of indices), drop the others."""
        self.read.last_hidden_state, self.mask = self.read.last_hidden_state[rows], self.mask[rows]
        self.cache.batch_select_indices(rows)


# ----------------------------------------------------------------------------------------------------
# A causal LM.

class PackedDecoder:
    """Decoding of many sequences with a causal LM: packed, with a shared prompt and a rolling batch.

    Five techniques:
    - *Packed*: the new tokens of all sequences stand in one row without padding, so the linear layers, where nearly all
      the time goes, see only real tokens. A prompt of 40 tokens, three forced tokens of a long word, and a single bracket
      go through the model in the same pass.
    - *Shared prompt*: the keys and values of the few-shot prompt are computed once and kept once, not once a sequence.
    - *In place*: a token attends to its row's keys and values where these stand; they are not gathered for every token.
    - *Read once*: of several outputs of one sentence (`--samples`) the first reads it, the others copy its keys and values.
    - *Rolling*: a finished sequence leaves at once and a waiting one takes its place.
    (With the 270M LLM on two cores: packed 1.7 times as fast as padded, 64 sequences at a time 2.4 times as fast as 8, a word's forced
    tokens in one pass 1.1, in place 1.2 with 65 words a sentence, four outputs of a sentence that is read once 1.3; rolling hardly counts.)
    `model`: any of transformers' causal LMs that calls the attention interface with its keyword arguments; DataError for another. `rows`:
    how many sequences are decoded at a time. `prompt`: token ids that go before each of them.
    """

    def __init__(self, model, rows=128, prompt=()):
        self.model, self.rows = model, rows
        self.keys, self.values = {}, {}                 # per layer: (rows, key-value heads, length, head size)
        self.prompt_keys, self.prompt_values = {}, {}   # per layer: (key-value heads, prompt length, head size)
        self.prompt_length = 0
        model.set_attn_implementation("packed")
        other_layers = set(getattr(model.config, "layer_types", None) or []).difference(("full_attention", "sliding_attention"))
        if model.config._attn_implementation != "packed" or other_layers:
            raise DataError(f"{model.config.model_type}: expected a causal LM whose layers mix tokens by attention alone, through "
                            "transformers' attention interface")
        for begin in range(0, len(prompt), 128):
            chunk = list(prompt[begin:begin + 128])
            self.feed([0] * len(chunk), range(len(chunk)), chunk)
            for layer in self.keys:
                for kept, new in ((self.prompt_keys, self.keys), (self.prompt_values, self.values)):
                    part = new[layer][0, :, :len(chunk)].clone()
                    kept[layer] = torch.cat([kept[layer], part], 1) if layer in kept else part
            self.prompt_length += len(chunk)

    @torch.inference_mode()
    def feed(self, rows, positions, tokens):
        """Run the model on `tokens`, each at its row and its position after the prompt; returns their hidden states."""
        device = self.model.device
        self.row = torch.tensor(rows, device=device)
        self.position = torch.tensor(positions, device=device)
        self.arrange(rows)
        self.seen_in = {}                                               # window -> mask
        with autocast(device):
            return self.model.base_model(
                input_ids=torch.tensor([tokens], device=device), position_ids=self.position[None] + self.prompt_length,
                use_cache=False, packed=self).last_hidden_state[0]

    def attend(self, layer, query, key, value, scaling, window, cap=None):
        """Attention of N packed tokens, each to the prompt and to what its own row holds so far. query: (N, heads, size), as what is
        returned; key, value: (N, key-value heads, size)."""
        length = int(self.position.max()) + 1
        query, key = query.to(value.dtype), key.to(value.dtype)         # rotated in fp32, but multiplied in the type of `value`
        own_keys, own_values = (self.stored(store, layer, new, length) for store, new in ((self.keys, key), (self.values, value)))
        grouped = query.unflatten(1, (key.shape[1], -1))                                    # (N, kv heads, group, size)
        scores = self.with_own(grouped, own_keys.transpose(2, 3))
        # Of the prompt, only what the layer's window lets somebody see: with 20 trees that is the last third.
        seen = min(self.prompt_length, window - 1) if window else self.prompt_length
        if seen:
            scores = torch.cat([self.with_prompt(grouped, self.prompt_keys[layer][:, -seen:].transpose(1, 2)), scores], -1)
        scores = scores.float() * scaling
        if cap:
            scores = torch.tanh(scores / cap) * cap
        weights = scores.masked_fill(~self.visible(window, seen, length), -torch.inf).softmax(-1).to(query.dtype)
        out = self.with_own(weights[..., seen:], own_values)
        if seen:
            out = out + self.with_prompt(weights[..., :seen], self.prompt_values[layer][:, -seen:])
        return out.flatten(1, 2)

    def stored(self, store, layer, new, length):
        """All rows' keys, or values, up to `length`, with the new ones. The store grows by doubling: no copy for every token."""
        if layer not in store:
            store[layer] = new.new_zeros(self.rows, new.shape[1], length, new.shape[2])
        elif store[layer].shape[2] < length:
            room = max(length, 2 * store[layer].shape[2]) - store[layer].shape[2]
            store[layer] = torch.nn.functional.pad(store[layer], (0, 0, 0, room))
        store[layer][self.row, :, self.position] = new
        return store[layer][:, :, :length]

    def arrange(self, rows):
        """Put the new tokens in order by the rows in which they stand. `blocks`: of each block its rows and which tokens stand in them,
        (R, width). Most rows have one or two, so the first block holds two of every row (where there is one, the same twice), and what else
        a row has is a block of its own. `order`: where each token is then found, all blocks one behind the other."""
        places = {}
        for place, row in enumerate(rows):
            places.setdefault(row, []).append(place)
        every = sorted(places)
        # Where all rows are in use, as they mostly are, a slice of what is stored will do, and nothing is copied.
        which = slice(len(every)) if every[-1] < len(every) else torch.tensor(every, device=self.row.device)
        blocks = [(which, [(places[row] * 2)[:2] for row in every])]
        blocks += [(slice(row, row + 1), [places[row][2:]]) for row in every if len(places[row]) > 2]
        found = {place: n for n, place in enumerate(place for _, block in blocks for row in block for place in row)}
        self.order = torch.tensor([found[place] for place in range(len(rows))], device=self.row.device)
        self.blocks = [(which, torch.tensor(block, device=self.row.device)) for which, block in blocks]

    def with_own(self, tokens, own):
        """Each token (N, kv heads, group, …) times what its own row holds (rows, kv heads, …, …)."""
        products = []
        for rows, places in self.blocks:
            together = tokens[places].transpose(1, 2).flatten(2, 3) @ own[rows]             # (R, kv heads, width * group, …)
            products.append(together.unflatten(2, (places.shape[1], -1)).transpose(1, 2).flatten(0, 1))
        return torch.cat(products)[self.order]

    def with_prompt(self, tokens, prompt):
        """All tokens (N, kv heads, group, …) times the one prompt (kv heads, …, …): one product, where a prompt in every row would
        take N small ones."""
        together = tokens.transpose(0, 1).flatten(1, 2) @ prompt                            # (kv heads, N * group, …)
        return together.unflatten(1, (len(tokens), -1)).transpose(0, 1)

    def visible(self, window, seen, length):
        """(N, 1, 1, seen + length): what of the prompt and of its own row each token may see; the same in all such layers."""
        if window not in self.seen_in:
            behind = self.position[:, None] + seen - torch.arange(seen + length, device=self.position.device)
            self.seen_in[window] = ((behind >= 0) & (behind < (window or len(behind[0]) + 1)))[:, None, None]
        return self.seen_in[window]

    @torch.inference_mode()
    def copy_row(self, source, row, length):
        """Let `row` hold the first `length` tokens of the row `source`; returns `length`."""
        for stored in (*self.keys.values(), *self.values.values()):
            stored[row, :, :length] = stored[source, :, :length]
        return length

    def logits_of(self, states):
        """A function from candidates (N, K) to their logits after `states` (N, size)."""
        cap = getattr(self.model.config, "final_logit_softcapping", None)
        return lambda ids: candidate_logits(states, self.model.get_output_embeddings().weight, ids, cap)

    def run(self, cursors, prompts, end, admit=256):
        """Decode, as `choose` says; yields the index of each cursor when it is done. Longest prompts first is best: the end is then short.

        `prompts`: what follows the shared prompt in each cursor's sequence, lists of token ids. `end`: as in `choose`. `admit` bounds the
        prompt tokens that one pass takes in, and so its memory.
        """
        prompts = [tuple(prompt) for prompt in prompts]
        yield from (index for index, cursor in enumerate(cursors) if cursor.done)      # nothing to choose: one word
        waiting = [index for index, cursor in enumerate(cursors) if not cursor.done][::-1]
        active, length, held = {}, {}, {}                           # row -> cursor's index, tokens that it holds, prompt that it holds
        while waiting or active:
            fresh, reading = 0, set()                               # prompt tokens, and prompts, that this pass takes in
            for row in (row for row in range(self.rows) if row not in active):
                # One whose prompt is just being read waits for the next pass, and then copies it.
                index = next((index for index in reversed(waiting) if prompts[index] not in reading), None)
                if index is None:
                    break
                prompt, source = prompts[index], next((other for other in held if held[other] == prompts[index]), None)
                if source is None:
                    if fresh and fresh + len(prompt) > admit:
                        break
                    fresh += len(prompt)
                    reading.add(prompt)
                waiting.remove(index)
                active[row], held[row] = index, prompt
                length[row] = 0 if source is None else self.copy_row(source, row, max(0, len(prompt) - 1))
            rows, positions, tokens, last = [], [], [], []
            for row, index in active.items():
                new = [*prompts[index][length[row]:], *cursors[index].queue]
                cursors[index].queue = []
                rows += [row] * len(new)
                positions += range(length[row], length[row] + len(new))
                tokens += new
                last.append(len(tokens) - 1)
                length[row] += len(new)
            hidden = self.feed(rows, positions, tokens)[last]
            choose([cursors[index] for index in active.values()], self.logits_of(hidden), end)
            for row in [row for row, index in active.items() if cursors[index].done]:
                yield active.pop(row)


def _packed_attention(module, query, key, value, attention_mask, scaling=None, sliding_window=None, softcap=None, packed=None,
                      s_aux=None, **_):
    if s_aux is not None:
        raise DataError(f"{module.config.model_type}: expected a causal LM without attention sinks")
    query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))                 # (N, heads, size)
    scaling = scaling or query.shape[-1] ** -0.5
    return packed.attend(module.layer_idx, query, key, value, scaling, sliding_window, softcap)[None], None


transformers.AttentionInterface.register("packed", _packed_attention)


def fast_bf16(device):
    """Whether bf16 is faster than fp32 here: on GPUs that have it, on CPUs with AMX, and on AMD's with AVX512-BF16. Intel's without
    AMX have those instructions too, but slower than fp32's; elsewhere bf16 is emulated."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    has = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return has.get("amx_bf16", False) or (has.get("avx512_bf16", False) and not has["cpu_name"].startswith("Intel"))


def fast_dtype(device):
    """The type in which this device multiplies matrices fastest."""
    return torch.bfloat16 if fast_bf16(device) else torch.float32


def autocast(device):
    """Matrix products in `fast_dtype`; weights stay as they are."""
    return torch.autocast(device.type, torch.bfloat16, enabled=fast_bf16(device))


@contextmanager
def converted_once(model):
    """Inside, the weights of the linear layers are in `fast_dtype`: autocast would convert them, all of them, at every step,
    to the same numbers: the LLM labels 1.2 times as fast. Afterwards the model is what it was."""
    output = model.get_output_embeddings()                              # of which only a few rows are read
    weights = [module.weight for module in model.modules() if isinstance(module, torch.nn.Linear) and module is not output]
    kept = [weight.data for weight in weights]
    try:
        for weight in weights:
            weight.data = weight.data.to(fast_dtype(model.device))
        yield
    finally:
        for weight, data in zip(weights, kept):
            weight.data = data
