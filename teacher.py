"""The teacher: a few-shot prompted LLM that labels what nobody has labelled.

    python teacher.py --data data/craft --teacher gguf:model.gguf --split unlabeled --out labels.jsonl

Top to bottom: the prompt; what every teacher has, and how answers are read; a local LLM that decodes under the task's constraint;
the other teachers (a replay of labels made before, noise added to gold, an API); several teachers that vote; which teacher a
command names; and the cache, to which labels are appended as they come.
"""
import copy
import hashlib
import json
import math
import os
import random
import sys
import time
from contextlib import suppress
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

import data  # noqa: F401 - first: it says how torch's threads wait
import torch
from tqdm import tqdm

from data.api import ChatServer, check_address
from data.command import GOES_ON, CommandLine, run_command
from data.decoding import PieceEncoder, make_cursor, output_room, those_that_fit
from data.folders import one_at_a_time
from data.models import context_length, converted_once, device_named, identified, load_causal_lm
from data.noise import noisy
from data.packed import PackedDecoder
from data.splits import (SPLITS, DataError, Label, check_least, load_data, named, place_of_labels, read_labels, read_pseudolabels,
                         write_jsonl)
from data.tasks import make_task
from data.trees import split_words

# Gold examples in the prompt. More trees scored no better; with 50 slot frames F1 is 9.5 (ATIS) and 7.3 (Snips) above that with 20.
DEMONSTRATIONS = {"tree": 20, "slots": 50, "text": 20}
PREPARED = 4096         # inputs that are made ready to be decoded at a time: each takes kilobytes, and a pool may have a million


# ----------------------------------------------------------------------------------------------------
# The prompt: one instruction, then demonstrations from the labeled split, the same for every input.

def question(task, input):
    """How one input is put to a causal LM. The answer follows on the same line."""
    return f"Sentence: {' '.join(split_words(input))}\n{task.answer_name}"


def few_shot_prompt(task, demonstrations):
    """The fixed part of the prompt, a string: the task's instruction, then `Sentence: … / Parse: …` for every demonstration (an
    Example with its gold output)."""
    shown = [f"{question(task, x.input)} {' '.join(task.pieces(x.input, x.output))}\n\n" for x in demonstrations]
    return f"{task.instruction}\n\n{''.join(shown)}"


# ----------------------------------------------------------------------------------------------------
# What every teacher has, and how answers are read.

class Teacher:
    """What every teacher has: `name` for people, `key` that tells its labels from others' in the cache, and `label(inputs)`,
    which yields (index, Label) in any order. The answers are as they were given: `read_answer` reads them."""

    def can_label(self, inputs):
        """Whether it has a label for each of these, as far as that is known without a model; where not, `label` raises a DataError."""
        return True


def read_answer(task, label):
    """The label with its output read and mended by the task; None where it is no answer about its input."""
    try:
        return label._replace(output=task.read(label.input, label.output))
    except ValueError:
        return None


def read_answers(task, answers, scored=False):
    """Labels {input: Label}: the answers, mended; one that cannot be read becomes the task's last resort or, where they are `scored`, an
    empty one, which scores 0. Prints how many could not be read, and which tags are unknown."""
    found, unreadable = {}, {}
    for answer in answers:
        found[answer.input] = read_answer(task, answer)
        if found[answer.input] is None:
            found[answer.input] = Label(answer.input, "" if scored else task.fallback(answer.input))
            unreadable[answer.input] = answer.output
    if unreadable:
        input, output = next(iter(unreadable.items()))
        print(f"{len(unreadable):,} of the teacher's {len(found):,} answers cannot be read, such as {output[:60]!r} about {input[:60]!r}; "
              f"they {'score 0' if scored else f'become {task.last_resort}'}", file=sys.stderr)
    if task.kind == "slots" and task.unknown:
        print(f"The teacher's answers have tags that the task does not know, such as {min(task.unknown)!r}; they become O", file=sys.stderr)
        task.unknown.clear()                                # said once
    return found


# ----------------------------------------------------------------------------------------------------
# A local causal LM.

def line_ends(tokenizer):
    """The tokens that end an answer: a line break, or the end of the text."""
    found = {tokenizer.eos_token_id} | {tokenizer("x" + end, add_special_tokens=False).input_ids[-1] for end in ("\n", "\n\n")}
    return sorted(token for token in found if token is not None)


class LLMTeacher(Teacher):
    """A local LLM, few-shot prompted, greedy, constrained by the task; `free`: not constrained, as in the paper."""

    def __init__(self, spec, task, demonstrations, device, free=False):
        self.prompt = few_shot_prompt(task, demonstrations)
        self.spec, self.task, self.device, self.decoder = spec, task, device, None
        self.free = free or task.kind == "text"
        self.name = f"{spec}, {len(demonstrations)} demonstrations{', decoding freely' if free else ''}"
        self.key = f"{'free ' if free else ''}{identified(spec)}\n{task.config()}\n{self.prompt}"

    def label(self, inputs):
        """Yields (index, Label) as they are decided, longest inputs first."""
        if self.decoder is None:
            self.model, self.tokenizer = load_causal_lm(self.spec)
            self.model.to(self.device)
            self.encode = PieceEncoder(self.tokenizer)
            start = [self.tokenizer.bos_token_id] if self.tokenizer.bos_token_id is not None else []
            prompt = start + self.tokenizer(self.prompt, add_special_tokens=False).input_ids
            if len(prompt) + 128 > (most := context_length(self.model)):
                raise DataError(f"{self.spec}: the few-shot prompt has {len(prompt):,} tokens and the model takes {most:,}; "
                                "use shorter (--max-words) or fewer (--labeled) examples")
            self.decoder = PackedDecoder(self.model, prompt=prompt)
        vocabulary = torch.arange(self.model.config.get_text_config().vocab_size) if self.free else None
        yield from label_with_causal_lm(self.decoder, self.task, inputs, self.encode, vocabulary)


def label_with_causal_lm(decoder, task, inputs, encode, vocabulary=None, rngs=None):
    """Label `inputs` with a PackedDecoder; yields (index, Label). An input that the model cannot take gets the fallback.

    `vocabulary`: a tensor of the token ids that a free answer may use; without it the task constrains the answer. `rngs`: every
    input's, as in Cursor.
    """
    tokenizer = encode.tokenizer
    end = line_ends(tokenizer)

    def prompt(i):
        return tokenizer(question(task, inputs[i]), add_special_tokens=False).input_ids
    lengths = [len(prompt(i)) for i in range(len(inputs))]
    order = sorted(range(len(inputs)), key=lambda i: (-lengths[i], i))
    room = context_length(decoder.model) - decoder.prompt_length
    fits, too_long = those_that_fit(order, inputs, lengths, task, encode, room)
    yield from too_long
    at_once = [decoder.rows_for(min(room, length + output_room(task, length, vocabulary is not None))) for length in lengths]
    begin = 0
    while begin < len(fits):
        used = at_once[fits[begin]]                                     # those of which twice as many have room come in the next part
        part = list(takewhile(lambda i: at_once[i] < 2 * used, fits[begin:begin + PREPARED]))
        begin += len(part)
        cursors = [make_cursor(task, inputs[i], encode, end, lengths[i], vocabulary, room - lengths[i], rngs and rngs[i])
                   for i in part]
        with converted_once(decoder.model):
            for n in decoder.run(cursors, [prompt(i) for i in part], end, used=used):
                yield part[n], Label(inputs[part[n]], *cursors[n].result())


# ----------------------------------------------------------------------------------------------------
# The other teachers.

class ReplayTeacher(Teacher):
    """Labels made before: a file of {"input", "output"} rows, or the authors' own rows. It is read anew whenever labels are
    asked for: kept, they would stand in memory beside the students' through all stages."""

    def __init__(self, file, task):
        self.name, self.file = f"replay:{file}", Path(file)
        for _ in read_pseudolabels(file):
            pass                                            # what is wrong with a row is said before the run begins
        with open(file, "rb") as opened:
            self.key = f"replay:{task.config()}:{hashlib.file_digest(opened, 'sha256').hexdigest()}"

    def can_label(self, inputs):
        return None not in read_labels(self.file, inputs).values()

    def label(self, inputs):
        known = read_labels(self.file, inputs)
        if missing := [input for input, label in known.items() if label is None]:
            raise DataError(f"{self.file}: no pseudolabel for {len(missing):,} of {len(known):,} inputs, such as {missing[0][:60]!r}; "
                            "python teacher.py labels inputs into such a file")
        yield from ((i, known[input]) for i, input in enumerate(inputs))


class NoisyTeacher(Teacher):
    """Gold with seeded noise, for teaching and tests: no LLM. `noisy:0.3` is wrong in about three decisions of ten, as data/noise.py
    says. The noise of an input depends on its words, the seed and the task's tags only, so it is the same in every run on the same data."""

    def __init__(self, rate, task, gold, seed):
        self.rate, self.task, self.gold, self.seed = rate, task, gold, seed
        self.name = f"noisy:{rate:g} (gold with noise, no LLM)"
        self.key = f"noisy:{rate}:{seed}:{task.config()}:{hashlib.sha256(json.dumps(sorted(gold.items())).encode()).hexdigest()}"

    def can_label(self, inputs):
        return all(input in self.gold for input in inputs)

    def label(self, inputs):
        for i, input in enumerate(inputs):
            if input not in self.gold:
                raise DataError(f"--teacher noisy:{self.rate:g}: expected gold of every input, in unlabeled.jsonl too, "
                                f"found none of {input[:60]!r}")
            yield i, Label(input, noisy(self.task, input, self.gold[input], self.rate, random.Random(f"{self.seed} {input}")))


class APITeacher(Teacher):
    """A chat model behind any OpenAI-compatible server, several requests at a time. `options`: as in ChatServer."""

    def __init__(self, model, task, demonstrations, base_url=None, **options):
        self.task, self.server = task, ChatServer(model, base_url, **options)
        self.prompt = few_shot_prompt(task, demonstrations)
        self.control = demonstrations[0].input if demonstrations else "yes"         # stands in every prompt: who refuses that refuses all
        self.name = f"openai:{model}, {len(demonstrations)} demonstrations"
        self.key = f"openai:{model}\n{self.server.url}\n{task.config()}\n{self.prompt}"

    def label(self, inputs):
        """Yields (index, Label) as the answers come; an input that the server refuses has an empty one."""
        for i, answer in self.server.ask_all(inputs, lambda input: f"{self.prompt}{question(self.task, input)}", self.control):
            yield i, Label(inputs[i], answer)


# ----------------------------------------------------------------------------------------------------
# Several that vote.

class VotingTeacher(Teacher):
    """One label of several: each member labels all inputs, into a cache of its own, and the task votes. With different demonstrations
    members make different errors, and errors that few members share are outvoted.

    `members`: teachers. Each labels as a copy, which is dropped before the next one's turn, so that one model at a time is in memory.
    """

    def __init__(self, task, members, quiet=False):
        self.task, self.members, self.quiet = task, members, quiet
        self.name = f"{members[0].name}; {len(members)} such labels of an input, voted"
        self.key = json.dumps(["vote", *(member.key for member in members)])

    def answers(self, inputs):
        """Every member's labels of the inputs, a list for each member."""
        for member in self.members:
            yield label_with_cache(copy.copy(member), inputs, cache_file(member), self.quiet)

    def label(self, inputs):
        for i, given in enumerate(zip(*self.answers(inputs))):
            readable = [found for found in (read_answer(self.task, answer) for answer in given) if found]
            yield i, voted(self.task, readable) if readable else given[0]


def voted(task, labels, other=None, weight=0):
    """One Label of several of the same input, with the mean of their scores, where all have one. `other`: a Label whose output counts
    as `weight` of theirs; of trees a bracket then needs as many votes."""
    scores = [found.score for found in labels]
    score = None if None in scores else round(sum(scores) / len(scores), 6)
    beside = [other.output] * weight if other else []
    output = task.vote(labels[0].input, [found.output for found in labels] + beside, least=max(1, len(beside)))
    return Label(labels[0].input, output, score)


# ----------------------------------------------------------------------------------------------------
# Which teacher a command names.

def check_options(spec, base_url, free, votes):
    """DataError where an option is given that the chosen teacher would ignore."""
    kind = spec.partition(":")[0]
    check_least("--votes", votes, 1)
    if base_url and kind != "openai":                       # not shown: it may hold a key
        raise DataError(f"--base-url: expected --teacher openai:MODEL beside it, found --teacher {spec}")
    check_address(base_url or "")                           # for --method sft, too, which makes no server
    if free and kind not in ("hf", "gguf"):
        raise DataError(f"--free: expected a local LLM, hf: or gguf:, found --teacher {spec}")
    if votes > 1 and kind not in ("hf", "gguf", "openai", "tuned"):
        raise DataError(f"--teacher {spec}: expected hf:, gguf:, openai: or tuned: where {votes} labels of a sentence are voted")


def make_teacher(spec, task, splits, seed=0, device=torch.device("cpu"), base_url=None, free=False, votes=1, quiet=False):
    """The teacher that `--teacher SPEC` names. The first DEMONSTRATIONS of `splits.labeled` stand in the prompt; with `votes`, for each
    further label of an input as many at random (all in another order, where there are no more). `free` is for a local LLM."""
    check_options(spec, base_url, free, votes)
    demonstrations = splits.labeled[:DEMONSTRATIONS[task.kind]]
    if votes > 1:
        shown = [demonstrations] + [random.Random(k).sample(splits.labeled, len(demonstrations)) for k in range(1, votes)]
        return VotingTeacher(task, [make_teacher(spec, task, replace(splits, labeled=some), seed, device, base_url, free)
                                    for some in shown], quiet)
    kind, _, rest = spec.partition(":")
    if spec == "auto":
        kept = splits.folder / "pseudolabels.jsonl"
        if not kept.is_file():
            raise DataError(f"{splits.folder}: no pseudolabels.jsonl to replay; name a teacher, for example "
                            "--teacher gguf:FILE, --teacher hf:NAME_OR_FOLDER or --teacher openai:MODEL"
                            + (" (to go back to the bundled sample, move this folder elsewhere)" if splits.folder.name == "real" else ""))
        return ReplayTeacher(kept, task)
    if kind == "replay" and rest:
        return ReplayTeacher(rest, task)
    if kind in ("hf", "gguf") and rest:
        return LLMTeacher(spec, task, demonstrations, device, free)
    if kind == "openai" and rest:
        return APITeacher(rest, task, demonstrations, base_url)
    if kind == "noisy":
        try:
            rate = float(rest)
        except ValueError:
            rate = -1
        if not 0 <= rate <= 1:
            raise DataError(f"--teacher noisy:RATE: expected a rate from 0 to 1, found {rest!r}")
        gold = {x.input: x.output for split in (splits.unlabeled, splits.valid, splits.test, splits.labeled) for x in split if x.output}
        return NoisyTeacher(rate, task, gold, seed)
    raise DataError(f"--teacher {spec}: expected auto, replay:FILE, hf:NAME_OR_FOLDER, gguf:FILE, openai:MODEL or noisy:RATE "
                    "(and for mckd.py tuned:MODEL)")


# ----------------------------------------------------------------------------------------------------
# The cache: labels are appended as they come, so that nothing is asked twice, in this run or the next.

def label_with_cache(teacher, inputs, cache, quiet=False, on_labelled=None):
    """The teacher's labels of `inputs`, in their order. `cache` is a JSON Lines file that this appends to, where it lacks some.

    A last line cut off by a crash is dropped. Labels of other inputs in the file are left alone. Where some are missing and another
    process is just adding to the file, this one waits for it to finish and reads what it has added before it asks the teacher.
    `on_labelled(labels, seconds)` is called if the teacher was asked: how many labels it gave, and how long it took. Where labelling was
    interrupted, scores may differ in the sixth decimal.
    """
    cache = Path(cache)
    known = dict.fromkeys(inputs)
    with suppress(DataError, FileNotFoundError):            # none yet, or one that another process is just adding to: read again below
        if ends_whole(cache):
            known = read_labels(cache, inputs)
    if None in known.values():
        cache.parent.mkdir(parents=True, exist_ok=True)
        with named(cache), open(cache, "a", encoding="utf-8") as file, one_at_a_time(file):
            if not ends_whole(cache):
                os.truncate(cache, cache.read_bytes().rfind(b"\n") + 1)
            if cache.stat().st_size:
                known = read_labels(cache, inputs)          # again: who was waited for has added some
            if missing := [input for input, label in known.items() if label is None]:
                began = time.perf_counter()
                for _, label in tqdm(teacher.label(missing), "teacher", len(missing), unit="sentence", disable=quiet):
                    if label.score is not None and not math.isfinite(label.score):
                        raise DataError(f"{teacher.name}: expected a number as the score of a label, found {label.score}")
                    known[label.input] = label
                    file.write(json.dumps(label._asdict(), ensure_ascii=False) + "\n")
                    file.flush()
                if on_labelled:
                    on_labelled(len(missing), time.perf_counter() - began)
    return [known[input] for input in inputs]


def ends_whole(file):
    """Whether a file of lines has no last line that is cut off."""
    with open(file, "rb") as opened:
        size = opened.seek(0, os.SEEK_END)
        opened.seek(max(0, size - 1))
        return opened.read() in (b"", b"\n")


def cache_file(teacher):
    """Where this teacher's labels are kept, for all runs: one file for each teacher, prompt and model."""
    return Path("runs/teacher") / f"{hashlib.sha256(teacher.key.encode()).hexdigest()[:16]}.jsonl"


def main():
    parser = CommandLine(
        description="Label a split with a teacher; the same command again goes on where it stopped.",
        epilog="example: python teacher.py --data data/craft --teacher noisy:0.3 --split unlabeled --out labels.jsonl")
    parser.add_argument("--data", required=True, help="a data folder")
    parser.add_argument("--teacher", required=True, help="auto, replay:FILE, hf:NAME_OR_FOLDER, gguf:FILE, openai:MODEL, noisy:RATE")
    parser.add_argument("--split", default="unlabeled", help="which splits to label, separated by commas (unlabeled)")
    parser.add_argument("--out", required=True, help="the file of pseudolabels to write")
    parser.add_argument("--labeled", type=int, help="gold examples to use (50); the first 20 stand in the prompt, of slots 50")
    parser.add_argument("--unlabeled", type=int, help="label only the first N of the unlabeled split (all)")
    parser.add_argument("--test", type=int, default=1000, help="test sentences, the same sample as mckd.py's (1000); 0 for all")
    parser.add_argument("--max-words", type=int, help="leave longer sentences out")
    parser.add_argument("--seed", type=int, default=0, help="of noisy:RATE")
    parser.add_argument("--base-url", help="of an OpenAI-compatible server")
    parser.add_argument("--free", action="store_true", help="a local LLM decodes freely, not under the task's constraint")
    parser.add_argument("--votes", type=int, default=1,
                        help="labels of an input, each with other demonstrations or in another order, that are voted (1)")
    parser.add_argument("--quiet", action="store_true")
    args = parser.parse_args()
    check_least("--seed", args.seed, 0)                     # random takes its absolute value
    splits = load_data(args.data, args.labeled, args.unlabeled, args.test, args.max_words)
    task = make_task(splits.config)
    task.learn(splits.labeled)
    print(splits.headline(), flush=True)
    wanted = list(dict.fromkeys(split.strip() for split in args.split.split(",")))
    if unknown := set(wanted).difference(SPLITS):
        raise DataError(f"--split {min(unknown)}: expected labeled, unlabeled, valid or test")
    out = place_of_labels(args.out)
    inputs = list(dict.fromkeys(x.input for name in wanted for x in getattr(splits, name)))
    if not inputs:
        raise DataError(f"{splits.folder}: expected sentences to label, found none in --split {args.split}")
    teacher = make_teacher(args.teacher, task, splits, args.seed, device_named("auto"), args.base_url, args.free, args.votes, args.quiet)
    if isinstance(teacher, ReplayTeacher) and out == teacher.file.resolve():
        raise DataError(f"--out {args.out}: expected another file than the one that is replayed, whose other labels would be lost")
    if out.parent == cache_file(teacher).parent.resolve():
        raise DataError(f"--out {args.out}: expected another folder than that of the teachers' caches, whose other labels would be lost")
    labels = label_with_cache(teacher, inputs, cache_file(teacher), args.quiet)
    found = dict(zip(inputs, labels))
    rows = [found[x.input] for name in wanted for x in getattr(splits, name)]             # in the splits' order, repetitions too
    write_jsonl(out, rows)
    print(f"{args.out}: {len(rows)} pseudolabels by {teacher.name}")


if __name__ == "__main__":
    run_command(main, GOES_ON)
