"""data/splits.py: a data folder is read as it was written, and whatever is wrong with it is said in one line."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT, exit_code
from data import folders, splits
from data.command import GOES_ON, CommandLine, run_command
from data.folders import log_event
from data.splits import (DataError, Example, Label, load_data, read_jsonl, read_labels, read_pseudolabels, save_folder, write_atomically, write_jsonl)

TASK = {"task": "slots", "instruction": "Tag the words.", "tags": ["B-food", "I-food", "O"]}


def rows(prefix, n):
    return [{"input": f"{prefix} {i} rye bread", "output": "O O B-food I-food"} for i in range(n)]


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path / "kitchen")


def make_folder(folder, task=TASK):
    folder.mkdir(parents=True)
    (folder / "task.json").write_text(json.dumps(task))
    for split, n in (("labeled", 6), ("unlabeled", 9), ("valid", 4), ("test", 30)):
        write_jsonl(folder / f"{split}.jsonl", rows(split, n))
    return folder


# ---------------------------------------------------------------------------------------------------------------------
# What is loaded

def test_first_labeled_and_unlabeled_are_used_and_all_of_valid(folder):
    data = load_data(folder, labeled=2, unlabeled=3)
    assert [x.input for x in data.labeled] == ["labeled 0 rye bread", "labeled 1 rye bread"]
    assert [x.input for x in data.unlabeled] == [f"unlabeled {i} rye bread" for i in range(3)]
    assert len(data.valid) == 4 and data.config["task"] == "slots" and data.name == "kitchen" and not data.sample


def test_test_sample_is_the_same_for_every_run_and_in_file_order(folder):
    one, two = load_data(folder, labeled=2, test=10).test, load_data(folder, labeled=5, unlabeled=4, test=10).test
    numbers = [int(x.input.split(" ")[1]) for x in one]
    assert one == two and numbers == sorted(numbers) and len(set(numbers)) == 10 and numbers != list(range(10))
    assert len(load_data(folder, labeled=2, test=0).test) == len(load_data(folder, labeled=2, test=None).test) == 30


def test_max_words_comes_before_the_choice_of_labeled(folder):
    long = {"input": "a much longer request for bread", "output": "O O O O O B-food"}
    write_jsonl(folder / "labeled.jsonl", [long, *rows("labeled", 2)])
    data = load_data(folder, labeled=2, max_words=5)
    assert [x.input for x in data.labeled] == ["labeled 0 rye bread", "labeled 1 rye bread"]
    assert data.left_out == {"labeled": 1, "unlabeled": 0, "valid": 0, "test": 0}
    assert "1 sentences of more than 5 words left out" in data.headline()


def test_headline_says_what_the_data_is(folder):
    line = load_data(folder, labeled=2, test=10).headline()
    assert "kitchen" in line and "real data" in line and "2 labeled (the first of 6)" in line
    assert "9 unlabeled," in line and "10 test (a fixed sample of 30)" in line and "\n" not in line


def test_real_corpus_beside_the_sample_is_what_loads(folder):
    (folder / "task.json").write_text(json.dumps({**TASK, "sample": True}))
    assert "synthetic sample" in load_data(folder, labeled=2).headline()
    make_folder(folder / "real", {**TASK, "name": "The Real One"})
    data = load_data(folder, labeled=2)
    assert data.folder == folder / "real" and data.name == "The Real One" and "real data" in data.headline()


def test_own_folder_may_lack_valid_and_test(folder):
    (folder / "valid.jsonl").unlink()
    (folder / "test.jsonl").unlink()
    data = load_data(folder, labeled=2)
    assert data.valid == data.test == []


def test_vocabulary_is_made_of_the_inputs_and_of_free_text_of_the_outputs_too(tmp_path):
    for kind in ("slots", "text"):
        data = load_data(make_folder(tmp_path / kind, {"task": kind}))
        inputs, outputs = [x.input for x in data.labeled + data.unlabeled], [x.output for x in data.labeled]
        assert data.texts() == inputs + (outputs if kind == "text" else []) and len(outputs) == 6


def test_unlabeled_needs_no_output_and_extra_keys_are_ignored(folder):
    write_jsonl(folder / "unlabeled.jsonl", [{"input": "some bread", "speaker": 3}, {"input": "a roll", "output": None}])
    assert load_data(folder, labeled=2).unlabeled == [Example("some bread"), Example("a roll")]


def test_fingerprint_changes_with_what_is_loaded_and_with_nothing_else(folder, tmp_path):
    before = load_data(folder, labeled=2).fingerprint
    assert load_data(make_folder(tmp_path / "elsewhere"), labeled=2).fingerprint == before
    write_jsonl(folder / "labeled.jsonl", rows("labeled", 7))  # the first two are the same
    assert load_data(folder, labeled=2).fingerprint == before
    assert load_data(folder, labeled=3).fingerprint != before
    (folder / "task.json").write_text(json.dumps({**TASK, "instruction": "Tag the words!"}))
    assert load_data(folder, labeled=2).fingerprint != before


def test_fingerprint_tells_which_split_an_example_is_in(folder):
    kept = (folder / "valid.jsonl").read_text()
    (folder / "valid.jsonl").write_text("".join(kept.splitlines(True)[:3]))
    before = load_data(folder, labeled=2).fingerprint
    (folder / "valid.jsonl").write_text("".join(kept.splitlines(True)[:2]))
    (folder / "test.jsonl").write_text(kept.splitlines(True)[2] + (folder / "test.jsonl").read_text())
    assert load_data(folder, labeled=2).fingerprint != before


def test_authors_rows(tmp_path):
    path = tmp_path / "train.json"
    gold, guess = "(S (NP (PRP We)) (VP (VBP agree)))", "( ( We ) ( agree ) )"
    write_jsonl(path, [{"translation": {"unparsed": "We agree", "unlabeled": guess, "parsed": gold}}])
    assert read_jsonl(path, gold=True) == [Example("We agree", gold)]
    assert list(read_pseudolabels(path)) == [Label("We agree", guess)]


def test_pseudolabels_keep_scores_and_failed_answers(tmp_path):
    path = tmp_path / "stage0.jsonl"
    wanted = [Label("some bread", "O B-food", -1.25), Label("a roll", "", 0.0), Label("tea", "I think")]
    write_jsonl(path, wanted)
    assert list(read_pseudolabels(path)) == wanted
    for score in ("NaN", "-Infinity", "1" * 400, "true", '"1"'):
        path.write_text(f'{{"input": "a", "output": "O", "score": {score}}}\n')
        assert error_of(lambda: list(read_pseudolabels(path))).startswith(f'{path}:1: expected "score" to be a number')


def test_labels_of_some_inputs_the_last_row_counts(tmp_path):
    path = tmp_path / "labels.jsonl"
    write_jsonl(path, [Label("a", "first"), Label("b", "other"), Label("a", "last", -1.0)])
    assert read_labels(path, ["c", "a"]) == {"c": None, "a": Label("a", "last", -1.0)}
    path.write_bytes(b"")
    assert read_labels(path, []) == {}
    assert "empty file" in error_of(lambda: read_labels(path, ["a"]))


def test_same_sentence_is_in_memory_once(folder):
    write_jsonl(folder / "labels.jsonl", [Label("unlabeled 3  rye bread ", "O"), Label("unlabeled 4 rye bread", "O")])
    pool = {x.input: x.input for x in load_data(folder, labeled=2).unlabeled}
    assert all(pool[label.input] is label.input for label in read_pseudolabels(folder / "labels.jsonl"))


def test_files_are_read_and_written_row_by_row(tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text('{"input": "a", "output": "b"}\n{"inp')
    rows = read_pseudolabels(path)
    assert next(rows) == Label("a", "b")  # the second line is not looked at yet
    assert error_of(lambda: next(rows)).startswith(f"{path}:2: ")

    def rows_until_an_error():
        yield Label("a", "b")
        assert any(name.endswith(".tmp") for name in os.listdir(tmp_path))
        raise KeyboardInterrupt
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write_jsonl(path, rows_until_an_error())
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["labels.jsonl"]


# ---------------------------------------------------------------------------------------------------------------------
# Odd text

NASTY = ["naïve café Ω ≤ 5", "e\u0301 is not é", "line\u2028separator", "next\u0085line", "no\u00a0break space",
         "\u200bzero width", "𝛼-actinin 🧬", "مرحبا بالعالم", 'quote " and \\ backslash', "( [ { -LRB- / * ) ] }", "\ufeff inside", "\x00 \x1f controls"]


def test_odd_text_comes_back_as_it_was(tmp_path):
    wanted = [Example(text, text[::-1]) for text in NASTY]
    write_jsonl(tmp_path / "odd.jsonl", wanted)
    assert read_jsonl(tmp_path / "odd.jsonl") == wanted
    assert "Ω" in (tmp_path / "odd.jsonl").read_text(encoding="utf-8")  # for people to read: not \u03a9


def test_byte_order_mark_carriage_returns_and_blank_lines_at_the_end(tmp_path):
    path = tmp_path / "windows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"input": "a b"}\r\n{"input": "c"}\r\n\r\n \n')
    assert read_jsonl(path) == [Example("a b"), Example("c")]
    path.write_bytes(b"\xef\xbb\xbf\r\n")
    assert "empty file" in error_of(lambda: read_jsonl(path))


def test_first_of_the_blank_lines_between_rows_is_named(tmp_path):
    path = tmp_path / "gap.jsonl"
    path.write_bytes(b'{"input": "a"}\n\n \t\r\n{"input": "c"}\n')
    assert error_of(lambda: read_jsonl(path)) == f"{path}:2: expected a JSON object, found an empty line"


def test_words_are_separated_by_single_spaces(tmp_path):
    write_jsonl(tmp_path / "x.jsonl", [{"input": " two  spaces\tand a\u00a0b "}])
    assert read_jsonl(tmp_path / "x.jsonl") == [Example("two spaces and a\u00a0b")]


# ---------------------------------------------------------------------------------------------------------------------
# Bad input: file, line, what was expected

GOOD = '{"input": "rye bread", "output": "B-food I-food"}'


@pytest.mark.parametrize("line, expected", [
    ('{"input": "rye', "expected a JSON object, found malformed JSON"),
    ("", "expected a JSON object, found an empty line"),
    ('["rye"]', 'expected a JSON object, found ["rye"]'),
    ("[" * 100000, "nested too deeply"),
    *(("[" * deep + "]" * deep, "expected a JSON object, found ") for deep in range(900, 1000, 3)),     # one is read and cannot be shown
    ('{"output": "O"}', 'expected "input" to be a string with words, found nothing'),
    ('{"input": " \\t ", "output": "O"}', 'expected "input" to be a string with words, found " \\t "'),
    ('{"input": 5, "output": "O"}', 'expected "input" to be a string with words, found 5'),
    ('{"input": "rye"}', 'expected "output" to be a string with words, found nothing'),
    ('{"input": "rye", "output": ["O"]}', 'expected "output" to be a string with words, found ["O"]'),
    ('{"input": "rye \\ud83d", "output": "O O"}', "half of a surrogate pair"),
    ('{"input": "rye bread", "output": "O"}', "expected 2 tags"),
    ('{"input": "rye", "output": "B-fruit"}', "B-fruit"),
    ('{"translation": {"parsed": "O"}}', 'expected "unparsed" to be a string with words, found nothing'),
    ('{"translation": {"unparsed": "rye", "unlabeled": "O"}}', 'expected "parsed" to be a string with words, found nothing'),
    ('{"translation": "rye"}', 'expected "input"'),
])
def test_bad_row_is_named_by_file_and_line(folder, line, expected):
    (folder / "labeled.jsonl").write_text(f"{GOOD}\n{line}\n{GOOD}\n")
    message = error_of(lambda: load_data(folder, labeled=1))
    assert message.startswith(f"{folder / 'labeled.jsonl'}:2: ") and expected in message


def error_of(action):
    with pytest.raises(DataError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("split", ["valid", "test"])
def test_gold_is_needed_to_validate_and_to_test(folder, split):
    write_jsonl(folder / f"{split}.jsonl", [{"input": "rye"}])
    assert error_of(lambda: load_data(folder, labeled=1)).startswith(f"{folder / split}.jsonl:1: expected \"output\"")


def test_gold_tree_of_another_sentence(tmp_path):
    folder = make_folder(tmp_path / "trees", {"task": "tree", "instruction": "Bracket."})
    for split in splits.SPLITS:
        write_jsonl(folder / f"{split}.jsonl", [{"input": "We agree", "output": "(S (NP (PRP We)) (VP (VBP disagree)))"}])
    assert error_of(lambda: load_data(folder, labeled=1)).startswith(f"{folder / 'labeled.jsonl'}:1: ")


def test_two_rows_with_the_same_id(folder):
    write_jsonl(folder / "unlabeled.jsonl", [{"id": 7, "input": "a"}, {"id": "7", "input": "b"}, *[{"id": None, "input": "c"}] * 2,
                                             {"id": 7, "input": "d"}])
    message = error_of(lambda: load_data(folder, labeled=1))
    assert message.startswith(f"{folder / 'unlabeled.jsonl'}:5: ") and "line 1" in message


def test_bytes_that_are_not_utf8(folder):
    (folder / "test.jsonl").write_bytes(GOOD.encode() + b'\n{"input": "caf\xe9", "output": "O"}\n')
    message = error_of(lambda: load_data(folder, labeled=1))
    assert message.startswith(f"{folder / 'test.jsonl'}:2: expected UTF-8") and "0xe9" in message


@pytest.mark.parametrize("split", ["labeled", "unlabeled"])
def test_missing_and_empty_files(folder, split):
    path = folder / f"{split}.jsonl"
    path.write_text("\n\n")
    assert error_of(lambda: load_data(folder, labeled=1)) == f"{path}: expected one JSON object a line, found an empty file"
    path.unlink()
    assert error_of(lambda: load_data(folder, labeled=1)) == f"{path}: expected a file, found none"


def test_missing_folder_says_how_to_make_one(tmp_path):
    for folder in (tmp_path / "nowhere", tmp_path):
        message = error_of(lambda: load_data(folder))
        assert message.startswith(f"{folder}: ") and "data/prepare.py" in message


@pytest.mark.parametrize("content, expected", [
    ("{", "malformed JSON"),
    ("[]", "expected a JSON object"),
    ("{}", "tree, slots, text"),
    ('{"task": "poems"}', '"poems"'),
    ('{"task": ["tree"]}', "tree, slots, text"),
    ('{"task": "tree", "instruction": 3}', '"instruction"'),
    ('{"task": "tree", "name": ""}', '"name"'),
    ('{"task": "tree", "sample": "yes"}', '"sample"'),
    ('{"task": "slots", "tags": "O"}', '"tags"'),
    ('{"task": "slots", "tags": ["B-x", "I-x"]}', '"tags"'),
    ('{"task": "slots", "tags": ["O", "B-city name"]}', '"tags"'),
    ('{"task": "slots", "tags": ["O", "B-\\ud800"]}', '"tags" to be Unicode text'),
    ('{"task": "slots", "instruction": "Tag\\nthe words."}', '"instruction" to be one line'),
])
def test_bad_task(folder, content, expected):
    (folder / "task.json").write_text(content)
    message = error_of(lambda: load_data(folder))
    assert message.startswith(f"{folder / 'task.json'}: ") and expected in message


def test_more_examples_than_there_are(folder):
    message = error_of(lambda: load_data(folder, labeled=50))
    assert "50" in message and "found 6" in message and "--labeled" in message
    assert "found 9" in error_of(lambda: load_data(folder, labeled=2, unlabeled=10))
    assert "at most 3 words" in error_of(lambda: load_data(folder, labeled=2, max_words=3))
    assert "--unlabeled" in error_of(lambda: load_data(folder, labeled=2, unlabeled=-1))


# ---------------------------------------------------------------------------------------------------------------------
# A file appears whole or not at all

def test_interrupted_writing_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_atomically(path, "old")

    def power_cut(*_):
        raise KeyboardInterrupt

    for call in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, power_cut)
            with pytest.raises(KeyboardInterrupt):
                write_atomically(path, "new")
        assert path.read_text() == "old" and os.listdir(tmp_path) == ["results.json"]
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["results.json"]


def test_bytes_reach_the_disk_before_the_name_does(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("fsync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda *names: (calls.append("replace"), replace(*names)))
    write_atomically(tmp_path / "x", "text")
    assert calls[:2] == ["fsync", "replace"]
    if os.name == "posix":
        assert calls[2:] == ["fsync"]  # of the directory, for the new name


@pytest.mark.parametrize("error", [DataError("no such\n\x1bfile"), OSError(28, "No space left on device")])
def test_a_command_ends_with_one_line_and_exit_code_2(error, capsys):
    def main():
        raise error
    with pytest.raises(SystemExit) as end:
        run_command(main)
    shown = capsys.readouterr().err
    assert end.value.code == 2 and shown.startswith("error: ") and shown.count("\n") == 1


def test_an_error_about_a_megabyte_is_a_line_that_can_be_read(capsys):
    def main():
        raise DataError("gold.txt:1: expected a Penn tree, found " + "x" * 1_000_000)
    with pytest.raises(SystemExit):
        run_command(main)
    shown = capsys.readouterr().err
    assert shown.startswith("error: gold.txt:1: expected a Penn tree, found xx") and len(shown) < 1100


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit of a file's size")
@pytest.mark.parametrize("limit", [19, 30])
@pytest.mark.parametrize("write", [lambda: log_event(Path("."), {"event": "stage", "stage": 1}),
                                   lambda: write_atomically("log.jsonl", "x" * 100)], ids=["log_event", "write_atomically"])
def test_full_disk_is_named_and_leaves_whole_lines(write, limit, tmp_path, monkeypatch, capsys):
    """A limit of a file's size is a disk that becomes full in the middle of a line."""
    import resource
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log.jsonl").write_text('{"event": "stage"}\n')
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(SystemExit) as end:
            run_command(write)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.startswith("error: [Errno ") and said.endswith(": 'log.jsonl'\n")
    assert (tmp_path / "log.jsonl").read_text() == '{"event": "stage"}\n' and os.listdir(tmp_path) == ["log.jsonl"]


def test_full_disk_takes_back_no_more_than_what_was_written(tmp_path, monkeypatch):
    """The other student of a pair may add a line between this one's opening of the log and its writing."""
    plain, log = open, tmp_path / "log.jsonl"

    class Short:
        def __init__(self, *given, **how):
            self.file = plain(*given, **how)

        def __enter__(self):
            with plain(log, "ab") as other:
                other.write(b'{"event": "of the other"}\n')
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, line):
            return self.file.write(line[:7])

        def __getattr__(self, name):
            return getattr(self.file, name)
    monkeypatch.setattr(folders, "open", Short, raising=False)
    with pytest.raises(OSError, match="No space"):
        folders.log_event(tmp_path, {"event": "stage"})
    assert log.read_bytes() == b'{"event": "of the other"}\n'


def test_an_interrupted_command_says_what_is_kept(capsys):
    def main():
        raise KeyboardInterrupt
    with pytest.raises(SystemExit) as end:
        run_command(main, GOES_ON)
    assert end.value.code == 130
    assert capsys.readouterr().err == "interrupted; what is finished is kept, and the same command goes on from there\n"


@pytest.mark.parametrize("arguments, message", [
    ([], "the following arguments are required: --number"),
    (["--number", "x"], "argument --number: invalid int value: 'x'"),
    (["--num", "1", "--number", "1"], "unrecognized arguments: --num 1")])      # a name that is not whole could come to mean another option
def test_what_is_wrong_with_a_commands_options_is_said_in_one_line(arguments, message, capsys):
    parser = CommandLine()
    parser.add_argument("--number", type=int, required=True)
    with pytest.raises(SystemExit) as end:
        run_command(lambda: parser.parse_args(arguments))
    shown = capsys.readouterr().err
    assert (end.value.code, shown) == (2, f"error: {message} (--help shows the options)\n")


def test_what_a_command_prints_is_utf8():
    script = "from data.command import run_command\nrun_command(lambda: print('\u2500'))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, cwd=ROOT, env={**os.environ, "PYTHONIOENCODING": "latin-1"})
    assert (found.stdout.decode("utf-8").strip(), found.returncode) == ("\u2500", 0)


def test_folder_that_cannot_be_written_leaves_nothing(tmp_path):
    def write(folder):
        folder.mkdir()
        (folder / "half").write_text("")
        raise OSError(28, "No space left on device")
    with pytest.raises(OSError):
        save_folder(tmp_path / "final", write)
    assert list(tmp_path.iterdir()) == []


def test_folder_is_saved_with_its_subfolders(tmp_path):
    def write(folder):
        (folder / "inner").mkdir(parents=True)
        (folder / "inner" / "file").write_text(folder.name)
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "old").write_text("")
    save_folder(tmp_path / "final", write)
    assert [x.name for x in sorted(tmp_path.rglob("*"))] == ["final", "inner", "file"]


PRINTS = [sys.executable, "-c", "from data.command import run_command\nrun_command(lambda: [print('line') for _ in range(100_000)])"]
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def test_a_reader_that_goes_is_no_error():
    found = subprocess.run(f"{shlex.join(PRINTS)} | head -1", shell=True, capture_output=True, text=True, cwd=ROOT, env=BUFFERED)
    assert (found.stdout, found.stderr) == ("line\n", "")


@pytest.mark.parametrize("given, name", [(["--out="], "--out"), (["--out", ""], "an option")])
def test_an_empty_option_is_said(given, name):
    parser = CommandLine()
    parser.add_argument("--out")
    with pytest.raises(DataError, match=f"^{name}: expected something behind it, found nothing"):
        parser.parse_args(given)
    assert parser.parse_args(["--out=a="]).out == "a="


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
def test_a_closed_standard_error_stops_nothing():
    script = "from tqdm import tqdm\nfrom data.command import run_command\nrun_command(lambda: print(sum(tqdm([1, 2]))))"
    found = subprocess.run(["sh", "-c", '"$0" -c "$1" 2>&-', sys.executable, script], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert (found.returncode, found.stdout) == (0, "3\n")


def test_a_closed_output_is_no_error():
    found = subprocess.run(f"{shlex.join(PRINTS)} >&-", shell=True, capture_output=True, text=True, cwd=ROOT, env=BUFFERED)
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.parametrize("error, code, said", [("DataError('the reason')", 2, "error: the reason\n"), ("KeyboardInterrupt", 130, "interrupted\n")])
def test_what_went_wrong_is_said_though_nobody_reads_on(error, code, said):
    script = f"from data.command import run_command\nfrom data.splits import DataError\ndef main():\n    print('line')\n    raise {error}\nrun_command(main)"
    reader, writer = os.pipe()
    os.close(reader)
    found = subprocess.run([sys.executable, "-c", script], stdout=writer, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=BUFFERED)
    os.close(writer)
    assert (found.returncode, found.stderr) == (code, said)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, a disk that is always full")
@pytest.mark.parametrize("lines", ["100_000", "1"])                 # the one fails while it is printed, the other at the end
def test_what_cannot_be_printed_is_one_line(lines):
    with open("/dev/full", "w") as full:
        command = [*PRINTS[:2], PRINTS[2].replace("100_000", lines)]
        found = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=BUFFERED)
    assert (found.returncode, found.stderr) == (2, "error: [Errno 28] No space left on device\n")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a path is text")
@pytest.mark.parametrize("command", [["mckd.py", "--data"], ["metrics.py", "gold"], ["data/prepare.py", "atis", "--source"], ["teacher.py", "--out"],
                                     ["student.py", "--model"]])
def test_path_that_is_not_utf_8_is_one_line(command, monkeypatch, capsys):
    assert exit_code(monkeypatch, *command, os.fsdecode(b"nope\xff")) == 2
    assert capsys.readouterr().err == "error: expected options in UTF-8, found 'nope\\udcff'\n"


def test_fifty_labeled_examples_by_default(tmp_path):
    folder = make_folder(tmp_path / "many")
    write_jsonl(folder / "labeled.jsonl", rows("labeled", 60))
    assert len(load_data(folder).labeled) == 50 and "50 labeled (the first of 60)" in load_data(folder).headline()
    assert len(load_data(folder, labeled=60).labeled) == 60


def test_valid_is_in_the_order_of_the_file(tmp_path):
    assert [x.input for x in load_data(make_folder(tmp_path / "kitchen"), labeled=2).valid] == [x["input"] for x in rows("valid", 4)]


@pytest.mark.skipif(sys.platform != "linux", reason="only there a handle tells its file's name")
def test_a_folders_files_reach_the_disk_before_its_name_does(tmp_path, monkeypatch):
    calls, fsync, rename = [], os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name), fsync(handle)))
    monkeypatch.setattr(os, "rename", lambda *names: (calls.append("rename"), rename(*names)))
    save_folder(tmp_path / "final", lambda folder: (folder.mkdir(), (folder / "weights").write_text("")))
    assert calls == ["weights", "final.part", "rename", tmp_path.name]


@pytest.mark.skipif(sys.platform != "linux", reason="needs a folder that nobody can write to")
def test_file_that_cannot_be_written_is_named_not_the_one_beside_it():
    with pytest.raises(OSError) as error:
        write_atomically("/proc/self/labels.jsonl", "")
    assert error.value.filename == "/proc/self/labels.jsonl"


def test_a_link_in_the_place_of_a_folder_is_replaced_and_what_it_led_to_stays(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "final").symlink_to(tmp_path / "elsewhere")
    save_folder(tmp_path / "final", lambda folder: (folder.mkdir(), (folder / "new").write_text("")))
    assert not (tmp_path / "final").is_symlink() and os.listdir(tmp_path / "final") == ["new"] and os.listdir(tmp_path / "elsewhere") == []


def test_what_an_interrupted_save_left_is_not_saved(tmp_path):
    (tmp_path / "final.part").mkdir()
    (tmp_path / "final.part" / "left").write_text("")
    save_folder(tmp_path / "final", lambda folder: (folder.mkdir(exist_ok=True), (folder / "new").write_text("")))
    assert os.listdir(tmp_path / "final") == ["new"]
