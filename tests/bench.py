"""How fast this project is beside what a user would otherwise pick, both in one process, on the same model and data.

    python tests/bench.py score                          # against nltk.Tree (pip install nltk)
    python tests/bench.py train [--llm gguf:FILE]        # against transformers' Seq2SeqTrainer (pip install accelerate)
    python tests/bench.py decode                         # against model.generate
    python tests/bench.py teacher --llm gguf:FILE        # against model.generate with the whole prompt in every sequence
    python tests/bench.py techniques [--llm gguf:FILE]   # against itself: every technique switched off
    python tests/bench.py pipeline                       # 3-stage MCKD against Seq2SeqTrainer and model.generate
    python tests/bench.py scale                          # a run without training steps and decoding, of 1,000 to 1,000,000 sentences

After a warm-up of both (not in pipeline), they take turns; printed is the median of the turns' ratios, with the smallest and the largest.
`scale` prints seconds and peak memory instead.
"""
import copy
import multiprocessing
import os
import random
import re
import shutil
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import data  # noqa: F401 - first: it says how torch's threads wait
import torch
from transformers import T5Config, T5ForConditionalGeneration

import mckd
import student as students
import teacher as teachers
from data import decoding, models, packed, parallel, t5
from data.batches import TokenArrays, length_bucketed_batches, padded
from data.grammar import sample
from data.models import load_causal_lm
from data.parallel import FORKS, in_processes
from data.command import CommandLine, run_command
from data.splits import Example, Label, load_data, read_pseudolabels, write_atomically, write_jsonl
from data.tasks import make_task
from data.trees import bare_spans, read_penn, split_words, write_bare
from data.vocabulary import train_tokenizer
from metrics import WORD_TAGS, bracket_scores

CPU = torch.device("cpu")
ONLY = ""                                           # --only: measure what has this in its title


def compare(title, ours, theirs, repeats, warm_up=True, count=None):
    """Print how many times as long `theirs` takes as `ours`. Both are called without arguments. `count`: how many sentences are dealt
    with, to print how many a second. Returns whether it was measured."""
    if ONLY not in title:
        return False
    if warm_up:
        ours(), theirs()
    turns = []
    for turn in range(repeats):
        times = []
        for work in (ours, theirs):
            began = time.perf_counter()
            work()
            times.append(time.perf_counter() - began)
        turns.append(times)
        print(f"    turn {turn + 1} of {repeats}: {times[0]:.2f} and {times[1]:.2f} seconds", file=sys.stderr, flush=True)
    ratios = sorted(their / our for our, their in turns)
    seconds = [statistics.median(column) for column in zip(*turns)]
    print(f"{title}: {statistics.median(ratios):.1f}x ({ratios[0]:.1f} to {ratios[-1]:.1f}); "
          f"medians {seconds[0]:.2f} and {seconds[1]:.2f} seconds"
          + (f", {count / seconds[0]:,.1f} and {count / seconds[1]:,.1f} sentences a second" if count else ""), flush=True)
    return True


def at_the_same_time(*works):
    """As mckd.py's students A and B: each in a process with one thread."""
    def one_thread(work):
        torch.set_num_threads(1)
        work()
    assert in_processes(*(partial(one_thread, work) for work in works)), "a process failed"


def fp32():
    """Without bf16, so that outputs can be compared to the letter."""
    return patch.object(models, "fast_bf16", lambda device: False)


@contextmanager
def bundled_sample():
    """A copy of the bundled sample, which is what is meant also where the real CRAFT stands beside it."""
    with tempfile.TemporaryDirectory() as folder:
        for file in (ROOT / "data" / "craft").glob("*.json*"):
            shutil.copy(file, folder)
        yield folder


def gold(n):
    """n sentences of the sample's grammar with their trees; the task."""
    rows = [Example(**row) for seed in range(1 + n // 1000) for row in sample(seed)["unlabeled"]][:n]
    task = make_task({"task": "tree"})
    task.learn(rows)
    return rows, task


# ----------------------------------------------------------------------------------------------------

def bench_score(args):
    from nltk import Tree
    rows, task = gold(args.n or 5000)
    noisy = teachers.NoisyTeacher(0.3, task, {x.input: x.output for x in rows}, 0)
    predicted = [label.output for _, label in noisy.label([x.input for x in rows])]

    def spans(tree, keep):
        found, position = set(), 0

        def walk(node):
            nonlocal position
            if not isinstance(node, Tree):
                position += keep[walk.leaf]
                walk.leaf += 1
                return
            start = position
            for child in node:
                walk(child)
            if position - start > 1:
                found.add((start, position))
        walk.leaf = 0
        walk(tree)
        return found

    def with_nltk():
        f1s = []
        for x, output in zip(rows, predicted):
            tree = Tree.fromstring(x.output)
            keep = [tag in WORD_TAGS for _, tag in tree.pos()]
            right, guessed = spans(tree, keep), spans(Tree.fromstring(output.replace("( ", "(X ")), keep)
            if right:
                f1s.append(200 * len(right & guessed) / (len(right) + len(guessed)))
        return sum(f1s) / len(f1s)

    def ours():
        return bracket_scores([x.output for x in rows], predicted, [x.input for x in rows])["f1"]
    assert abs(ours() - with_nltk()) < 1e-6, "the two must give the same score"
    compare(f"score, {len(rows):,} trees", ours, with_nltk, args.repeats, count=len(rows))


def small_t5(_):
    """As large as t5-small, its vocabulary included; random weights."""
    return T5ForConditionalGeneration(T5Config(decoder_start_token_id=0, pad_token_id=0, eos_token_id=1))


def fresh(model, rows, task):
    tokenizer = train_tokenizer([x.input for x in rows], task.symbols)
    torch.manual_seed(0)
    return students.Seq2SeqStudent(model(len(tokenizer)), tokenizer, task, CPU, "encoder-decoder")


class PointedT5(T5ForConditionalGeneration):
    """transformers' T5, told which word comes next as `tiny` is (`fed` in student.py), so that the Trainer and generate have the same
    model as ours. For trees."""
    no_word = None                                                      # of each token, whether it is a bracket, the start or padding

    def forward(self, input_ids=None, attention_mask=None, decoder_input_ids=None, labels=None, encoder_outputs=None, copied=None, **more):
        read = encoder_outputs or self.encoder(input_ids=input_ids, attention_mask=attention_mask)
        tokens = self._shift_right(labels) if decoder_input_ids is None else decoder_input_ids
        copied = (~self.no_word[tokens]).cumsum(1) if copied is None else copied
        following = copied.minimum(attention_mask.sum(1, keepdim=True) - 1)[..., None].expand(-1, -1, self.config.d_model)
        return super().forward(attention_mask=attention_mask, encoder_outputs=read, labels=labels,
                               decoder_inputs_embeds=self.shared(tokens) + read[0].gather(1, following), **more)

    def prepare_inputs_for_generation(self, input_ids, **more):
        made = super().prepare_inputs_for_generation(input_ids, **more)
        tokens = made["decoder_input_ids"].shape[1]                     # the last one, where the others are in the cache
        return made | {"copied": (~self.no_word[input_ids]).cumsum(1)[:, -tokens:]}


def pointed_tiny(texts, task):
    """`tiny`, which transformers can train and decode, too."""
    with patch.object(students, "T5ForConditionalGeneration", PointedT5):
        made = students.make_student("tiny", task, texts)
    made.model.no_word = made.no_word
    return made


def trainer(model, encoded, batch_size, collate, optimizers=(None, None), callbacks=(), **settings):
    """One training by transformers' Trainer."""
    from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, trainer_pt_utils
    # Where it groups by length, it sorts few batches of a small set at a time: here as many as ours, 32.
    as_wide = partial(trainer_pt_utils.get_length_grouped_indices, mega_batch_mult=32)
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), \
            patch.object(trainer_pt_utils, "get_length_grouped_indices", as_wide):
        arguments = Seq2SeqTrainingArguments(
            folder, per_device_train_batch_size=batch_size, save_strategy="no", logging_strategy="no", report_to=[], disable_tqdm=True,
            use_cpu=True, dataloader_pin_memory=False, **settings)
        Seq2SeqTrainer(model, arguments, train_dataset=encoded, data_collator=collate, optimizers=optimizers, callbacks=list(callbacks)).train()


def bench_train(args):
    """One epoch, batches of 8 (the Trainer's default), AdamW at the same learning rate, each time from the same weights. Then two
    students, as a stage has them: ours at the same time, with one thread each, the Trainer's one after the other."""
    from transformers import DataCollatorForSeq2Seq
    rows, task = gold((args.n or 256) + 64)
    rows, others = rows[:-64], rows[-64:]
    recipe = replace(students.RECIPES["encoder-decoder"], epochs=1, batch_size=8)
    sorted_by_length = {"train_sampling_strategy": "group_by_length"}
    tiny, small = pointed_tiny([x.input for x in rows], task), fresh(small_t5, rows, task)
    for name, made in (("tiny", tiny), ("t5-small's size", small)):
        start = {name: weight.clone() for name, weight in made.model.state_dict().items()}
        encoded = [dict(zip(("input_ids", "labels"), made.encode_example(x.input, x.output))) for x in rows]
        collate = DataCollatorForSeq2Seq(made.tokenizer)
        copies = []                                                     # the Trainer wraps a model once, so each training has its own

        def copy_start(times):
            made.model.load_state_dict(start)
            copies[:] = [copy.deepcopy(made.model) for _ in range(times)]

        def ours(seed=0, epochs=1, on_epoch=None):
            made.model.load_state_dict(start)
            students.train(made, rows, replace(recipe, epochs=epochs), seed, quiet=True, on_epoch=on_epoch)

        def theirs(**settings):
            trainer(copies.pop(), encoded, 8, collate, learning_rate=recipe.lr, **{"num_train_epochs": 1, **settings})
        for title, settings in (("Seq2SeqTrainer's defaults", {}), ("batches of similar length", sorted_by_length),
                                ("batches of similar length and bf16", {**sorted_by_length, "bf16": True})):
            copy_start(args.repeats + 1)
            compare(f"train, {name}, {len(rows)} examples, {title}", ours, lambda: theirs(**settings), args.repeats, count=len(rows))
            if name == "tiny" and FORKS:
                copy_start(2 * args.repeats + 2)
                compare(f"train, two {name}, {len(rows)} examples each, {title}", lambda: at_the_same_time(ours, ours),
                        lambda: (theirs(**settings), theirs(**settings)), args.repeats, count=2 * len(rows))
        known = torch.tensor(sorted(made.vocabulary))
        unseen = collate([dict(zip(("input_ids", "labels"), made.encode_example(x.input, x.output))) for x in others])
        made.vocabulary = set(known.tolist())                           # without the tokens of the unseen alone
        for seed in range(3):
            copy_start(1)
            compare_curves(f"{name}, seed {seed}", made.model, copies[0], partial(loss_among, known, unseen), partial(ours, seed),
                           lambda **settings: theirs(seed=seed, **settings), len(rows))
    if args.llm:
        bench_train_causal(args, rows[:len(rows) // 4], others[:16], task, replace(students.RECIPES["causal"], min_steps=0, batch_size=8))


def whole_sequences(pairs):
    """(source, target) pairs of token ids as transformers takes them from a causal LM's user: the loss is the targets'."""
    return [{"input_ids": source + target, "labels": [-100] * len(source) + target} for source, target in pairs]


def causal_batch(sequences):
    ids, labels = ([x[key] for x in sequences] for key in ("input_ids", "labels"))
    return {"input_ids": padded(ids, 0, CPU), "labels": padded(labels, -100, CPU), "attention_mask": padded([[1] * len(x) for x in ids], 0, CPU)}


def loss_among(known, batch, model):
    """Mean cross-entropy of a batch's targets among the token ids `known` (K, sorted): those that ours has learnt to tell apart."""
    model.eval()
    with torch.no_grad():
        logits, labels = model(**batch).logits, batch["labels"]
    if not model.config.is_encoder_decoder:
        logits, labels = logits[:, :-1], labels[:, 1:]
    where = torch.isin(labels, known)
    return torch.nn.functional.cross_entropy(logits[where][:, known].float(), torch.searchsorted(known, labels[where])).item()


def compare_curves(title, model, copied, loss, ours, theirs, n, epochs=4):
    """Print the `loss` of sentences that none has seen, after each epoch: of our `model`, of ours trained with random batches, as the
    Trainer's are, and of the Trainer's `copied` one. The schedule is the same, but that the Trainer's first step has learning rate 0."""
    from transformers import TrainerCallback
    if ONLY not in f"curve, {title}":
        return
    found = {"ours": [], "ours with random batches": [], "the Trainer's": []}

    class Note(TrainerCallback):
        def on_epoch_end(self, *_, **__):
            found["the Trainer's"].append(loss(copied))
    ours(epochs=epochs, on_epoch=lambda _: found["ours"].append(loss(model)))
    with patch.object(students, "length_bucketed_batches", random_batches):
        ours(epochs=epochs, on_epoch=lambda _: found["ours with random batches"].append(loss(model)))
    theirs(num_train_epochs=epochs, warmup_steps=max(1, epochs * -(-n // 8) // 20), callbacks=[Note()])
    print(f"curve, {title}, loss of other sentences after each epoch: "
          + ", ".join(f"{whose} {'  '.join(f'{x:.3f}' for x in curve)}" for whose, curve in found.items()), flush=True)


def bench_train_causal(args, rows, others, task, recipe):
    """A decoder-only student against the Trainer with the model's own loss: its whole vocabulary, all weights; then without the
    embeddings, as ours."""
    made = students.CausalStudent(*load_causal_lm(args.llm), task, CPU)
    start = {name: weight.clone() for name, weight in made.model.state_dict().items()}
    encoded = whole_sequences(made.encode_example(x.input, x.output) for x in rows)
    known = torch.tensor(sorted(made.vocabulary))
    unseen = causal_batch(whole_sequences(made.encode_example(x.input, x.output) for x in others))
    made.vocabulary = set(known.tolist())                               # its targets' tokens alone: not those of the unseen

    def ours(seed=0, epochs=1, on_epoch=None):
        made.model.load_state_dict(start)
        students.train(made, rows, replace(recipe, epochs=epochs), seed, quiet=True, on_epoch=on_epoch)

    copied = copy.deepcopy(made.model)

    def theirs(all_weights=False, **settings):
        copied.load_state_dict(start)
        copied.requires_grad_(True)
        for embeddings in (copied.get_input_embeddings(), copied.get_output_embeddings()):
            embeddings.requires_grad_(all_weights)
        trainer(copied, encoded, 8, causal_batch, learning_rate=recipe.lr, **{"num_train_epochs": 1, **settings})
    best = {"train_sampling_strategy": "group_by_length", "bf16": True}
    for title, settings in (("Trainer's defaults", {"all_weights": True}), ("the Trainer, embeddings staying as they are", {}),
                            ("the Trainer, embeddings staying as they are, batches of similar length and bf16", best)):
        compare(f"train, the LLM, {len(rows)} examples, {title}", ours, lambda: theirs(**settings), args.repeats, count=len(rows))
    for seed in range(3):
        compare_curves(f"the LLM, seed {seed}", made.model, copied, partial(loss_among, known, unseen), partial(ours, seed),
                       lambda **settings: theirs(seed=seed, **settings), len(rows))


def constrained(cursors, end, rows_before):
    """`prefix_allowed_tokens_fn` for model.generate: the task's constraint, told by our cursors. `rows_before` tokens are
    the prompt's."""
    seen = [0] * len(cursors)

    def allowed(row, ids):
        cursor, written = cursors[row], ids[rows_before:].tolist()
        for token in written[seen[row]:]:
            if cursor.queue:
                cursor.queue.pop(0)
            elif not cursor.done:
                cursor.choose(token, 0.0)
                cursor.queue[:1] = []
        seen[row] = len(written)
        if cursor.queue:
            return cursor.queue[:1]
        return end[:1] if cursor.done else cursor.options()
    return allowed


def generate(made, inputs, batch_size, ordered=False, constrain=True):
    """The labels of `inputs` by model.generate. Without the constraint an answer is read and mended; unreadable ones become
    the fallback."""
    task = made.task
    made.model.eval()                                                   # the Trainer leaves dropout on
    order, found = list(range(len(inputs))), {}
    if ordered:
        order.sort(key=lambda i: -len(inputs[i].split()))
    for begin in range(0, len(order), batch_size):
        batch = order[begin:begin + batch_size]
        ids = padded([made.encode_input(inputs[i]) for i in batch], made.pad, CPU)
        cursors = [decoding.make_cursor(task, inputs[i], made.encode, made.end, len(ids[0])) for i in batch]
        with torch.inference_mode():
            written = made.model.generate(
                input_ids=ids, attention_mask=(ids != made.pad).long(), max_length=512, do_sample=False,
                prefix_allowed_tokens_fn=constrained(cursors, made.end, 1) if constrain else None)
        if constrain:
            found.update({i: cursor.result()[0] for i, cursor in zip(batch, cursors)})
            continue
        for i, answer in zip(batch, made.tokenizer.batch_decode(written, skip_special_tokens=True)):
            try:
                found[i] = task.read(inputs[i], answer)
            except ValueError:
                found[i] = task.fallback(inputs[i])
    return [found[i] for i in range(len(inputs))]


def bench_decode(args):
    """A split labelled by a trained `tiny`. `generate` decodes without a constraint, as the authors do, and with it. Last, two
    students, as a stage has them: ours at the same time, with one thread each, and generate one after the other."""
    rows, task = gold(2000)
    made = pointed_tiny([x.input for x in rows], task)
    students.train(made, rows[:1000], replace(students.RECIPES["tiny"], epochs=6), quiet=True)
    inputs = [x.input for x in rows[1000:1000 + (args.n or 256)]]

    def ours():
        return [label.output for label in students.label(made, inputs, quiet=True, samples=1)]
    outputs = {}

    def theirs(*how):
        outputs["theirs"] = generate(made, inputs, *how)
    for batch_size, ordered, constrain, plainly in ((8, False, False, False), (8, False, True, False), (8, False, True, True),
                                                    (64, True, False, False), (64, True, True, False), (64, True, True, True)):
        how = f"batches of {batch_size}" + ", sorted" * ordered + ", constrained" * constrain + ", both in fp32" * plainly
        with fp32() if plainly else nullcontext():
            measured = compare(f"decode, {len(inputs)} sentences, generate in {how}", ours, lambda: theirs(batch_size, ordered, constrain),
                               args.repeats, count=len(inputs))
            if measured:
                f1s = [bracket_scores([x.output for x in rows[1000:]][:len(inputs)], found, inputs)["f1"] for found in (ours(), outputs["theirs"])]
                print(f"    the same outputs: {sum(a == b for a, b in zip(ours(), outputs['theirs']))} of {len(inputs)}; "
                      f"F1 {f1s[0]:.1f} and {f1s[1]:.1f}", flush=True)
    if FORKS:
        compare(f"decode, two tiny, {len(inputs)} sentences each, generate in batches of 8, constrained", lambda: at_the_same_time(ours, ours),
                lambda: (theirs(8, False, True), theirs(8, False, True)), args.repeats, count=2 * len(inputs))


def bench_teacher(args):
    with bundled_sample() as folder:
        given = load_data(folder)
    task = make_task(given.config)
    task.learn(given.labeled)
    inputs = [x.input for x in given.unlabeled[:args.n or 50]]
    made = teachers.make_teacher(args.llm, task, given)
    with fp32():
        list(made.label(inputs[:1]))                                    # loads the model
    tokenizer, end = made.tokenizer, teachers.line_ends(made.tokenizer)
    model, _ = load_causal_lm(args.llm)
    outputs = {}
    prompt = [tokenizer.bos_token_id] + tokenizer(made.prompt, add_special_tokens=False).input_ids

    def ours():
        made.decoder = packed.PackedDecoder(made.model, prompt=prompt)        # computes the prompt's keys and values anew
        found = dict(made.label(inputs))
        outputs["ours"] = [found[i].output for i in range(len(inputs))]

    def generate():
        outputs["theirs"] = []
        for begin in range(0, len(inputs), 8):
            batch = inputs[begin:begin + 8]
            prompts = [prompt + tokenizer(teachers.question(task, x), add_special_tokens=False).input_ids for x in batch]
            width = max(map(len, prompts))
            ids = torch.tensor([[0] * (width - len(x)) + x for x in prompts])
            mask = torch.tensor([[0] * (width - len(x)) + [1] * len(x) for x in prompts])
            cursors = [decoding.make_cursor(task, x, made.encode, end, width) for x in batch]
            with torch.inference_mode():
                model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=512, do_sample=False, eos_token_id=end, pad_token_id=0,
                               prefix_allowed_tokens_fn=constrained(cursors, end, width))
            outputs["theirs"] += [cursor.result()[0] for cursor in cursors]

    with fp32():
        measured = compare(f"teacher, {len(inputs)} sentences, generate in batches of 8", ours, generate, args.repeats, count=len(inputs))
    if measured:
        print(f"    the same outputs: {sum(a == b for a, b in zip(outputs['ours'], outputs['theirs']))} of {len(inputs)}")


# What stands in a technique's place where it is switched off.

def random_batches(lengths, size, shuffle):
    order = shuffle.sample(range(len(lengths)), len(lengths))
    return [order[i:i + size] for i in range(0, len(order), size)]


def all_logits(states, output_matrix, ids, cap=None):
    found = (states.float() @ output_matrix.float().T).gather(1, ids)
    return torch.tanh(found / cap) * cap if cap else found


class OneByOne:
    """A cursor whose forced tokens are choices with one option, so that they go to the model one by one."""
    rng = None

    def __init__(self, cursor):
        self.cursor, self.queue, self.result = cursor, [], cursor.result

    @property
    def done(self):
        return self.cursor.done

    def options(self):
        return self.cursor.queue[:1] or self.cursor.options()

    def choose(self, token, logprob):
        if not self.cursor.queue:
            self.cursor.choose(token, logprob)
        self.queue, self.cursor.queue = self.cursor.queue[:1], self.cursor.queue[1:]


def one_by_one(*args):
    return OneByOne(decoding.make_cursor(*args))


def each_row_padded(self, rows, positions, tokens, feed=packed.PackedDecoder.feed):
    """Prompts in one batch, what goes on in another, and in each every row gets as many tokens as the longest has. The added ones
    stand behind a row's own, where what comes next replaces them."""
    rows, positions = list(rows), list(positions)
    states = torch.zeros(len(tokens), self.model.config.hidden_size)
    begins = dict(zip(rows[::-1], positions[::-1]))                     # each row's first position
    for new in (True, False):
        which = [n for n, row in enumerate(rows) if (begins[row] == 0) == new]
        columns = [[column[n] for n in which] for column in (rows, positions, tokens)]
        ends, count = dict(zip(*columns[:2])), Counter(columns[0])
        for row in count:
            for more in range(1, 1 + max(count.values()) - count[row]):
                for column, added in zip(columns, (row, ends[row] + more, 0)):
                    column.append(added)
        if which:
            states[which] = feed(self, *columns)[:len(which)]
    return states


def gathered(self, tokens, own):
    """What each token's row holds, gathered for every token."""
    return torch.einsum("nhga,nhab->nhgb", tokens, own[self.row])


class Apart(tuple):
    """Three products, as if they were one that is then cut into three."""
    def chunk(self, *_):
        return self


def linear_apart(x, weight, linear=torch.nn.functional.linear):
    return Apart(linear(x, part) for part in weight) if isinstance(weight, Apart) else linear(x, weight)


def prepare_apart(self, *args, prepare=t5.T5.prepare, **more):
    """Queries, keys and values of a layer each have a matrix."""
    prepare(self, *args, **more)
    for stack in ("encoder", "decoder"):
        parts = [self.stacks[f"{stack}.layer.0.SelfAttention.{x}"].to(self.dtype) for x in "qkv"]
        self.w[f"{stack}.qkv"] = [Apart(layer) for layer in zip(*parts)]
    return self


@contextmanager
def three_products():
    with patch.object(t5, "linear", linear_apart), patch.object(t5.T5, "prepare", prepare_apart):
        yield


@contextmanager
def separate_weights(made):
    """Every layer's weights by themselves, put together for every step."""
    roles = {}
    for name, weight in made.model.named_parameters():
        roles.setdefault(re.sub(r"block\.\d+\.|\.weight$", "", name), []).append(weight)

    def prepare(self, *args, prepare=t5.T5.prepare, **more):
        with patch.object(self, "stacks", {role: torch.stack(weights) for role, weights in roles.items()}):
            return prepare(self, *args, **more)
    with patch.object(made, "weights", lambda: list(made.model.parameters())), patch.object(t5.T5, "prepare", prepare):
        yield


def feed_and_read_anew(self, new, feed=t5.T5Decoder.feed):
    """The input's keys and values computed for every token."""
    self.memory.read = t5.Memory(self.t5, self.read, self.mask, room=1).read
    return feed(self, new)


class Scattered(t5.Memory):
    """The input's keys and values lie as their product has left them, so that every product with them copies them."""
    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self.read = [tuple(part.transpose(1, 2).contiguous().transpose(1, 2) for part in pair) for pair in self.read]


def copied_memory(self, layer, keys, values):
    """A cache that is copied for every new token."""
    if self.own is not None:
        keys, values = self.own[layer] = tuple(torch.cat([kept[:, :, :self.held], new], 2) for kept, new in zip(self.own[layer], (keys, values)))
    return keys, values


def plain_adamw(*weights, adamw=torch.optim.AdamW, **settings):
    return adamw(*weights, **settings | {"fused": False})


def mebibytes(make):
    """What `make()` leaves in memory."""
    tracemalloc.start()
    kept = make()
    found = tracemalloc.get_traced_memory()[0] / 2 ** 20
    tracemalloc.stop()
    del kept
    return found


def without(where, name, plain):
    """A context in which a technique is switched off."""
    return partial(patch.object, where, name, plain)


def bench_techniques(args):
    """What each technique buys alone: the work with it, and with the plain way in its place."""
    rows, task = gold(args.n or 512)
    cases = techniques_of_tiny(rows, task) + (techniques_of_an_llm(args.llm, rows, task) if args.llm else [])
    for title, work, switched_off in cases:
        def plainly():
            with switched_off():
                work()
        compare(title, work, plainly, args.repeats)


def bf16_or_not():
    """(title, what switches it off)"""
    fast = models.fast_bf16(CPU)
    return "bf16, not fp32" if fast else "fp32, not bf16", without(models, "fast_bf16", lambda device: not fast)


def techniques_of_tiny(rows, task):
    """[(title, the work, a context in which the technique is switched off)]"""
    learnt, others = rows[:len(rows) // 2], rows[len(rows) // 2:]
    tiny = students.make_student("tiny", task, [x.input for x in rows])
    without_pointer = fresh(students.tiny_t5, rows, task)               # as transformers' T5 has none
    for made in (tiny, without_pointer):
        students.train(made, learnt, replace(students.RECIPES["tiny"], epochs=2, min_steps=0), quiet=True)
    inputs, label_each = [x.input for x in others], students.Seq2SeqStudent.label_each

    def train(made=tiny):
        students.train(made, learnt, replace(students.RECIPES["tiny"], epochs=1, min_steps=0, lr=1e-4), quiet=True)

    def train_alone(made=tiny):
        """With one thread, as mckd.py's students A and B."""
        torch.set_num_threads(1)
        train(made)
        torch.set_num_threads(mckd.THREADS)

    def label(made=tiny):
        students.label(made, inputs, quiet=True, samples=1)

    small = fresh(small_t5, rows, task)
    all_tokens = set(range(small.model.config.vocab_size))

    def train_small():
        students.train(small, rows[:64], replace(students.RECIPES["encoder-decoder"], epochs=1, batch_size=8), quiet=True)

    def arrays_or_lists():
        encoded = [tiny.encode_example(x.input, x.output) for x in rows]
        arrays = mebibytes(lambda: TokenArrays((encoded[i % len(rows)] for i in range(100_000)), len(tiny.tokenizer)))
        lists = mebibytes(lambda: [tuple(map(list, encoded[i % len(rows)])) for i in range(100_000)])
        print(f"tiny trains: token arrays: {arrays:.0f} MiB for 100,000 examples, lists {lists:.0f}")
    if ONLY in "tiny trains: token arrays":
        arrays_or_lists()
    bf16, otherwise = bf16_or_not()
    cases = [("tiny trains: T5 in few operations", partial(train_alone, without_pointer), without(without_pointer, "t5", None)),
             ("tiny trains: one product for queries, keys and values", train_alone, three_products),
             ("tiny trains: a random number for eight elements", train_alone,
              without(t5.T5, "drop", lambda self, x: torch.nn.functional.dropout(x, 0.1, self.training))),
             ("tiny trains: batches of similar length", train_alone, without(students, "length_bucketed_batches", random_batches)),
             ("tiny trains: one tensor for all layers' weights", train_alone, partial(separate_weights, tiny)),
             (f"tiny trains: {bf16}", train_alone, otherwise),
             ("t5-small's size trains: only the embeddings of tokens that examples hold", train_small, without(small, "vocabulary", all_tokens)),
             ("t5-small's size trains: one tensor for all layers' weights", train_small, partial(separate_weights, small)),
             (f"t5-small's size trains: {bf16}", train_small, otherwise),
             ("tiny labels: T5 in few operations", partial(label, without_pointer), without(without_pointer, "t5", None)),
             ("tiny labels: one product for queries, keys and values", label, three_products),
             ("tiny labels: the input's keys and values computed once", label, without(t5.T5Decoder, "feed", feed_and_read_anew)),
             ("tiny labels: the input's keys and values put in order", label, without(t5, "Memory", Scattered)),
             ("tiny labels: a cache that grows by doubling", label, without(t5.Memory, "extended", copied_memory)),
             ("tiny labels: batches of 256, not of 8", label,
              without(students.Seq2SeqStudent, "label_each", lambda *a: label_each(*a, batch_size=8))),
             ("tiny labels: finished sentences leave", label, without(decoding, "STAY", 0)),
             ("tiny labels: only the candidates' logits", label, without(t5, "candidate_logits", all_logits)),
             (f"tiny labels: {bf16}", label, otherwise)]
    if FORKS:
        cases.append(("two tiny train: at the same time", lambda: at_the_same_time(train, train),
                      without(sys.modules[__name__], "at_the_same_time", lambda *works: [work() for work in works])))
    return cases


def techniques_of_an_llm(spec, rows, task):
    """The same for a causal LM as a student, and, in the last case, as a prompted teacher."""
    llm = students.CausalStudent(*load_causal_lm(spec), task, CPU)
    students.train(llm, rows[:64], replace(students.RECIPES["causal"], min_steps=0, batch_size=8), quiet=True)
    embeddings = llm.model.get_input_embeddings(), llm.model.get_output_embeddings()
    inputs = [x.input for x in rows[len(rows) // 2:]]

    def train():
        students.train(llm, rows[:16], replace(students.RECIPES["causal"], min_steps=0, batch_size=8, lr=1e-6), quiet=True)

    at_once = {"rows": 64}

    def label(rows=None):
        with patch.object(students, "PackedDecoder", partial(packed.PackedDecoder, rows=rows or at_once["rows"])):
            students.label(llm, inputs[:64], quiet=True, samples=1)

    def label_long():
        students.label(llm, [" ".join(inputs[i:i + 5]) for i in range(0, 160, 5)], quiet=True, samples=1)

    def label_with_four():
        students.label(llm, inputs[:32], quiet=True, samples=4)

    def loss_over_all_tokens(batch):
        with models.autocast(llm.device):
            return llm.model(**causal_batch(whole_sequences(batch)), use_cache=False).loss

    @contextmanager
    def all_weights():
        llm.model.requires_grad_(True)
        yield
        for part in embeddings:
            part.requires_grad_(False)
    prompt = llm.begin + llm.tokenizer(teachers.few_shot_prompt(task, rows[:teachers.DEMONSTRATIONS[task.kind]]), add_special_tokens=False).input_ids

    def read_prompt():
        return packed.PackedDecoder(llm.model, prompt=prompt)

    @contextmanager
    def seven_more_readings():
        for _ in range(7):
            read_prompt()
        yield

    def label_prompted():
        assert len(list(teachers.label_with_causal_lm(read_prompt(), task, inputs[:8], llm.encode))) == 8
    bf16, otherwise = bf16_or_not()
    return [("the LLM trains: logits where targets stand, of the tokens that they hold", train, without(llm, "loss", loss_over_all_tokens)),
            ("the LLM trains: embeddings stay", train, all_weights),
            ("the LLM trains: AdamW in one fused operation", train, without(torch.optim, "AdamW", plain_adamw)),
            (f"the LLM trains: {bf16}", train, otherwise),
            ("the LLM labels: 64 sentences at a time, not 8", label, partial(patch.dict, at_once, rows=8)),
            ("the LLM labels: packed, not padded", label, without(packed.PackedDecoder, "feed", each_row_padded)),
            ("the LLM labels, 16 sentences at a time: a finished one makes room", partial(label, 16), without(teachers, "PREPARED", 16)),
            ("the LLM labels, four outputs of a sentence: read once, not four times", label_with_four,
             without(packed.PackedDecoder, "copy_row", lambda *_: 0)),
            ("the LLM labels: keys and values in place, not gathered", label, without(packed.PackedDecoder, "with_own", gathered)),
            ("the LLM labels 32 sentences of 65 words: keys and values in place, not gathered", label_long,
             without(packed.PackedDecoder, "with_own", gathered)),
            ("the LLM labels: forced tokens at once", label, without(teachers, "make_cursor", one_by_one)),
            ("the LLM labels: only the candidates' logits", label, without(packed, "candidate_logits", all_logits)),
            ("the LLM labels: weights converted once", label, without(teachers, "converted_once", lambda model: nullcontext())),
            (f"the LLM labels: {bf16}", label, otherwise),
            (f"the prompted LLM labels 8 sentences: its prompt of {len(prompt):,} tokens read once, not for each", label_prompted, seven_more_readings)]


def bench_pipeline(args):
    with bundled_sample() as folder:
        pipeline(args, mckd.Settings(data=folder, unlabeled=args.n, samples=1, gold_copies=0, device="cpu", quiet=True))


def pipeline(args, settings):
    """3-stage MCKD on the bundled sample: mckd.py, and the same five trainings and relabellings by Seq2SeqTrainer (same model,
    Adafactor on each weight by itself, same schedule, epochs and size of batches) and generate (batches of 8; without and with
    our constraint). Times are without loading the packages."""
    from transformers import DataCollatorForSeq2Seq
    given = load_data(settings.data, unlabeled=args.n)
    task = make_task(given.config)
    task.learn(given.labeled)
    test, f1s = [x.input for x in given.test], {}

    def ours():
        with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            f1s["ours"] = mckd.execute(replace(settings, out=folder))["test"]["f1"]

    def student(examples, inputs, constrain):
        made = pointed_tiny([x.input for x in given.labeled + given.unlabeled], task)
        recipe = students.RECIPES["tiny"]
        epochs = max(recipe.epochs, -(-recipe.min_steps // -(-len(examples) // recipe.batch_size)))
        for rows, times, lr in ((examples, epochs, recipe.lr), (given.labeled, settings.gold_epochs, recipe.lr * recipe.gold_lr)):
            encoded = [dict(zip(("input_ids", "labels"), made.encode_example(x.input, x.output))) for x in rows]
            optimizer = torch.optim.Adafactor(made.model.parameters(), lr=lr)
            trainer(made.model, encoded, recipe.batch_size, DataCollatorForSeq2Seq(made.tokenizer),
                    (optimizer, None), num_train_epochs=times, warmup_steps=max(1, times * -(-len(rows) // recipe.batch_size) // 20),
                    max_grad_norm=0)
        return dict(zip(inputs, generate(made, inputs, 8, constrain=constrain)))

    def theirs(constrain):
        y = {label.input: label.output for label in read_pseudolabels(given.folder / "pseudolabels.jsonl")}
        D_A, D_B = mckd.partition([x.input for x in given.unlabeled], 0)
        for _ in range(2):
            y = student([Example(x, y[x]) for x in D_A], D_B + test, constrain) | student([Example(x, y[x]) for x in D_B], D_A + test, constrain)
        y = student([Example(x, y[x]) for x in D_A + D_B], test, constrain)
        f1s["theirs"] = bracket_scores([x.output for x in given.test], [y[x] for x in test], test)["f1"]
    for constrain in (True, False):
        title = f"pipeline, {len(given.unlabeled)} unlabeled sentences, generate with{'' if constrain else 'out'} the constraint"
        if compare(title, ours, lambda: theirs(constrain), args.repeats, warm_up=False):
            print(f"    test F1: {f1s['ours']:.1f} and {f1s['theirs']:.1f}", flush=True)


# ----------------------------------------------------------------------------------------------------
# Everything but training steps and decoding. Students learn nothing, and what they answer depends on the sentence alone.

@cache
def shapes():
    """The bracketings of the sample's sentences of 15 to 20 words, with gaps for the words; and those words."""
    trees = [tree for tree in (read_penn(row["output"]) for row in sample()["unlabeled"]) if 15 <= len(tree.words) <= 20]
    words = {word for tree in trees for word in tree.words} - {"(", ")"}
    return [write_bare(["{}"] * len(tree.words), bare_spans(tree)) for tree in trees], sorted(words)


def bracketed(sentence):
    """The label of a sentence: its last word, a number, says which shape."""
    words, (found, _) = split_words(sentence), shapes()
    return found[int(words[-1]) % len(found)].format(*words)


def write_pool(folder, n):
    """A data folder with n different sentences, no two alike, and a label for each."""
    found, words = shapes()
    rng = random.Random(0)

    def sentences(first, last):
        for i in range(first, last):
            yield " ".join(rng.choices(words, k=found[i % len(found)].count("{}") - 1) + [str(i)])
    write_atomically(folder / "task.json", '{"task": "tree"}')
    write_jsonl(folder / "labeled.jsonl", (Example(x, bracketed(x)) for x in sentences(n, n + 50)))
    with open(folder / "unlabeled.jsonl", "w") as pool, open(folder / "pseudolabels.jsonl", "w") as labels:
        for x in sentences(0, n):
            pool.write(f'{{"input": "{x}"}}\n')
            labels.write(f'{{"input": "{x}", "output": "{bracketed(x)}"}}\n')


def memory(now=False):
    """The most that this process has had so far, or what it has now, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():                                                 # Linux, whose ru_maxrss counts in what the parent had
        return int(status.read_text().split("VmRSS:" if now else "VmHWM:")[1].split()[0]) / 1024
    import resource                                                     # which tells only the most; Windows has none
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 ** (2 if sys.platform == "darwin" else 1)


def three_stages(folder):
    """(seconds, MiB) of a run of mckd.py in this process: the most memory in it, beyond what the imports hold."""
    def train(student, examples, *_):
        encoded = TokenArrays((student.encode_example(x.input, x.output) for x in examples), len(student.tokenizer))
        lengths = [len(source) + len(target) for source, target in encoded]
        length_bucketed_batches(lengths, 8, random.Random(0))

    def label_each(student, inputs, rngs=None):
        lengths = [len(student.encode_input(x)) for x in inputs]
        for i in sorted(range(len(inputs)), key=lambda i: -lengths[i]):
            yield i, Label(inputs[i], bracketed(inputs[i]), -1 / (i + 1))
    mckd.train, students.Seq2SeqStudent.label_each, parallel.FORKS = train, label_each, False      # all in one process, to be counted
    os.chdir(folder)
    shapes()
    before, began = memory(now=True), time.perf_counter()
    with redirect_stdout(None):
        mckd.execute(mckd.Settings(data=".", out="run", stages=3, samples=1, gold_copies=0, device="cpu", quiet=True))
    return time.perf_counter() - began, memory() - before


def bench_scale(args):
    for n in [args.n] if args.n else [1000, 10_000, 100_000, 1_000_000]:
        with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            write_pool(Path(folder), n)
            seconds, mebibytes = process.submit(three_stages, folder).result()
            print(f"scale, three stages of {n:,} sentences: {seconds:.1f} seconds, {1000 * seconds / n:.3f} per 1,000; "
                  f"{mebibytes:,.0f} MiB beyond the imports", flush=True)


def main():
    parts = {"score": bench_score, "train": bench_train, "decode": bench_decode, "teacher": bench_teacher,
             "pipeline": bench_pipeline, "techniques": bench_techniques, "scale": bench_scale}
    parser = CommandLine(description=__doc__)
    parser.add_argument("part", choices=parts)
    parser.add_argument("--llm", help="a causal LM, for teacher, and to include it in train and techniques: gguf:FILE, hf:NAME_OR_FOLDER")
    parser.add_argument("--n", type=int, help="how many sentences")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", help="measure only what has this in its title")
    args = parser.parse_args()
    if args.part == "teacher" and not args.llm:
        parser.error("teacher needs --llm")
    global ONLY
    ONLY = args.only
    parts[args.part](args)


if __name__ == "__main__":
    run_command(main)
