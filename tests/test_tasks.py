"""data/tasks.py: what a target looks like, what may come next in one, and which free answers are refused."""

import copy
import json
import random

import pytest

from conftest import NASTY, random_sentence, random_tree
from data.tasks import SlotState, TreeState, make_task
from data.trees import escape, read_bare, split_words, unescape, write_bare

TREE = make_task({"task": "tree"})
SLOTS = make_task({"task": "slots", "tags": ["O", "B-x", "I-x", "B-y", "B-x_y", "I-x_y"]})
TEXT = make_task({"task": "text"})
PENN = "(S (NP (DT The) (NN cat)) (VP (VBD sat)))"


def walk(state, rng, limit):
    """Random pieces, each among those that may come next, to the end."""
    pieces = []
    while choices := state.choices():
        assert len(set(choices)) == len(choices)
        pieces.append(rng.choice(choices))
        state.take(pieces[-1])
        assert len(pieces) <= limit, f"still going on after {limit} pieces"
    return pieces


@pytest.mark.parametrize("task, input, outputs, voted", [
    (TREE, "a b c d", ["( ( a b ) c d )", "( ( a b ) ( c d ) )", "( a ( b c ) d )"], "( ( a b ) ( c d ) )"),     # b c crosses a b
    (TREE, "a b c", ["( a b c )"] * 2 + ["( a ( b c ) )"], "( a ( b c ) )"),                # nobody contradicts
    (SLOTS, "to New York", ["O B-x I-x", "O B-x O", "B-y B-x I-x"], "O B-x I-x"),
    (SLOTS, "to New York", ["O B-x I-x", "O O I-x", "O O O"], "O O B-x"),                     # I-x would continue nothing
    (TREE, "a b c", ["( a ( b c ) )", "( ( a b ) c )"], "( ( a b ) c )"),                     # as many votes each: the first in the sentence
    (TREE, "a b c", ["( ( a b ) c )", "( a ( b c ) )"], "( ( a b ) c )"),
    (TEXT, "x", ["b", "a", "a", "b"], "b")])
def test_vote_worked_example(task, input, outputs, voted):
    assert task.vote(input, outputs) == voted


def test_vote_over_random_trees_is_a_tree_and_unanimity_wins():
    rng = random.Random(5)
    for _ in range(200):
        words = random_sentence(rng, rng.randint(2, 9)).split(" ")
        given = [write_bare(words, random_tree(rng, len(words))) for _ in range(rng.randint(1, 5))]
        TREE.check(" ".join(words), TREE.vote(" ".join(words), given))
        assert TREE.vote(" ".join(words), given[:1] * 3) == given[0]


@pytest.mark.parametrize("least, kept", [(1, "( ( a b ) ( c d ) )"), (2, "( ( a b ) c d )"), (3, "( a b c d )")])
def test_a_bracket_needs_the_least_number_of_votes(least, kept):
    outputs = ["( ( a b ) c d )", "( ( a b ) c d )", "( a b ( c d ) )"]
    assert TREE.vote("a b c d", outputs, least) == kept


# ---------------------------------------------------------------------------------------------------------------------
# Trees

@pytest.mark.parametrize("gold", [PENN, "( ( The cat ) sat )", "( ( ( The ) ( cat ) ) ( sat ) )", "((The cat) sat)",
                                  "( (S (NP (DT The) (NN cat)) (VP (VBD sat))))", "(S (NP The cat) (VP sat))",
                                  "( (S (NP-SBJ-1 (DT The) (NN cat)) (VP (VBD sat) (NP (-NONE- *-1)))) )"])
def test_tree_worked_example(gold):
    TREE.check("The cat sat", gold)
    assert TREE.pieces("The cat sat", gold) == ["(", "(", "The", "cat", ")", "sat", ")"]
    assert TREE.write(TREE.pieces("The cat sat", gold)) == "( ( The cat ) sat )"
    assert TREE.read("The cat sat", gold) == "( ( The cat ) sat )"


def test_rows_of_the_authors_have_traces(tmp_path):
    from data.splits import read_jsonl
    gold = "( (S (NP-SBJ-1 (NNS mice)) (VP (VBD were) (VP (VBN given) (NP (-NONE- *-1)) (NP (NN water)))) (. .)) )"
    row = {"unparsed": "mice were given water .", "unlabeled": "( mice were )", "parsed": gold}
    (tmp_path / "labeled.jsonl").write_text(json.dumps({"translation": row}) + "\n")
    [example] = read_jsonl(tmp_path / "labeled.jsonl", TREE.check, gold=True)
    assert " ".join(TREE.pieces(*example)) == "( mice ( were ( given water ) ) . )"


def test_brackets_inside_words_are_escaped_and_come_back():
    sentence, gold = "f(x) ( see [1] )", "(S (NP (NN f-LRB-x-RRB-)) (PRN (-LRB- -LRB-) (VB see) (NN [1]) (-RRB- -RRB-)))"
    TREE.check(sentence, gold)
    pieces = TREE.pieces(sentence, gold)
    assert pieces == ["(", "f-LRB-x-RRB-", "(", "-LRB-", "see", "[1]", "-RRB-", ")", ")"]
    assert read_bare(" ".join(pieces)).words == split_words(sentence)
    assert "f(x)" in TREE.draw(sentence, gold)


@pytest.mark.parametrize("answer, mended", [
    ("( ( The cat ) sat", "( ( The cat ) sat )"),                             # left open
    ("( ( The cat ) sat ) ) )", "( ( The cat ) sat )"),                       # closed too often
    ("  ( ( The cat ) sat )\nSentence: The dog ran", "( ( The cat ) sat )"),  # went on with the next demonstration
    ("( The ( cat sat ) )", "( The ( cat sat ) )"),
    ("\n( The cat sat", "( The cat sat )"),
    ("( ( ( The cat ) ) sat )", "( ( The cat ) sat )"),                       # a unary chain
    ("( ( The cat ) sat\nSentence: The dog ran", "( ( The cat ) sat )"),      # left open, and went on
    ("(S\n  (NP The cat)\n\n  (VP sat\n", "( ( The cat ) sat )"),             # over several lines, and left open
    ("(S\r\n  (NP The cat)\r\n  (VP sat))\r\nSentence: The dog ran", "( ( The cat ) sat )"),
    (PENN, "( ( The cat ) sat )")])
def test_free_tree_is_mended(answer, mended):
    assert TREE.read("The cat sat", answer) == mended


@pytest.mark.parametrize("answer", ["", "   \n", "( ( The cat ) ran )", "( The cat )", "( The cat sat down )", "( cat The sat )",
                                    "Sure! ( ( The cat ) sat ) The end (of it)", "The cat sat", ") The cat sat (", "( ( ) The cat sat )",
                                    "( the cat sat )"])
def test_free_tree_about_other_words_or_without_structure_is_refused(answer):
    with pytest.raises(ValueError):
        TREE.read("The cat sat", answer)


def test_words_that_an_answer_adds_behind_its_sentence_are_not_cut_off():
    for answer in ("( ( The cat sat ) ( and ( ( (", "( ( The cat ) sat ) ( and ( ( ("):
        with pytest.raises(ValueError):
            TREE.read("The cat sat", answer)


def test_gold_with_other_words_is_refused_and_says_which_word():
    with pytest.raises(ValueError, match="word 3 is `sat`, expected `ran`"):
        TREE.check("The cat ran", PENN)
    with pytest.raises(ValueError, match="words"):
        TREE.check("The cat", PENN)
    with pytest.raises(ValueError, match="left open"):
        TREE.check("The cat sat", PENN[:-1])


def test_tree_choices_of_the_worked_example():
    state = TreeState(["The", "cat", "sat"])
    for piece, choices in [("(", ["("]), ("(", ["The", "("]), ("The", ["The"]), ("cat", ["cat"]), (")", ["sat", ")"]),
                           ("sat", ["sat"]), (")", [")"])]:
        assert sorted(state.choices()) == sorted(choices)
        state.take(piece)
    assert state.choices() == []


@pytest.mark.parametrize("n_words", [1, 2, 3, 4, 7, 20])
def test_random_walks_give_bracketings_of_the_sentence(n_words):
    rng = random.Random(n_words)
    for _ in range(60):
        sentence = random_sentence(rng, n_words)
        words = split_words(sentence)
        pieces = walk(TreeState(words), rng, 3 * n_words + 2)
        output = TREE.write(pieces)
        tree = read_bare(output)
        assert tree.words == [unescape(escape(word)) for word in words]
        assert pieces.count("(") == pieces.count(")") <= max(1, n_words - 1)
        assert all(end - start > 1 for _, start, end in tree.spans) or n_words == 1
        assert len(tree.spans) == pieces.count("(")     # read_bare drops brackets of one word: there were none
        TREE.check(sentence, output)
        assert TREE.read(sentence, output) == " ".join(TREE.pieces(sentence, output))


def test_every_gold_tree_can_be_decoded():
    rng = random.Random(7)
    for _ in range(200):
        sentence = random_sentence(rng, rng.randint(1, 15))
        words = split_words(sentence)
        state = TreeState(words)
        for piece in TREE.pieces(sentence, write_bare(words, random_tree(rng, len(words)))):
            assert piece in state.choices()
            state.take(piece)
        assert state.choices() == []


def test_binary_trees_of_either_branching_can_be_decoded():
    words = list("abcdef")
    for spans in ([(i, 6) for i in range(5)], [(0, i) for i in range(6, 1, -1)]):
        state = TreeState(words)
        for piece in write_bare(words, spans).split(" "):
            assert piece in state.choices()
            state.take(piece)
        assert state.choices() == [] and state.brackets == 5


def test_looking_ahead_on_a_shallow_copy_leaves_the_state_as_it_was():
    state = TreeState(list("abcd"))
    for piece in "( ( a b".split():
        state.take(piece)
    before = vars(state).copy()
    for piece in (")", "(", "c"):
        copy.copy(state).take(piece)
        assert vars(state) == before


def test_a_bracket_is_not_closed_over_the_words_of_the_one_just_closed():
    state = TreeState(["a", "b", "c"])
    for piece in "( ( a b )".split():
        state.take(piece)
    assert ")" not in state.choices()
    state = TreeState(["a", "b", "c", "d"])
    for piece in "( ( ( a b )".split():
        state.take(piece)
    assert ")" not in state.choices()


def test_no_more_brackets_open_at_once_than_in_the_labeled_examples():
    from data.splits import Example
    task = make_task({"task": "tree"})
    task.learn([Example("a b c d", "( ( ( a b ) c ) d )"), Example("a b c", "( a ( b c ) )")])
    assert task.most_at_once == 3
    longest, rng = 0, random.Random(0)
    for _ in range(200):
        pieces = "".join(piece if piece in "()" else "w" for piece in walk(task.start(list("abcdefgh")), rng, 40))
        longest = max(longest, max(map(len, pieces.replace(")", "w").split("w"))))
    assert longest == 3
    assert make_task(task.config()).most_at_once == 3
    task.learn([Example("a b c", "( a b c )")])
    assert task.most_at_once == 2                                   # the sentence's own, and one more


@pytest.mark.parametrize("word", NASTY)
def test_nasty_words_survive_a_tree(word):
    for sentence in (word, f"{word} b", f"a {word} {word} b"):
        words = split_words(sentence)
        gold = write_bare(words, [(0, len(words))])
        TREE.check(sentence, gold)
        assert read_bare(" ".join(TREE.pieces(sentence, gold))).words == [unescape(word) for word in words]
        assert TREE.read(sentence, gold) == gold
        TREE.check(sentence, TREE.fallback(sentence))


def test_tree_fallback_is_flat():
    assert TREE.fallback("The (big) cat") == "( The -LRB-big-RRB- cat )"


# ---------------------------------------------------------------------------------------------------------------------
# Slots

def test_slots_worked_example():
    for gold in ("O B-x I-x", "to O San B-x Francisco I-x"):
        SLOTS.check("to San Francisco", gold)
        assert SLOTS.pieces("to San Francisco", gold) == ["to", "O", "San", "B-x", "Francisco", "I-x"]
        assert SLOTS.read("to San Francisco", gold) == "O B-x I-x"
    assert SLOTS.write(["to", "O", "San", "B-x", "Francisco", "I-x"]) == "O B-x I-x"


def test_words_that_look_like_tags_are_words():
    assert SLOTS.pieces("O B-x O", "O O B-x") == ["O", "O", "B-x", "O", "O", "B-x"]
    assert SLOTS.read("O B-x", "O B-x B-x O") == "B-x O"
    assert SLOTS.read("O B-x", "O B-x") == "O B-x"


@pytest.mark.parametrize("gold, problem", [
    ("O B-x", "expected 3 tags, one a word, found 2"), ("O B-x I-x O", "found 4"), ("to O San B-x Boston I-x", "found 6"),
    ("O B-x X", "'X'"), ("O B-x I-", "'I-'"), ("O B-x I-zebra", "unknown tag 'I-zebra'"), ("o O O", "'o'")])
def test_gold_tags_that_do_not_fit_are_refused(gold, problem):
    with pytest.raises(ValueError, match=problem):
        SLOTS.check("to San Francisco", gold)


def test_unknown_tag_in_a_free_answer_becomes_O_and_a_wrong_count_is_refused():
    assert SLOTS.read("to San Francisco", "to O San B-zebra Francisco I-x\n\nSentence: list") == "O O B-x"
    for answer in ("", "O O", "O O O O", "Sure! O O O", "to O Francisco B-x"):
        with pytest.raises(ValueError):
            SLOTS.read("to San Francisco", answer)


def test_tags_are_learnt_from_the_examples_where_task_json_has_none():
    from data.splits import Example
    examples = [Example("a b", "O B-q"), Example("c d", "c B-p d I-p")]
    task = make_task({"task": "slots"})
    task.learn(examples)
    assert task.tags == ["B-p", "B-q", "I-p", "O"]
    given = make_task({"task": "slots", "tags": ["O"]})
    given.learn(examples)
    assert given.tags == ["O"]


def test_slots_that_begin_with_I_are_taught_with_B():
    """IOB1, in which CoNLL-2003 is written: B-x stands only where another x goes before."""
    from data.splits import Example
    learnt, given = make_task({"task": "slots"}), make_task({"task": "slots", "tags": ["O", "I-x", "I-y"]})
    learnt.learn([Example("a b c", "I-x I-x B-x"), Example("d e", "O I-y")])
    assert learnt.tags == ["B-x", "B-y", "I-x", "I-y", "O"] and given.tags == ["O", "I-x", "I-y", "B-x", "B-y"]
    for task in (learnt, given):
        state = task.start(["a", "b", "c"])
        for piece in task.pieces("a b c", "I-x I-x I-y"):
            assert piece in state.choices()
            state.take(piece)
        assert task.read("a b c", "I-x I-x I-y") == "B-x I-x B-y"


@pytest.mark.parametrize("n_words", [1, 2, 8])
def test_random_walks_give_one_known_tag_a_word_and_no_stray_continuation(n_words):
    rng = random.Random(n_words)
    seen = set()
    for _ in range(60):
        sentence = random_sentence(rng, n_words)
        words = split_words(sentence)
        pieces = walk(SlotState(words, SLOTS.tags), rng, 2 * n_words)
        output = SLOTS.write(pieces)
        tags = output.split(" ")
        SLOTS.check(sentence, output)
        assert pieces[::2] == words and len(tags) == n_words
        for before, tag in zip(["O", *tags], tags):
            assert not tag.startswith("I-") or before[2:] == tag[2:]
        seen |= set(tags)
        assert SLOTS.read(sentence, output) == output
        assert SLOTS.read(sentence, " ".join(pieces)) == output
    assert seen == set(SLOTS.tags) or n_words < 8


def test_every_gold_tagging_can_be_decoded():
    words, tags = ["a"] * 7, "B-x I-x B-x_y I-x_y O B-y B-x".split()
    state = SlotState(words, SLOTS.tags)
    for piece in SLOTS.pieces(" ".join(words), " ".join(tags)):
        assert piece in state.choices()
        state.take(piece)
    assert state.choices() == []


def test_slots_are_drawn_one_word_a_line():
    assert SLOTS.draw("to San Francisco", "O B-x I-x") == "to         ·\nSan        B-x\nFrancisco  I-x"


def test_slots_fallback_is_all_O():
    assert SLOTS.fallback("to San Francisco") == "O O O"


# ---------------------------------------------------------------------------------------------------------------------
# Text, and what the three have in common

@pytest.mark.parametrize("task, answer, output", [
    (TREE, "( ( a ) b )", "( a b )"), (TREE, "( a\n b )", "( a b )"), (SLOTS, "O B-x", "O B-x"), (SLOTS, "a O b B-x", "O B-x"),
    (TEXT, "what it is", "what it is")])
@pytest.mark.parametrize("wrapped", ["```\n{1}\n```", "```text\n\n{1}\n```\nThat is it.", "{0} {1}", "{0}\n{1}", "{0}\r\n ```\r\n{1}\r\n```",
                                     "\n```\n{0}\n\n{1}\n```\n", "  {0} ```sql\n{1}\n```", "{0}```\n{1}\n```"])
def test_what_chat_models_put_around_an_answer(task, answer, output, wrapped):
    assert task.read("a b", wrapped.format(task.answer_name, answer)) == output


@pytest.mark.parametrize("task", [TREE, SLOTS, TEXT])
@pytest.mark.parametrize("answer", ["```\n```", "{}", "```\n{}\n```"])
def test_nothing_but_what_chat_models_put_around_an_answer_is_refused(task, answer):
    with pytest.raises(ValueError, match="empty"):
        task.read("a b", answer.format(task.answer_name))


def test_an_answer_that_only_looks_like_what_chat_models_put_around_it_is_kept():
    for answer in ("Outputs: two", "the Output: is ```", "```x``` is code", "Parse: x", "``` x"):
        assert TEXT.read("a b", answer) == answer
    assert TEXT.read("Output: a", "Output: b") == "Output: b"
    assert SLOTS.read("Tags: a", "Tags: O a B-x") == "O B-x"

@pytest.mark.parametrize("task, input, answer, wanted", [
    (TREE, "a b .", "Sure! Here it is:\n( ( a b ) . )", "( ( a b ) . )"),
    (TREE, "a b .", "Here (as asked):\n\n( ( a b )\n . )\nHope this helps", "( ( a b ) . )"),
    (TREE, "a b .", "Sentence: a b .\nParse: ( ( a b ) . )", "( ( a b ) . )"), (TREE, "a b .", "Sentence tree: ( ( a b ) . )", "( ( a b ) . )"),
    (TREE, "a b .", "Here it is:\nParse: ( ( a b ) . )", "( ( a b ) . )"),
    (TREE, "a b .", "Sure! ( ( a b ) . )", "( ( a b ) . )"), (TREE, "a b .", "1. **( ( a b ) . )**", "( ( a b ) . )"),
    (TREE, "a b .", "The parse is `( ( a b ) . )`.", "( ( a b ) . )"), (TREE, "a b .", "( ( ( a b ) .", "( ( a b ) . )"),
    (TREE, "a b .", "<think>Hm, ( a b ) ?</think>\n\n( ( a b ) . )", "( ( a b ) . )"),
    (TREE, "a b .", "<think>( a b ) </think><think>?</think>\n( ( a b ) . )", "( ( a b ) . )"), (TEXT, "a b", "<think> a </think> b", "<think> a </think> b"),
    (TREE, "a b .", "The parse of (a b .) is:\n( ( a b ) . )", "( ( a b ) . )"),
    (SLOTS, "O. Henry", "O. B-x\nHenry I-x", "B-x I-x"), (SLOTS, "a b", "'O' (B-x);", "O B-x"),
    (SLOTS, "a b", "O B-x.", "O B-x"), (SLOTS, "a b", "B-x, I-x.", "B-x I-x"), (SLOTS, "a b", "a B-x, b I-x", "B-x I-x"),
    (SLOTS, "a sentence : b", "a O sentence O : O b B-x", "O O O B-x"), (SLOTS, "a b", "the sentence: O\nO B-x", "O B-x"),
    (SLOTS, "a b", "O, B-x", "O B-x"), (SLOTS, "a b", "[O, B-x]", "O B-x"), (SLOTS, "a b", "`O B-x`", "O B-x"),
    (SLOTS, "a b", "**O B-x**.", "O B-x"), (SLOTS, "a b", "a O, b B-x", "O B-x"),
    (SLOTS, "a b", "Here you go:\nO B-x", "O B-x"),
    (SLOTS, "a b", "Sentence: a b\nTags: a O b B-x", "O B-x"),
    (SLOTS, "a b", "a O\nb B-x", "O B-x"),
    (SLOTS, "a b", "Tags:\nO zebra", "O O"), (SLOTS, "a b", "Sentence: a b\nTags:\nO zebra", "O O"), (SLOTS, "a b", "```\nO B-x```", "O B-x"),
    (TREE, "He left .", "Sentence: He left.\nParse: ( ( He left ) . )", "( ( He left ) . )"),
    (TREE, "use Sentence: as header", "( ( use\nSentence: ) ( as header ) )", "( ( use Sentence: ) ( as header ) )"),
    (TREE, "the Parse: tag", "( the\nParse: tag )", "( the Parse: tag )")])
def test_a_chat_model_may_introduce_its_answer(task, input, answer, wanted):
    assert task.read(input, answer) == wanted


def test_of_equally_frequent_tags_the_first_that_was_given_wins():
    assert SLOTS.vote("a b", ["B-y O", "B-x O", "O B-x"]) == "B-y O"


def test_a_known_tag_that_ends_in_punctuation_is_that_tag():
    assert make_task({"task": "slots", "tags": ["O", "B-x."]}).read("a b", "B-x. O.") == "B-x. O"


@pytest.mark.parametrize("answer, unknown", [("O B-zebra", {"B-zebra"}), ("O ,", set()), ("Sure O", set()), ("O B-x", set())])
def test_only_tags_are_unknown_tags(answer, unknown):
    task = make_task({"task": "slots", "tags": ["O", "B-x"]})
    task.read("a b", answer)
    assert task.unknown == unknown


@pytest.mark.parametrize("task, input, answer", [
    (SLOTS, "a b c d", "Tags: garbage\n\nSentence: e f g\nTags: O B-x O"),                   # three tags and `Tags:`, of another sentence
    (SLOTS, "a b c d", "Tags: garbage\n\nSentence: e f g h\nTags: O B-x O O"),               # as many tags, of another sentence
    (SLOTS, "a b c", "a - O\nb - B-x\nc - O"), (SLOTS, "a b", "1. O\n2. B-x"),                # a line a word is not the whole answer's tags
    (SLOTS, "a b", "a b"), (SLOTS, "a b", "zebra quokka"),                                     # no tag at all
    (SLOTS, "a b", "Sentence: c d\nTags: O B-x"), (SLOTS, "a b", "**Sentence 2:** c d\nTags: O B-x"), (TREE, "a b", "Sentence: c d\nParse: ( a b )"),
    (TREE, "a b c", "( ( a b )\nSentence: c\n( c ) )")])
def test_what_an_llm_says_of_another_sentence_is_no_answer(task, input, answer):
    with pytest.raises(ValueError):
        task.read(input, answer)


def test_an_answer_of_many_open_brackets_is_refused_in_no_time():
    with pytest.raises(ValueError):
        TREE.read("a b", "(\n" * 20_000)


def test_text_takes_the_first_line_and_refuses_an_empty_one():
    assert TEXT.pieces("a b", "any  thing\tat all") == ["any thing at all"]
    assert TEXT.read("a b", " c d \nSentence: e") == "c d"
    for answer in ("", " \n", "\t"):
        with pytest.raises(ValueError):
            TEXT.read("a b", answer)
    with pytest.raises(ValueError):
        TEXT.check("a b", "  ")
    assert TEXT.fallback("a b") == ""


@pytest.mark.parametrize("kind", ["tree", "slots", "text"])
def test_instruction_of_task_json_wins(kind):
    assert make_task({"task": kind, "instruction": "Do it."}).instruction == "Do it."
    assert make_task({"task": kind}).instruction and make_task({"task": kind}).kind == kind


@pytest.mark.parametrize("config", [{}, {"task": "trees"}, {"task": None}])
def test_unknown_kind_is_refused(config):
    with pytest.raises(ValueError, match="tree, slots, text"):
        make_task(config)
