"""Scores against worked examples, the authorities (EVALB, seqeval), and what must hold of any score."""

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT, exit_code
from data.command import run_command
from data.splits import DataError
from data.trees import bare_spans, clean, read_penn, write_bare
from errors import learnt_errors, repeated_errors
from metrics import (OTHER_TAGS, WORD_TAGS, GoldError, agreement, bracket_scores, chunks, evalb_scores, foreign_tags, is_punctuation, main,
                     score, slot_scores, text_scores)

GOLD = "(S (NP (DT The) (JJ old) (NN cat)) (, ,) (VP (VBD sat) (ADVP (RB down))) (. .))"
WORDS = "The old cat , sat down ."


def bare(penn):
    tree = clean(read_penn(penn))
    return write_bare(tree.words, bare_spans(tree))


def figures(result):
    return tuple(round(result[key], 2) for key in ("precision", "recall", "f1", "complete", "valid"))


# ------------------------------------------------------------------------------------------ the paper's score

def test_bracket_worked_example():
    # Without `,` and `.` the words are  0 The  1 old  2 cat  3 sat  4 down.
    # Gold:       (0,5) the sentence, (0,3) The old cat, (3,5) sat down.
    # Prediction: (0,5), (1,3) old cat, (1,3) again for `( ( old cat ) , )`, which is the same span without the comma, (3,5).
    # Two spans are right, of three each: P = R = F1 = 66.67. The second sentence is right in full.
    result = bracket_scores([GOLD, GOLD], ["( The ( ( old cat ) , ) ( sat down ) . )", "( ( The old cat ) , ( sat down ) . )"])
    assert [score["f1"] for score in result["per_sentence"]] == pytest.approx([200 / 3, 100])
    assert figures(result) == (83.33, 83.33, 83.33, 50, 100) and result["n"] == 2 and result["left_out"] == 0


@pytest.mark.parametrize("prediction", ["( ( ( The ) ( old ) ( cat ) ) ( , ) ( ( sat ) ( down ) ) ( . ) )", "((The old cat) , (sat down) .)",
                                        "( ( The old cat ) , ( sat down ) .", "( ( The old cat ) , ( sat down ) . ) ) )", GOLD,
                                        "(S (NP The old cat) , (VP sat (ADVP down)) .)", "(S (NP The old cat) (, ,) (VP sat down) (. .)",
                                        "(S (NP (DT The) (JJ old) (NN cat)) (, ,) (VP (VBD sat) (NP (-NONE- *)) (ADVP (RB down))) (. .))"])
def test_bracket_every_way_to_write_the_right_tree(prediction):
    assert figures(bracket_scores([GOLD], [prediction])) == (100, 100, 100, 100, 100)


@pytest.mark.parametrize("prediction", ["", "no idea", "( The old cat , sat down )", "( ( The old cat ) , ( sat down ) ! )",
                                        "( ( The old dog ) , ( sat down ) . )", "( The ) ( old cat , sat down . )",
                                        "( ( The old cat ) ( sat down ) )", "( ( the old cat ) , ( sat down ) . )"])
def test_bracket_no_tree_over_these_words_scores_nothing(prediction):
    assert figures(bracket_scores([GOLD], [prediction])) == (0, 0, 0, 0, 0)


def test_bracket_leaves_out_what_nobody_can_get_right():
    result = bracket_scores(["(FRAG (UH Yes) (. .))", GOLD], ["nonsense", GOLD])
    assert (result["n"], result["left_out"], result["f1"], result["valid"]) == (1, 1, 100, 100)
    assert result["per_sentence"][0] is None


def test_bracket_traces_and_function_tags_in_gold():
    gold = "( (S (NP-SBJ-1 (DT The) (NN cat)) (VP (VBD sat) (NP (-NONE- *-1)))))"
    assert bracket_scores([gold], ["( ( The cat ) sat )"], ["The cat sat"])["f1"] == 100


def test_bracket_bare_gold_tells_punctuation_by_its_characters():
    other = "( The ( ( old cat ) , ) ( sat down ) . )"
    assert figures(bracket_scores([bare(GOLD)], [other], [WORDS])) == figures(bracket_scores([GOLD], [other], [WORDS]))
    # Without the words this would be Penn: the tags `The` and `sat`.
    assert bracket_scores(["((The cat) (sat down))"], ["((The cat) (sat down))"], ["The cat sat down"])["n"] == 1
    assert all(map(is_punctuation, [",", "``", "''", "(", "...", "$", "—", "-"]))
    assert not any(map(is_punctuation, ["%", "&", "a.", "+", "=", "½", "日"]))


def test_bracket_words_with_brackets_and_escapes():
    gold = r"(NP (NN p-LRB-x-RRB-) (-LRB- -LRB-) (CD 1\/2) (-RRB- -RRB-))"
    assert bracket_scores([gold], ["( p-LRB-x-RRB- -LRB- 1/2 -RRB- )"], ["p(x) ( 1/2 )"])["f1"] == 100


@pytest.mark.parametrize("gold, words, problem", [
    ("(S (NN a)", None, "1 bracket left open"), ("", None, "empty"), (GOLD, ["The cat sat"], "its words are not the input's")])
def test_bracket_bad_gold(gold, words, problem):
    with pytest.raises(GoldError, match=problem) as error:
        bracket_scores([GOLD, gold], [GOLD, GOLD], words and [WORDS, *words])
    assert error.value.number == 2


# ------------------------------------------------------------------------------------------ EVALB

def test_evalb_worked_example():
    # `,` and `.` are deleted. Gold: S(0,5) NP(0,3) VP(3,5) ADVP(4,5). Prediction: S(0,5) NP(0,3) NP(1,3) VP(3,5) PRT(4,5),
    # where PRT counts as ADVP and TOP not at all: 4 right of 4 in gold, of 5 predicted.
    pred = "(TOP (S (NP-SBJ (DT The) (NP (JJ old) (NN cat))) (, ,) (VP (VBD sat) (PRT (RP down))) (. .)))"
    assert figures(evalb_scores([GOLD], [pred])) == (80, 100, 88.89, 0, 100)


def test_evalb_unlabelled_predictions_match_nothing():
    # Three brackets, (0,5), (0,3) and (3,5), none of them with a label.
    for pred in ("( ( The old cat ) , ( sat down ) . )", "((The old cat) , (sat down) .)"):
        assert figures(evalb_scores([GOLD], [pred])) == (0, 0, 0, 0, 100)
    assert evalb_scores([f"( {GOLD})"], ["( ( The old cat ) , ( sat down ) . )"])["f1"] == 0


@pytest.mark.parametrize("gold, prediction", [
    ("(S (NP (DT The) (NN cat)) (VP (VBD sat)))", "(S (NP The cat) (VP sat))"),
    (GOLD, "(S (NP-SBJ The old cat) , (VP sat (PRT down)) .)"),
    (GOLD, "(S (NP The old cat) (, ,) (VP (VBD sat) (ADVP (RB down))) (. .))"),         # some have a tag
    (f"( {GOLD})", "( (S (NP The old cat) , (VP sat (ADVP down)) .))"),
    ("(S (NP (NNS mice) (-NONE- *)) (VP (VBD died)) (. .))", "(S (NP mice) (VP died) .)"),
    ("(S (NP (NNS mice)) (VP (VBD died)) (. .))", "(S (NP-SBJ mice) (VP died) (. .))"),  # one word each: looks like tags
    ("(S (NP (NP mice)) (VP (VBD died)))", "(S (NP (NP mice)) (VP (VBD died)))"),        # another treebank's tag NP
    ("(S (NML (NN cell)) (VP (VBD died)))", "(S (NML cell) (VP died))"),
    ("(S (VP (VB Stop)))", "(S (VP Stop))"),
    ("(HEADING (NNS Footnotes))", "(HEADING Footnotes)"),                               # a constituent that gold alone knows
    ("(S (NP (NNS mice)) (VP (VBD died)) (. .))", "(S (NP mice) (VP (VBN died)) (, .))"),              # wrong tags, but the Penn Treebank's
    ("(S (NP (DT The) (NN foo)) (VP (VBD sat)))", "(S (NP (DET The) (X foo)) (VP (VERB sat)))")])      # another tagger's X is no bracket
def test_evalb_labels_without_tags(gold, prediction):
    assert figures(evalb_scores([gold], [prediction])) == (100, 100, 100, 100, 100)


def test_evalb_labels_without_tags_worked_example():
    # Gold has S(0,5) NP(0,3) VP(3,5) ADVP(4,5). Predicted: S(0,5) NP(1,3) VP(3,5) NP(4,5). Two are right.
    prediction = "(S The (NP old cat) , (VP sat (NP down)) .)"
    assert figures(evalb_scores([GOLD], [prediction])) == (50, 50, 50, 0, 100)
    assert evalb_scores([GOLD], ["(S The (NP old dog) , (VP sat (NP down)) .)"])["valid"] == 0
    gold = "(S (NP (NN a) (NN b)) (NN c))"                          # a constituent may be called NN; the tag of one word is none
    for prediction in ("(S (NN a b) c)", "(S (NN a b) (NN c))", "(S (NN a b) (JJ c))", "(S (NN (NN a) (NN b)) (NN c))"):
        assert figures(evalb_scores([gold], [prediction])) == (50, 50, 50, 0, 100), prediction
    # A label that another treebank uses as a tag is the word's tag where gold says so, and else a constituent.
    assert figures(evalb_scores(["(S (X a) (NN b))"], ["(S (X a) b)"]))[0] == 100
    assert figures(evalb_scores(["(S (NN a) (NN b))"], ["(S (X a) b)"]))[0] == 50


def evalb_mismatches(cases, summary, result):
    """Where the result is not EVALB's, to the last digit that EVALB prints."""
    wrong = []
    for case, mine in zip(cases, result["per_sentence"], strict=True):
        _, _, status, recall, precision = case
        if (mine is None) != (status != 0):
            wrong.append((case, mine))
        elif mine is not None and (f"{mine['recall']:.2f}", f"{mine['precision']:.2f}") != (recall, precision):
            wrong.append((case, mine))
    mine = {"Bracketing Recall": f"{result['recall']:.2f}", "Bracketing Precision": f"{result['precision']:.2f}",
            "Bracketing FMeasure": f"{result['f1']:.2f}", "Complete match": f"{result['complete']:.2f}",
            "Number of Valid sentence": str(result["n"])}
    return wrong + [(key, value, summary[key]) for key, value in mine.items() if value != summary[key]]


def test_evalb_equals_what_evalb_printed():
    recorded = json.loads((Path(__file__).parent / "fixtures" / "evalb_cases.json").read_text(encoding="utf-8"))
    cases = recorded["cases"]
    assert len(cases) == 300 and {case[2] for case in cases} == {0, 1, 2}
    result = evalb_scores([case[0] for case in cases], [case[1] for case in cases])
    assert evalb_mismatches(cases, recorded["summary"], result) == []


LABELS = "S NP VP PP ADVP PRT SBAR NP-SBJ NP-SBJ-2 PP=1 TOP ADVP-TMP PRT|ADVP".split()
TAGS = "DT NN VBD IN RB RP , . : `` '' -NONE- -LRB- $ PRP$ TOP HYPH".split()
COLLINS = """MAX_ERROR 1000000
LABELED 1
DELETE_LABEL TOP
DELETE_LABEL -NONE-
DELETE_LABEL ,
DELETE_LABEL :
DELETE_LABEL ``
DELETE_LABEL ''
DELETE_LABEL .
DELETE_LABEL_FOR_LENGTH -NONE-
EQ_LABEL ADVP PRT
"""


def random_penn(leaves, rng):
    def build(start, end):
        labels = [rng.choice(LABELS) for _ in range(rng.choice([0, 0, 0, 1, 2]))]
        if end - start == 1:
            inner = leaves[start]
        else:
            labels.append(rng.choice(LABELS))
            cuts = [start, *sorted(rng.sample(range(start + 1, end), rng.randint(1, min(3, end - start - 1)))), end]
            inner = " ".join(build(a, b) for a, b in zip(cuts, cuts[1:]))
        for label in labels:
            inner = f"({label} {inner})"
        return inner
    return build(0, len(leaves))


def random_pair(rng):
    """A gold tree and a prediction: sometimes the same shape, sometimes with other tags or words, sometimes broken."""
    n_words = rng.choice([1, 1, 2, 3, 4, 6, 9])
    words = [rng.choice(["a", "b", "-LRB-", "é", "it's"]) for _ in range(n_words)]
    tags = [rng.choice(TAGS) if rng.random() < 0.5 else "NN" for _ in words]
    gold = random_penn([f"({tag} {word})" for tag, word in zip(tags, words)], rng)
    tags = [rng.choice(TAGS) if rng.random() < 0.02 else tag for tag in tags]
    words = [rng.choice("ab") if rng.random() < 0.01 else word for word in words]
    pred = random_penn([f"({tag} {word})" for tag, word in zip(tags, words)], rng)
    if rng.random() < 0.5:
        pred = re.sub(r"\([A-Z]+(?= \()", lambda match: f"({rng.choice(LABELS)}" if rng.random() < 0.1 else match[0], gold)
    gold, pred = (rng.choice(["(TOP {})", "{}", "{}", "(S {})", "( {})", "({})"]).format(text) for text in (gold, pred))
    return gold, rng.choice([""] + ([pred[:-1], pred + ")"]) + [pred] * 60)


def run_evalb(binary, pairs, folder):
    (folder / "collins.prm").write_text(COLLINS)
    for column, name in enumerate(["gold", "pred"]):
        (folder / name).write_text("".join(pair[column] + "\n" for pair in pairs), encoding="utf-8")
    output = subprocess.run([binary, "-p", "collins.prm", "gold", "pred"], cwd=folder, capture_output=True, text=True).stdout
    rows = re.findall(r"^ *\d+ +\d+ +(\d) +([\d.]+) +([\d.]+) ", output, re.MULTILINE)
    # The summary is printed twice, for all sentences and for those of 40 words and fewer. The first is meant.
    summary = dict(reversed(re.findall(r"^(\w[\w ]*?) +=\s+(\S+)$", output, re.MULTILINE)))
    assert len(rows) == len(pairs)
    return [[*pair, int(status), recall, precision] for pair, (status, recall, precision) in zip(pairs, rows)], summary


@pytest.mark.skipif("EVALB" not in os.environ, reason="set EVALB to a compiled evalb to compare with it")
def test_evalb_equals_evalb(tmp_path):
    rng = random.Random(1)
    for _ in range(5):
        pairs = [random_pair(rng) for _ in range(1000)]
        cases, summary = run_evalb(os.path.abspath(os.environ["EVALB"]), pairs, tmp_path)
        result = evalb_scores([case[0] for case in cases], [case[1] for case in cases])
        assert evalb_mismatches(cases, summary, result) == []


# ------------------------------------------------------------------------------------------ slots

def test_slots_worked_example():
    # Gold: city (1,3), day (4,5). Prediction: city (1,3), and an I-day after O, which begins a chunk (3,5): wrong start.
    result = slot_scores(["O B-city I-city O B-day"], ["O B-city I-city I-day I-day"])
    assert figures(result) == (50, 50, 50, 0, 100)
    assert chunks("O B-city I-city I-day I-day".split()) == {("city", 1, 3), ("day", 3, 5)}


def test_slots_that_begin_with_I_are_complete_with_B():
    assert figures(slot_scores(["I-a I-a O", "O"], ["B-a I-a O", "O"])) == (100, 100, 100, 100, 100)
    assert slot_scores(["O O", "O"], ["O", "O"])["complete"] == 50
    assert slot_scores(["O B-no\u00a0break"], ["O B-no\u00a0break"])["f1"] == 100        # only ASCII white space separates


def test_slots_bad_predictions_count_as_all_o():
    for pred in ["", "O", "B-a O O", "B-a city", "b-a O", "B- O"]:
        result = slot_scores(["B-a O", "B-a O"], [pred, "B-a O"])
        assert figures(result) == (100, 50, 66.67, 50, 50)


def test_slots_without_chunks_is_zero_as_in_conlleval():
    assert figures(slot_scores(["O O"], ["O O"])) == (0, 0, 0, 100, 100)


@pytest.mark.parametrize("gold", ["B-a X", "B-", "", "O I"])
def test_slots_bad_gold(gold):
    with pytest.raises(GoldError, match="expected BIO tags") as error:
        slot_scores(["O", gold], ["O", "O O"])
    assert error.value.number == 2


def random_tags(rng, n):
    names = ["a", "b", "fromloc.city_name", "a-b", "B-x", "O", "é"]
    return [rng.choice(["O", "B-", "I-", "I-"]) for _ in range(n)], [rng.choice(names[:rng.randint(1, 7)]) for _ in range(n)]


def test_slots_equal_seqeval():
    seqeval = pytest.importorskip("seqeval.metrics")
    rng = random.Random(0)
    for _ in range(300):
        gold, pred = [], []
        for _ in range(10):
            n = rng.randint(1, 8)
            for side in (gold, pred):
                side.append([prefix if prefix == "O" else prefix + name for prefix, name in zip(*random_tags(rng, n))])
            if rng.random() < 0.3:
                pred[-1] = gold[-1]
        result = slot_scores(*([" ".join(tags) for tags in side] for side in (gold, pred)))
        for name in ("precision", "recall", "f1"):
            theirs = getattr(seqeval, f"{name}_score")(gold, pred, zero_division=0)
            assert result[name] == pytest.approx(100 * theirs), (gold, pred)


# ------------------------------------------------------------------------------------------ text

def test_text_worked_example():
    # "a b b c" against "b b d": two tokens in common, of 4 and of 3.
    result = text_scores(["a b b c", "x  y", ""], ["b b d", "x y", ""])
    assert result["per_sentence"][0] == pytest.approx({"precision": 200 / 3, "recall": 50, "f1": 400 / 7})
    assert figures(result)[3:] == (66.67, 66.67) and result["n"] == 3


# ------------------------------------------------------------------------------------------ what holds of every score

def bare_pairs(n, seed):
    rng = random.Random(seed)
    sentences, a, b = [], [], []
    for _ in range(n):
        words = [rng.choice(["a", "b", ",", "(", "-LRB-", "x.y", "%"]) for _ in range(rng.randint(1, 9))]
        leaves = [f"(NN {word})".replace("(NN ()", "(-LRB- -LRB-)") for word in words]
        sentences.append(" ".join(words))
        for side in (a, b):
            side.append(bare(random_penn(leaves, rng)) if rng.random() < 0.95 else "( broken")
    return sentences, a, b


def slot_pairs(n, seed):
    rng = random.Random(seed)
    sentences = [" ".join("w" * rng.randint(2, 8)) for _ in range(n)]
    a, b = ([" ".join(rng.choice(["O", "B-a", "I-a", "B-b"]) for _ in sentence.split()) for sentence in sentences] for _ in "ab")
    return sentences, a, b


def items(kind):
    return slot_pairs(200, 3) if kind == "slots" else bare_pairs(200, 3)


@pytest.mark.parametrize("kind", ["tree", "slots", "text"])
def test_agreement_is_symmetric_and_does_not_mind_the_order(kind):
    inputs, a, b = items(kind)
    value = agreement(kind, a, b, inputs)
    assert 0 < value < 100
    assert value == pytest.approx(agreement(kind, b, a, inputs))
    assert value == pytest.approx(agreement(kind, a[::-1], b[::-1], inputs[::-1]))


@pytest.mark.parametrize("kind", ["tree", "slots", "text"])
def test_a_score_does_not_mind_the_order_and_gold_scores_full(kind):
    inputs, gold, pred = items(kind)
    gold = [write_bare(sentence.split()) if text == "( broken" else text for sentence, text in zip(inputs, gold)]
    result, backwards = score(kind, gold, pred, inputs), score(kind, gold[::-1], pred[::-1], inputs[::-1])
    assert figures(result) == figures(backwards) and backwards["per_sentence"] == result["per_sentence"][::-1]
    assert figures(score(kind, gold, gold, inputs)) == (100, 100, 100, 100, 100)
    assert result["f1"] < 100


def test_swapping_gold_and_prediction_swaps_precision_and_recall():
    inputs, a, b = bare_pairs(200, 5)
    a, b = ([write_bare(s.split()) if text == "( broken" else text for s, text in zip(inputs, side)] for side in (a, b))
    one, other = bracket_scores(a, b, inputs), bracket_scores(b, a, inputs)
    assert one["precision"] == pytest.approx(other["recall"]) and one["f1"] == pytest.approx(other["f1"])


def test_agreement_of_trees_is_the_bracket_score_against_bare_gold():
    inputs, a, b = bare_pairs(200, 7)
    a = [write_bare(s.split()) if text == "( broken" else text for s, text in zip(inputs, a)]
    assert agreement("tree", a, b, inputs) == pytest.approx(bracket_scores(a, b, inputs)["f1"])


def test_two_empty_texts_are_no_answers_and_so_do_not_agree():
    assert agreement("text", ["", "a"], ["", "a"], ["x", "y"]) == 50.0


def test_an_unknown_kind_and_lists_of_different_lengths():
    with pytest.raises(ValueError, match="1 and 2"):
        bracket_scores(["( a b )"], ["( a b )"], ["a b", "c d"])
    for call in (lambda: score("trees", [], []), lambda: agreement("trees", [], [], []), lambda: slot_scores(["O"], [])):
        with pytest.raises(ValueError, match="expected"):
            call()


def test_nothing_to_score_is_zero():
    for result in (bracket_scores([], []), evalb_scores([], []), slot_scores([], []), text_scores([], [])):
        assert result["n"] == 0 and figures(result) == (0, 0, 0, 0, 0)


@pytest.mark.parametrize("kind, a, b, words, found", [
    ("tree", "( a )", "( a )", "a", None), ("tree", "( a . )", "( a . )", "a .", None), ("slots", "O O", "O O", "a b", None),
    ("slots", "O O", "O B-x", "a b", 0), ("slots", "B-x I-x", "broken", "a b", 0), ("tree", "( a b )", "( a", "a b", 0)])
def test_agreement_where_there_is_nothing_to_compare_is_none(kind, a, b, words, found):
    assert agreement(kind, [a], [b], [words]) == agreement(kind, [b], [a], [words]) == found


def test_tags_may_stand_between_the_words_of_their_inputs():
    inputs, gold, pred = ["fly to Rome", "O B-x"], ["fly O to O Rome B-city", "O O B-x B-y"], ["O O B-city", "O O B-x B-y"]
    assert figures(slot_scores(gold, pred, inputs)) == (100, 100, 100, 100, 100)
    assert slot_scores(["O O B-city"], [gold[0]], inputs[:1])["f1"] == 100
    assert slot_scores(["O O B-city"], [gold[0]])["valid"] == 0             # whose words nobody knows


def test_ten_thousand_deep():
    depth = 10_000
    penn = "(S (DT a) " * depth + "(NN b)" + ")" * depth
    assert bracket_scores([penn], [bare(penn)])["f1"] == 100
    assert evalb_scores([penn], [penn])["f1"] == 100


# ------------------------------------------------------------------------------------------ command line

@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(gold, pred):
        Path("gold").write_bytes(gold if isinstance(gold, bytes) else gold.encode())
        Path("pred").write_bytes(pred if isinstance(pred, bytes) else pred.encode())
        return ["gold", "pred"]
    return write


def test_cli_json(files, capsys):
    paths = files(f"{GOLD}\n(FRAG (UH Yes))\n{GOLD}\n", f"{GOLD}\n( Yes )\n\n")
    main([*paths, "--metric", "bracket", "--json", "--per-sentence"])
    result = json.loads(capsys.readouterr().out)
    assert {key: result[key] for key in ("n", "f1", "complete", "valid", "left_out")} == \
        {"n": 2, "f1": 50, "complete": 50, "valid": 50, "left_out": 1}
    assert [score["f1"] for score in result["per_sentence"]] == [100, None, 0]
    assert result["per_sentence"][1] == {"precision": None, "recall": None, "f1": None}


def test_words_of_another_treebank_are_said_not_to_count(files, capsys):
    """The paper counts words by Penn's tags: of UD's, and of most of STTS', none is a word."""
    german, penn = "(S (NP (ART Die) (NN Katze)) (VP (VVFIN sah) (NP (ART den) (NN Hund))))", "(S (NP (DT the) (XX cat)) (HYPH -) (VBD sat))"
    assert foreign_tags([german, penn]) == ["ART", "VVFIN"] and foreign_tags([penn, "((the cat) sat)"]) == []
    main([*files(f"{german}\n", "((Die Katze) (sah (den Hund)))\n")])
    assert "gold: words whose gold tags are not the Penn Treebank's do not count" in (said := capsys.readouterr().err) and "ART, VVFIN" in said
    main([*files(f"{penn}\n", f"{penn}\n")])
    assert not capsys.readouterr().err


def test_cli_runs_as_a_script(files):
    paths = files("O B-a\r\nO O\r\n", "O B-a\nO O\n")
    run = [sys.executable, str(ROOT / "metrics.py")]
    table = subprocess.run([*run, *paths, "--metric", "slots", "--per-sentence"], capture_output=True, text=True)
    assert table.returncode == 0 and re.search(r"^f1 +100\.00$", table.stdout, re.MULTILINE)
    assert "example:" in subprocess.run([*run, "--help"], capture_output=True, text=True).stdout


def test_cli_takes_the_outputs_of_json_lines(files, capsys, tmp_path):
    for name, outputs in (("gold.jsonl", ["3 + 4", "5"]), ("pred.jsonl", ["4 + 3", ""])):
        (tmp_path / name).write_text("".join(json.dumps({"input": "a b", "output": output}) + "\n" for output in outputs))
    main(["gold.jsonl", "pred.jsonl", "--metric", "text", "--json"])
    assert json.loads(capsys.readouterr().out) == {"n": 2, "precision": 50, "recall": 50, "f1": 50, "complete": 0, "valid": 50}
    (tmp_path / "bad.jsonl").write_text('{"input": "a b"}\n')
    (tmp_path / "other.jsonl").write_text('{"input": "a b", "output": "1"}\n{"input": "c", "output": "2"}\n')
    for pair, said in ((["bad.jsonl", "pred.jsonl"], "bad.jsonl:1: expected"), (["gold.jsonl", "other.jsonl"], "other.jsonl:2: expected 'a b'")):
        with pytest.raises(DataError, match=said):
            main([*pair, "--metric", "text"])
    (tmp_path / "authors.jsonl").write_text('{"translation": {"unparsed": "a b", "parsed": "3", "unlabeled": "5"}}\n' * 2)
    main(["authors.jsonl", "authors.jsonl", "--metric", "text", "--json"])      # gold is the one column, the prediction the other
    assert json.loads(capsys.readouterr().out)["f1"] == 0


def test_cli_reads_gold_as_a_data_folder_holds_it(files, capsys, tmp_path):
    """In JSON Lines the input says what the words are: bare brackets, and tags between words, are gold as well."""
    def write(name, input, output):
        (tmp_path / name).write_text(json.dumps({"input": input, "output": output}) + "\n")
    write("gold.jsonl", "The cat sat .", "( ( The cat ) sat . )")
    write("pred.jsonl", "The cat sat .", "( The ( cat sat ) . )")
    main(["gold.jsonl", "pred.jsonl", "--json"])                    # spans 0-2 and 0-3 against 1-3 and 0-3: the full stop is left out
    assert json.loads(capsys.readouterr().out)["f1"] == 50
    (tmp_path / "pred.txt").write_text("fly O to O Rome B-city\n")     # the words that gold tells are the prediction's, too
    write("gold.jsonl", "fly to Rome", "fly O to O Rome B-city")
    main(["gold.jsonl", "pred.txt", "--metric", "slots", "--json"])
    assert json.loads(capsys.readouterr().out)["f1"] == 100
    for answer, figures in (("O O B-city", (100, 100)), ("fly O to O Rome B-city", (100, 100)), ("fly O to O", (0, 0))):
        write("pred.jsonl", "fly to Rome", answer)
        main(["gold.jsonl", "pred.jsonl", "--metric", "slots", "--json"])
        found = json.loads(capsys.readouterr().out)
        assert (found["f1"], found["valid"]) == figures
    write("gold.jsonl", "fell 3\\/4 -LRB-", "(S (VBD fell) (NP (CD 3\\/4) (-LRB- -LRB-)))")               # an input may keep Penn's escapes
    main(["gold.jsonl", "gold.jsonl", "--metric", "evalb", "--json"])
    assert json.loads(capsys.readouterr().out)["f1"] == 100
    for metric, input, output in (("bracket", "The cat sat .", "( ( The cat ) sat )"), ("slots", "fly to Rome", "O O"),
                                  ("evalb", "The dog", "(NP (DT The) (NN cat))"), ("evalb", "The cat sat down", "((The cat) (sat down))")):
        write("gold.jsonl", input, output)
        with pytest.raises(DataError, match="^gold.jsonl:1: .*expected"):
            main(["gold.jsonl", "gold.jsonl", "--metric", metric])


def test_cli_a_line_ends_only_at_a_newline_and_a_byte_order_mark_is_no_text(files, capsys):
    gold = "\ufeff(NP (NN a\u2028b) (NN c\x85d))\n"
    main([*files(gold, gold), "--json"])
    assert json.loads(capsys.readouterr().out)["n"] == 1


@pytest.mark.parametrize("metric, gold, pred, message", [
    ("bracket", "", "x\n", "gold: expected one item a line: the file is empty"),
    ("bracket", f"{GOLD}\n", f"{GOLD}\n{GOLD}\n", "pred: expected 1 lines, as many as gold has; found 2"),
    ("bracket", f"{GOLD}\n(S (NN a)\n", "x\nx\n", "gold:2: expected a Penn tree: 1 bracket left open"),
    ("bracket", "(S (NP the cat))\n", "x\n", "gold:1: expected a Penn tree:"),
    ("evalb", f"{GOLD}\n\n", "x\nx\n", "gold:2: expected a Penn tree: the text is empty"),
    ("slots", "O B-a\nO city\n", "O O\nO O\n", "gold:2: expected BIO tags (O, B-label, I-label): tag 2 is `city`"),
    ("slots", b"O\n\xff\n", "O\nO\n", "gold:2: expected UTF-8, found the byte 0xff")])
def test_cli_bad_input_is_one_clear_line(files, capsys, metric, gold, pred, message):
    paths = files(gold, pred)
    with pytest.raises(SystemExit) as exit:
        run_command(lambda: main([*paths, "--metric", metric]))
    captured = capsys.readouterr()
    assert exit.value.code == 2 and captured.out == ""
    assert captured.err.startswith(f"error: {message}") and captured.err.count("\n") == 1


def test_cli_interrupted_is_one_line(monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt
    monkeypatch.setattr("argparse.ArgumentParser.parse_args", interrupt)
    assert exit_code(monkeypatch, "metrics.py") == 130 and capsys.readouterr().err == "interrupted\n"


def test_cli_missing_file(files):
    files("x", "x")
    run = subprocess.run([sys.executable, str(ROOT / "metrics.py"), "absent", "pred"], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (2, "error: absent: expected a file, found none\n")


# ---------------------------------------------------------------------------------------------------------------------
# Errors that repeat

def test_repeated_errors_worked_example():
    gold, three = ["(S (NP (DT The) (NN cat)) (VP (VBD sat)))"], [["( The ( cat sat ) )"], ["( ( The cat ) sat )"], ["( The ( cat sat ) )"]]
    assert repeated_errors("tree", gold, three, ["The cat sat"]) == {"extra": {2: 1}, "missing": {2: 1}}
    assert repeated_errors("tree", gold, [gold] * 3, ["The cat sat"]) == {"extra": {}, "missing": {}}
    # Of the first labeling's two errors, which two share, students have learnt to leave the bracket out, but not where the other one was.
    assert learnt_errors("tree", gold, three, ["( The cat sat )"], ["The cat sat"]) == {
        "extra": ({1: [0, 0], 2: [1, 0], 3: [0, 0]}, 0), "missing": ({1: [0, 0], 2: [1, 1], 3: [0, 0]}, 0)}
    assert learnt_errors("tree", gold, [gold] * 3, ["( The ( cat sat ) )"], ["The cat sat"])["extra"] == ({1: [0, 0], 2: [0, 0], 3: [0, 0]}, 1)
    assert repeated_errors("slots", ["O B-to I-to"], [["O B-to O"], ["O O O"]], ["to New York"]) == {"extra": {1: 1}, "missing": {2: 1}}


def test_constituents_of_one_word_are_no_tags_of_gold():
    gold = "(S (NP mice) (VP died))"
    assert bracket_scores([gold], ["( mice died )"], ["mice died"])["f1"] == 100 and foreign_tags([gold]) == []
    assert foreign_tags(["(S (NP mice) (VP (VERB died)))"]) == ["NP", "VERB"]


def test_words_are_what_the_treebanks_36_tags_of_words_say():
    """The paper's list, none of punctuation."""
    assert len(WORD_TAGS) == 36 and {"SYM", "PRP$", "LS"} < WORD_TAGS and not WORD_TAGS & OTHER_TAGS
