"""data/prepare.py: every sentence of a corpus ends up in a split or is counted with the reason why not."""

import bz2
import gzip
import hashlib
import http.server
import io
import json
import lzma
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest

from conftest import ROOT
from data import prepare as module
from data.archives import download, read_source
from data.prepare import FILES, Sentence, account, main, prepare, sift, table
from data.command import run_command
from data.splits import DataError, load_data, read_jsonl

RAW = ROOT.parent / "shared" / "raw"
needs_raw = pytest.mark.skipif(not RAW.is_dir(), reason="the real corpora (../shared/raw) are not here")


# ---------------------------------------------------------------------------------------------------------------------
# Miniature corpora in the layouts of the real ones

def tree(subject, verb):
    return f"( (S (NP-SBJ (DT The) (NN {subject})) (VP (VBD {verb}) (NP (-NONE- *T*-1))) (. .)) )\n"


CRAFT = {
    "articles/ids/craft-ids-train.txt": "11\n12\n\n",
    "articles/ids/craft-ids-dev.txt": "21\n",
    "articles/ids/craft-ids-test.txt": "31\n",
    "structural-annotation/treebank/penn/11.tree": "".join(tree(s, "slept") for s in ("cat", "dog", "hen", "cow")),
    "structural-annotation/treebank/penn/12.tree":
        tree("cat", "slept")                                                     # a repetition
        + tree("ox", "ate")                                                      # also in test
        + tree("owl", "sang")                                                    # also in valid
        + "\n"                                                                   # an empty line is no sentence
        + "( (S (NP (DT A) (NN tree)) (VP (VBD broke)\n"                         # brackets left open
        + "( (S (NP-SBJ (-NONE- *PRO*))) )\n"                                    # nothing but a trace
        + "( (NP (NP (CD 3\\/4)) (PRN (-LRB- -LRB-) (NN p\u00a0value) (-RRB- -RRB-))) )\n",
    "structural-annotation/treebank/penn/21.tree": tree("owl", "sang") + tree("ox", "ate"),
    "structural-annotation/treebank/penn/31.tree": tree("ox", "ate") + tree("ox", "ate"),
}
CRAFT_ACCOUNT = {
    "kept": {"train": 5, "valid": 1, "test": 2},
    "also in test": {"train": 1, "valid": 1, "test": 0},
    "also in valid": {"train": 1, "valid": 0, "test": 0},
    "no words but traces": {"train": 1, "valid": 0, "test": 0},
    "repetition": {"train": 1, "valid": 0, "test": 0},
    "unreadable tree": {"train": 1, "valid": 0, "test": 0},
    "total": {"train": 10, "valid": 2, "test": 2},
}

SLOTS = {
    "train/seq.in": "rye bread please\nbrown  rye bread \ntea\ntwo words\nodd\nsome tea\n\n",
    "train/seq.out": "B-food I-food O\nB-food I-food I-food\nB-drink\nO\nX-food\nO B-drink\n\n",
    "valid/seq.in": "bread\n", "valid/seq.out": "B-food\n",
    "test/seq.in": "a roll\ntea\n", "test/seq.out": "O B-roll\nB-drink\n",
}


def write_folder(folder, files):
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(text.encode())
    return folder


def write_zip(path, files, top="CRAFT-5.0.2/"):
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(top + name, text)
    return path


def write_tar(path, files, top="CRAFT-5.0.2/"):
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(top + name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ---------------------------------------------------------------------------------------------------------------------
# Splits

def test_craft_sentences_are_split_by_article_and_all_accounted_for(tmp_path):
    record = prepare("craft", write_folder(tmp_path / "corpus", CRAFT), tmp_path / "out", labeled=2)
    assert record["sentences"] == CRAFT_ACCOUNT
    assert record["splits"] == {"labeled": 2, "unlabeled": 3, "valid": 1, "test": 2}
    pool = read_jsonl(tmp_path / "out" / "labeled.jsonl") + read_jsonl(tmp_path / "out" / "unlabeled.jsonl")
    assert {x.input for x in pool} == {*(f"The {s} slept ." for s in ("cat", "dog", "hen", "cow")), "3/4 ( p\u00a0value )"}
    assert [x.input for x in read_jsonl(tmp_path / "out" / "test.jsonl")] == ["The ox ate ."] * 2
    owl, = read_jsonl(tmp_path / "out" / "valid.jsonl")
    assert owl.output == "(S (NP (DT The) (NN owl)) (VP (VBD sang)) (. .))"  # no trace, no function tag, no outer bracket


def test_slots_are_read_line_by_line_and_all_accounted_for(tmp_path, capsys):
    record = prepare("snips", write_folder(tmp_path / "corpus", SLOTS), tmp_path / "out", labeled=1)
    counts = {reason: row["train"] for reason, row in record["sentences"].items()}
    assert counts == {"kept": 3, "a tag other than O, B-x, I-x": 1, "also in test": 1, "no words": 1, "not one tag a word": 1, "total": 7}
    data = load_data(tmp_path / "out", labeled=1)
    assert {x.input for x in data.labeled + data.unlabeled} == {"rye bread please", "brown rye bread", "some tea"}
    assert data.config["tags"] == ["B-drink", "B-food", "B-roll", "I-food", "O"]  # of the whole corpus: B-roll is only in test
    total = sum(record["sentences"]["total"].values())
    assert f"{total} sentences, Snips as it is published has 14,484: is this the corpus" in capsys.readouterr().err


def test_treebank_documents_decide_and_trees_may_span_lines(tmp_path):
    files = {f"treebank/combined/wsj_{n:04}.mrg": "\n" + tree(f"cat{n}", "slept").replace(" (VP", "\n    (VP")
             for n in (1, 2, 140, 141, 160, 161)}
    archive = write_zip(tmp_path / "corpus" / "treebank.zip", files, top="")
    for source in (archive, archive.parent):
        record = prepare("ptb", source, tmp_path / "out", labeled=1)
        assert record["sentences"]["kept"] == {"train": 3, "valid": 2, "test": 1}
    assert [x.input for x in read_jsonl(tmp_path / "out" / "valid.jsonl")] == ["The cat141 slept .", "The cat160 slept ."]


def test_whole_treebank_has_the_standard_sections(tmp_path):
    files = {f"wsj/{n // 100:02}/wsj_{n:04}.mrg": tree(f"cat{n}", "slept") for n in (1, 199, 201, 2172, 2201, 2300, 2454)}
    record = prepare("ptb", write_folder(tmp_path / "mrg", files), tmp_path / "out", labeled=1)
    assert record["sentences"]["kept"] == {"train": 2, "valid": 1, "test": 1}
    assert record["sentences"]["section not in the standard split"]["train"] == 3


def test_what_is_prepared_can_be_loaded(tmp_path):
    macos = {f"__MACOSX/{file.rpartition('/')[0]}/._{file.rpartition('/')[2]}": "" for file in (*CRAFT, *SLOTS)}     # in archives made there
    for corpus, files, labeled in (("craft", {**CRAFT, **macos}, 2), ("atis", {**SLOTS, **macos}, 1)):
        prepare(corpus, write_folder(tmp_path / corpus, files), tmp_path / f"{corpus}-data", labeled=labeled)
        assert "real data" in load_data(tmp_path / f"{corpus}-data", labeled=labeled).headline()


def test_nothing_is_in_two_splits():
    sentences = [Sentence(part, text, "") for part, texts in
                 (("train", "abcdea"), ("valid", "dxx"), ("test", "ettx")) for text in texts]
    sifted = sift(sentences)
    kept = {part: [s.input for s in sifted if s.part == part and not s.reason] for part in ("train", "valid", "test")}
    assert kept == {"train": ["a", "b", "c"], "valid": ["d"], "test": ["e", "t", "t", "x"]}
    assert [s[:3] for s in sifted] == [s[:3] for s in sentences]


def test_max_words_filters_all_parts():
    sifted = sift([Sentence(part, text, "") for part in ("train", "valid", "test") for text in (f"{part} b c", f"{part} b c d")], max_words=3)
    assert account(sifted) == {"kept": {"train": 1, "valid": 1, "test": 1}, "more than 3 words": {"train": 1, "valid": 1, "test": 1},
                               "total": {"train": 2, "valid": 2, "test": 2}}


def test_first_reason_is_the_one_that_counts():
    broken = Sentence("train", "four words and more", "O", "not one tag a word")
    assert sift([broken], max_words=3) == [broken]


def test_line_ends_of_windows_change_nothing(tmp_path):
    for name, end in (("unix", "\n"), ("windows", "\r\n")):
        for corpus, files in (("craft", CRAFT), ("atis", SLOTS)):
            source = write_folder(tmp_path / name / corpus, {path: text.replace("\n", end) for path, text in files.items()})
            prepare(corpus, source, tmp_path / name / f"{corpus}-out", labeled=1)
    for corpus in ("craft", "atis"):
        unix, windows = (contents(tmp_path / name / f"{corpus}-out") for name in ("unix", "windows"))
        assert json.loads(unix.pop("prepare.json"))["sentences"] == json.loads(windows.pop("prepare.json"))["sentences"]
        assert unix == windows


def test_table_shows_every_reason_and_the_sums():
    lines = table(CRAFT_ACCOUNT).split("\n")
    assert lines[0].split() == ["train", "valid", "test", "all"]
    assert lines[1].split() == ["kept", "5", "1", "2", "8"]
    assert lines[-1].split() == ["total", "10", "2", "2", "14"] and len(lines) == 1 + len(CRAFT_ACCOUNT)


# ---------------------------------------------------------------------------------------------------------------------
# Bytes

def test_folder_zip_and_tar_give_the_same_bytes_and_so_does_the_same_seed(tmp_path):
    sources = [write_folder(tmp_path / "a" / "CRAFT-5.0.2", CRAFT), write_zip(tmp_path / "b.zip", CRAFT), write_tar(tmp_path / "c.tar.gz", CRAFT)]
    outs = [tmp_path / f"out{i}" for i in range(3)]
    for source, out in zip(sources, outs):
        prepare("craft", source, out, labeled=2, seed=5)
    first, second, third = (contents(out) for out in outs)
    records = [json.loads(files.pop("prepare.json")) for files in (first, second, third)]
    assert first == second == third and len(first) == 5
    assert len({record["files_sha256"] for record in records}) == 1
    assert records[1]["archive_sha256"] == hashlib.sha256(sources[1].read_bytes()).hexdigest()
    before = contents(outs[1])
    prepare("craft", sources[1], outs[1], labeled=2, seed=5)
    assert contents(outs[1]) == before


def test_another_seed_draws_other_sentences_from_the_same_pool(tmp_path):
    source = write_folder(tmp_path / "corpus", CRAFT)
    pools = []
    for seed in range(4):
        prepare("craft", source, tmp_path / "out", labeled=2, seed=seed)
        pools.append([read_jsonl(tmp_path / "out" / f"{split}.jsonl") for split in ("labeled", "unlabeled")])
    assert len({str(labeled) for labeled, _ in pools}) > 1
    assert len({str(sorted(labeled + unlabeled)) for labeled, unlabeled in pools}) == 1


def test_interrupted_prepare_leaves_the_old_data(tmp_path, monkeypatch):
    source, out = write_folder(tmp_path / "corpus", CRAFT), tmp_path / "out"
    prepare("craft", source, out, labeled=2)
    (out / "README.md").write_text("mine")
    before = contents(out)

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "write_atomically", interrupt)
        with pytest.raises(KeyboardInterrupt):
            prepare("craft", source, out, labeled=1)
    assert contents(out) == before


@pytest.mark.parametrize("renamed", range(6))
def test_prepare_that_was_interrupted_between_its_files_can_be_repeated(renamed, tmp_path, monkeypatch):
    source, out, done = write_folder(tmp_path / "corpus", CRAFT), tmp_path / "out", []

    def rename(beside, place):
        if Path(place).parent == out:
            if len(done) == renamed:
                raise KeyboardInterrupt
            done.append(place)
        real(beside, place)
    real = os.replace
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", rename)
        with pytest.raises(KeyboardInterrupt):
            prepare("craft", source, out, labeled=2)
    assert all(Path(place).name == "prepare.json" for place in done[:1])    # with which the command may write here again
    with pytest.raises(DataError):
        load_data(out)                                      # it is no data folder yet
    prepare("craft", source, out, labeled=2)
    assert load_data(out).labeled


def test_downloaded_archive_that_is_broken_is_removed(tmp_path, monkeypatch):
    """CRAFT's archive has no fixed bytes, so nothing else would find out, this time or the next."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(module, "fetch", lambda corpus, cache: write_folder(cache, {"craft.tar.gz": "half of two"}) / "craft.tar.gz")
    with pytest.raises(DataError, match="it has been removed, the same command downloads it again"):
        prepare("craft", None, tmp_path / "out", cache=cache)
    assert not list(cache.iterdir())


def test_a_file_in_the_folders_place_is_said_before_anything_is_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "fetch", lambda corpus, cache: pytest.fail("it downloads"))
    (tmp_path / "out").write_text("precious")
    with pytest.raises(DataError, match="expected a folder, found a file"):
        prepare("craft", None, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "precious"


def test_sentences_that_are_all_too_long(tmp_path):
    with pytest.raises(DataError, match="expected sentences of at most 1 words for "):
        prepare("craft", write_folder(tmp_path / "corpus", CRAFT), tmp_path / "out", labeled=2, max_words=1)


@pytest.mark.parametrize("files", [{"task.json": "{}", "labeled.jsonl": "precious"}, {"labeled.jsonl": "precious"}])
def test_data_that_it_did_not_make_is_not_overwritten(files, tmp_path):
    out = write_folder(tmp_path / "mine", files)
    with pytest.raises(DataError, match="did not make"):
        prepare("craft", write_folder(tmp_path / "corpus", CRAFT), out, labeled=2)
    assert (out / "labeled.jsonl").read_text() == "precious"


# ---------------------------------------------------------------------------------------------------------------------
# Errors: one line, exit code 2, nothing written

TRAIN_IDS, TREE_12 = "articles/ids/craft-ids-train.txt", "structural-annotation/treebank/penn/12.tree"


@pytest.mark.parametrize("corpus, files, labeled, expected", [
    ("craft", {**CRAFT, TRAIN_IDS: "11\n12\n31\n"}, 2, "found 31 in two"),
    ("craft", {**CRAFT, TRAIN_IDS: "11\n"}, 2, f"{TREE_12}: expected articles/ids/craft-ids-*.txt to list the article"),
    ("craft", {k: v for k, v in CRAFT.items() if k != TREE_12}, 2, f"{TREE_12}: expected this file"),
    ("craft", {k: v for k, v in CRAFT.items() if k != TRAIN_IDS}, 2, f"{TRAIN_IDS}: expected this file"),
    ("craft", {**CRAFT, "copy/" + TREE_12: ""}, 2, f"expected one {TREE_12}, found two"),
    ("craft", {"README.md": "no trees"}, 2, "expected files like"),
    ("craft", CRAFT, 5, "--labeled 5: expected fewer than the 5 sentences"),
    ("craft", CRAFT, 0, "--labeled: expected at least 1, found 0"),
    ("atis", {**SLOTS, "valid/seq.out": "O\nO\n"}, 1, "valid/seq.out: expected 1 lines"),
    ("atis", {**SLOTS, "valid/seq.in": "tea\n"}, 1, "expected sentences for valid, found none"),
    ("snips", {k: v for k, v in SLOTS.items() if k != "test/seq.in"}, 1, "test/seq.in: expected this file"),
])
def test_bad_corpus_is_one_line_and_exit_code_2(tmp_path, capsys, corpus, files, labeled, expected):
    source = write_folder(tmp_path / "corpus", files)
    arguments = [corpus, "--source", str(source), "--out", str(tmp_path / "out"), "--labeled", str(labeled)]
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: main(arguments))
    message = capsys.readouterr().err.strip().split("\n")[-1]
    assert ended.value.code == 2 and message.startswith("error: ") and expected in message
    assert not (tmp_path / "out").exists()


def test_bytes_that_are_not_utf8_are_named_by_line(tmp_path):
    source = write_folder(tmp_path, SLOTS)
    (source / "valid" / "seq.in").write_bytes(b"bread\ncaf\xe9\n")
    with pytest.raises(DataError, match=r"valid/seq\.in:2: expected UTF-8, found the byte 0xe9"):
        read_source(source, FILES["atis"])


def test_broken_and_unknown_archives(tmp_path):
    archive = write_zip(tmp_path / "a.zip", {k: v * 50 for k, v in CRAFT.items()})
    archive.write_bytes(archive.read_bytes().replace(b"slept", b"awake", 1))  # its CRC no longer holds
    tar = write_tar(tmp_path / "a.tar.gz", {TREE_12: os.urandom(50000).hex()})
    tar.write_bytes(tar.read_bytes()[:20000])
    (tmp_path / "a.txt").write_text("neither")
    for name, expected in (("a.zip", "broken"), ("a.tar.gz", "broken"), ("a.txt", "expected a folder"), ("nothing", "no such")):
        with pytest.raises(DataError, match=expected):
            read_source(tmp_path / name, FILES["craft"])


def test_another_corpus_is_not_written_over_and_what_a_kill_left_goes(tmp_path):
    (tmp_path / "out" / ".prepare-x").mkdir(parents=True)
    source = write_folder(tmp_path / "corpus", SLOTS)
    main(["atis", "--source", str(source), "--out", str(tmp_path / "out"), "--labeled", "1"])
    assert not (tmp_path / "out" / ".prepare-x").exists()
    with pytest.raises(DataError, match="out: expected .* one of `prepare.py snips`, found atis; choose another --out"):
        main(["snips", "--source", str(source), "--out", str(tmp_path / "out"), "--labeled", "1"])


def test_a_negative_seed_is_refused(tmp_path):
    with pytest.raises(DataError, match="--seed: expected at least 0, found -1"):
        main(["atis", "--source", str(tmp_path), "--out", str(tmp_path / "out"), "--seed", "-1"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_an_archive_with_a_damaged_header_loses_nothing_in_silence(ending, tmp_path):
    """tarfile takes such a header for the end of the archive."""
    plain = tmp_path / "a.tar"
    plain.write_bytes(gzip.decompress(write_tar(tmp_path / "a.tar.gz", CRAFT).read_bytes()))
    pack = {"tar": bytes, "tar.gz": gzip.compress, "tar.bz2": bz2.compress, "tar.xz": lzma.compress}[ending]
    archive = tmp_path / f"sound.{ending}"
    archive.write_bytes(pack(plain.read_bytes()))
    assert read_source(archive, FILES["craft"]).keys() == CRAFT.keys()
    last = plain.read_bytes().rfind(b"CRAFT-5.0.2/")
    archive.write_bytes(pack(plain.read_bytes()[:last] + b"X" + plain.read_bytes()[last + 1:]))
    with pytest.raises(DataError, match=f"{archive}: expected a sound archive, found a broken one"):
        read_source(archive, FILES["craft"])


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz"])
def test_a_folder_may_hold_the_archive(tmp_path, name):
    write_tar(tmp_path / name, CRAFT)
    assert read_source(tmp_path, FILES["craft"])


def test_an_archive_whose_checksum_does_not_hold_is_named(tmp_path):
    archive = write_tar(tmp_path / "a.tar.gz", CRAFT)
    archive.write_bytes(archive.read_bytes()[:-8] + bytes(4) + archive.read_bytes()[-4:])
    with pytest.raises(DataError, match=f"{archive}: expected a sound archive, found a broken one"):
        read_source(archive, FILES["craft"])


def test_no_member_of_an_archive_is_written_anywhere(tmp_path):
    archive = write_zip(tmp_path / "a.zip", {"../../" + TREE_12: "x", "/" + TRAIN_IDS: "y"}, top="")
    before = sorted(tmp_path.rglob("*"))
    assert read_source(archive, FILES["craft"]) == {TREE_12: "x", TRAIN_IDS: "y"}
    assert sorted(tmp_path.rglob("*")) == before


def test_script_runs_from_any_folder(tmp_path):
    write_folder(tmp_path / "corpus", SLOTS)
    command = [sys.executable, str(ROOT / "data" / "prepare.py"), "atis", "--source", "corpus", "--out", "out", "--labeled", "1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "1 labeled, 2 unlabeled, 1 valid, 2 test" in done.stdout
    assert "--source ~/CRAFT-5.0.2.zip" in subprocess.run([*command[:2], "--help"], capture_output=True, text=True).stdout


# ---------------------------------------------------------------------------------------------------------------------
# Downloads, from a server on this machine

PAYLOAD = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(PAYLOAD).hexdigest()


@pytest.fixture
def server(monkeypatch):
    """Serves PAYLOAD and remembers the ranges asked for; `cut` ends the connection early, `ranges` says whether it resumes."""
    class Handler(http.server.BaseHTTPRequestHandler):
        asked, cut, ranges = [], None, True

        def do_GET(self):
            asked = self.headers.get("Range")
            Handler.asked.append(asked)
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and Handler.ranges else 0
            if self.path != "/file" or start >= len(PAYLOAD):
                self.send_error(404 if self.path != "/file" else 416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(PAYLOAD) - start))
            self.end_headers()
            self.wfile.write(PAYLOAD[start:Handler.cut])

        def log_message(self, *_):
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        Handler.address = f"http://127.0.0.1:{running.server_port}/file"
        yield Handler
        running.shutdown()


def test_download_is_checked_and_not_repeated(server, tmp_path):
    path = tmp_path / "cache" / "file.zip"
    download(server.address, path, SHA256)
    download(server.address, path, SHA256)
    assert path.read_bytes() == PAYLOAD and server.asked == [None] and os.listdir(path.parent) == ["file.zip"]


@pytest.mark.parametrize("ranges", [True, False])
def test_cut_download_is_continued(server, tmp_path, ranges):
    path = tmp_path / "file.zip"
    server.cut, server.ranges = 100_000, ranges
    with pytest.raises(DataError, match="cut after 100,000 of 512,000 bytes.*--source"):
        download(server.address, path, SHA256)
    assert os.listdir(tmp_path) == ["file.zip.part"]
    server.cut = None
    download(server.address, path, SHA256)
    assert path.read_bytes() == PAYLOAD and server.asked == [None, "bytes=100000-"] and os.listdir(tmp_path) == ["file.zip"]


def test_complete_part_is_only_checked(server, tmp_path):
    (tmp_path / "file.zip.part").write_bytes(PAYLOAD)
    download(server.address, tmp_path / "file.zip", SHA256)
    assert (tmp_path / "file.zip").read_bytes() == PAYLOAD


def test_wrong_checksum_removes_the_file(server, tmp_path):
    with pytest.raises(DataError, match="expected a file with sha256 0000.*found " + SHA256):
        download(server.address, tmp_path / "file.zip", "0" * 64)
    assert os.listdir(tmp_path) == []


def test_absent_file_and_absent_network(server, tmp_path):
    with pytest.raises(DataError, match="cannot be downloaded .*Not Found.*--source"):
        download(server.address + "/else", tmp_path / "file.zip")
    port = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    port.server_close()  # a port on which nobody listens
    with pytest.raises(DataError, match="cannot be downloaded .*refused.*--source"):
        download(f"http://127.0.0.1:{port.server_port}/file", tmp_path / "file.zip")
    assert os.listdir(tmp_path) == []


def test_prepare_downloads_what_is_not_given(server, tmp_path, monkeypatch):
    archive = write_zip(tmp_path / "mini.zip", CRAFT).read_bytes()
    monkeypatch.setattr(sys.modules[__name__], "PAYLOAD", archive)
    monkeypatch.setattr(module, "DOWNLOADS", {"craft": {"CRAFT.zip": (server.address, None)}})
    with pytest.raises(DataError, match="expected 30,830 sentences, found 14; remove it to download it again"):
        prepare("craft", None, tmp_path / "out", labeled=2, cache=tmp_path)
    monkeypatch.setitem(module.PUBLISHED, "craft", 14)
    assert prepare("craft", None, tmp_path / "out", labeled=2, cache=tmp_path)["sentences"] == CRAFT_ACCOUNT
    assert server.asked == [None]


# ---------------------------------------------------------------------------------------------------------------------
# The real corpora

@needs_raw
@pytest.mark.parametrize("corpus, total", [
    ("craft", {"train": 18951, "valid": 2780, "test": 9099}),
    ("ptb", {"train": 3074, "valid": 327, "test": 513}),
    ("atis", {"train": 4478, "valid": 500, "test": 893}),
    ("snips", {"train": 13084, "valid": 700, "test": 700}),
])
def test_real_corpus(tmp_path, corpus, total, capsys):
    source = RAW / corpus / ("treebank.zip" if corpus == "ptb" else "")
    record = prepare(corpus, source, tmp_path / corpus)
    assert "is this the corpus" not in capsys.readouterr().err
    rows = dict(record["sentences"])
    assert rows.pop("total") == total
    assert set(rows) == {"kept", "also in test", "repetition", *(["also in valid"] if corpus != "ptb" else [])}  # nothing is broken
    examples = {split: read_jsonl(tmp_path / corpus / f"{split}.jsonl") for split in record["splits"]}
    train = [x.input for x in examples["labeled"] + examples["unlabeled"]]
    assert len(train) == len(set(train)) == rows["kept"]["train"]
    assert not set(train) & {x.input for x in examples["valid"] + examples["test"]}
    assert not {x.input for x in examples["valid"]} & {x.input for x in examples["test"]}
    if corpus != "craft":  # the same path, and six seconds
        assert len(load_data(tmp_path / corpus, labeled=1000, test=0).test) == total["test"]


@needs_raw
def test_checksums_are_those_of_the_published_files():
    for corpus in ("ptb", "atis", "snips"):
        for file, (_, sha256) in module.DOWNLOADS[corpus].items():
            assert hashlib.sha256((RAW / corpus / file).read_bytes()).hexdigest() == sha256
