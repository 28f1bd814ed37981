"""teacher.py: the prompt, the cache to which labels are appended, and every teacher that needs no download."""

import inspect
import json
import os
import random
import shutil
import struct
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from conftest import NASTY, ROOT, Enough, exit_code, random_sentence, random_tree
from data import folders, models
from data.models import load_causal_lm
from data.splits import DataError, Example, load_data, read_pseudolabels, write_jsonl
from data.tasks import make_task
from data.trees import bare_spans, read_tree, split_words, write_bare
import teacher
from teacher import (Label, LLMTeacher, NoisyTeacher, ReplayTeacher, Teacher, VotingTeacher, cache_file, few_shot_prompt, label_with_cache,
                     make_teacher, question, read_answer)

TREE = make_task({"task": "tree", "instruction": "Bracket each sentence."})
TAGS = ["O", "B-to", "I-to", "B-day", "I-day"]
SLOTS = make_task({"task": "slots", "instruction": "Tag each word.", "tags": TAGS})
TEXT = make_task({"task": "text", "instruction": "Translate."})
PENN = "(S (NP (DT The) (NN cat)) (VP (VBD sat)))"


def labels(teacher, inputs):
    """The labels of `inputs` in their order, each given exactly once."""
    pairs = list(teacher.label(inputs))
    assert sorted(i for i, _ in pairs) == list(range(len(inputs)))
    return [label for _, label in sorted(pairs)]


# ---------------------------------------------------------------------------------------------------------------------
# The prompt

def test_prompt_worked_example():
    prompt = few_shot_prompt(TREE, [Example("The cat sat", PENN), Example("f(x) is", "( f-LRB-x-RRB- is )")])
    assert prompt == ("Bracket each sentence.\n\n"
                      "Sentence: The cat sat\nParse: ( ( The cat ) sat )\n\n"
                      "Sentence: f(x) is\nParse: ( f-LRB-x-RRB- is )\n\n")
    assert question(TREE, "A  dog ran") == "Sentence: A dog ran\nParse:"


def test_prompt_of_slots_and_text():
    assert few_shot_prompt(SLOTS, [Example("to Boston", "O B-to")]) == (
        "Tag each word.\n\nSentence: to Boston\nTags: to O Boston B-to\n\n")
    assert few_shot_prompt(TEXT, [Example("a cat", "un chat")]) == "Translate.\n\nSentence: a cat\nOutput: un chat\n\n"
    assert few_shot_prompt(TEXT, []) == "Translate.\n\n"


# ---------------------------------------------------------------------------------------------------------------------
# The cache

class CountingTeacher(Teacher):
    """Labels last to first, counts what it is asked, and may be interrupted after a few labels."""
    name = key = "counting"

    def __init__(self, breaks_after=None):
        self.asked, self.breaks_after = [], breaks_after

    def label(self, inputs):
        for i in reversed(range(len(inputs))):
            if self.breaks_after is not None and len(self.asked) == self.breaks_after:
                raise KeyboardInterrupt
            self.asked.append(inputs[i])
            yield i, Label(inputs[i], f"label of {inputs[i]}", -0.5)


def test_labels_come_back_in_the_order_of_the_inputs_and_nothing_is_asked_twice(tmp_path):
    cache, counting = tmp_path / "new" / "cache.jsonl", CountingTeacher()
    inputs = ["a", "b", "a", "c"]
    found = label_with_cache(counting, inputs, cache, quiet=True)
    assert [x.output for x in found] == ["label of a", "label of b", "label of a", "label of c"]
    assert sorted(counting.asked) == ["a", "b", "c"]
    assert label_with_cache(counting, ["c", "d", "a"], cache, quiet=True)[0] == Label("c", "label of c", -0.5)
    assert sorted(counting.asked) == ["a", "b", "c", "d"]
    before = cache.read_bytes()
    assert label_with_cache(counting, inputs, cache, quiet=True) == found and cache.read_bytes() == before


def test_labels_are_on_disk_as_they_come(tmp_path):
    cache = tmp_path / "cache.jsonl"

    class Looking(CountingTeacher):
        def label(self, inputs):
            for n, pair in enumerate(super().label(inputs)):
                assert (len(cache.read_text().splitlines()) if n else 0) == n
                yield pair
    label_with_cache(Looking(), ["a", "b", "c"], cache, quiet=True)
    assert [json.loads(line)["input"] for line in cache.read_text().splitlines()] == ["c", "b", "a"]


@pytest.mark.parametrize("breaks_after", [0, 2])
def test_interrupted_teacher_goes_on_from_where_it_stopped(breaks_after, tmp_path):
    cache, inputs, told = tmp_path / "cache.jsonl", list("abcdef"), []
    first, second = CountingTeacher(breaks_after), CountingTeacher()
    with pytest.raises(KeyboardInterrupt):
        label_with_cache(first, inputs, cache, quiet=True)
    found = label_with_cache(second, inputs, cache, True, lambda labels, seconds: told.append(labels))
    assert sorted(first.asked + second.asked) == inputs and told == [len(second.asked)] == [6 - breaks_after]
    assert found == label_with_cache(CountingTeacher(), inputs, tmp_path / "fresh.jsonl", quiet=True)
    assert cache.read_bytes() == (tmp_path / "fresh.jsonl").read_bytes()


@pytest.mark.parametrize("rest", [b"", b'{"input": "b", "outp', b"{", b"\xf0\x9f", b'{"input": "b", "output": "of last run", "score": 0.5}'])
@pytest.mark.parametrize("whole", [0, 1])
def test_last_line_cut_off_by_a_crash_is_dropped(tmp_path, rest, whole):
    cache, counting = tmp_path / "cache.jsonl", CountingTeacher()
    line = b'{"input": "a", "output": "of last run", "score": null}\n'
    cache.write_bytes(line * whole + rest)
    found = label_with_cache(counting, ["a", "b"], cache, quiet=True)
    assert [x.output for x in found] == ["of last run" if whole else "label of a", "label of b"]
    assert counting.asked == (["b"] if whole else ["b", "a"])
    assert len(list(read_pseudolabels(cache))) == 2                 # and every line of the file can be read again


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of a file's size")
def test_full_disk_names_the_cache_and_loses_no_whole_line(tmp_path):
    import resource
    cache, before = tmp_path / "cache.jsonl", resource.getrlimit(resource.RLIMIT_FSIZE)
    inputs = ["a", "b", "c", "d"]
    resource.setrlimit(resource.RLIMIT_FSIZE, (150, before[1]))
    try:
        with pytest.raises(OSError, match=str(cache)):
            label_with_cache(CountingTeacher(), inputs, cache, quiet=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    later = CountingTeacher()
    label_with_cache(later, inputs, cache, quiet=True)
    assert 0 < len(later.asked) < 4 and len(list(read_pseudolabels(cache))) == 4


def test_label_whose_score_is_no_number_is_not_kept(tmp_path):
    class Broken(CountingTeacher):
        name = "broken"

        def label(self, inputs):
            yield 0, Label(inputs[0], "x", -0.5)
            yield 1, Label(inputs[1], "x", float("nan"))
    with pytest.raises(DataError, match="^broken: expected a number as the score of a label, found nan"):
        label_with_cache(Broken(), ["a", "b"], tmp_path / "cache.jsonl", quiet=True)
    assert [x.input for x in read_pseudolabels(tmp_path / "cache.jsonl")] == ["a"]          # and the file can still be read


def test_cache_keeps_any_input_as_it_is(tmp_path):
    inputs = [f"a {word} b" for word in NASTY]
    label_with_cache(CountingTeacher(), inputs, tmp_path / "cache.jsonl", quiet=True)
    again = CountingTeacher()
    assert [x.input for x in label_with_cache(again, inputs, tmp_path / "cache.jsonl", quiet=True)] == inputs
    assert again.asked == []


def test_every_teacher_has_a_cache_of_its_own(tmp_path):
    few, more = make_data(tmp_path / "one"), make_data(tmp_path / "two", n_labeled=7)
    specs = ["noisy:0.1", "noisy:0.2", "hf:a", "hf:b", "openai:a", "openai:b"]
    made = [make_teacher(spec, TREE, data) for data in (few, more) for spec in specs]
    made += [make_teacher("noisy:0.1", TREE, few, seed=1), make_teacher("openai:a", TREE, few, base_url="http://127.0.0.1:1/v1")]
    files = [cache_file(x) for x in made]
    assert len(set(files)) == len(made)
    assert files == [cache_file(x) for x in made] and all(file.parent == teacher.Path("runs/teacher") for file in files)


def test_other_known_tags_are_another_teacher(tmp_path):
    """Tags learnt from the labeled split decide what is a known tag, so what was labelled with fewer must not be used again."""
    rows = [Example("to Boston", "O B-to")]
    (tmp_path / "labels.jsonl").write_text('{"input": "on Monday", "output": "O B-day"}\n')
    data = SimpleNamespace(labeled=rows, folder=tmp_path)
    few, more = make_task({"task": "slots", "tags": ["O", "B-to"]}), SLOTS
    for spec in (f"replay:{tmp_path / 'labels.jsonl'}", "openai:a", "hf:a"):
        assert make_teacher(spec, few, data).key != make_teacher(spec, more, data).key, spec


# ---------------------------------------------------------------------------------------------------------------------
# Noise

def gold_trees(n=40):
    rng = random.Random(0)
    sentences = [random_sentence(rng, rng.randint(1, 12)) for _ in range(n)]
    return {x: write_bare(split_words(x), random_tree(rng, len(split_words(x)))) for x in sentences}


def gold_tags(n=60):
    rng, rows = random.Random(0), {}
    for number in range(n):
        tags, words = [], rng.randint(1, 8)
        while len(tags) < words:
            name = rng.choice(["to", "day", None])
            tags += ["O"] if name is None else [f"B-{name}"] + [f"I-{name}"] * rng.randint(0, 2)
        rows[" ".join(f"w{number}" for _ in range(words))] = " ".join(tags[:words])
    return rows


GOLD = {"tree": (TREE, gold_trees()), "slots": (SLOTS, gold_tags()), "text": (TEXT, {f"w {n}": f"a b c {n} d e" for n in range(40)})}


@pytest.mark.parametrize("kind", GOLD)
def test_rate_0_gives_gold(kind):
    task, gold = GOLD[kind]
    inputs = list(gold)
    for label in labels(NoisyTeacher(0.0, task, gold, 0), inputs):
        assert task.pieces(label.input, label.output) == task.pieces(label.input, gold[label.input])


@pytest.mark.parametrize("kind", GOLD)
@pytest.mark.parametrize("rate", [0.3, 1.0])
def test_noise_is_valid_and_the_more_the_higher_the_rate(kind, rate):
    task, gold = GOLD[kind]
    found = labels(NoisyTeacher(rate, task, gold, 0), list(gold))
    for label in found:
        task.check(label.input, label.output)
    changed = sum(task.pieces(x.input, x.output) != task.pieces(x.input, gold[x.input]) for x in found)
    assert changed > {0.3: 0.2, 1.0: 0.6}[rate] * len(found)
    less = labels(NoisyTeacher(0.05, task, gold, 0), list(gold))
    assert sum(task.pieces(x.input, x.output) != task.pieces(x.input, gold[x.input]) for x in less) < changed


@pytest.mark.parametrize("kind", GOLD)
def test_noise_depends_on_the_input_and_the_seed_only(kind):
    task, gold = GOLD[kind]
    inputs = list(gold)
    found = labels(NoisyTeacher(0.5, task, gold, 3), inputs)
    assert labels(NoisyTeacher(0.5, task, gold, 3), inputs) == found
    backwards = labels(NoisyTeacher(0.5, task, dict(reversed(gold.items())), 3), inputs[::-1])
    assert backwards[::-1] == found
    assert labels(NoisyTeacher(0.5, task, gold, 3), inputs[5:6]) == found[5:6]
    assert labels(NoisyTeacher(0.5, task, gold, 4), inputs) != found


def test_noisy_brackets_stay_near_gold_and_the_sentence_stays_whole():
    task, gold = GOLD["tree"]
    for label in labels(NoisyTeacher(1.0, task, gold, 0), list(gold)):
        words = split_words(label.input)
        was = bare_spans(read_tree(gold[label.input], words))
        now = bare_spans(read_tree(label.output, words))
        assert (0, len(words)) in now and len(now) <= len(was)
        assert all(any(abs(a - c) + abs(b - d) <= 1 for c, d in was) for a, b in now)


def test_noise_without_any_known_slot_name():
    """Tags learnt from labeled examples that hold none: a slot elsewhere cannot be renamed to any, and becomes O."""
    task = make_task({"task": "slots", "tags": ["O"]})
    for seed in range(8):
        assert labels(NoisyTeacher(1.0, task, {"to Boston": "O B-to"}, seed), ["to Boston"])[0].output == "O O"


def test_noise_finds_slots_that_begin_with_I():
    task = make_task({"task": "slots", "tags": ["O", "I-x", "I-y"]})
    found = {labels(NoisyTeacher(1.0, task, {"a b c": "I-x I-x O"}, seed), ["a b c"])[0].output for seed in range(20)}
    assert {"O O O", "B-x O O", "B-y I-y O"} <= found


def test_noise_needs_gold(tmp_path):
    noisy = NoisyTeacher(0.1, TREE, {"a b": "( a b )"}, 0)
    assert noisy.can_label(["a b"]) and not noisy.can_label(["a b", "c d"])
    with pytest.raises(DataError, match="gold") as error:
        list(noisy.label(["c d"]))
    assert "\n" not in str(error.value) and "c d" in str(error.value)


# ---------------------------------------------------------------------------------------------------------------------
# Labels made before

def test_replay_reads_rows_of_ours_and_of_the_authors_and_repairs_them(tmp_path):
    file = tmp_path / "labels.jsonl"
    rows = [{"input": "The cat sat", "output": "( ( The cat ) sat )", "score": -0.25},
            {"translation": {"unparsed": "A dog ran", "unlabeled": "( ( ( A ) ( dog ) ) ( ran ) )", "parsed": "whatever"}},
            {"translation": {"unparsed": "No end here", "unlabeled": "( No ( end here ) ", "parsed": "(S ...)"}},
            {"input": "Other words here", "output": "( Some words )"},
            {"input": "Nothing at all", "output": ""},
            {"input": "He (too) sat", "output": "( He ( -LRB-too-RRB- sat ) ) )"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    replay = ReplayTeacher(file, TREE)
    inputs = ["Nothing at all", "The cat sat", "A dog ran", "No end here", "Other words here", "He (too) sat"]
    found = [read_answer(TREE, answer) for answer in labels(replay, inputs)]
    assert [x and x.output for x in found] == [
        None, "( ( The cat ) sat )", "( ( A dog ) ran )", "( No ( end here ) )", None, "( He ( -LRB-too-RRB- sat ) )"]
    assert [x.score for x in labels(replay, inputs)][:3] == [None, -0.25, None]
    assert replay.can_label(inputs) and not replay.can_label([*inputs, "x"])


def test_replay_of_slots(tmp_path):
    file = tmp_path / "labels.jsonl"
    write_jsonl(file, [Example("to Boston", "to O Boston B-to"), Example("on Monday", "O B-zebra"), Example("a b", "O")])
    found = labels(ReplayTeacher(file, SLOTS), ["to Boston", "on Monday", "a b"])
    assert [x and x.output for x in (read_answer(SLOTS, answer) for answer in found)] == ["O B-to", "O O", None]


def test_replay_key_is_the_content(tmp_path):
    for name, output in (("one", "( a b )"), ("two", "( a b )"), ("three", "( a  b )")):
        (tmp_path / name).write_text(json.dumps({"input": "a b", "output": output}) + "\n")
    one, two, three = (ReplayTeacher(tmp_path / name, TREE).key for name in ("one", "two", "three"))
    assert one == two != three


def test_replay_of_a_malformed_file_is_refused_at_once(tmp_path):
    (tmp_path / "labels.jsonl").write_text('{"input": "a b", "output": "( a b )"}\n{"input": "c d"}\n')
    with pytest.raises(DataError, match="labels.jsonl:2: "):
        ReplayTeacher(tmp_path / "labels.jsonl", TREE)


def test_replay_of_an_input_that_is_there_twice_takes_the_last_label(tmp_path):
    write_jsonl(tmp_path / "labels.jsonl", [Example("a b c", "( a b c )"), Example("a b c", "( ( a b ) c )")])
    assert [x.output for x in labels(ReplayTeacher(tmp_path / "labels.jsonl", TREE), ["a b c"] * 2)] == ["( ( a b ) c )"] * 2


def test_replay_of_an_input_that_it_has_not_is_refused(tmp_path):
    write_jsonl(tmp_path / "labels.jsonl", [Example("a b", "( a b )")])
    with pytest.raises(DataError, match="c d") as error:
        list(ReplayTeacher(tmp_path / "labels.jsonl", TREE).label(["a b", "c d"]))
    assert "labels.jsonl" in str(error.value) and "\n" not in str(error.value)


# ---------------------------------------------------------------------------------------------------------------------
# Which teacher

def make_data(folder, n_labeled=6, pseudolabels=False):
    folder.mkdir()
    (folder / "task.json").write_text(json.dumps({"task": "tree", "instruction": "Bracket each sentence."}))
    for split, n in (("labeled", n_labeled), ("unlabeled", 5), ("valid", 1), ("test", 3)):
        write_jsonl(folder / f"{split}.jsonl", [Example(f"{split} cat {i}", f"( {split} ( cat {i} ) )") for i in range(n)])
    data = load_data(folder)
    if pseudolabels:
        write_jsonl(folder / "pseudolabels.jsonl", [Example(x.input, "( " + x.input + " )") for x in data.unlabeled])
    return data


def test_auto_replays_the_labels_that_the_data_folder_has(tmp_path):
    data = make_data(tmp_path / "data", pseudolabels=True)
    auto = make_teacher("auto", TREE, data)
    assert labels(auto, [x.input for x in data.unlabeled])[0].output == "( unlabeled cat 0 )"
    assert not auto.can_label([x.input for x in data.test])


def test_auto_without_labels_says_what_to_type(tmp_path):
    with pytest.raises(DataError) as error:
        make_teacher("auto", TREE, make_data(tmp_path / "data"))
    said = str(error.value)
    assert "pseudolabels.jsonl" in said and "--teacher gguf:FILE" in said and "--teacher openai:MODEL" in said and "\n" not in said


@pytest.mark.parametrize("spec", ["", "replay", "replay:", "hf:", "gguf:", "openai:", "openai", "zebra:1", "noisy:", "noisy:x", "noisy:1.5",
                                  "noisy:-0.1", "noisy:nan", "replay:no/such/file.jsonl"])
def test_bad_teacher_is_one_line(tmp_path, spec):
    with pytest.raises(DataError) as error:
        make_teacher(spec, TREE, make_data(tmp_path / "data"))
    assert "\n" not in str(error.value) and "expected" in str(error.value)


def test_votes_are_over_demonstrations_that_differ_and_each_member_has_a_cache(tmp_path, monkeypatch, causal_folder, fp32):
    data = make_data(tmp_path / "data", n_labeled=30)
    monkeypatch.chdir(tmp_path)
    made = make_teacher(f"hf:{causal_folder}", TREE, data, votes=3, quiet=True)
    inputs = ["the old cat sat on two mats", "a dog ran"]
    voted = labels(made, inputs)
    members = [list(read_pseudolabels(file)) for file in Path("runs/teacher").iterdir()]
    assert len(members) == 3 and all(len(member) == 2 for member in members)
    for i, answer in enumerate(voted):
        given = [next(x.output for x in member if x.input == inputs[i]) for member in members]
        assert sorted(bare_spans(read_tree(answer.output, inputs[i].split()))) == sorted(
            bare_spans(read_tree(TREE.vote(inputs[i], given), inputs[i].split())))
    one = make_teacher(f"hf:{causal_folder}", TREE, data)
    assert cache_file(one).exists() and made.key != one.key         # the first member is the teacher without votes
    with pytest.raises(DataError, match="noisy:0.1: expected hf:.*where 3 labels"):
        make_teacher("noisy:0.1", TREE, data, votes=3)


def test_vote_passes_over_what_cannot_be_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    class Saying(Teacher):
        def __init__(self, answer, score):
            self.name = self.key = self.answer = answer
            self.score = score

        def label(self, inputs):
            self.asked = inputs
            yield from ((i, Label(input, self.answer, self.score)) for i, input in enumerate(inputs))
    members = [Saying(*said) for said in (("no", -9.0), ("( ( a b ) c )", -1.0), ("never", -9.0), ("( ( a b ) c", -2.0))]
    assert labels(VotingTeacher(TREE, members, quiet=True), ["a b c"]) == [Label("a b c", "( ( a b ) c )", -1.5)]
    assert labels(VotingTeacher(TREE, members[::2], quiet=True), ["a b c"]) == [Label("a b c", "no", -9.0)]
    assert not any(hasattr(member, "asked") for member in members)      # copies of them have labelled, which are gone with their models
    members[1] = Saying("( a ( b c ) )", None)
    assert labels(VotingTeacher(TREE, members, quiet=True), ["a b c"])[0].score is None


def test_llm_that_decodes_freely_writes_what_generate_writes(tmp_path, causal_folder, fp32):
    data = make_data(tmp_path / "data")
    made = make_teacher(f"hf:{causal_folder}", TREE, data, free=True)
    inputs = [f"the cat {n}" for n in range(5)]
    found = labels(made, inputs)
    model, tokenizer = load_causal_lm(f"hf:{causal_folder}")
    for input, answer in zip(inputs, found):
        prompt = [tokenizer.bos_token_id, *tokenizer(made.prompt, add_special_tokens=False).input_ids,
                  *tokenizer(question(TREE, input), add_special_tokens=False).input_ids]
        written = model.generate(torch.tensor([prompt]), max_new_tokens=40, do_sample=False)[0, len(prompt):]
        written = tokenizer.decode(written, skip_special_tokens=True).strip()
        assert len(written) > 20 and written.split("\n")[0][:20] == answer.output[:20]
    assert any(read_answer(TREE, answer) is None for answer in found)
    constrained = make_teacher(f"hf:{causal_folder}", TREE, data)
    assert constrained.key != made.key
    assert all(read_answer(TREE, answer) == answer for answer in labels(constrained, inputs))


def test_bad_model_is_one_line(tmp_path):
    data = make_data(tmp_path / "data")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.gguf").write_text("not GGUF")
    for spec in (f"hf:{tmp_path / 'empty'}", "hf:no/such-model", "hf:a/b/c/d", f"gguf:{tmp_path / 'text.gguf'}", "gguf:no-such.gguf"):
        with pytest.raises(DataError) as error:
            list(make_teacher(spec, TREE, data).label(["a b"]))
        assert "\n" not in str(error.value) and str(error.value)


def test_pickled_weights_are_refused_though_they_are_sound(tmp_path, causal_folder):
    shutil.copytree(causal_folder, tmp_path / "pickled")
    file = tmp_path / "pickled" / "model.safetensors"
    torch.save(load_file(file), tmp_path / "pickled" / "pytorch_model.bin")
    file.unlink()
    with pytest.raises(DataError, match="safetensors"):
        load_causal_lm(tmp_path / "pickled")


def test_code_that_comes_with_a_model_is_not_run(tmp_path, causal_folder):
    folder, ran = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(causal_folder, folder)
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w')\n"
                                    "from transformers import LlamaConfig as Config, LlamaForCausalLM as Model, PreTrainedTokenizerFast as Words\n")
    for name, entry in (("config.json", {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}),
                        ("tokenizer_config.json", {"AutoTokenizer": [None, "evil.Words"]})):
        about = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**about, "auto_map": entry}))
    models.load_config(str(folder), "a model")
    load_causal_lm(str(folder))
    assert not ran.exists()


@pytest.mark.parametrize("kept", [0, 1000])
def test_damaged_weights_are_one_line(tmp_path, causal_folder, kept):
    shutil.copytree(causal_folder, tmp_path / "cut")
    os.truncate(tmp_path / "cut" / "model.safetensors", kept)
    with pytest.raises(DataError, match="cut: not a causal LM") as error:
        load_causal_lm(tmp_path / "cut")
    assert "\n" not in str(error.value)


def test_model_folder_that_lacks_a_part_is_refused(tmp_path, causal_folder):
    """As a download that was cut off leaves one; transformers would make up the rest."""
    for name in ("wordless", "short"):
        shutil.copytree(causal_folder, tmp_path / name)
    for file in (tmp_path / "wordless").glob("tokenizer*"):
        file.unlink()
    with pytest.raises(DataError, match="wordless: not a causal LM that can be loaded: "):
        load_causal_lm(tmp_path / "wordless")
    weights = load_file(tmp_path / "short" / "model.safetensors")
    lost = sorted(name for name in weights if ".layers.1." in name)
    save_file({name: weight for name, weight in weights.items() if name not in lost}, tmp_path / "short" / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match=f"expected all of its weights, {len(lost)} are missing, such as {lost[0]}"):
        load_causal_lm(tmp_path / "short")
    named = [models.identified(f"hf:{folder}").split(" ")[1:] for folder in (causal_folder, tmp_path / "wordless")]
    assert named[0][:2] == named[1] and len(named[0]) > 2                       # its tokenizer is part of what it is


def test_a_file_of_labels_is_not_written_over_by_what_is_replayed_from_it(tmp_path, monkeypatch, capsys):
    make_data(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    assert exit_code(monkeypatch, "teacher.py", "--data", "data", "--teacher", "noisy:0", "--out", "data/pseudolabels.jsonl", "--quiet") == 0
    labels, there = Path("data/pseudolabels.jsonl").read_bytes(), sorted(tmp_path.rglob("*"))
    assert exit_code(monkeypatch, "teacher.py", "--data", "data", "--teacher", "auto", "--unlabeled", 2, "--out", "data/pseudolabels.jsonl") == 2
    assert "expected another file than the one that is replayed" in capsys.readouterr().err
    assert Path("data/pseudolabels.jsonl").read_bytes() == labels and sorted(tmp_path.rglob("*")) == there


def test_a_teachers_cache_is_not_written_over(tmp_path, monkeypatch, capsys):
    make_data(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    command = ["teacher.py", "--data", "data", "--teacher", "noisy:0", "--quiet"]
    assert exit_code(monkeypatch, *command, "--out", "labels.jsonl") == 0
    cache, = Path("runs/teacher").iterdir()
    kept = cache.read_bytes()
    assert exit_code(monkeypatch, *command, "--unlabeled", 2, "--out", cache) == 2 and cache.read_bytes() == kept
    assert "expected another folder than that of the teachers' caches" in capsys.readouterr().err


def test_a_runs_labels_are_not_written_over(tmp_path, monkeypatch, capsys):
    make_data(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run/students").mkdir(parents=True)
    (tmp_path / "run/config.json").write_text("{}")
    for place in ("run/students/stage1_A.jsonl", "data/unlabeled.jsonl"):
        assert exit_code(monkeypatch, "teacher.py", "--data", "data", "--teacher", "noisy:0", "--quiet", "--out", place) == 2
        assert f"--out {place}: expected another file than" in capsys.readouterr().err


@pytest.mark.parametrize("problem", [ImportError("no gguf"), ValueError("an unknown architecture\nand more"),
                                     struct.error("a buffer of 4 bytes")])
def test_what_gguf_needs_is_said_where_that_is_missing(tmp_path, monkeypatch, problem):
    (tmp_path / "a.gguf").write_bytes(b"GGUF")

    def fails(*args, **more):
        raise problem
    monkeypatch.setattr(models.AutoTokenizer, "from_pretrained", fails)
    with pytest.raises(DataError, match=str(problem).split("\n")[0]) as error:
        load_causal_lm(f"gguf:{tmp_path / 'a.gguf'}")
    assert ("pip install gguf" in str(error.value)) == isinstance(problem, ImportError) and "\n" not in str(error.value)


def test_a_converted_model_that_is_damaged_is_said(tmp_path, monkeypatch):
    """What was converted anew cannot take the place of a folder that lost a file."""
    config = SimpleNamespace(quantization_config=None)
    made = SimpleNamespace(config=config, state_dict=dict, load_state_dict=lambda weights: None,
                           save_pretrained=lambda folder: (Path(folder) / "config.json").write_text("{}"))
    words = SimpleNamespace(save_pretrained=lambda folder: Path(folder).mkdir())
    monkeypatch.setattr(models, "AutoTokenizer", SimpleNamespace(from_pretrained=lambda *_, **__: words))
    monkeypatch.setattr(models, "AutoModelForCausalLM", SimpleNamespace(from_pretrained=lambda *_, **__: made, from_config=lambda *_, **__: made))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    kept = models.converted_gguf(tmp_path / "a.gguf")
    assert (kept / "config.json").exists()
    (kept / "config.json").unlink()
    (kept / "model.safetensors").write_text("damaged")
    config.quantization_config = None
    with pytest.raises(DataError, match="expected a converted model there .*; delete it"):
        models.converted_gguf(tmp_path / "a.gguf")
    assert [x.name for x in kept.parent.iterdir()] == [kept.name]


def test_another_model_at_the_same_place_is_another_teacher(tmp_path, causal_folder):
    data, folder, file = make_data(tmp_path / "data"), tmp_path / "model", tmp_path / "model.gguf"

    def keys():
        return [make_teacher(spec, TREE, data).key for spec in (f"hf:{folder}", f"gguf:{file}")]
    shutil.copytree(causal_folder, folder)
    file.write_bytes(b"GGUF one")
    first = keys()
    for path in (folder / "config.json", file):
        os.utime(path, (0, 0))
    assert keys() == first
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    file.write_bytes(b"GGUF two")
    second = keys()
    (folder / "config.json").write_text("{}")
    assert first[0] != second[0] != keys()[0] != first[0] and first[1] != second[1]
    assert make_teacher("hf:a/name", TREE, data).key.split("\n")[0] == "hf:a/name"


def test_free_output_ends_where_the_model_does(bpe_tokenizer, tmp_path, monkeypatch, fp32):
    """GPT-2 has an embedding for every position and no more."""
    from transformers import GPT2Config, GPT2LMHeadModel
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=len(bpe_tokenizer), n_positions=160, n_embd=32, n_layer=1, n_head=2, eos_token_id=2,
                               initializer_range=0.3)).save_pretrained(tmp_path)
    bpe_tokenizer.save_pretrained(tmp_path)
    made, longer = LLMTeacher(f"hf:{tmp_path}", TREE, [], torch.device("cpu"), free=True), []
    make = teacher.make_cursor

    def make_endless(task, input, encode, end, length, vocabulary, room, rng):
        longer.append(32 + 4 * length > room > 0)
        return make(task, input, encode, [2], length, [x for x in vocabulary if x > 2], room, rng)
    monkeypatch.setattr(teacher, "make_cursor", make_endless)
    labels(made, [" ".join(["the"] * n) for n in range(1, 40, 3)])
    assert any(longer)


def test_demonstrations_are_the_first_of_the_labeled_split(tmp_path):
    data = make_data(tmp_path / "data", n_labeled=30)
    made = make_teacher("hf:any", TREE, data)
    assert made.prompt == few_shot_prompt(TREE, data.labeled[:20])
    assert all(x.input not in made.prompt for x in data.unlabeled + data.test)


def test_of_slots_fifty_stand_in_the_prompt():
    labeled = [Example(f"fly to {i}", "O O B-city") for i in range(60)]
    task = make_task({"task": "slots"})
    task.learn(labeled)
    assert make_teacher("hf:any", task, SimpleNamespace(labeled=labeled)).prompt == few_shot_prompt(task, labeled[:50])


def test_prompt_that_the_model_cannot_take_is_one_line(causal_folder):
    made = LLMTeacher(f"hf:{causal_folder}", TREE, [Example("The cat sat", PENN)] * 5000, torch.device("cpu"))
    with pytest.raises(DataError, match="--labeled") as error:
        labels(made, ["The cat sat"])
    assert "\n" not in str(error.value)


def test_local_llm_labels_validly_and_the_same_in_any_order_and_in_parts(tmp_path, causal_folder, fp32, monkeypatch):
    rng = random.Random(1)
    inputs = [random_sentence(rng, rng.randint(1, 8)) for _ in range(10)]
    demonstrations = [Example("The cat sat", PENN)]
    found = labels(LLMTeacher(f"hf:{causal_folder}", TREE, demonstrations, torch.device("cpu")), inputs)
    for label in found:
        TREE.check(label.input, label.output)
        assert label.score <= 0
    backwards = labels(LLMTeacher(f"hf:{causal_folder}", TREE, demonstrations, torch.device("cpu")), inputs[::-1])
    assert [x.output for x in backwards[::-1]] == [x.output for x in found]
    assert len({x.output.count("(") for x in found}) > 1
    with monkeypatch.context() as patched:
        patched.setattr(teacher, "PREPARED", 3)
        in_parts = labels(LLMTeacher(f"hf:{causal_folder}", TREE, demonstrations, torch.device("cpu")), inputs)
        assert [x.output for x in in_parts] == [x.output for x in found]
    other = labels(LLMTeacher(f"hf:{causal_folder}", TREE, demonstrations * 3, torch.device("cpu")), inputs)
    assert [x.output for x in other] != [x.output for x in found]            # the prompt is read


@pytest.mark.skipif(not folders.fcntl, reason="Windows does not lock files")
def test_who_comes_while_another_labels_waits_and_has_its_labels(tmp_path, capsys):
    cache, began, asked = tmp_path / "cache.jsonl", threading.Event(), []

    class Slow(Teacher):
        def label(self, inputs):
            for i, x in enumerate(inputs):
                asked.append(x)
                yield i, Label(x, f"( {x} )")
                began.set()
                while "waiting for another process" not in "".join(said) and time.monotonic() < deadline:
                    said.append(capsys.readouterr().err)
    said, found, seconds, deadline = [], [], [], time.monotonic() + 60
    other = threading.Thread(target=lambda: found.append(label_with_cache(Slow(), ["a b", "c d"], cache, quiet=True)), daemon=True)
    other.start()
    assert began.wait(60)
    assert label_with_cache(None, ["a b"], cache, quiet=True) == [Label("a b", "( a b )")]         # what is there needs no waiting
    mine = label_with_cache(Slow(), ["c d", "a b"], cache, True, lambda *told: seconds.append(told))    # a lock is the open file's, so a thread will do
    other.join(60)
    assert sorted(asked) == ["a b", "c d"] and mine == found[0][::-1] and not seconds       # to wait is not to be asked


def test_who_comes_in_the_middle_of_a_line_reads_it_when_it_is_whole(tmp_path, monkeypatch):
    cache = tmp_path / "cache.jsonl"
    label_with_cache(NoisyTeacher(0.0, TREE, {"a b": "( a b )"}, 0), ["a b"], cache, quiet=True)
    whole, looked, ends_whole = cache.read_bytes(), [], teacher.ends_whole

    def before_half_a_line(file):
        if not looked:                                              # it ends whole when one looks, and no more when one reads
            cache.write_bytes(whole + b'{"input": "c d", "out')
        elif len(looked) == 1:                                      # the other has ended
            cache.write_bytes(whole + whole.replace(b"a b", b"c d"))
        looked.append(file)
        return len(looked) == 1 or ends_whole(file)
    monkeypatch.setattr(teacher, "ends_whole", before_half_a_line)
    assert [x.input for x in label_with_cache(None, ["a b", "c d"], cache, quiet=True)] == ["a b", "c d"]
    cache.write_bytes(whole + b"{damaged}\n")                       # what stays so is said
    with pytest.raises(DataError, match="cache.jsonl:2: expected a JSON object"):
        label_with_cache(None, ["a b"], cache, quiet=True)


# ---------------------------------------------------------------------------------------------------------------------
# The command line

def test_command_line_writes_a_line_for_every_row_of_the_split(tmp_path, monkeypatch):
    """Repeated sentences too, so that metrics.py can set the file beside the split."""
    data = make_data(tmp_path / "data")
    rows = (data.folder / "test.jsonl").read_text()
    (data.folder / "test.jsonl").write_text(rows + rows)
    monkeypatch.chdir(tmp_path)
    assert exit_code(monkeypatch, "teacher.py", "--data", "data", "--teacher", "noisy:0", "--split", "test", "--out", "out.jsonl", "--quiet") == 0
    labelled, gold = ([json.loads(line)["input"] for line in open(file)] for file in ("out.jsonl", data.folder / "test.jsonl"))
    assert labelled == gold


def test_command_line_labels_a_split_and_goes_on(tmp_path, monkeypatch, capsys):
    data = make_data(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    for splits, n in (("unlabeled", 5), ("unlabeled,test", 8)):
        assert exit_code(monkeypatch, "teacher.py", "--data", "data", "--teacher", "noisy:0.3", "--split", splits, "--out", "out.jsonl", "--quiet") == 0
        found = list(read_pseudolabels("out.jsonl"))
        assert len(found) == n and [x.input for x in found][:5] == [x.input for x in data.unlabeled]
        assert f"out.jsonl: {n} pseudolabels" in capsys.readouterr().out
    cache, = (tmp_path / "runs" / "teacher").iterdir()
    assert len(list(read_pseudolabels(cache))) == 8                 # five of them were not made again
    assert exit_code(monkeypatch, "teacher.py", "--data", "data", "--teacher", "replay:out.jsonl", "--out", "again.jsonl") == 0
    assert [x.output for x in read_pseudolabels("again.jsonl")] == [x.output for x in found[:5]]
    assert capsys.readouterr().out.startswith("Data: ")


@pytest.mark.parametrize("arguments, said", [
    (["--data", "nowhere", "--teacher", "auto"], "nowhere"), (["--data", "data", "--teacher", "auto"], "pseudolabels.jsonl"),
    (["--data", "data", "--teacher", "noisy:2"], "0 to 1"), (["--data", "data", "--teacher", "noisy:0", "--split", "dev"], "dev"),
    (["--data", "data", "--teacher", "noisy:0", "--labeled", "99"], "99"), (["--data", "data", "--teacher", "tuned:tiny"], "tuned"),
    (["--data", "data", "--teacher", "noisy:0", "--votes", "0"], "--votes")])
def test_command_line_says_what_is_wrong_in_one_line(tmp_path, monkeypatch, capsys, arguments, said):
    make_data(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    assert exit_code(monkeypatch, "teacher.py", *arguments, "--out", "out.jsonl") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and said in error and not os.path.exists("out.jsonl")


def test_help_shows_an_example_to_paste_and_every_teacher(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    assert exit_code(monkeypatch, "teacher.py", "--help") == 0
    said = capsys.readouterr().out
    assert "python teacher.py --data data/craft --teacher noisy:0.3 --split unlabeled --out labels.jsonl\n" in said
    assert "auto, replay:FILE" in " ".join(said.split())


def test_command_line_refuses_an_output_that_cannot_be_written_before_it_labels(tmp_path, monkeypatch, capsys):
    make_data(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    code = exit_code(monkeypatch, "teacher.py", "--data", "data", "--teacher", "noisy:0", "--out", "no/such/folder/out.jsonl")
    assert code == 2 and "no/such/folder" in capsys.readouterr().err


def test_command_line_writes_no_device_away(tmp_path, monkeypatch, capsys):
    make_data(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    code = exit_code(monkeypatch, "teacher.py", "--data", "data", "--teacher", "noisy:0", "--out", "pipe")
    assert code == 2 and "pipe: expected a file" in capsys.readouterr().err and Path("pipe").is_fifo()


@pytest.mark.parametrize("out, holds", [("data/labeled.jsonl", None), ("other/test.jsonl", None), ("thesis.md", "mine"),
                                        ("gold.jsonl", '{"input": "a cat", "output": "O O"}\n'),
                                        ("scored.jsonl", '{"input": "a cat", "output": "O O", "score": "high"}\n'),
                                        ("labels.jsonl", '{"input": "a cat", "output": "O O", "score": null}\n')])
def test_command_line_writes_over_pseudolabels_only(out, holds, tmp_path, monkeypatch, capsys):
    make_data(tmp_path / "data")
    make_data(tmp_path / "other")
    monkeypatch.chdir(tmp_path)
    if holds:
        Path(out).write_text(holds)
    before = Path(out).read_text()
    code = exit_code(monkeypatch, "teacher.py", "--data", "data", "--teacher", "noisy:0", "--out", out)
    if out == "labels.jsonl":
        assert not code and Path(out).read_text() != before
    else:
        assert code == 2 and Path(out).read_text() == before and out in capsys.readouterr().err


def test_command_line_refuses_a_negative_seed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_data(tmp_path / "data")
    assert exit_code(monkeypatch, "teacher.py", "--data", "data", "--teacher", "noisy:0.3", "--seed", "-1", "--out", "x") == 2
    assert "--seed: expected at least 0, found -1" in capsys.readouterr().err and not Path("x").exists()


def test_options_of_the_command_line_reach_the_data_and_the_teacher(tmp_path, monkeypatch):
    given = {}

    def load(*arguments):
        given.update(inspect.signature(load_data).bind(*arguments).arguments)
        return load_data(ROOT / "data/craft")

    def make(*arguments, **named):
        given.update(inspect.signature(make_teacher).bind(*arguments, **named).arguments)
        raise Enough
    monkeypatch.setattr(teacher, "load_data", load)
    monkeypatch.setattr(teacher, "make_teacher", make)
    monkeypatch.setattr(sys, "argv", ["teacher.py", *f"--data d --teacher hf:m --out {tmp_path}/o --labeled 5 --unlabeled 8 --test 3 "
                                      "--max-words 7 --seed 4 --free --votes 3 --quiet".split()])
    with pytest.raises(Enough):
        teacher.main()
    wanted = {"labeled": 5, "unlabeled": 8, "test": 3, "max_words": 7, "spec": "hf:m", "seed": 4, "free": True, "votes": 3, "quiet": True}
    assert {name: given[name] for name in wanted} == wanted
