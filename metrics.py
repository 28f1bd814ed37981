"""Scores for trees, slots and text, and the agreement of two sets of labels.

    python metrics.py gold.txt predicted.txt --metric bracket
    python metrics.py gold.txt predicted.txt --metric evalb --json
    python metrics.py gold.tags predicted.tags --metric slots --per-sentence

Every score is a dict with the same keys, in percent from 0 to 100:

    n             how many sentences were scored
    precision, recall, f1
    complete      share of the n sentences that are right in full
    valid         share of the predictions that could be read as an answer about their sentence (of the n; for evalb, which
                  leaves the others out, of all)
    left_out      how many sentences the score has nothing to say about (bracket and evalb only); they are not in n
    per_sentence  {"precision", "recall", "f1"} for every sentence, None for those left out (from --json an object of three
                  nulls)

A predicted tree may be written in any of these ways, here for the gold `(S (NP (DT The) (NN cat)) (VP (VBD sat)))`:

    (S (NP (DT The) (NN cat)) (VP (VBD sat)))     Penn
    (S (NP The cat) (VP sat))                     labels without part-of-speech tags: a token glued to its bracket is a label
    ( ( The cat ) sat )  or  ((The cat) sat)      without labels: evalb finds no bracket right in it

Four different scores are called F1 here. `bracket_scores` is the paper's: unlabelled, a mean over sentences.
`evalb_scores` is what parsers usually report: labelled, counted over the whole corpus. `slot_scores` counts chunks over the
whole corpus, `text_scores` tokens, a mean over sentences. Their numbers are not comparable with each other.
"""

import json
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache, partial
from itertools import accumulate

from data.command import CommandLine, run_command
from data.splits import DataError, open_file, read_jsonl, read_lines, read_pseudolabels
from data.tasks import BIO, SlotTask, without_words
from data.trees import Tree, clean, escape, mend, read_bare, read_labelled, read_penn, read_tree, split_words, unescape


class GoldError(ValueError):
    """Gold that cannot be gold. `number` says which item, counted from 1. (A bad prediction is no error: it scores 0.)"""

    def __init__(self, number: int, problem: str):
        super().__init__(f"gold item {number}: {problem}")
        self.number, self.problem = number, problem


def _percent(part: float, whole: float) -> float:
    return 100.0 * part / whole if whole else 0.0


def _prf(matched: int, n_gold: int, n_pred: int) -> dict:
    # 2·matched / (gold + predicted) is the harmonic mean of the two, and stays defined where both are 0.
    return {"precision": _percent(matched, n_pred), "recall": _percent(matched, n_gold),
            "f1": _percent(2 * matched, n_gold + n_pred)}


def _summary(counts: list[tuple | None], mean: bool) -> dict:
    # The score of counts (matched, in gold, predicted, whether right in full, whether valid), one a sentence, None for one that is left
    # out: the mean over sentences, or of all counts together.
    scored = [each for each in counts if each]
    per_sentence = [each and _prf(*each[:3]) for each in counts]
    sums = [sum(each) for each in zip(*scored)] or [0] * 5
    found = _prf(*sums[:3])
    if mean:
        found = {key: sum(each[key] for each in per_sentence if each) / max(1, len(scored)) for key in found}
    return {"n": len(scored), **found, "complete": _percent(sums[3], len(scored)), "valid": _percent(sums[4], len(scored)),
            "per_sentence": per_sentence}


def _items(gold: list[str], pred: list[str], inputs: list[str] | None) -> Iterator[tuple[str, str, str | None]]:
    # (gold, prediction, input) of every item; without `inputs` the third is None.
    for other in (pred, *([] if inputs is None else [inputs])):
        if len(other) != len(gold):
            raise ValueError(f"expected as many items on both sides: {len(gold)} and {len(other)}")
    return zip(gold, pred, inputs or [None] * len(gold))


# ----------------------------------------------------------------------------------------------------
# Unlabelled brackets, as the paper scores them

WORD_TAGS = frozenset("""CC CD DT EX FW IN JJ JJR JJS LS MD NN NNS NNP NNPS PDT POS PRP PRP$ RB RBR RBS RP SYM TO UH
                         VB VBD VBG VBN VBP VBZ WDT WP WP$ WRB""".split())
OTHER_TAGS = frozenset(""", . : `` '' # $ -LRB- -RRB- -LSB- -RSB- -LCB- -RCB- -NONE- -DFL- HYPH AFX ADD BES CODE GW HVS NFP
                          XX""".split())                   # of Penn-style treebanks, too; the paper's list of words has none of them
NOT_PENN = ("words whose gold tags are not the Penn Treebank's do not count (in bare trees, ( ( The cat ) sat . ), which have neither "
            "labels nor tags, they all would)")


def bracket_scores(gold: list[str], pred: list[str], inputs: list[str] | None = None) -> dict:
    """Unlabelled bracket F1, the mean over sentences (the paper's parsing score).

    Only words count: a leaf is dropped, from gold and prediction by its position, unless its gold tag is one of WORD_TAGS.
    What is compared is the *set* of spans over two and more of the remaining leaves, the whole sentence's included. The
    prediction is mended first; one that still cannot be read, or whose words are not the sentence's, scores 0.

    A gold tree is Penn, or any other where there are no tags: then punctuation is told by its characters (`is_punctuation`).
    (Of another treebank's tags most are not among WORD_TAGS, so their words do not count: `foreign_tags`.)
    `inputs`, one sentence a string, decide which it is where both could be; without them Penn goes first.

    Two departures from the authors' code, which (1) compares only how many words there are, so that a changed word goes
    unseen, and (2) gives 0 to a sentence without any gold span: no parser can do better, so it is left out and counted.

    Raises GoldError for gold that is not a tree, or not a tree over its input.
    """
    counts = []
    for number, (gold_text, pred_text, sentence) in enumerate(_items(gold, pred, inputs), 1):
        gold_tree = _read_gold(number, gold_text, sentence)
        if tags := _pos_tags(gold_tree):
            keep = [tag in WORD_TAGS for tag in tags]
        else:
            keep = [not is_punctuation(word) for word in gold_tree.words]
        gold_spans = _spans(gold_tree, keep)
        pred_spans = _predicted_spans(pred_text, gold_tree.words, keep)
        valid, pred_spans = pred_spans is not None, pred_spans or set()
        counts.append((len(gold_spans & pred_spans), len(gold_spans), len(pred_spans), pred_spans == gold_spans, valid)
                      if gold_spans else None)
    return {**_summary(counts, mean=True), "left_out": counts.count(None)}


def foreign_tags(gold: list[str], inputs: list[str] | None = None) -> list[str]:
    """The tags of these gold trees that are none of Penn's, sorted: `bracket_scores` does not count their words. GoldError as there."""
    trees = (_read_gold(number, text, sentence) for number, (text, _, sentence) in enumerate(_items(gold, gold, inputs), 1))
    return sorted({tag for tree in trees for tag in _pos_tags(tree) or ()} - WORD_TAGS - OTHER_TAGS)


@lru_cache(maxsize=65536)
def is_punctuation(word: str) -> bool:
    """Whether a word would be tagged as punctuation, judged by its characters alone.

    True if all of them are Unicode punctuation, currency signs or modifiers such as the backtick (of which Penn makes its
    opening quotes). `%` and `&` are words: Penn tags them NN and CC. So are mathematical signs, which it tags SYM.
    """
    return all(unicodedata.category(char)[0] == "P" or unicodedata.category(char) in ("Sc", "Sk") for char in word) \
        and word not in ("%", "&")


def _read_gold(number: int, text: str, sentence: str | None) -> Tree:
    # The gold tree of item `number`, over its sentence where that is known; GoldError where there is none.
    try:
        if sentence is not None:
            return read_tree(text, split_words(sentence))
        try:
            tree = clean(read_penn(text))
        except ValueError as not_penn:
            try:
                return read_bare(text)
            except ValueError:
                raise not_penn from None
        if not tree.words:
            raise ValueError("expected a Penn tree: every word of it is a trace")
        return tree
    except ValueError as error:
        raise GoldError(number, str(error)) from None


def _pos_tags(tree: Tree) -> list[str] | None:
    # None where there are none; in `(S (NP mice) (VP died))` what stands in their places are constituents.
    return None if tree.tags is None or _PHRASES.issuperset(tree.tags) else tree.tags


def _spans(tree: Tree, keep: list[bool]) -> set[tuple[int, int]]:
    # The spans of two and more kept leaves, in positions among the kept leaves.
    here = [0, *accumulate(keep)]
    return {(here[start], here[end]) for _, start, end in tree.spans if here[end] - here[start] > 1}


def _predicted_spans(text: str, words: list[str], keep: list[bool]) -> set[tuple[int, int]] | None:
    # None for a prediction that is no tree over these words.
    try:
        return _spans(read_tree(mend(text), words), keep)
    except ValueError:
        return None


# ----------------------------------------------------------------------------------------------------
# Labelled brackets, as EVALB scores them

_DELETED = frozenset(["TOP", "-NONE-", ",", ":", "``", "''", "."])      # COLLINS.prm's DELETE_LABEL
_PHRASES = frozenset("""ADJP ADVP CONJP FRAG INTJ LST NAC NML NP NX PP PRN PRT QP RRC S SBAR SBARQ SINV SQ UCP
                        VP WHADJP WHADVP WHNP WHPP X""".split())     # the Penn Treebank's constituents


def evalb_scores(gold: list[str], pred: list[str], inputs: list[str] | None = None) -> dict:
    """Labelled bracket F1 over the corpus: EVALB (Sekine and Collins, 1997-2013) with its parameter file COLLINS.prm.

    Its rules, in its order. A leaf whose tag is in DELETE_LABEL is deleted; other tags are not scored. A constituent left
    without leaves is deleted; labels are cut at their first `-` or `=`; a constituent whose label is then in DELETE_LABEL
    (in effect TOP) is deleted. ADVP and PRT are one label. Brackets of one word count, and so does each of several equal
    brackets, and the treebank's empty outer bracket, with its empty label. A sentence whose prediction is empty,
    unreadable, or has other leaves after deletion is left out of everything (EVALB's "skip" and "error"), so look at
    `valid` before praising an F1. "complete" is a share of the sentences that were scored.

    Four differences. Predictions without tags, which EVALB cannot read, take gold's for what to delete: `(S (NP The cat)
    (VP sat))` is scored by its labels, also where every constituent is one word, as in `(S (NP mice) (VP died))`; brackets
    without labels match nothing. Escapes are undone before words are compared, so `1\\/2` is `1/2`. F1 is 0 where EVALB
    prints nan. In a tree with tags a bracket without leaves, an inner one without a label, or another tree behind it
    makes it unreadable.

    Raises GoldError for gold that is not a Penn tree. (`inputs` are there as in the other scores: nothing depends on them.)
    """
    counts = []
    for number, (gold_text, pred_text, _) in enumerate(_items(gold, pred, inputs), 1):
        try:
            gold_tree = read_penn(gold_text)
        except ValueError as error:
            raise GoldError(number, str(error)) from None
        gold_words, gold_brackets = _evalb_view(gold_tree)
        pred_brackets = _evalb_prediction(pred_text, gold_tree, gold_words)
        counts.append(None if pred_brackets is None else ((gold_brackets & pred_brackets).total(), gold_brackets.total(),
                                                          pred_brackets.total(), gold_brackets == pred_brackets, True))
    found = _summary(counts, mean=False)
    return {**found, "valid": _percent(found["n"], len(gold)), "left_out": counts.count(None)}


def _evalb_view(tree: Tree) -> tuple[list[str], Counter]:
    # The words and the labelled brackets that EVALB has before it when it begins to compare.
    words, here = [], [0]
    for word, tag in zip(tree.words, tree.tags):
        if tag not in _DELETED:
            words.append(word)
        here.append(len(words))
    brackets = Counter()
    for label, start, end in tree.spans:
        if here[start] < here[end]:
            label = label and _cut(label)                               # "" and None stay what they are
            if label not in _DELETED:
                brackets["ADVP" if label == "PRT" else label, here[start], here[end]] += 1
    return words, brackets


def _cut(label: str) -> str:
    return label.partition("-")[0].partition("=")[0]


def _phrases_as_tags(tree: Tree, gold: Tree) -> list[tuple[str, int, int]]:
    # In `(NP mice)` the constituent of a word without a tag stands where a tag would. Where a tag of another treebank stands,
    # `(DET The)`, words do have tags, and what looks like a constituent, `(X foo)`, is one of these.
    labels = _PHRASES.union(_cut(label) for label, _, _ in gold.spans) - {""}
    known = {*labels, *gold.tags, *WORD_TAGS}
    if any(tag not in known and _cut(tag) not in known and tag[:1].isalpha() for tag in tree.tags):
        return []
    return [(tag, i, i + 1) for i, tag in enumerate(tree.tags) if _cut(tag) in labels and tag not in gold.tags]


def _evalb_prediction(text: str, gold: Tree, gold_words: list[str]) -> Counter | None:
    # None where EVALB reports an error, or skips the sentence because nothing is left of the prediction.
    if not gold_words:
        return None
    try:
        tree = read_penn(text)
        words, brackets = _evalb_view(Tree(tree.words, tree.tags, tree.spans + _phrases_as_tags(tree, gold)))
        if words == gold_words:
            return brackets
    except ValueError:
        pass
    leaves = [(word, tag) for word, tag in zip(gold.words, gold.tags) if tag != "-NONE-"]
    for read in (read_bare, read_labelled):
        try:
            tree = read(text)
        except ValueError:
            continue
        if tree.words == [word for word, _ in leaves]:
            # None is no label, which is not the label "". A tag that a word has all the same, (VBD sat), is no constituent.
            spans = [(None if read is read_bare else label, start, end) for label, start, end in tree.spans
                     if end - start > 1 or label not in WORD_TAGS and label != leaves[start][1]]
            return _evalb_view(Tree(tree.words, [tag for _, tag in leaves], spans))[1]
    return None


# ----------------------------------------------------------------------------------------------------
# Slots, as conlleval scores them

def slot_scores(gold: list[str], pred: list[str], inputs: list[str] | None = None) -> dict:
    """Chunk F1 over the corpus, as conlleval and seqeval (in its default mode) count it.

    Items are BIO tags separated by spaces, `O O B-city I-city`; where the `inputs` are known they may stand between their words.
    A chunk is right if label, start and end are. A prediction with another number of tags than gold, or with something that is no
    tag, counts as all O and is not valid.
    Where there is nothing to divide by the score is 0, as theirs is: also for a sentence rightly tagged all O, whose
    "per_sentence" entry says nothing ("complete" does count it).

    Raises GoldError for gold that is not made of tags `O`, `B-label`, `I-label`.
    """
    counts = []
    for number, (gold_text, pred_text, sentence) in enumerate(_items(gold, pred, inputs), 1):
        gold_tags = without_words(split_words(sentence or ""), split_words(gold_text))
        for position, tag in enumerate(gold_tags, 1):
            if not BIO.fullmatch(tag):
                raise GoldError(number, f"expected BIO tags (O, B-label, I-label): tag {position} is `{tag}`")
        if not gold_tags:
            raise GoldError(number, "expected BIO tags (O, B-label, I-label): there are none")
        pred_tags = _predicted_tags(pred_text, len(gold_tags), sentence)
        valid = pred_tags is not None
        gold_chunks, pred_chunks = chunks(gold_tags), chunks(pred_tags or [])
        counts.append((len(gold_chunks & pred_chunks), len(gold_chunks), len(pred_chunks), valid and pred_chunks == gold_chunks, valid))
    return _summary(counts, mean=False)


def chunks(tags: list[str]) -> set[tuple[str, int, int]]:
    """The (label, start, end) of every chunk, end exclusive.

    As in conlleval an I that continues nothing (after O, or after another label) begins a chunk of its own.
    """
    found = set()
    start, current = None, ""
    for position, tag in enumerate([*tags, "O"]):
        prefix, _, label = tag.partition("-")
        if start is not None and not (prefix == "I" and label == current):
            found.add((current, start, position))
            start = None
        if start is None and prefix != "O":
            start, current = position, label
    return found


def _predicted_tags(text: str, count: int, sentence: str | None = None) -> list[str] | None:
    # None for a prediction that is not `count` tags.
    tags = without_words(split_words(sentence or ""), split_words(text))
    return tags if len(tags) == count and all(map(BIO.fullmatch, tags)) else None


# ----------------------------------------------------------------------------------------------------
# Any other text

def text_scores(gold: list[str], pred: list[str], inputs: list[str] | None = None) -> dict:
    """Exact match ("complete") and token F1, the mean over items, in the manner of SQuAD (Rajpurkar et al., 2016).

    The tokens are those between spaces, compared as a multiset; nothing is lowercased or stripped. Two empty texts agree in
    full. A prediction is valid if it is not empty. (`inputs` are there as in the other scores: nothing depends on them.)
    """
    counts = []
    for gold_text, pred_text, _ in _items(gold, pred, inputs):
        gold_tokens, pred_tokens = split_words(gold_text), split_words(pred_text)
        in_both = (Counter(gold_tokens) & Counter(pred_tokens)).total()
        found = (in_both, len(gold_tokens), len(pred_tokens)) if gold_tokens or pred_tokens else (1, 1, 1)
        counts.append((*found, gold_tokens == pred_tokens, bool(pred_tokens)))
    return _summary(counts, mean=True)


# ----------------------------------------------------------------------------------------------------
# What the rest of the project calls

SCORES = {"tree": bracket_scores, "slots": slot_scores, "text": text_scores}


def score(kind: str, gold: list[str], pred: list[str], inputs: list[str] | None = None) -> dict:
    """The score of a kind of task, "tree", "slots" or "text". `inputs` are the sentences, words separated by spaces."""
    _check_kind(kind)
    return SCORES[kind](gold, pred, inputs)


def _check_kind(kind: str) -> None:
    if kind not in SCORES:
        raise ValueError(f"expected the kind of task to be tree, slots or text, not `{kind}`")


def agreement(kind: str, a: list[str], b: list[str], inputs: list[str]) -> float | None:
    """The F1, 0 to 100, between two sets of labels of which neither is gold, such as a student's and its teacher's.

    It is the same in both directions. For trees punctuation is told by its characters, there being no tags; sentences
    of fewer than two words are left out. A label that is no valid answer agrees with nothing. None where there is nothing to compare:
    no such sentence, or no slot on either side.
    """
    _check_kind(kind)
    counts = []
    for *texts, sentence in _items(a, b, inputs):
        words = split_words(sentence)
        if kind == "slots":
            found = [chunks(_predicted_tags(text, len(words), sentence) or []) for text in texts]
        elif kind == "text":                # two empty texts are no answers
            found = [split_words(text) for text in texts]
        else:
            keep = [not is_punctuation(unescape(word)) for word in words]
            found = [_predicted_spans(text, words, keep) or [] for text in texts] if sum(keep) > 1 else None
        if found and (kind != "slots" or any(found)):
            one, other = map(Counter, found)
            counts.append(((one & other).total(), one.total(), other.total(), False, False))
    return _summary(counts, mean=kind != "slots")["f1"] if counts else None


# ----------------------------------------------------------------------------------------------------
# Command line

METRICS = {"bracket": bracket_scores, "evalb": evalb_scores, "slots": slot_scores, "text": text_scores}


def read_items(path: str, read_rows=read_pseudolabels) -> tuple[list[str], list[str]]:
    """The items of a file, one a line, and the inputs that they are about: of JSON Lines, read by `read_rows`, every row's "output" and
    "input"; of other text the lines, and no inputs. Raises DataError with one line that names the file, and the line where there is one."""
    if path.endswith((".jsonl", ".json")):
        rows = list(read_rows(path))
        return [row.output for row in rows], [row.input for row in rows]
    with open_file(path) as file:
        lines = read_lines(file, path)
    if not lines:
        raise DataError(f"{path}: expected one item a line: the file is empty")
    return lines, []


def _check_penn(sentence: str, output: str) -> None:
    # For EVALB gold must be a Penn tree, over this sentence. ValueError for another.
    if clean(read_penn(output)).words != [unescape(escape(word)) for word in split_words(sentence)]:
        raise ValueError("expected a Penn tree over the words of its input")


def main(arguments: list[str] | None = None) -> None:
    """The command line. Raises DataError for what it cannot score, with one line that names the file and the line."""
    parser = CommandLine(
        description="Score predictions against gold, one item a line in both files (of JSON Lines, .jsonl or .json, their \"output\").",
        epilog="""metrics:
  bracket   unlabelled bracket F1, mean over sentences, without punctuation: the paper's score
  evalb     labelled bracket F1 over the corpus, as EVALB with COLLINS.prm
  slots     chunk F1 over the corpus, as conlleval; both files hold tags: O O B-city I-city
  text      token F1, mean over sentences, whatever the order of the words

example:
  python metrics.py gold.txt predicted.txt --metric bracket --json
where a line of gold.txt is       (S (NP (DT The) (NN cat)) (VP (VBD sat)) (. .))
and the one of predicted.txt is   ( ( The cat ) sat . )          or ((The cat) sat .): no labels, right for bracket only
                            or    (S (NP The cat) (VP sat) .)    or a Penn tree: labels, right for evalb as well""")
    parser.add_argument("gold", metavar="GOLD", help="Penn trees with their tags, BIO tags separated by spaces, or text")
    parser.add_argument("pred", metavar="PRED", help="as many lines; an empty one is a prediction that failed")
    parser.add_argument("--metric", choices=sorted(METRICS), default="bracket", help="default: bracket")
    parser.add_argument("--per-sentence", action="store_true",
                        help="the scores of every sentence as well; with --json three nulls for one that is left out")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    args = parser.parse_args(arguments)
    read_gold = partial(read_jsonl, check={"slots": SlotTask({}).check, "evalb": _check_penn}.get(args.metric), gold=True)
    (gold, asked), (pred, answered) = read_items(args.gold, read_gold), read_items(args.pred)
    if len(gold) != len(pred):
        raise DataError(f"{args.pred}: expected {len(gold)} lines, as many as {args.gold} has; found {len(pred)}")
    for number, (one, other) in enumerate(zip(asked, answered), 1):
        if one != other:
            raise DataError(f"{args.pred}:{number}: expected {one[:60]!r}, as in {args.gold}, found {other[:60]!r}")
    try:
        if args.metric == "bracket" and not asked:
            evalb_scores(gold, gold)    # refuses damaged Penn trees, which would be read as bare, their labels as words
        inputs = asked or (answered if args.metric == "slots" else None)        # between whose words tags may stand
        result = METRICS[args.metric](gold, pred, inputs or None)
    except GoldError as error:
        raise DataError(f"{args.gold}:{error.number}: {error.problem}") from None
    if args.metric == "bracket" and (tags := foreign_tags(gold, asked or None)):
        print(f"{args.gold}: {NOT_PENN}: {', '.join(tags[:10])}", file=sys.stderr)
    per_sentence = result.pop("per_sentence")
    if args.json:
        if args.per_sentence:
            nothing = {"precision": None, "recall": None, "f1": None}
            result["per_sentence"] = [scores or nothing for scores in per_sentence]
        print(json.dumps(result))
        return
    if args.per_sentence:
        print("sentence  precision   recall       f1")
        for number, scores in enumerate(per_sentence, 1):
            print(f"{number:8d}", " left out" if scores is None else
                  f" {scores['precision']:9.2f} {scores['recall']:8.2f} {scores['f1']:8.2f}")
        print()
    for key, value in result.items():
        print(f"{key.replace('_', ' '):10s}", f"{value:8d}" if isinstance(value, int) else f"{value:8.2f}")


if __name__ == "__main__":
    run_command(main)
