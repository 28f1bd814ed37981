"""The vocabulary of `tiny`: SentencePiece's, trained on the run's own inputs, with whole words and the task's symbols beside it."""
import io
import math
from collections import Counter

import sentencepiece
from tokenizers.pre_tokenizers import Metaspace
from transformers import AddedToken, T5Tokenizer

from data.models import first_line
from data.splits import DataError
from data.trees import split_words

PAD, END, UNKNOWN = "\npad", "\nend", "\nunknown"         # no text holds these: <pad>, </s> and <unk> may be words of it


def train_tokenizer(texts, symbols, size=4000):
    """A SentencePiece unigram vocabulary trained on the texts; every bracket or tag in `symbols` is an item of its own. What is copied,
    as words beside symbols are, may hold unknown characters; free text may not. DataError for texts that SentencePiece learns nothing
    from."""
    trained, size = io.BytesIO(), max(size, len(set().union(*texts)) + 8)        # room for every character, pad, eos, unk
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(text.replace("\u2585", " ") for text in texts), model_writer=trained, vocab_size=size,
            hard_vocab_limit=False, num_threads=1, character_coverage=0.9995 if symbols else 1.0, max_sentence_length=10 ** 9,
            normalization_rule_name="identity",
            pad_id=0, pad_piece=PAD, eos_id=1, eos_piece=END, unk_id=2, unk_piece=UNKNOWN, bos_id=-1, minloglevel=2)
    except RuntimeError as error:                           # U+2581 is its space; and it would leave out whole texts for one U+2585
        raise DataError(f"expected inputs with characters other than U+2581 and U+2585 ({first_line(error)})") from None
    unigram = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())
    # A symbol is added below. If the letter O were an item, too, the tag O would be the same one, and the O of CHO no part of a word.
    vocabulary = {unigram.id_to_piece(i): unigram.get_score(i) for i in range(len(unigram)) if unigram.id_to_piece(i) not in symbols}
    # Of a small corpus SentencePiece keeps few whole words, though most are worth an item: sequences get half as long.
    counts = Counter(word for text in texts for word in split_words(text))
    for word, count in counts.most_common(size - len(vocabulary)):
        if count > 1:
            vocabulary.setdefault(f"▁{word}", math.log(count / counts.total()))
    tokenizer = T5Tokenizer(list(vocabulary.items()), pad_token=PAD, eos_token=END, unk_token=UNKNOWN, extra_ids=0)
    tokenizer.add_tokens([AddedToken(symbol, single_word=symbol not in "()") for symbol in symbols])
    return tokenizer if symbols else parted_by_spaces(tokenizer)


def parted_by_spaces(tokenizer):
    """The tokenizer of free text, to which other white space, such as a no-break space, is a character like any other: T5's drops it."""
    tokenizer.backend_tokenizer.pre_tokenizer = Metaspace()
    return tokenizer
