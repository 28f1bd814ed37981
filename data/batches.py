"""Token arrays and batches: what training and labelling hand to a model."""
from array import array
from tempfile import SpooledTemporaryFile

import torch


class TokenArrays:
    """Many (source, target) pairs of token ids below `vocabulary_size`, one after another: 2 bytes a token where that is enough, as for
    `tiny`, and else 4; a list takes 8 and more. Of a large pool they lie in an unnamed file that goes when they do."""

    def __init__(self, pairs, vocabulary_size):
        self.tokens = SpooledTemporaryFile(2 ** 25)                     # in memory up to 32 MiB
        self.type, self.ends = "H" if vocabulary_size <= 2 ** 16 else "i", array("q", [0])          # ends are in bytes
        for pair in pairs:
            for ids in pair:
                self.ends.append(self.ends[-1] + self.tokens.write(array(self.type, ids).tobytes()))

    def __del__(self):
        self.tokens.close()

    def __len__(self):
        return len(self.ends) // 2

    def __getitem__(self, i):
        if not 0 <= i < len(self):
            raise IndexError(i)
        begin, middle, end = self.ends[2 * i:2 * i + 3]
        self.tokens.seek(begin)
        return tuple(array(self.type, self.tokens.read(length)).tolist() for length in (middle - begin, end - middle))


def length_bucketed_batches(lengths, batch_size, rng):
    """One epoch's batches, lists of indices into `lengths` (tokens), each of examples of similar length, so that little of a batch is
    padding (`tiny` trains 1.1 times as fast as with random ones). Examples are dealt at random into stretches of 32 batches, and sorted by
    length within each; the batches then come in random order. `rng`: a random.Random."""
    order = list(range(len(lengths)))
    rng.shuffle(order)
    batches = []
    for begin in range(0, len(order), 32 * batch_size):
        stretch = sorted(order[begin:begin + 32 * batch_size], key=lengths.__getitem__)
        batches += [stretch[i:i + batch_size] for i in range(0, len(stretch), batch_size)]
    rng.shuffle(batches)
    return batches


def labelling_batches(order, lengths, batch_size, most_tokens=32_768, most_pairs=2 ** 24):
    """The indices of `order`, longest first by `lengths` (tokens of every source), in batches of `batch_size`, and fewer where the padded
    batch would have more than `most_tokens`, or `most_pairs` of tokens that attend to each other: of the longest sentences a corpus may
    have a few that are ten times as long as the others."""
    begin = 0
    while begin < len(order):
        longest = lengths[order[begin]]
        batch = order[begin:begin + max(1, min(batch_size, most_tokens // longest, most_pairs // longest ** 2))]
        yield batch
        begin += len(batch)


def padded(rows, value, device):
    """Lists of token ids as a (rows, longest) tensor, filled up with `value` at their ends."""
    longest = max(map(len, rows))
    return torch.tensor([list(row) + [value] * (longest - len(row)) for row in rows], device=device)
