"""data/grammar.py and data/craft: the sample is what the grammar generates, and has the structure that it promises."""

import json
import random
import re
import sys

import pytest

import metrics
from conftest import ROOT
from data import grammar
from data.splits import DataError, load_data, read_jsonl, read_pseudolabels, write_atomically, write_jsonl
from data.trees import Tree, bare_spans, clean, read_penn, write_bare, write_penn

SAMPLE = ROOT / "data" / "craft"


@pytest.fixture(scope="module")
def splits():
    return {split: [json.loads(line) for line in (SAMPLE / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]
            for split in grammar.SIZES}


@pytest.fixture(scope="module")
def rows(splits):
    return [row for split in splits.values() for row in split]


@pytest.fixture(scope="module")
def trees(rows):
    return [read_penn(row["output"]) for row in rows]


def constituents(tree: Tree, tag: str, lemmas: list[str]):
    """For every verb of a class, its position and the smallest VP around it, as (position, start, end)."""
    forms = {grammar.inflect(lemma, tag) for lemma in lemmas}
    for position, word in enumerate(tree.words):
        if tree.tags[position] == tag and word in forms:
            yield position, *min((end - start, start, end) for label, start, end in tree.spans
                                 if label == "VP" and start <= position < end)[1:]


def children(tree: Tree, start: int, end: int) -> list[tuple[str, int, int]]:
    """The constituents directly inside a span (no unary chains of the same span counted twice)."""
    inside = [span for span in tree.spans if start <= span[1] and span[2] <= end and span[1:] != (start, end)]
    return [span for span in inside
            if not any(other[1] <= span[1] and span[2] <= other[2] and other[1:] != span[1:] for other in inside)]


def test_sizes_and_lengths(splits):
    assert {split: len(rows) for split, rows in splits.items()} == {"labeled": 50, "unlabeled": 1000, "valid": 100, "test": 300}
    lengths = [len(row["input"].split(" ")) for rows in splits.values() for row in rows]
    assert min(lengths) >= 4 and max(lengths) <= 22
    assert 11 <= sum(lengths) / len(lengths) <= 13.5


def test_the_committed_seed_gives_the_committed_bytes(tmp_path):
    for split, rows in grammar.sample(seed=0).items():
        write_jsonl(tmp_path / split, rows)
        assert (tmp_path / split).read_bytes() == (SAMPLE / f"{split}.jsonl").read_bytes(), split
    write_atomically(tmp_path / "task", grammar.TASK)
    assert (tmp_path / "task").read_bytes() == (SAMPLE / "task.json").read_bytes()


def test_another_seed_gives_other_sentences(splits):
    assert grammar.sample(seed=1)["labeled"] != splits["labeled"]


def test_the_folder_loads_as_a_sample(tmp_path):
    for name in ("task.json", *(f"{split}.jsonl" for split in grammar.SIZES)):  # without a real/ that may stand beside
        (tmp_path / name).write_bytes((SAMPLE / name).read_bytes())
    data = load_data(tmp_path)
    assert data.sample and data.config["task"] == "tree" and data.name == "craft"


def test_leaves_are_the_words_of_the_input(rows, trees):
    for row, tree in zip(rows, trees):
        assert tree.words == row["input"].split(" ")
        assert tree.words[-1] == "." and tree.spans[0] in {("S", 0, len(tree.words)), ("FRAG", 0, len(tree.words))}


def test_trees_are_clean(rows, trees):
    for row, tree in zip(rows, trees):
        assert write_penn(clean(tree)) == row["output"]
        assert len(set(tree.spans)) == len(tree.spans), f"the same constituent twice in a row: {row['output']}"
        assert all(re.fullmatch("[A-Z]+", label) for label, _, _ in tree.spans)
        assert set(tree.tags) <= metrics.WORD_TAGS | {".", ",", "-LRB-", "-RRB-", "HYPH"}


def test_no_sentence_twice(rows):
    sentences = [row["input"].lower() for row in rows]
    assert len(set(sentences)) == len(sentences)


def held_out_words():
    """Every form of every word that is held out for test."""
    tags = {"N": ("NN", "NNS"), "V": ("VB", "VBZ", "VBD", "VBN", "VBG")}
    return {grammar.inflect(word, tag) for name, (_, held_out) in grammar.CLASSES.items() for word in held_out
            for tag in tags.get(name[0] if name[1] == "_" else name, ("",))}


def test_held_out_words_are_in_test_and_nowhere_else(splits):
    words = {split: {word.lower() for row in rows for word in row["input"].split(" ")} for split, rows in splits.items()}
    held_out = {word.lower() for word in held_out_words()}
    for split in ("labeled", "unlabeled", "valid"):
        assert not held_out & words[split]
    # Some of test's sentences have a new word, most have none: a student from random weights meets few words that it never saw.
    assert len(held_out & words["test"]) >= 30
    hit = [any(word in held_out for word in row["input"].lower().split(" ")) for row in splits["test"]]
    assert 0.1 <= sum(hit) / len(hit) <= 0.3


def test_no_word_is_both_held_out_and_known():
    forms = {form for name, (known, _) in grammar.CLASSES.items() for word in known for tag in ("", "NNS", "VBZ", "VBD", "VBG")
             for form in [grammar.inflect(word, tag)]}
    inline = set(re.findall(r"[A-Z$]+/(\S+?)[)?]*(?=\s)", grammar.RULES))
    assert not held_out_words() & (forms | inline)


def test_every_class_of_the_rules_has_words_and_is_used():
    asked = set()
    for ways in grammar.GRAMMAR.values():
        queue = [item for _, items in ways for item in items]
        while queue:
            symbol, inner, _ = queue.pop()
            queue += inner or []
            if inner is None and "_" in symbol and symbol not in grammar.GRAMMAR:
                tag, name = symbol.split("_")
                asked.add(("N" if tag in ("NN", "NNS") else "V" if tag.startswith("VB") else tag) + "_" + name)
    assert asked == set(grammar.CLASSES)


@pytest.mark.parametrize("verbs, preposition, to_verb", [
    ("V_treat", "with", True), ("V_study", "with", False),     # treated (mice) (with tamoxifen); studied (mice with anemia)
    ("V_obtain", "from", True), ("V_study", "from", False),    # isolated (cells) (from embryos); studied (cells from embryos)
    ("V_find", "in", True), ("V_measure", "in", False),        # found (Shh) (in the heart); measured (Shh transcripts in the heart)
])
def test_the_class_of_the_verb_decides_where_a_phrase_attaches(trees, verbs, preposition, to_verb):
    lemmas = grammar.CLASSES[verbs][0]
    attached = []
    for tree in trees:
        for position, start, end in constituents(tree, "VBD", lemmas):
            inside = children(tree, start, end)
            objects = [span for span in inside if span[0] == "NP" and span[1] == position + 1]
            phrases = [span for span in inside if span[0] == "PP" and tree.words[span[1]] == preposition]
            attached += [True] * len(phrases)
            # A PP that the object itself takes: the last constituent of an NP of at least two children.
            for _, left, right in objects:
                attached += [False] * sum(label == "PP" and tree.words[first] == preposition
                                          for label, first, _ in children(tree, left, right))
    assert len(attached) >= 15  # a pattern that is rarer than that could not be learned
    assert set(attached) == {to_verb}


def test_compounds_branch_left_where_the_lexicon_says_so(rows):
    text = "\n".join(row["output"] for row in rows)
    assert re.search(r"\(NP \(NML \(NN bone\) \(NN marrow\)\) \(NNS \w+\)\)", text, re.IGNORECASE)
    assert not re.search(r"\(NML [^()]*\([A-Z]+ \S+\) \(NN germ\)", text)
    assert re.search(r"\(NP \(JJ \S+\) \(NN germ\) \(NNS cells\)\)", text)


def test_right_branching_is_no_good_parser(splits):
    gold = [row["output"] for row in splits["test"]]
    right, left = [], []
    for row in splits["test"]:
        words = row["input"].split(" ")
        n = len(words) - 1  # the full stop hangs at the top, as in Penn: the strongest form of the baseline
        right.append(write_bare(words, [(start, n) for start in range(n - 1)]))
        left.append(write_bare(words, [(0, end) for end in range(2, n + 1)]))
    assert 10 < metrics.bracket_scores(gold, left)["f1"] < 30
    assert 35 < metrics.bracket_scores(gold, right)["f1"] < 50
    spans = [len(bare_spans(read_penn(tree))) for tree in gold]
    assert 6 < sum(spans) / len(spans) < 11


@pytest.mark.parametrize("word, tag, form", [
    ("carry", "VBZ", "carries"), ("carry", "VBD", "carried"), ("carry", "VBG", "carrying"), ("assay", "NNS", "assays"),
    ("abnormality", "NNS", "abnormalities"), ("cortex", "NNS", "cortexes"), ("analysis", "NNS", "analyses"),
    ("isolate", "VBN", "isolated"), ("find", "VBD", "found"), ("wash", "VBZ", "washes"), ("mouse", "NNS", "mice"),
    ("mouse", "NN", "mouse"), ("ovary", "NN", "ovary"),
])
def test_inflection(word, tag, form):
    assert grammar.inflect(word, tag) == form


def test_command_line_writes_a_whole_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["grammar.py", "--out", str(tmp_path / "more"), "--seed", "3"])
    grammar.main()
    assert sorted(path.name for path in (tmp_path / "more").iterdir()) == [
        "labeled.jsonl", "task.json", "test.jsonl", "unlabeled.jsonl", "valid.jsonl"]
    assert "1,000 sentences" in capsys.readouterr().out


def test_a_negative_seed_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["grammar.py", "--out", str(tmp_path / "more"), "--seed", "-1"])
    with pytest.raises(DataError, match="--seed: expected at least 0, found -1"):
        grammar.main()
    assert not (tmp_path / "more").exists()


def test_a_place_that_cannot_be_written_to_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(sys, "argv", ["grammar.py", "--out", str(tmp_path / "file")])
    with pytest.raises(FileExistsError):                # which run_command says in one line
        grammar.main()


def test_what_a_killed_process_has_begun_is_written_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["grammar.py", "--out", str(tmp_path / "more")])
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        def write(path, rows):
            if path.name == "valid.jsonl":
                raise KeyboardInterrupt
            write_jsonl(path, rows)
        killed.setattr(grammar, "write_jsonl", write)
        grammar.main()
    with pytest.raises(DataError, match="labeled.jsonl: expected a file"):
        load_data(tmp_path / "more")
    grammar.main()
    assert len(list((tmp_path / "more").iterdir())) == 5


@pytest.mark.parametrize("options, message", [(["--seed", "1"], "--seed 1: expected --out DIR beside it"),
                                              (["--seed", "1", "--out", str(ROOT / "data/../data/craft")], "another folder than data/craft"),
                                              (["--out", "own"], "own: expected an empty folder")])
def test_other_data_is_not_written_over(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "task.json").write_text('{"task": "slots"}')
    monkeypatch.setattr(sys, "argv", ["grammar.py", *options])
    with pytest.raises(DataError, match=message):
        grammar.main()
    assert [path.name for path in (tmp_path / "own").iterdir()] == ["task.json"]


@pytest.mark.parametrize("budget", [3, 4, 6])
def test_no_derivation_gets_stuck_where_the_budget_is_tight(monkeypatch, budget):
    assert grammar.HEIGHTS["_sentence"] <= budget
    monkeypatch.setattr(grammar, "BUDGET", budget)
    rng = random.Random(0)
    for _ in range(2000):
        grammar.generate(rng, held_out=True)


# ---------------------------------------------------------------------------------------------------------------------
# The LLM's pseudolabels of the sample

def test_the_pseudolabels_are_about_the_sample_and_score_what_the_readme_says():
    labels = {row.input: row.output for row in read_pseudolabels(SAMPLE / "pseudolabels.jsonl")}
    readme = (SAMPLE / "README.md").read_text(encoding="utf-8")
    splits = {name: read_jsonl(SAMPLE / f"{name}.jsonl") for name in ("unlabeled", "valid", "test")}
    assert len(labels) == sum(map(len, splits.values()))
    for name, split in splits.items():
        found = metrics.score("tree", [x.output for x in split], [labels[x.input] for x in split], [x.input for x in split])
        assert f"| {name} | {found['f1']:.1f} | {found['valid']:.0f}% |" in readme
