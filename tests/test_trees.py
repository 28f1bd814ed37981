"""Trees: the worked example, round trips over words that break naive code, malformed text, very deep trees."""

import random

import pytest

from data.trees import (Tree, bare_spans, clean, draw, escape, mend, read_bare, read_labelled, read_penn, read_tree,
                        split_words, unescape, write_bare, write_penn)

# "The cat that he saw sat." as the treebank has it, with a trace, function tags, an index and the empty outer bracket.
TREEBANK = """( (S (NP-SBJ-2 (NP (DT The) (NN cat)) (SBAR (WHNP-1 (WDT that)) (S (NP-SBJ (PRP he)) (VP (VBD saw)
              (NP (-NONE- *T*-1)))))) (VP (VBD sat)) (. .)))"""

NASTY = ["p(x)", "(", ")", "((", "a\u00a0b", "\u2028", "\u3000", "\x85", "é", "e\u0301", "日本", "🙂", "½", "a-b", "--", "=", "\\",
         "'", '"', "``", "`", "{", "[", "]", "S", "NP", "-NONE-", "*T*-1", "O", "B-x", "<s>", "&amp;", "%", "\x00", "\ufeff", "1/2"]


def bare(tree):
    return write_bare(tree.words, bare_spans(tree))


def random_spans(n_words, rng):
    spans, open_ends = [], [(0, n_words)]
    while open_ends:
        start, end = open_ends.pop()
        if end - start > 1:
            if rng.random() < 0.7:
                spans.append((start, end))
            middle = rng.randrange(start + 1, end)
            open_ends += [(start, middle), (middle, end)]
    return spans


def random_tree(rng):
    words = [rng.choice(NASTY) for _ in range(rng.randint(1, 9))]
    tags = [rng.choice(["NN", "PRP$", "-LRB-", ",", "``"]) for _ in words]
    spans = {(0, len(words)), *random_spans(len(words), rng)}
    spans = [(rng.choice(["S", "NP", "ADVP|PRT"]), *span) for span in spans for _ in range(rng.choice([1, 1, 2]))]
    return Tree(words, tags, sorted(spans, key=lambda span: (span[1], -span[2])))


# ------------------------------------------------------------------------------------------ the worked example

def test_worked_example():
    tree = read_penn(TREEBANK)
    assert tree.words == ["The", "cat", "that", "he", "saw", "*T*-1", "sat", "."]
    assert tree.spans[:3] == [("", 0, 8), ("S", 0, 8), ("NP-SBJ-2", 0, 6)]

    tree = clean(tree)
    assert tree.words == ["The", "cat", "that", "he", "saw", "sat", "."]
    assert tree.tags == ["DT", "NN", "WDT", "PRP", "VBD", "VBD", "."]
    # By hand: the object NP held only the trace, so it is gone; VP is now the verb alone.
    assert tree.spans == [("S", 0, 7), ("NP", 0, 5), ("NP", 0, 2), ("SBAR", 2, 5), ("WHNP", 2, 3), ("S", 3, 5), ("NP", 3, 4),
                          ("VP", 4, 5), ("VP", 5, 6)]
    assert bare_spans(tree) == [(0, 7), (0, 5), (0, 2), (2, 5), (3, 5)]
    assert bare(tree) == "( ( ( The cat ) ( that ( he saw ) ) ) sat . )"
    assert draw("( ( ( The cat ) ( that ( he saw ) ) ) sat . )") == """\
┬── ┬── ┬── The
│   │   └── cat
│   └── ┬── that
│       └── ┬── he
│           └── saw
├── sat
└── ."""


def test_a_drawing_with_labels_lines_up():
    assert draw(read_penn("(S (NP (DT The) (NN cat)) (VP (VBD sat)))")) == """\
S ┬── NP ┬── DT The
  │      └── NN cat
  └── VP ─── VBD sat"""


# ------------------------------------------------------------------------------------------ words

@pytest.mark.parametrize("word", NASTY)
def test_words_come_back_as_they_went_in(word):
    assert unescape(escape(word)) == word
    assert split_words(f"a {word} b") == ["a", word, "b"]
    assert read_bare(write_bare(["a", word])).words == ["a", word]
    assert read_bare(write_bare([word])).words == [word]
    assert read_penn(write_penn(Tree([word], ["NN"], [("NP", 0, 1)]))).words == [word]


def test_the_escapes_of_the_penn_treebank():
    assert escape("p(x)") == "p-LRB-x-RRB-"
    assert [unescape(word) for word in ["-LRB-", "p-LRB-x-RRB-", r"1\/2", r"\*", "-LSB-", "-RCB-", "-lrb-"]] == \
        ["(", "p(x)", "1/2", "*", "[", "}", "-lrb-"]


@pytest.mark.parametrize("word", ["-LRB(", "-RSB)", "x-LCB(", r"a\\/b", r"\\\*", r"\("])
def test_words_that_look_escaped_are_read_back_as_one_and_the_same(word):
    read = unescape(escape(word))                   # what no escape can tell from another word, `-LRB(`, is that other word everywhere
    assert unescape(read) == read == unescape(escape(read))
    for text in (write_bare([word, "b"]), f"(NP (NN {escape(word)}) (NN b))", f"(NP {escape(word)} b)"):
        assert read_tree(text, [word, "b"]).words == [read, "b"]


# ------------------------------------------------------------------------------------------ round trips

def test_random_trees_survive_writing_and_reading():
    rng = random.Random(0)
    for _ in range(1000):
        tree = random_tree(rng)
        assert read_penn(write_penn(tree)) == tree
        assert clean(tree) == tree
        again = read_bare(bare(tree))
        assert again.words == tree.words
        assert [span[1:] for span in again.spans] == bare_spans(again) == bare_spans(tree)
        assert write_bare(tree.words, [span[1:] for span in tree.spans]) == bare(again) == mend(bare(tree)) == bare(tree)


def test_spans_are_those_of_nltk():
    nltk = pytest.importorskip("nltk")
    rng = random.Random(1)
    for _ in range(200):
        tree = random_tree(rng)
        theirs = nltk.Tree.fromstring(write_penn(tree), node_pattern=r"[^ ()]+", leaf_pattern=r"[^ ()]+")
        assert [unescape(leaf) for leaf in theirs.leaves()] == tree.words
        assert [(node.label(), len(node.leaves())) for node in theirs.subtrees() if node.height() > 2] == \
            [(label, end - start) for label, start, end in tree.spans]


def test_a_sentence_of_several_trees_keeps_its_outer_bracket():
    tree = clean(read_penn("( (NP (NN cat)) (. .))"))
    assert tree.spans == [("", 0, 2), ("NP", 0, 1)]
    assert write_penn(tree) == "( (NP (NN cat)) (. .))"
    assert write_penn(Tree(["cat", "."], ["NN", "."], [])) == "( (NN cat) (. .))"
    assert clean(read_penn("( (NN cat))")) == read_penn("(NN cat)") == Tree(["cat"], ["NN"], [])


def test_top_is_a_label_like_any_other():
    assert read_penn("(TOP (S (NN a) (NN b)))").spans == [("TOP", 0, 2), ("S", 0, 2)]


@pytest.mark.parametrize("label, plain", [("NP-SBJ-2", "NP"), ("NP=1", "NP"), ("NP=1-SBJ", "NP"), ("-LRB-", "-LRB-"),
                                          ("ADVP|PRT", "ADVP|PRT"), ("WP$", "WP$"), ("=", "=")])
def test_labels_lose_their_function_tags(label, plain):
    assert clean(read_penn(f"({label} (NN a) (NN b))")).spans == [(plain, 0, 2)]
    assert clean(read_penn(f"(S ({label} a) (NN b))")).tags == [plain, "NN"]


def test_cleaning_twice_changes_nothing_and_traces_alone_leave_nothing():
    assert clean(clean(read_penn(TREEBANK))) == clean(read_penn(TREEBANK))
    assert clean(read_penn("(S (NP (-NONE- *)))")) == Tree([], [], [])


# ------------------------------------------------------------------------------------------ the two formats

@pytest.mark.parametrize("text", ["( ( The cat ) sat )", "((The cat) sat)", "( ( ( The ) ( cat ) ) ( sat ) )", "((The\tcat)\nsat)",
                                  "(((The cat)) sat)"])
def test_one_bare_tree_written_in_several_ways(text):
    assert read_bare(text).words == ["The", "cat", "sat"]
    assert bare_spans(read_bare(text)) == [(0, 3), (0, 2)]


def test_one_word():
    assert write_bare(["Yes"]) == "( Yes )"
    assert read_bare("( ( Yes ) )").words == ["Yes"] and bare_spans(read_bare("( Yes )")) == [(0, 1)]


def test_the_words_decide_between_the_formats():
    text = "((The cat) (sat down))"
    assert read_tree(text, ["The", "cat", "sat", "down"]).tags is None
    assert read_tree(text, ["cat", "down"]).tags == ["The", "sat"]
    assert read_tree("(The cat)", ["The", "cat"]).spans == [("", 0, 2)]
    assert read_tree("( p-LRB-x-RRB- b )", ["p(x)", "b"]) == read_tree("( p-LRB-x-RRB- b )", ["p-LRB-x-RRB-", "b"])


def test_traces_are_no_words_of_the_input():
    tree = read_tree("(S (NP-SBJ (NNS mice)) (VP (VBD died) (NP (-NONE- *-1))))", ["mice", "died"])
    assert tree == Tree(["mice", "died"], ["NNS", "VBD"], [("S", 0, 2), ("NP", 0, 1), ("VP", 1, 2)])
    assert bare(read_tree(TREEBANK, "The cat that he saw sat .".split())) == "( ( ( The cat ) ( that ( he saw ) ) ) sat . )"
    with pytest.raises(ValueError, match="2 words, expected 3"):
        read_tree("(S (NP-SBJ (NNS mice)) (VP (VBD died) (NP (-NONE- *-1))))", ["mice", "died", "*-1"])


def test_labels_without_tags():
    assert read_tree("(S (NP-SBJ The cat) (VP sat))", ["The", "cat", "sat"]) == \
        Tree(["The", "cat", "sat"], None, [("S", 0, 3), ("NP", 0, 2), ("VP", 2, 3)])
    assert read_labelled("( (S a p-LRB-x-RRB-))") == Tree(["a", "p(x)"], None, [("", 0, 2), ("S", 0, 2)])
    # The other readings go first: here a word is glued to its bracket, not a label.
    assert bare_spans(read_tree("((The cat) (sat down))", ["The", "cat", "sat", "down"])) == [(0, 4), (0, 2), (2, 4)]
    with pytest.raises(ValueError, match="word 2 is `cat`, expected `dog`"):
        read_tree("(S (NP The cat) (VP sat))", ["The", "dog", "sat"])


@pytest.mark.parametrize("words, problem", [
    (["The", "dog", "sat"], "its words are not the input's: word 2 is `cat`, expected `dog`"),
    (["The", "cat"], "its words are not the input's: 3 words, expected 2"),
    (["The", "cat", "sat", "down"], "its words are not the input's: 3 words, expected 4")])
def test_other_words_than_the_input(words, problem):
    for text in ("((The cat) sat)", "(S (NP (DT The) (NN cat)) (VP (VBD sat)))"):
        with pytest.raises(ValueError) as error:
            read_tree(text, words)
        assert str(error.value) == problem


@pytest.mark.parametrize("text, problem", [
    ("", "the text is empty"), ("  \n", "the text is empty"), ("(S (NP (DT The)", "2 brackets left open"),
    ("(S (NN a)", "1 bracket left open"), ("(NN a))", "`)` follows the end of the tree"), (")(", "`)` stands where"),
    ("cat", "`cat` stands where"), ("(S (NP ) (NN a))", "no words in `(NP )`"), ("(S (NN a) b)", "`b` stands where"),
    ("(NN a b)", "`a` stands where"), ("(S ((NN a)))", "no label"), ("(NN a) (NN b)", "`(NN b)` follows the end"),
    ("( The cat )", "`The` stands where"), ("(())", "no label"), ("()", "no words")])
def test_text_that_is_not_penn(text, problem):
    with pytest.raises(ValueError) as error:
        read_penn(text)
    assert problem in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", " ", "cat", "( The cat", "The cat )", "( The ) ( cat )", "( The cat ) sat", "()", "( ( ) cat )",
                                  "( The cat ) )", ") ("])
def test_text_that_is_not_bare(text):
    with pytest.raises(ValueError, match="^expected a bracketing: .*"):
        read_bare(text)


def test_a_bare_tree_cannot_be_written_in_penn_format():
    with pytest.raises(ValueError, match="part-of-speech tags"):
        write_penn(read_bare("( The cat )"))


@pytest.mark.parametrize("answer, mended", [
    ("( ( The cat ) sat", "( ( The cat ) sat )"), ("( ( The cat", "( ( The cat ) )"), ("( The cat ) ) )\n", "( The cat )"),
    ("((The cat) sat)))", "((The cat) sat)"), ("", ""), (") The cat (", ") The cat ("), ("( a ) ) b", "( a ) ) b")])
def test_mending(answer, mended):
    assert mend(answer) == mended


# ------------------------------------------------------------------------------------------ depth

def test_ten_thousand_deep():
    depth = 10_000
    penn = "(S (DT a) " * depth + "(NN b)" + ")" * depth
    tree = read_penn(penn)
    assert len(tree.spans) == depth and write_penn(clean(tree)) == penn
    assert bare_spans(read_bare(bare(tree))) == bare_spans(tree) and read_tree(bare(tree), tree.words).words == tree.words
    assert mend("( a " * depth).count(")") == depth
    unary = read_penn("(S " * depth + "(NN b)" + ")" * depth)
    assert bare(unary) == "( b )" and draw(unary).endswith("NN b")
