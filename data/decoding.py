"""Decoding under a task's constraint, for any tokenizer and model.

A task speaks of pieces (words, brackets, tags); a model speaks of tokens. A Cursor stands between them: it knows which
tokens may come next in one output, takes what is forced without asking the model, and asks only where there is a choice.
Cursors serve every model: packed.py drives many of them with a causal LM, `write_batch` below with an encoder-decoder.
"""
import copy
import sys

import torch
from transformers import DynamicCache, EncoderDecoderCache

from data.models import autocast
from data.splits import Label
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
            ids = tuple(unknown if i == pad else i for i in ids)                # the word <pad> is not to become padding
            if piece and not ids:               # a word of characters that the tokenizer drops: it must not vanish
                ids = (unknown,)
            if len(self.known) < self.most:
                self.known[piece] = ids
        return ids

    def all(self, pieces):
        return [token for piece in pieces for token in self(piece)]


def those_that_fit(order, inputs, lengths, task, encode, room, apart=False):
    """(fits, too_long): of `order`, indices of inputs, those that the model has room for, and (index, Label) of the others, with the
    task's fallback; says how many these are.

    An input needs room for its own tokens (`lengths`) and for the longest output that there may be about it: its words once more, with
    two brackets a word (trees) or one tag a word (slots), and an end; free text for as many tokens again. `room`: in tokens, of both
    together or, with `apart`, of each (an encoder-decoder's).
    """
    symbol = max((len(encode(symbol)) for symbol in task.symbols), default=1) * (2 if task.kind == "tree" else 1)
    fits, too_long = [], []
    for i in order:
        output = lengths[i] if task.kind == "text" else 1 + sum(len(encode(word)) + symbol for word in task.copied(inputs[i]))
        needed = output if apart else lengths[i] + output               # (an input is no longer than its output)
        (fits if needed < room else too_long).append(i)
    if too_long:
        print(f"{len({inputs[i] for i in too_long})} inputs are longer than the model takes; they get {task.last_resort}", file=sys.stderr)
    return fits, [(i, Label(inputs[i], task.fallback(inputs[i]))) for i in too_long]


class Cursor:
    """One output in the making.

    `queue` holds the tokens decided on but not yet fed to the model. When it is empty, `options()` are the tokens that may
    come next and `choose` takes one. `done` says that the output is complete; what is then left in `queue` need not be fed.
    `rng` is a random.Random of its own if its options are to be drawn; all cursors of a batch have one, or none has.
    """

    def __init__(self, task, input, encode, rng=None):
        self.task, self.encode, self.rng = task, encode, rng
        self.state = task.start(split_words(input))
        self.queue, self.pieces = [], []
        self.live, self.depth = [], 0           # the pieces still possible here, and how many tokens of them are written
        self.done, self.logprob, self.choices = False, 0.0, 0
        self._settle()

    def _settle(self):
        """Take every piece that is forced, up to the next choice or the end."""
        while True:
            pieces = self.state.choices()
            live = {}
            # `(` and a fullwidth one may be the same tokens, which a model cannot tell apart: the first stands for both.
            for piece in pieces:
                live.setdefault(self.encode(piece), piece)
            if len(live) > 1:
                self.live, self.depth = [(piece, ids) for ids, piece in live.items()], 0
                self._take_forced()
                return
            if not pieces:
                self.done = True
                return
            self.queue.extend(self.encode(pieces[0]))
            self._take(pieces[0])

    def _take(self, piece):
        self.pieces.append(piece)
        self.state.take(piece)

    def _take_forced(self):
        """Where all pieces that are still possible go on with one token, as tags that begin alike, take it."""
        if len(forced := self.options()) == 1:
            self.choices -= 1
            self.choose(forced[0], 0.0)

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
                self.choices -= 1                   # but the model has decided once
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
        else:
            self._take_forced()

    def result(self):
        """(output, score): the score is the mean log-probability of the choices made, 0.0 where none was open."""
        return self.task.write(self.pieces), round(self.logprob / max(1, self.choices), 6)


class FreeCursor:
    """An output about which the task assumes nothing: any of `vocabulary` may come next, until `end` or `limit` tokens."""

    def __init__(self, tokenizer, end, limit, vocabulary, rng=None):
        self.tokenizer, self.end, self.limit, self.vocabulary, self.rng = tokenizer, end, limit, vocabulary, rng
        self.queue, self.tokens = [], []
        self.done, self.logprob, self.choices = False, 0.0, 0

    def options(self):
        return self.vocabulary

    def choose(self, token, logprob):
        self.logprob += logprob
        self.choices += 1
        if token in self.end:
            self.done = True
        else:
            self.tokens.append(token)
            self.queue.append(token)
            self.done = len(self.tokens) == self.limit

    def result(self):
        text = self.tokenizer.decode(self.tokens, skip_special_tokens=True).strip(" \t\r\n")
        return text, round(self.logprob / max(1, self.choices), 6)


def output_room(task, length, free=False):
    """How many tokens an output about an input of `length` tokens takes: a free one at most, else as is to be expected."""
    return 32 + 4 * length + 4 * getattr(task, "longest", 0) if free else 3 * length


def make_cursor(task, input, encode, end, length, vocabulary=None, room=10 ** 9, rng=None):
    """The cursor for one output of this task, bound by its constraint; with a `vocabulary`, a tensor of the token ids that it
    may use, a free one. That ends after 32 tokens, 4 for each of its input's (`length` in all) and 4 for each word of the longest labeled
    output, or where the model has no more `room` (in tokens). `rng`: as in Cursor."""
    if vocabulary is None:
        return Cursor(task, input, encode, rng)
    return FreeCursor(encode.tokenizer, end, min(room, output_room(task, length, free=True)), vocabulary, rng)


def choose(cursors, logits_of, end):
    """Let every cursor take its likeliest option or, if they have an `rng`, one drawn by its probability. `end`: a list of the token
    ids that end an output; where a constrained one may end or go on, the likeliest of them stands for its end.

    `logits_of(ids)` gives the logits of the candidates, (cursors, K) for a (cursors, K) tensor of token ids: only these few
    rows of the output matrix are ever computed, not the whole vocabulary.
    """
    options = [cursor.options() for cursor in cursors]
    if isinstance(cursors[0], FreeCursor):                              # free text: one list for all
        ids, real = torch.as_tensor(options[0]).expand(len(cursors), -1), None
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
    if cursors[0].rng:                           # each of its own, so that what it draws does not depend on who else is in the batch
        upto = logprobs.exp().cumsum(-1)
        drawn = torch.tensor([[cursor.rng.random()] for cursor in cursors], dtype=torch.float64)
        taken = (upto <= drawn * upto[:, -1:]).sum(-1, keepdim=True)
    else:
        taken = logprobs.argmax(-1, keepdim=True)
    for cursor, which, logprob, own in zip(cursors, taken[:, 0].tolist(), logprobs.gather(1, taken)[:, 0].tolist(), options):
        cursor.choose(int(own[which]), logprob)


@torch.no_grad()
def candidate_logits(states, output_matrix, ids, cap=None):
    """(N, K) logits of the candidates `ids` (N, K) after `states` (N, size): only these rows of the output matrix are read, a
    few dozen instead of 32,128 or 262,144. (The LLM labels 2.5 times as fast; for `tiny` it counts for nothing.) `cap`: as in
    `softcapped`."""
    if len(ids) == 1 or ids.stride(0) == 0:                         # one row, or the same candidates for all: one matrix product
        every = ids.shape[1] == len(output_matrix)                  # and free text may use them all: nothing to pick out
        found = states.float() @ (output_matrix if every else output_matrix[ids[0].to(states.device)]).float().T
    else:
        found = torch.einsum("nd,nkd->nk", states.float(), output_matrix[ids.to(states.device)].float())
    return softcapped(found, cap)


def softcapped(scores, cap):
    """`scores` squashed to between -cap and cap, as Gemma 2's are, or where `cap` is None as they are."""
    return torch.tanh(scores / cap) * cap if cap else scores


# ----------------------------------------------------------------------------------------------------
# An encoder-decoder.

STAY = 0.75             # once at most this share of a batch's sentences is unfinished, the finished ones leave it


def write_batch(cursors, decoder, start, pad, end):
    """Let the cursors of one batch write their outputs, with an AnyDecoder or T5Decoder of as many rows. Finished ones leave: 1.3 times as
    fast as all staying. `start`, `pad`, `end`: the token ids that begin an output, stand in for none, and (a list) end one."""
    for cursor in cursors:
        cursor.queue.insert(0, start)
    while going_on := [n for n, cursor in enumerate(cursors) if not cursor.done]:
        if len(going_on) <= STAY * len(cursors):
            cursors = [cursors[n] for n in going_on]
            decoder.keep(torch.tensor(going_on, device=decoder.mask.device))
        logits_of = decoder.feed([cursor.queue.pop(0) if cursor.queue else pad for cursor in cursors])
        asked = [n for n, cursor in enumerate(cursors) if not cursor.queue and not cursor.done]
        if asked:
            choose([cursors[n] for n in asked], lambda ids: logits_of(asked, ids), end)


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
