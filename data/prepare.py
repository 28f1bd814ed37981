"""A published corpus -> a data folder: labeled, unlabeled, valid and test splits, and an account of every sentence.

    python data/prepare.py craft                                   # download the corpus, write data/craft/real
    python data/prepare.py craft --source ~/CRAFT-5.0.2.zip        # ... from an archive or a folder that you have
    python data/prepare.py ptb --source ~/nltk_data/corpora/treebank.zip --labeled 500
    python data/prepare.py snips --out /tmp/snips --seed 1 --max-words 20

Gold for training is drawn at random from the corpus's training part: `--labeled` sentences go to labeled.jsonl, of which a
run uses the first 50 unless told otherwise, all the others to unlabeled.jsonl. The same seed gives the same bytes.

Test is the corpus's own, whole; so is valid, without what is also in test. Sentences of the training part that also stand in valid or
test (headings such as "Results", common requests) are left out, and so are repetitions: a student would be asked to label what it was
trained on.
"""

import hashlib
import json
import os
import random
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that `python data/prepare.py` finds the package `data`, from any folder

from tqdm import tqdm  # noqa: E402

from data.archives import BrokenArchive, download, read_source  # noqa: E402
from data.command import GOES_ON, CommandLine, run_command  # noqa: E402
from data.splits import SPLITS, DataError, Example, check_least, parse_object, write_atomically, write_jsonl  # noqa: E402
from data.tasks import BIO  # noqa: E402
from data.trees import clean, read_penn, split_words, write_penn  # noqa: E402

PARTS = ("train", "valid", "test")


class Sentence(NamedTuple):
    """One sentence of a corpus, or the reason why it cannot be used."""
    part: str  # "train", "valid" or "test"
    input: str
    output: str
    reason: str = ""  # why it is left out


# ---------------------------------------------------------------------------------------------------------------------
# The corpora. Each reader gets the corpus's files, {path: text}, and accounts for every sentence in them.

TREES = ("Bracket the constituents of the sentence: put every phrase between brackets, without labels, "
         "and keep all words in order.")
SLOTS = ("Tag every word of the request: B-x for the first word of a slot x, I-x for the words that continue it, "
         "O for a word outside all slots.")

CORPORA = {
    "craft": {
        "task": "tree", "instruction": TREES, "name": "CRAFT", "licence": "CC BY 3.0",
        "source": "https://github.com/UCDenver-ccp/CRAFT (5.0.2)",
    },
    "ptb": {
        "task": "tree", "instruction": TREES, "name": "Penn Treebank, Wall Street Journal",
        "licence": "LDC; NLTK's sample is for non-commercial use only", "source": "https://www.nltk.org/nltk_data (treebank)",
    },
    "atis": {
        "task": "slots", "instruction": SLOTS, "name": "ATIS", "licence": "for research",
        "source": "https://github.com/MiuLab/SlotGated-SLU (data/atis)",
    },
    "snips": {
        "task": "slots", "instruction": SLOTS, "name": "Snips", "licence": "CC0 1.0",
        "source": "https://github.com/MiuLab/SlotGated-SLU (data/snips)",
    },
}

# The part of a path that a reader needs; what comes before it (CRAFT-5.0.2/, treebank/combined/) does not matter.
FILES = {
    "craft": r"structural-annotation/treebank/penn/[^/.][^/]*\.tree|articles/ids/craft-ids-(?:train|dev|test)\.txt",
    "ptb": r"wsj_\d{4}\.mrg",
    "atis": r"(?:train|valid|test)/seq\.(?:in|out)",
    "snips": r"(?:train|valid|test)/seq\.(?:in|out)",
}


def read_craft(files: dict[str, str]) -> Iterator[Sentence]:
    """The articles' official split: 60 for training, 7 for development, 30 of the 2019 shared task for testing."""
    part_of = {}
    for part, ids in (("train", "train"), ("valid", "dev"), ("test", "test")):
        path = f"articles/ids/craft-ids-{ids}.txt"
        for article in split_words(_need(files, path)):
            if part_of.setdefault(article, part) != part:
                raise DataError(f"{path}: expected each article in one list, found {article} in two")
            _need(files, f"structural-annotation/treebank/penn/{article}.tree")
    for path, text in files.items():
        if path.endswith(".tree"):
            article = Path(path).stem
            if article not in part_of:
                raise DataError(f"{path}: expected articles/ids/craft-ids-*.txt to list the article, found it in none")
            yield from _trees(part_of[article], text)


def read_ptb(files: dict[str, str]) -> Iterator[Sentence]:
    """NLTK's sample (files 1 to 199): 1-140, 141-160, 161-199. The whole treebank: sections 2-21, 22, 23, as parsers do."""
    numbers = {path: int(re.search(r"\d{4}", path)[0]) for path in files}
    whole = max(numbers.values()) > 199
    for path, text in files.items():
        number = numbers[path]
        if not whole:
            part = "train" if number <= 140 else "valid" if number <= 160 else "test"
        else:
            section = number // 100
            part = {22: "valid", 23: "test"}.get(section, "train")
            if section not in range(2, 24):
                yield from (s._replace(reason="section not in the standard split") for s in _trees(part, text))
                continue
        yield from _trees(part, text)


def _trees(part: str, text: str) -> Iterator[Sentence]:
    """One sentence a tree. A tree begins where a line begins with a bracket, so that a broken one costs only itself."""
    for penn in re.split(r"(?m)^(?=\()", text):
        if not penn.strip():
            continue
        try:
            tree = clean(read_penn(penn))
        except ValueError:
            yield Sentence(part, "", "", "unreadable tree")
            continue
        if tree.words:
            yield Sentence(part, " ".join(tree.words), write_penn(tree))
        else:
            yield Sentence(part, "", "", "no words but traces")


def read_slots(files: dict[str, str]) -> Iterator[Sentence]:
    """Words in seq.in, tags in seq.out, line by line. The intents (label) are another task."""
    for part in PARTS:
        requests, frames = (_need(files, f"{part}/seq.{end}").removesuffix("\n").split("\n") for end in ("in", "out"))
        if len(requests) != len(frames):
            raise DataError(f"{part}/seq.out: expected {len(requests)} lines, as in {part}/seq.in, found {len(frames)}")
        for request, frame in zip(requests, frames):
            words, tags = split_words(request), split_words(frame)
            reason = ""
            if not words:
                reason = "no words"
            elif len(words) != len(tags):
                reason = "not one tag a word"
            elif not all(BIO.fullmatch(tag) for tag in tags):
                reason = "a tag other than O, B-x, I-x"
            yield Sentence(part, " ".join(words), " ".join(tags), reason)


READERS = {"craft": read_craft, "ptb": read_ptb, "atis": read_slots, "snips": read_slots}


def _need(files: dict[str, str], path: str) -> str:
    if path not in files:
        raise DataError(f"{path}: expected this file in the corpus, found none")
    return files[path]


# ---------------------------------------------------------------------------------------------------------------------
# Where the files come from

DOWNLOADS = {  # corpus -> {file: (address, sha256)}
    # GitHub makes this archive anew from the tag, so its bytes are not fixed: its sentences are counted instead.
    "craft": {"CRAFT-5.0.2.zip": ("https://github.com/UCDenver-ccp/CRAFT/archive/refs/tags/v5.0.2.zip", None)},
    "ptb": {"treebank.zip": ("https://raw.githubusercontent.com/nltk/nltk_data/gh-pages/packages/corpora/treebank.zip",
                             "9da92d76c3666cfb6cddeaed0f7e86b344cce0f0928a286d439e555f19c37399")},
    **{corpus: {file: (f"https://raw.githubusercontent.com/MiuLab/SlotGated-SLU/master/data/{corpus}/{file}", sha256)
                for file, sha256 in digests.items()}
       for corpus, digests in {
           "atis": {
               "train/seq.in": "3a670980841b21ab39088b2595efc17d487cdc45769c075a3e5f9458bba28c7f",
               "train/seq.out": "14c7131bd66562f797dbd7189bc7358f0cf354c6afb0785a9ab973c35b58f34c",
               "valid/seq.in": "c7435b96e7948393608c34819628e863c5338f11ca68e8f896d2cc041d8e17f8",
               "valid/seq.out": "83ccff3e36f83a993f8e5b5b82adf3256076f234abda4d784051381d7ac76922",
               "test/seq.in": "4b2119fc59c37f9398c6605db435d4f467505009e6ee3e5af04fed09f39dc397",
               "test/seq.out": "a4690d6bceadc06876d1ff99bc401744aa981cb321e598ae12a3859d7be53254"},
           "snips": {
               "train/seq.in": "04ad1e3f2121d83c6478f9a4b17d2dbdc21d06d6127f73cb7af835ed733f9855",
               "train/seq.out": "fd5f2121d8055827e5d6b3d3bac30f3d7e94e82a5d437751960cbdd9e1b4f6d3",
               "valid/seq.in": "64e0f6d8ad8aab3a3828164d7d53731a0993d3ca1aed437ceaca6d3d568d410e",
               "valid/seq.out": "712e6d34feb8d52d208b820a5f8bae6e6ff990f08374507dfde22de389088319",
               "test/seq.in": "c1e341173fcea2951a8ca371956a6f81c76de87b9583c62eb87edd6158fa3a7c",
               "test/seq.out": "58c07c9097d5e1f78889765c2a535a160f6455b90b3142055c8051847afcca47"}}.items()},
}
PUBLISHED = {"craft": 30830, "atis": 5871, "snips": 14484}              # sentences; of the Treebank people have parts


def fetch(corpus: str, cache: Path) -> Path:
    """Download a corpus into `cache`, unless it is there, and return what --source would have named."""
    folder, files = cache / corpus, DOWNLOADS[corpus]
    for file, (address, sha256) in files.items():
        download(address, folder / file, sha256)
    return folder / next(iter(files)) if len(files) == 1 else folder        # one archive, or a folder of files


# ---------------------------------------------------------------------------------------------------------------------
# From sentences to splits

def sift(sentences: list[Sentence], max_words: int | None = None) -> list[Sentence]:
    """The same sentences in the same order, those that no split can use marked with the reason.

    Test is the corpus's own and stays whole. Valid has nothing that is in test, train nothing that is in either, nor
    anything twice: headings and set phrases would otherwise be known by heart where they are to be predicted.
    """
    inputs = {part: {s.input for s in sentences if s.part == part and not s.reason} for part in PARTS}
    seen: set[str] = set()
    sifted = []
    for sentence in sentences:
        reason = sentence.reason
        if reason:
            pass
        elif max_words is not None and len(split_words(sentence.input)) > max_words:
            reason = f"more than {max_words} words"
        elif sentence.part != "test" and sentence.input in inputs["test"]:
            reason = "also in test"
        elif sentence.part == "train" and sentence.input in inputs["valid"]:
            reason = "also in valid"
        elif sentence.part == "train":
            reason = "repetition" if sentence.input in seen else ""
            seen.add(sentence.input)
        sifted.append(sentence._replace(reason=reason))
    return sifted


def account(sentences: list[Sentence]) -> dict[str, dict[str, int]]:
    """How many sentences of each part were kept, how many left out for which reason, and the total that this adds up to."""
    counts = Counter((s.reason or "kept", s.part) for s in sentences)
    reasons = ["kept", *sorted({s.reason for s in sentences} - {""})]
    rows = {reason: {part: counts[reason, part] for part in PARTS} for reason in reasons}
    rows["total"] = {part: sum(row[part] for row in rows.values()) for part in PARTS}
    return rows


def table(rows: dict[str, dict[str, int]]) -> str:
    lines = [f"{'':36}" + "".join(f"{name:>10}" for name in (*PARTS, "all"))]
    for reason, row in rows.items():
        label = reason if reason in ("kept", "total") else f"left out: {reason}"
        lines.append(f"{label:36}" + "".join(f"{n:>10,}" for n in (*row.values(), sum(row.values()))))
    return "\n".join(lines)


def prepare(corpus: str, source: Path | None, out: Path, labeled: int = 1000, seed: int = 0, max_words: int | None = None,
            cache: Path = ROOT / "data" / "downloads") -> dict:
    """Write the splits of a corpus into `out` and return the account (also in out/prepare.json). Raises DataError."""
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: expected a folder, found a file")
    made, found = out / "prepare.json", "data that it did not make"
    if made.exists():
        found = parse_object(made.read_bytes(), made).get("corpus")
    elif not any((out / name).exists() for name in ("task.json", *(f"{split}.jsonl" for split in SPLITS))):
        found = corpus
    if found != corpus:
        raise DataError(f"{out}: expected an empty folder or one of `prepare.py {corpus}`, found {found}; choose another --out")
    for option, number in (("--labeled", labeled), ("--max-words", max_words)):
        check_least(option, number, 1)                                  # before anything is downloaded
    origin = source or fetch(corpus, cache)
    try:
        files = read_source(origin, FILES[corpus])
    except BrokenArchive as error:
        if source or not origin.is_file():
            raise
        origin.unlink()
        raise DataError(f"{error}; it has been removed, the same command downloads it again") from None
    everything = list(tqdm(READERS[corpus](files), desc=f"reading {corpus}", unit=" sentences"))
    if (published := PUBLISHED.get(corpus)) not in (None, len(everything)):
        if source is None:                                              # what has no sha256 to be held against
            raise DataError(f"{origin}: expected {published:,} sentences, found {len(everything):,}; remove it to download it again")
        print(f"{origin}: {len(everything):,} sentences, {CORPORA[corpus]['name']} as it is published has {published:,}: "
              "is this the corpus, and all of it?", file=sys.stderr)
    sentences = sift(everything, max_words)
    kept = {part: [Example(s.input, s.output) for s in sentences if s.part == part and not s.reason] for part in PARTS}
    for part, examples in kept.items():
        if not examples:
            shorter = f" of at most {max_words} words" if max_words else ""
            raise DataError(f"{origin}: expected sentences{shorter} for {part}, found none")

    pool = kept.pop("train")
    random.Random(seed).shuffle(pool)
    if labeled >= len(pool):
        raise DataError(f"--labeled {labeled}: expected fewer than the {len(pool)} sentences of the training part")
    splits = {"labeled": pool[:labeled], "unlabeled": pool[labeled:], **kept}

    task = {**CORPORA[corpus], "sample": False}
    if task["task"] == "slots":  # the annotation scheme is known; only which words get which tag is not
        task["tags"] = sorted({tag for s in sentences if not s.reason for tag in s.output.split(" ")} | {"O"})
    archive = hashlib.sha256(origin.read_bytes()).hexdigest() if origin.is_file() else None
    record = {"corpus": corpus, "source": origin.name, "archive_sha256": archive,
              "files_sha256": hashlib.sha256(json.dumps(files).encode()).hexdigest(),
              "labeled": labeled, "seed": seed, "max_words": max_words, "sentences": account(sentences),
              "splits": {split: len(rows) for split, rows in splits.items()}}

    out.mkdir(parents=True, exist_ok=True)
    for left in out.glob(".prepare-*"):                                 # what a kill has left
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".prepare-") as beside:
        for split, rows in splits.items():
            write_jsonl(Path(beside, f"{split}.jsonl"), rows)
        for name, content in (("task.json", task), ("prepare.json", record)):
            write_atomically(Path(beside, name), json.dumps(content, ensure_ascii=False, indent=1) + "\n")
        # Nothing in `out` has changed until all of it is written. task.json makes it a data folder: it goes first and comes last.
        # prepare.json, which lets this command write here again, is there from the first moment.
        (out / "task.json").unlink(missing_ok=True)
        for name in ("prepare.json", *(f"{split}.jsonl" for split in splits), "task.json"):
            os.replace(Path(beside, name), out / name)
    return record


def main(arguments: list[str] | None = None) -> None:
    parser = CommandLine(prog="python data/prepare.py", description=__doc__)
    parser.add_argument("corpus", choices=list(CORPORA))
    parser.add_argument("--source", type=Path, metavar="FOLDER_OR_ARCHIVE",
                        help="the published distribution (default: download it into data/downloads)")
    parser.add_argument("--out", type=Path, metavar="DIR",
                        help="the data folder to write (default: data/craft/real, data/ptb, data/atis, data/snips)")
    parser.add_argument("--labeled", type=int, default=1000, metavar="N",
                        help="gold sentences set aside for labeled.jsonl (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="which sentences are labeled, and the order (default: 0)")
    parser.add_argument("--max-words", type=int, metavar="N", help="leave longer sentences out")
    options = parser.parse_args(arguments)
    check_least("--seed", options.seed, 0)                              # random takes its absolute value
    # The real CRAFT goes beside the bundled sample, where load_data looks first.
    out = options.out or ROOT / "data" / ("craft/real" if options.corpus == "craft" else options.corpus)
    record = prepare(options.corpus, options.source, out, options.labeled, options.seed, options.max_words)
    print(table(record["sentences"]))
    print(f"{out}: " + ", ".join(f"{n:,} {split}" for split, n in record["splits"].items()))


if __name__ == "__main__":
    run_command(main, GOES_ON)
