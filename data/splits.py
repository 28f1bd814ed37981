"""A data folder, read and written.

    FOLDER/task.json         {"task": "tree" | "slots" | "text", "instruction": "one line for the prompt", ...}
           labeled.jsonl     the few gold examples, one {"input": "...", "output": "..."} a line
           unlabeled.jsonl   the many inputs; an output, where there is one, only serves to report, never to train or to choose
                             (except that `--teacher noisy:RATE` makes its labels of it)
           valid.jsonl       gold to choose settings by, yourself; a run only compares two students on its inputs (may be missing)
           test.jsonl        gold to score with (may be missing: then there are no scores; mckd.py --method teacher needs it)

Words of an input are separated by single spaces. The rows of the paper's authors are read as well:
{"translation": {"unparsed": sentence, "unlabeled": pseudolabel, "parsed": gold Penn tree}}.
Whatever is wrong with a file is said in one line that names the file, the line and what was expected (`DataError`).
"""

import codecs
import hashlib
import json
import os
import random
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from data.tasks import BIO, KINDS, make_task
from data.trees import split_words

SPLITS = ("labeled", "unlabeled", "valid", "test")


class DataError(ValueError):
    """One clear line: file, line number, what was expected."""


def check_least(option, number, least):
    """DataError for an option that is no number of at least `least`; None is one that is not given."""
    if number is not None and (not isinstance(number, int) or number < least):
        whole = "" if isinstance(number, int) else "a whole number of "
        raise DataError(f"{option}: expected {whole}at least {least}, found {number!r}")


class Example(NamedTuple):
    input: str
    output: str | None = None


class Label(NamedTuple):
    """A pseudolabel. `score` is the labeller's own mean log-probability, None where it gives none."""

    input: str
    output: str  # read from a file, not necessarily well-formed
    score: float | None = None


@dataclass
class Data:
    """What one run uses of a data folder."""

    folder: Path
    name: str
    sample: bool  # the bundled synthetic sample, not real text
    config: dict  # task.json
    labeled: list[Example]
    unlabeled: list[Example]
    valid: list[Example]
    test: list[Example]
    available: dict[str, int]  # split -> how many sentences it could have given
    left_out: dict[str, int]  # split -> how many had more than `max_words` words
    max_words: int | None
    fingerprint: str  # sha256 of task.json's content and the examples above

    def texts(self) -> list[str]:
        """What `tiny` learns its vocabulary from: the inputs; of free text the labeled outputs, too."""
        outputs = [x.output for x in self.labeled] if self.config["task"] == "text" else []
        return [x.input for x in self.labeled + self.unlabeled] + outputs

    def headline(self) -> str:
        """The first line that a run prints: which data this is, and how many sentences of each split."""
        what = "bundled synthetic sample, not real text" if self.sample else "real data"
        sizes = []
        for split in SPLITS:
            used, available = len(getattr(self, split)), self.available[split]
            choice = "a fixed sample" if split == "test" else "the first"
            sizes.append(f"{used:,} {split}" + (f" ({choice} of {available:,})" if used < available else ""))
        line = f"Data: {self.name} in {self.folder} ({what}): {', '.join(sizes)}"
        if self.max_words is not None:
            line += f"; {sum(self.left_out.values()):,} sentences of more than {self.max_words} words left out"
        return line


# ---------------------------------------------------------------------------------------------------------------------
# From a folder to the examples of a run

def load_data(folder: str | Path, labeled: int | None = None, unlabeled: int | None = None, test: int | None = 1000,
              max_words: int | None = None) -> Data:
    """Read the splits in `folder`, or in `folder`/real, where prepare.py puts the real corpus beside the bundled sample.

    `max_words` filters every split first. `labeled` and `unlabeled` then take the first so many; the files are in random
    order already. By default that is the paper's 50 labeled (or as many as there are) and all unlabeled. A longer test split is
    sampled down to `test` sentences (0 or None: all), the same ones in every run. Raises DataError.
    """
    for option, number, least in (("--labeled", labeled, 1), ("--unlabeled", unlabeled, 1), ("--test", test, 0),
                                  ("--max-words", max_words, 1)):
        check_least(option, number, least)

    folder = Path(folder)
    if (folder / "real" / "task.json").is_file():
        folder = folder / "real"
    config = _read_task(folder)
    check = make_task(config).check

    splits, left_out = {}, {}
    for split in SPLITS:
        path = folder / f"{split}.jsonl"
        optional = split in ("valid", "test")
        rows = [] if optional and not path.exists() else read_jsonl(path, check, gold=split != "unlabeled")
        splits[split] = [row for row in rows if max_words is None or len(split_words(row.input)) <= max_words]
        left_out[split] = len(rows) - len(splits[split])
    available = {split: len(rows) for split, rows in splits.items()}
    for split in ("labeled", "unlabeled"):
        if not splits[split]:
            raise DataError(f"{folder / split}.jsonl: expected sentences of at most {max_words} words, found none")

    for split, wanted in (("labeled", labeled), ("unlabeled", unlabeled)):
        if wanted is not None and wanted > available[split]:
            limit = "" if max_words is None else f" of at most {max_words} words"
            advice = "ask for fewer" + (", or add some (prepare.py --labeled N sets aside N)" if split == "labeled" else "")
            raise DataError(f"{folder / split}.jsonl: expected at least {wanted} examples{limit} for --{split} {wanted}, "
                            f"found {available[split]}: {advice}")
        splits[split] = splits[split][:50 if wanted is None and split == "labeled" else wanted]
    if test:
        splits["test"] = fixed_sample(splits["test"], test)

    fingerprint = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for split in SPLITS:
        fingerprint.update(split.encode())
        for x in splits[split]:  # one by one: the JSON of a whole pool is not needed at once
            fingerprint.update(json.dumps(x).encode())
    return Data(folder=folder, name=config.get("name", folder.resolve().name), sample=config.get("sample", False),
                config=config, **splits, available=available, left_out=left_out, max_words=max_words,
                fingerprint=fingerprint.hexdigest())


def _read_task(folder: Path) -> dict:
    path = folder / "task.json"
    if not path.is_file():
        missing = f"no such data folder, seen from {Path.cwd()}"
        if folder.exists():
            missing = "expected a data folder with task.json" if folder.is_dir() else "expected a data folder, found a file"
        raise DataError(f"{folder}: {missing}; `python data/prepare.py craft|ptb|atis|snips` makes one, "
                        "and README.md (Your own data) says what to put into your own")
    with open_file(path) as file:
        config = parse_object(file.read(), str(path))
    if config.get("task") not in list(KINDS):
        raise DataError(f'{path}: expected "task" to be one of {", ".join(KINDS)}, found {_show(config.get("task"))}')
    for key in ("name", "instruction"):
        if key in config and "\n" in _text(config, key, str(path)):
            raise DataError(f'{path}: expected "{key}" to be one line, found {_show(config[key])}')
    if not isinstance(config.get("sample", False), bool):
        raise DataError(f'{path}: expected "sample" to be true or false, found {_show(config["sample"])}')
    tags = config.get("tags", [])
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise DataError(f'{path}: expected "tags" to be a list of strings, found {_show(tags)}')
    if tags and ("O" not in tags or not all(map(BIO.fullmatch, tags))):
        raise DataError(f'{path}: expected "tags" to be O and others like B-x and I-x, found {_show(tags)}')
    for tag in tags:
        _text({"tags": tag}, "tags", str(path))
    return config


# ---------------------------------------------------------------------------------------------------------------------
# Reading rows

def read_jsonl(path: str | Path, check: Callable[[str, str], None] | None = None, gold: bool = False) -> list[Example]:
    """The examples of a file, one JSON object a line. With `gold`, every row must have an output.

    `check(input, output)` raises ValueError("expected ..., found ...") for an output that is no answer about its input.
    """
    examples = []
    for where, row in _rows(path, {"input": "unparsed", "output": "parsed"}):
        sentence, output = _sentence(row, where), row.get("output")
        if gold or output is not None:
            output = _text(row, "output", where)
            _check(check, sentence, output, where)
        examples.append(Example(sentence, output))
    return examples


def _check(check: Callable[[str, str], object] | None, sentence: str, output: str, where: str) -> None:
    try:
        if check is not None:
            check(sentence, output)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None


def read_pseudolabels(path: str | Path, check: Callable[[str, str], object] | None = None) -> Iterator[Label]:
    """What a teacher or a student answered, as it is read: a run's pseudolabels/*.jsonl, or the authors' rows. The answers
    may be anything that `check` raises no ValueError for."""
    for where, row in _rows(path, {"input": "unparsed", "output": "unlabeled"}):
        score = row.get("score")
        if score is not None and not (type(score) in (int, float) and abs(score) <= sys.float_info.max):
            raise DataError(f'{where}: expected "score" to be a number, found {_show(score)}')
        found = Label(_sentence(row, where), _text(row, "output", where, empty=True), score)
        _check(check, found.input, found.output, where)
        yield found


def fixed_sample(items: list, most: int) -> list:
    """A sample of at most `most` items, the same every time, in their order."""
    return [items[i] for i in sorted(random.Random(0).sample(range(len(items)), min(most, len(items))))]


def read_labels(path: str | Path, inputs: Iterable[str], check: Callable[[str, str], object] | None = None) -> dict[str, Label | None]:
    """input -> Label, for these inputs alone: the file may hold many more. None for an input that it has no label of. `check`: as above.

    Where nothing is asked for, the file is not read: it may be empty.
    """
    found = dict.fromkeys(inputs)
    for row in read_pseudolabels(path, check and (lambda input, output: input in found and check(input, output))) if found else []:
        if row.input in found:
            found[row.input] = row
    return found


def place_of_labels(path: str | Path) -> Path:
    """Where pseudolabels for `path` are to be written; DataError where that would overwrite anything but pseudolabels."""
    place = Path(path).resolve()
    if place.exists() and not place.is_file() or not place.parent.is_dir():
        raise DataError(f"--out {path}: expected a file in a folder that exists")
    if place.name in [f"{split}.jsonl" for split in SPLITS] and (place.parent / "task.json").exists():
        raise DataError(f"--out {path}: expected another file than a split of a data folder")
    if (place.parent.parent / "config.json").exists() and place.parent.name in ("students", "pseudolabels"):
        raise DataError(f"--out {path}: expected another file than one of a run")
    if place.exists() and place.stat().st_size:
        try:
            for _ in read_pseudolabels(place):
                pass
            for where, row in _rows(place, {}):
                if "score" not in row:                                  # as gold, and labels by others
                    raise DataError(f'{where}: expected "score"')
        except DataError as error:
            raise DataError(f"--out {path}: expected a new file or one of pseudolabels, which is written over; {error}") from None
    return place


def read_lines(file: BinaryIO, name: str) -> list[str]:
    """The lines of a text in UTF-8; only \\n ends one: splitlines() would also break sentences at U+2028, U+0085 and others. Raises
    DataError for bytes that are no UTF-8."""
    lines = []
    for number, line in enumerate(file, start=1):
        try:
            lines.append((line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).rstrip(b"\r\n").decode())
        except UnicodeDecodeError as error:
            raise DataError(f"{name}:{number}: expected UTF-8, found the byte 0x{error.object[error.start]:02x}") from None
    return lines


def read_sentences(file: BinaryIO) -> list[str]:
    """Sentences, one a line, of standard input, their words separated by single spaces. DataError for what is none."""
    found = [" ".join(split_words(line)) for line in read_lines(file, "standard input")]
    for number, sentence in enumerate(found, start=1):
        if not sentence:
            raise DataError(f"standard input:{number}: expected a sentence, found an empty line")
    if not found:
        raise DataError("standard input: expected a sentence a line, found nothing")
    return found


def _rows(path: str | Path, authors: dict[str, str]) -> Iterator[tuple[str, dict]]:
    """("file:line", object) for each line, the authors' rows renamed to our keys. One line at a time is in memory.

    Lines end at \\n alone, as they do in a file of bytes: str.splitlines would also cut at U+2028 or U+0085, which JSON
    strings may contain.
    """
    where, blank, line_of_id = None, None, {}
    with open_file(path) as file:
        for number, line in enumerate(file, start=1):
            line = line.rstrip(b"\r\n")
            if not line.strip(b"\t "):
                blank = blank or number  # no error at the end of the file
                continue
            if blank:
                raise DataError(f"{path}:{blank}: expected a JSON object, found an empty line")
            where = f"{path}:{number}"
            row = parse_object(line, where)
            if row.get("id") is not None:
                first = line_of_id.setdefault(json.dumps(row["id"]), number)
                if first != number:
                    raise DataError(f"{where}: expected ids that differ, found {_show(row['id'])}, the id of line {first}")
            if "input" not in row and isinstance(row.get("translation"), dict):
                row = {ours: row["translation"].get(theirs) for ours, theirs in authors.items()}
                row[None] = authors                         # what an error calls our keys
            yield where, row
    if where is None:
        raise DataError(f"{path}: expected one JSON object a line, found an empty file")


def parse_object(line: bytes, where: str) -> dict:
    """A JSON object; DataError, naming `where` it stands, for anything else."""
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: expected UTF-8, found the byte 0x{line[error.start]:02x} (byte {error.start + 1})") from None
    except RecursionError:
        raise DataError(f"{where}: expected a JSON object, found one that is nested too deeply") from None
    except ValueError as error:
        raise DataError(f"{where}: expected a JSON object, found malformed JSON ({error})") from None
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected a JSON object, found {_show(value)}")
    return value


def _sentence(row: dict, where: str) -> str:
    """The input, its words separated by single spaces. It is interned: read from the pool and from all the files of labels,
    a sentence is still one object, in memory once."""
    return sys.intern(" ".join(split_words(_text(row, "input", where))))


def _text(row: dict, key: str, where: str, empty: bool = False) -> str:
    text, key = row.get(key), row.get(None, {}).get(key, key)
    if not isinstance(text, str) or not (empty or text.strip(" \t\r\n")):
        raise DataError(f'{where}: expected "{key}" to be a string{"" if empty else " with words"}, found {_show(text)}')
    # Valid in JSON, but no character: it could not be written to any file again.
    if not text.isascii() and re.search("[\ud800-\udfff]", text):
        raise DataError(f'{where}: expected "{key}" to be Unicode text, found half of a surrogate pair')
    return text


def open_file(path: str | Path) -> BinaryIO:
    """The file opened for reading, a byte order mark skipped."""
    try:
        file = open(path, "rb")
        file.read(3 if file.peek(3).startswith(b"\xef\xbb\xbf") else 0)
        return file
    except FileNotFoundError:
        raise DataError(f"{path}: expected a file, found none") from None
    except OSError as error:
        raise DataError(f"{path}: expected a readable file ({error.strerror})") from None


def _show(value: object) -> str:
    try:
        text = "nothing" if value is None else json.dumps(value)
    except RecursionError:
        text = "one that is nested too deeply"
    return text if len(text) <= 60 else text[:57] + "..."


# ---------------------------------------------------------------------------------------------------------------------
# Writing: a file appears whole or not at all

def write_jsonl(path: str | Path, rows: Iterable[dict | Example | Label]) -> None:
    """One JSON object a line. A NamedTuple is written by its field names, without an "output" that is None."""
    rows = ({k: v for k, v in row._asdict().items() if v is not None or k == "score"} if isinstance(row, tuple) else row for row in rows)
    write_atomically(path, (json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


@contextmanager
def named(path: str | Path, instead_of: str | None = None) -> Iterator[None]:
    """An error of the system inside that names no file, as of a full disk, or `instead_of`, names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename in (None, instead_of):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


def write_atomically(path: str | Path, content: str | bytes | Iterable[str]) -> None:
    """Write beside, fsync, rename: whoever looks, even after a power cut, finds the old file or the new one.

    Content may come in pieces, written as they come: then the whole is never in memory.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with named(path, str(beside)):
            with open(beside, "wb") as file:
                for piece in [content] if isinstance(content, (str, bytes)) else content:
                    file.write(piece.encode("utf-8") if isinstance(piece, str) else piece)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
    finally:
        with suppress(OSError):                                         # its folder may be none
            beside.unlink(missing_ok=True)
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    """The renaming itself must reach the disk; only POSIX systems let a directory be opened for that."""
    if os.name == "posix":
        directory = os.open(path, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def save_folder(folder, write):
    """Make a folder (a Path) that appears whole or not at all: `write(beside)` fills one beside it, which is fsynced, then renamed."""
    unfinished = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        with named(folder):
            write(unfinished)
    except BaseException:                                               # nothing half-written stays
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    for path in unfinished.rglob("*"):
        if path.is_file():
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
    _sync_directory(unfinished)
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)
    os.rename(unfinished, folder)
    _sync_directory(folder.parent)
