"""Constituency trees: reading, cleaning, writing, drawing.

A tree is written in one of three ways.

    Penn       (S (NP (DT The) (NN cat)) (VP (VBD sat)))     labels, and a part-of-speech tag on every word
    bare       ( ( The cat ) sat )                           brackets only; what the models write
    labelled   (S (NP The cat) (VP sat))                     labels without tags; only read, as somebody's prediction

A `Tree` holds its constituents as spans of word positions instead of nested nodes. Nearly everything that the project
asks of a tree is a question about spans, a flat list needs no recursion (a 10,000-deep tree is as good as any other), and
two trees over the same words are compared by comparing two lists.

    >>> read_penn("(S (NP (DT The) (NN cat)) (VP (VBD sat)))").spans
    [('S', 0, 3), ('NP', 0, 2), ('VP', 2, 3)]
    >>> print(draw("( ( The cat ) sat )"))
    ┬── ┬── The
    │   └── cat
    └── sat
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, compress


@dataclass(frozen=True)
class Tree:
    words: list[str]                     # unescaped: "(" rather than "-LRB-"
    tags: list[str] | None               # one part-of-speech tag a word; None where the tree has none
    spans: list[tuple[str, int, int]]    # (label, start, end), end exclusive, in the order in which the brackets open


# ----------------------------------------------------------------------------------------------------
# Words. Only ASCII white space separates them: str.split() would also break words at a no-break space (U+00A0) and
# a dozen other characters that real corpora contain.

_WORD = re.compile(r"[^ \t\r\n]+")

_ESCAPED = re.compile(r"-[LR][RSC]B-|\\+[/*]")
_MEANS = {"-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "-LCB-": "{", "-RCB-": "}", r"\/": "/", r"\*": "*"}


def split_words(text: str) -> list[str]:
    """The words of a sentence whose words are already separated by spaces."""
    return _WORD.findall(text)


def escape(word: str) -> str:
    """`p(x)` as `p-LRB-x-RRB-`: a word may not contain the brackets of the tree that it is written into."""
    return word.replace("(", "-LRB-").replace(")", "-RRB-")


def unescape(word: str) -> str:
    r"""The inverse of `escape`; the Penn Treebank's other escapes (`-LSB-`, `-LCB-`, `\/`, `\*`) are undone as well.

    A word that really is `-LRB-` becomes `(`: the format has no way to say otherwise. Compare words unescaped.
    """
    if "-" not in word and "\\" not in word:
        return word                      # nearly every word; the search below would take most of the time of reading
    return _ESCAPED.sub(lambda match: _MEANS.get(match[0], match[0][-1]), word)


# ----------------------------------------------------------------------------------------------------
# Reading

_PENN = re.compile(r"""
      [(] (?P<tag>[^ \t\r\n()]+) [ \t\r\n]+ (?P<word>[^ \t\r\n()]+) [ \t\r\n]* [)]
    | [(] (?P<label>[^ \t\r\n()]*)
    | (?P<close>[)])
    | (?P<stray>[^ \t\r\n()]+)
    """, re.VERBOSE)
_BARE = re.compile(r"[()]|[^ \t\r\n()]+")
_LABELLED = re.compile(r"[(][^ \t\r\n()]*|[)]|[^ \t\r\n()]+")


def read_penn(text: str) -> Tree:
    """Read a tree in the Penn Treebank's format, `(S (NP (DT The) (NN cat)) ...)`.

    A label follows its bracket at once, so `( The cat )` is not Penn. The outermost bracket may have no label, as in the
    treebank's files: it becomes a span with the label "". Traces and function tags are kept; `clean` removes them.
    Raises ValueError with one line that says what was expected.
    """
    if text.count("(") > text.count(")"):
        raise ValueError(f"expected a Penn tree: {_left_open(text)}")
    words: list[str] = []
    tags: list[str] = []
    spans: list = []
    stack: list[int] = []                # for every open bracket, the position of its span in `spans`
    for token in _PENN.finditer(text):
        if words and not stack:
            raise ValueError(f"expected a Penn tree: `{token[0]}` follows the end of the tree")
        tag, word, label, close, stray = token.groups()
        if tag:
            words.append(unescape(word))
            tags.append(tag)
        elif not close and not stray:
            if not label and stack:
                raise ValueError("expected a Penn tree: a bracket inside the tree has no label")
            stack.append(len(spans))
            spans.append([label, len(words), None])
        elif close and stack:
            span = spans[stack.pop()]
            if span[1] == len(words):
                raise ValueError(f"expected a Penn tree: no words in `({span[0]} )`")
            span[2] = len(words)
        else:
            raise ValueError(f"expected a Penn tree: `{close or stray}` stands where a bracket should open")
    if not words:
        raise ValueError("expected a Penn tree: the text is empty")
    return Tree(words, tags, [tuple(span) for span in spans])


def read_bare(text: str) -> Tree:
    """Read an unlabelled bracketing. Every token that is not a bracket is a word.

    A word may have brackets of its own or not: `( ( The ) ( cat ) )` is `( The cat )`. So spans of one word are dropped,
    unless the sentence has no other word. Raises ValueError with one line that says what was expected.
    """
    tree = _read_brackets(text, _BARE)
    return Tree(tree.words, None, [span for span in tree.spans if span[2] - span[1] > 1 or len(tree.words) == 1])


def read_labelled(text: str) -> Tree:
    """Read a labelled tree without part-of-speech tags: a token that follows its opening bracket at once is a label.

    Spans of one word are kept, `(VP sat)`. Where all words have one, the tree is Penn and not read here: its traces would be
    words. Raises ValueError with one line that says what was expected.
    """
    tree = _read_brackets(text, _LABELLED)
    if len({start for label, start, end in tree.spans if label and end - start == 1}) == len(tree.words):
        raise ValueError("expected a tree without part-of-speech tags: every word has a bracket of its own")
    return tree


def _read_brackets(text: str, pattern: re.Pattern) -> Tree:
    if text.count("(") > text.count(")"):
        raise ValueError(f"expected a bracketing: {_left_open(text)}")
    words: list[str] = []
    spans: list = []
    stack: list[int] = []
    for token in pattern.findall(text):
        if spans and not stack:
            raise ValueError(f"expected a bracketing: `{token}` follows the end of the tree")
        if token[0] == "(":
            stack.append(len(spans))
            spans.append([token[1:], len(words), None])
        elif not stack:
            raise ValueError(f"expected a bracketing: it begins with `{token}`, not with `(`")
        elif token == ")":
            span = spans[stack.pop()]
            if span[1] == len(words):
                raise ValueError(f"expected a bracketing: `({span[0]} )` has no words")
            span[2] = len(words)
        else:
            words.append(unescape(token))
    if not words:
        raise ValueError("expected a bracketing: the text is empty")
    return Tree(words, None, [tuple(span) for span in spans])


def read_tree(text: str, words: list[str]) -> Tree:
    """The reading of `text`, Penn, bare or labelled, whose words are `words`; cleaned, so traces are no words.

    The words must decide, because `((The cat) (sat down))` is a good Penn tree and a good bare one: two words with the tags
    `The` and `sat`, or four words. Raises ValueError where no reading fits.
    """
    wanted = [unescape(escape(word)) for word in words]
    readings = []
    for read in (read_penn, read_bare, read_labelled):
        try:
            tree = read(text) if read is read_bare else clean(read(text))
        except ValueError as error:
            complaint = error            # the last one counts: it expects the least
            continue
        if tree.words == wanted:
            return tree
        readings.append(tree.words)
    if not readings:
        raise complaint
    closest = max(readings, key=lambda found: sum(map(str.__eq__, found, wanted)))
    for number, (found, expected) in enumerate(zip(closest, wanted), 1):
        if found != expected:
            raise ValueError(f"its words are not the input's: word {number} is `{found}`, expected `{expected}`")
    raise ValueError(f"its words are not the input's: {len(closest)} words, expected {len(wanted)}")


def mend(text: str) -> str:
    """The paper's repair of an LLM's answer: close what is left open at its end, drop closing brackets too many there."""
    surplus = text.count(")") - text.count("(")
    if surplus < 0:
        return text + " )" * -surplus
    text = text.rstrip(" \t\r\n")
    while surplus > 0 and text.endswith(")"):
        text = text[:-1].rstrip(" \t\r\n")
        surplus -= 1
    return text


def _left_open(text: str) -> str:
    count = text.count("(") - text.count(")")
    return "1 bracket left open" if count == 1 else f"{count} brackets left open"


# ----------------------------------------------------------------------------------------------------
# Cleaning, and what is asked of spans

def clean(tree: Tree) -> Tree:
    """A treebank's tree as parsers are trained and scored on it.

    Traces (words tagged -NONE-) go, and the constituents that this leaves empty; labels lose their function tags and
    indices, `NP-SBJ-2` to `NP`; the treebank's empty outer bracket goes, unless nothing else holds the sentence together.
    Clean a tree as soon as it is read: without its tag a trace looks like any word.
    """
    kept = [True] * len(tree.words) if tree.tags is None else [tag != "-NONE-" for tag in tree.tags]
    here = [0, *accumulate(kept)]        # here[i]: how many of the words before the i-th are kept
    spans = [(_plain(label), here[start], here[end]) for label, start, end in tree.spans if here[start] < here[end]]
    if tree.tags is not None and spans and spans[0][0] == "":
        if here[-1] == 1 or (len(spans) > 1 and spans[1][1:] == spans[0][1:]):
            spans = spans[1:]
    tags = None if tree.tags is None else [_plain(tag) for tag in compress(tree.tags, kept)]
    return Tree(list(compress(tree.words, kept)), tags, spans)


@lru_cache(maxsize=4096)                 # a treebank has millions of constituents and a few hundred labels
def _plain(label: str) -> str:
    # A label that begins with the hyphen (-LRB-, -NONE-) is not a label with a function tag, nor is `=`.
    return label if label.startswith("-") else re.split("[-=]", label, maxsplit=1)[0] or label


def bare_spans(tree: Tree) -> list[tuple[int, int]]:
    """The tree's shape: its distinct spans of two words and more, outer before inner, and always the whole sentence.

    Labels are forgotten and unary chains collapse into one span.
    """
    spans = {(start, end) for _, start, end in tree.spans if end - start > 1}
    if tree.words:
        spans.add((0, len(tree.words)))
    return sorted(spans, key=lambda span: (span[0], -span[1]))


def crosses(span: tuple[int, int], others: Iterable[tuple[int, int]]) -> bool:
    """Whether a span (start, end) overlaps one of the others without one of the two holding the other: no tree has both."""
    start, end = span
    return any(a < start < b < end or start < a < end < b for a, b in others)


# ----------------------------------------------------------------------------------------------------
# Writing

def write_penn(tree: Tree) -> str:
    """The tree in Penn format, on one line. `read_penn` reads it back. ValueError where the tree has no tags."""
    if tree.tags is None:
        raise ValueError("expected a tree with part-of-speech tags: a bare tree cannot be written in Penn format")
    spans = tree.spans
    if len(tree.words) > 1 and (not spans or spans[0][1:] != (0, len(tree.words))):
        spans = [("", 0, len(tree.words)), *spans]
    leaves = [f"({tag} {escape(word)})" for tag, word in zip(tree.tags, tree.words)]
    opening, closing = _brackets(spans, len(leaves))
    return " ".join("".join(f"({label} " for label in labels) + leaf + ")" * closed
                    for labels, leaf, closed in zip(opening, leaves, closing))


def write_bare(words: list[str], spans: list[tuple[int, int]] = ()) -> str:
    """`( ( The cat ) sat )`, what the models read and write: words, and the (start, end) of their constituents.

    Spans of one word and repeated ones are left out; the whole sentence is always bracketed. Spans that cross are not a
    tree, and are not looked for here.
    """
    spans = bare_spans(Tree(words, None, [("", start, end) for start, end in spans]))
    opening, closing = _brackets([("", *span) for span in spans], len(words))
    return " ".join("( " * len(labels) + escape(word) + " )" * closed
                    for labels, word, closed in zip(opening, words, closing))


def _brackets(spans: list[tuple[str, int, int]], n_words: int) -> tuple[list[list[str]], list[int]]:
    # For every word, the labels of the brackets that open before it, and how many close after it.
    opening: list[list[str]] = [[] for _ in range(n_words)]
    closing = [0] * n_words
    for label, start, end in spans:
        opening[start].append(label)
        closing[end - 1] += 1
    return opening, closing


def draw(tree: Tree | str) -> str:
    """A drawing for the terminal, one word a line. Text is read as a bare tree; for Penn text, draw(read_penn(text)).

        S ┬── NP ┬── DT The
          │      └── NN cat
          └── VP ─── VBD sat
    """
    if isinstance(tree, str):
        tree = read_bare(tree)
    opening: list[list[tuple[str, int, int]]] = [[] for _ in tree.words]
    for span in tree.spans:
        opening[span[1]].append(span)
    lines, chain = [], []                # chain: the constituents around the current word, outermost first
    for position, word in enumerate(tree.words):
        while chain and chain[-1][2] <= position:
            chain.pop()
        chain += opening[position]
        leaf = word if tree.tags is None else f"{tree.tags[position]} {word}"
        cells = []
        for (label, start, end), (_, child_start, child_end) in zip(chain, [*chain[1:], ("", position, position + 1)]):
            label = label + " " if label else ""
            more = child_end < end       # another child of this constituent follows further down
            if start == position:
                cells.append(label + ("┬── " if more else "─── "))
            elif child_start == position:
                cells.append(" " * len(label) + ("├── " if more else "└── "))
            else:
                cells.append(" " * len(label) + ("│   " if more else "    "))
        lines.append("".join(cells) + leaf)
    return "\n".join(lines)
