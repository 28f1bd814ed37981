"""Greedy decoding under a task's constraint, token by token, for any tokenizer.

A task speaks of pieces (words, brackets, tags); a model speaks of tokens. A Cursor stands between them: it knows which
tokens may come next in one output, takes what is forced without asking the model, and asks only where there is a choice.
"""
import copy

import torch

from data.trees import split_words


class PieceEncoder:
    """Piece -> token ids as they stand in the middle of a text, remembered, so that each piece is tokenised once.

    Training targets and decoded outputs are both made of these, so a model is asked for exactly what it was taught.
    """

    def __init__(self, tokenizer):
        self.tokenizer, self.known = tokenizer, {}
        self.lead = len(tokenizer("x", add_special_tokens=False).input_ids)

    def __call__(self, piece):
        ids = self.known.get(piece)
        if ids is None:
            ids = tuple(self.tokenizer("x " + piece, add_special_tokens=False).input_ids[self.lead:])
            self.known[piece] = ids
        return ids

    def all(self, pieces):
        return [token for piece in pieces for token in self(piece)]


class Cursor:
    """One output in the making.

    `queue` holds the tokens decided on but not yet fed to the model. When it is empty, `options()` are the tokens that may
    come next and `choose` takes one. `done` says that the output is complete; what is then left in `queue` need not be fed.
    """

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
            if len(pieces) > 1:
                self.live, self.depth = [(piece, self.encode(piece)) for piece in pieces], 0
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
        text = self.tokenizer.decode(self.tokens, skip_special_tokens=True).strip()
        return text, round(self.logprob / (len(self.tokens) + 1), 6)


def make_cursor(task, input, encode, end, limit, vocabulary):
    """The cursor for one output of this task. `vocabulary` is the list of token ids that free text may use."""
    if task.kind == "text":
        return FreeCursor(encode.tokenizer, end, limit, vocabulary)
    return Cursor(task, input, encode)


def choose_greedily(cursors, logits_of, end):
    """Let every cursor take its likeliest option.

    `logits_of(ids)` gives the logits of the candidates, (cursors, K) for a (cursors, K) tensor of token ids: only these few
    rows of the output matrix are ever computed, not the whole vocabulary.
    """
    options = [cursor.options() for cursor in cursors]
    shared = options[0] if all(ids is options[0] for ids in options) else None      # free text: one list for all
    width = max(map(len, options))
    if shared is not None:
        ids = torch.tensor(shared).expand(len(cursors), -1)
        real = None
    else:
        ids = torch.tensor([[min(end) if i < 0 else i for i in x] + [0] * (width - len(x)) for x in options])
        real = torch.arange(width) < torch.tensor([len(x) for x in options])[:, None]
    logits = logits_of(ids).float().cpu()
    if real is not None:
        logits = logits.masked_fill(~real, -torch.inf)
    logprobs, best = logits.log_softmax(-1).max(-1)
    for cursor, which, logprob, ids in zip(cursors, best.tolist(), logprobs.tolist(), options):
        cursor.choose(ids[which], logprob)
