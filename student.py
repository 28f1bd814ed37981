"""The student: a small sequence-to-sequence model, trained on (input, label) pairs, that then labels inputs of its own.

    python student.py --model runs/NAME/final --pretty < sentences.txt

Two kinds share one training loop: an encoder-decoder (`tiny`, a 3-4M-parameter T5 from random weights, or any pretrained
one such as t5-base) and a causal LM, finetuned on `Sentence: … / Parse: …` without demonstrations. Both decode under the
task's constraint, so every tree and every slot sequence is a well-formed answer about its input, from an untrained student too.
"""
import json
import math
import random
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import data  # noqa: F401 - first: it says how torch's threads wait
import torch
from torch.nn.functional import cross_entropy, linear
from tqdm import tqdm
from transformers import T5Config, T5ForConditionalGeneration

from data.batches import TokenArrays, labelling_batches, length_bucketed_batches, padded
from data.command import CommandLine, run_command
from data.decoding import AnyDecoder, PieceEncoder, make_cursor, softcapped, those_that_fit, write_batch
from data.models import (autocast, context_length, device_named, fast_dtype, first_line, identified, load_causal_lm, load_config,
                         load_encoder_decoder, save)
from data.packed import PackedDecoder
from data.splits import DataError, Label, check_least, read_sentences, write_atomically
from data.t5 import T5, Memory, T5Decoder
from data.tasks import make_task
from data.trees import split_words
from data.vocabulary import parted_by_spaces, train_tokenizer
from teacher import Teacher, VotingTeacher, label_with_causal_lm, line_ends, question, voted


@dataclass
class Recipe:
    """How a student is trained. An epoch is one pass; short of `min_steps` steps, there are more epochs. The learning rate rises
    to `lr` over the first twentieth of the steps and falls linearly to 0; AdamW's gradients are clipped to norm 1. After its
    pseudolabels a student is finetuned on the labeled examples, at `gold_lr` times the learning rate."""
    epochs: int
    lr: float
    batch_size: int
    min_steps: int
    optimizer: str
    gold_lr: float = 1.0

    def changed(self, **given):
        """This recipe with other `epochs`, `lr` or `batch_size`; None keeps its own. A given number of epochs is meant exactly: there is
        then no `min_steps`."""
        given = {name: value for name, value in given.items() if value is not None}
        if "epochs" in given:
            given["min_steps"] = 0
        return replace(self, **given)

    def on_gold(self, epochs):
        """How the student is then finetuned on the labeled examples."""
        return replace(self, epochs=epochs, lr=self.lr * self.gold_lr, min_steps=0)


RECIPES = {
    # T5's embeddings start at standard deviation 1, its other weights far below: Adafactor's update is relative to each
    # weight's scale, AdamW's is not.
    "tiny": Recipe(epochs=4, lr=1.5e-2, batch_size=8, min_steps=300, optimizer="Adafactor", gold_lr=1 / 3),
    # The paper's, which names a linear decay, but no warm-up and no clipping.
    "encoder-decoder": Recipe(epochs=20, lr=3e-4, batch_size=32, min_steps=0, optimizer="AdamW"),
    "causal": Recipe(epochs=1, lr=1e-4, batch_size=16, min_steps=24, optimizer="AdamW"),
}

# What won on the valid splits, by the kinds of student and task (--samples 1 --gold-copies 0: greedy decoding, gold at the end alone).
# F1 of `tiny` on CRAFT's, one stage on 1,000 sentences: 58.9 greedily, 61.5 with four outputs, 62.6 with eight; with gold among its
# labels 61.4, 62.7 and 63.4. Where a pair relabels, the teacher's label has half as many votes as there are samples (--teacher-weight).
SAMPLES = {("tiny", "tree"): 4}         # how many outputs are voted for a label; else 1
GOLD_COPIES = {("tiny", "tree"): 2}     # how often gold stands among a student's pseudolabels, too; else 0

DRAWN = 1_000           # so many sentences' samples are in memory at a time


# ----------------------------------------------------------------------------------------------------
# Fresh students.

def make_student(spec, task, texts, seed=0, device=torch.device("cpu")):
    """A Seq2SeqStudent or CausalStudent that has learnt nothing of the task yet; the same `seed` gives the same weights.

    spec: `tiny`, `gguf:FILE`, or the folder or hub name of a pretrained encoder-decoder or causal LM. `texts`: a list of what
    `tiny` trains its vocabulary on, inputs and, for free text, outputs. Raises DataError for a spec that cannot be loaded.
    """
    torch.manual_seed(seed)
    kind = student_kind(spec)
    if kind == "tiny":
        if len(texts) > 50_000:                             # of a large pool, a part tells as much about words, in less memory
            texts = random.Random(0).sample(texts, 50_000)
        tokenizer = train_tokenizer([" ".join(task.copied(text)) for text in texts], task.symbols)
        return Seq2SeqStudent(tiny_t5(len(tokenizer)), tokenizer, task, device, "tiny")
    if kind == "causal":
        return CausalStudent(*load_causal_lm(spec), task, device, texts if task.kind == "text" else ())
    return Seq2SeqStudent(*load_encoder_decoder(spec), task, device, kind)


def student_kind(spec):
    """Which of RECIPES' kinds a spec names; DataError where it names no model."""
    if spec == "tiny":
        return "tiny"
    if spec.startswith("gguf:"):
        return "causal"
    config = load_config(spec, "tiny, gguf:FILE, or the folder or name of a pretrained encoder-decoder or causal LM")
    if (about := Path(spec, "student.json")).is_file() and b'"kind": "tiny"' in about.read_bytes():
        raise DataError(f"{spec}: expected a pretrained model, found a trained `tiny`, whose decoder reads its input in a way of its own")
    return "encoder-decoder" if config.is_encoder_decoder else "causal"


def tiny_t5(vocabulary_size):
    """A T5 of 3 + 3 layers with random weights, 3-4M parameters."""
    return T5ForConditionalGeneration(T5Config(
        vocab_size=vocabulary_size, d_model=192, d_kv=48, d_ff=768, num_layers=3, num_decoder_layers=3, num_heads=4,
        dropout_rate=0.1, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1))


# ----------------------------------------------------------------------------------------------------
# Training, the same for both kinds.

def train(student, examples, recipe, seed=0, title="training", quiet=False, on_epoch=None, place=None):
    """Teach `student` the Examples, as the Recipe says; returns it, ready to label. The same `seed` gives the same order and
    dropout. `on_epoch` gets a dict after each epoch: epoch, steps, loss (the mean over batches of their mean cross-entropy, in nats),
    seconds; the student is then ready to label, too. `place`: the line of the progress bar, where there are several. DataError where there
    are no examples, one is no answer about its input, or the loss is no number any more."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    student.cut = 0
    try:
        encoded = TokenArrays((student.encode_example(x.input, x.output) for x in examples), len(student.tokenizer))
    except ValueError as error:                             # a file of labels that was damaged after it was written
        raise DataError(f"{title}: expected labels that are answers about their inputs: {error}") from None
    if student.cut:
        print(f"{title}: {student.cut} of {len(encoded)} examples are longer than the model takes and are cut", file=sys.stderr)
    lengths = [len(source) + len(target) for source, target in encoded]
    if not lengths:
        raise DataError(f"{title}: expected at least one example")
    steps_an_epoch = -(-len(encoded) // recipe.batch_size)          # rounded up
    epochs = max(recipe.epochs, math.ceil(recipe.min_steps / steps_an_epoch))
    steps = epochs * steps_an_epoch

    weights = student.weights()
    if recipe.optimizer == "Adafactor":
        optimizer = torch.optim.Adafactor(weights, lr=recipe.lr)
    else:
        optimizer = torch.optim.AdamW(weights, lr=recipe.lr, weight_decay=0.0, fused=True)      # the LLM: 1.1 times as fast
    warmup = max(1, steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (steps - step) / max(1, steps - warmup)))

    with tqdm(total=steps, desc=title, unit="step", disable=quiet, position=place, leave=place is None) as progress:
        for epoch in range(1, epochs + 1):
            student.model.train()
            began, losses = time.perf_counter(), []
            for batch in length_bucketed_batches(lengths, recipe.batch_size, rng):
                loss = student.loss([encoded[i] for i in batch])
                loss.backward()
                if recipe.optimizer != "Adafactor":             # which bounds its updates itself
                    torch.nn.utils.clip_grad_norm_(weights, 1.0)
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
                losses.append(loss.item())
                progress.update()
            student.model.eval()
            mean = sum(losses) / len(losses)
            if not math.isfinite(mean):
                raise DataError(f"{title}: the loss is {mean} in epoch {epoch}: the learning rate, {recipe.lr:g}, is too high")
            progress.set_postfix(loss=f"{mean:.3f}")
            if on_epoch:
                on_epoch({"epoch": epoch, "steps": epoch * steps_an_epoch, "loss": round(mean, 5),
                          "seconds": round(time.perf_counter() - began, 2)})
    return student


# ----------------------------------------------------------------------------------------------------
# The two kinds. Each knows how an example is written in tokens, its loss, and how it labels.

class Seq2SeqStudent:
    """An encoder-decoder."""
    seed, samples = 0, None             # the seed of what it draws, and how many outputs of an input (None: as in SAMPLES)
    cut = 0                             # how many of the examples last trained on were too long

    def __init__(self, model, tokenizer, task, device, kind):
        self.model, self.tokenizer, self.task, self.device, self.kind = model.to(device).eval(), tokenizer, task, device, kind
        self.t5 = T5(model) if model.config.model_type == "t5" else None
        self.encode = PieceEncoder(tokenizer)
        self.end = [tokenizer.eos_token_id]
        self.pad = model.config.pad_token_id
        self.limit = min(context_length(model), 4096)
        self.longest = min(self.limit, 1024)                # tokens of a source, or of a target, that it is trained on; more are cut
        self.symbols = [self.encode(symbol)[0] for symbol in task.symbols] if kind == "tiny" else []
        self.no_word = torch.zeros(len(tokenizer), dtype=torch.bool, device=device)
        self.no_word[[*self.symbols, self.pad]] = True
        start = model.config.decoder_start_token_id
        self.start = self.pad if start is None else start
        # The tokens that it learns to tell apart: all of a vocabulary of its own; of a pretrained one those of the examples so far.
        self.vocabulary = {self.pad, self.start, *self.end, *self.encode.all(task.symbols)}
        if kind == "tiny" or task.kind == "text":
            self.vocabulary.update(range(model.config.vocab_size))

    def encode_input(self, input):
        words = self.task.copied(input) if self.kind == "tiny" else split_words(input)
        return self.encode.all(words) + self.end

    def encode_example(self, input, output):
        """(source, target), lists of token ids, which join its `vocabulary`. `cut` counts those that are too long."""
        whole = self.encode_input(input), self.encode.all(self.task.pieces(input, output)) + self.end
        source, target = (ids if len(ids) <= self.longest else ids[:self.longest - 1] + self.end for ids in whole)
        self.cut += max(map(len, whole)) > self.longest
        self.vocabulary.update(source, target)
        return source, target

    def weights(self):
        return list(self.t5.stacks.values() if self.t5 else self.model.parameters())

    def loss(self, batch):
        """Mean cross-entropy over target tokens, of a T5 among `vocabulary`: of t5-small's 32,128 tokens a few thousand."""
        sources = padded([source for source, _ in batch], self.pad, self.device)
        targets = padded([target for _, target in batch], -100, self.device)
        mask, written = sources != self.pad, targets != -100
        if not self.t5:
            with autocast(self.device):
                return self.model(input_ids=sources, attention_mask=mask.long(), labels=targets).loss
        known = torch.tensor(sorted(self.vocabulary), device=self.device)
        t5 = self.t5.prepare(fast_dtype(self.device), self.model.training, known)
        tokens = self.model.prepare_decoder_input_ids_from_labels(targets)
        read = t5.encode(torch.searchsorted(known, sources), mask)
        fed = self.fed(torch.searchsorted(known, tokens), self.is_word(tokens).cumsum(1), read, mask)
        logits = linear(t5.decode(fed, Memory(t5, read, mask))[written], t5.output_matrix.to(t5.dtype))
        return cross_entropy(logits.float(), torch.searchsorted(known, targets[written]))

    def is_word(self, tokens):
        """Which tokens of targets (rows, length) are copied from the input: all but brackets, tags, the start and padding. Words
        and tags alternate, so of symbols in a row every second is a word that is spelled like a tag. (A tag inside a word, after other
        characters, as O in `R.O.`, is taken for the word's tag: `fed` is then a token behind for the rest of the sentence.)"""
        symbol = self.no_word[tokens]
        if self.task.kind != "slots":
            return ~symbol
        places = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
        in_a_row = places - places.where(~symbol, 0).cummax(1).values
        return in_a_row % 2 == 0

    def fed(self, tokens, copied, read, mask):
        """What the decoder is fed: the embedded (rows, length) `tokens`. `copied`: how many of the input's tokens are written by
        then; `read`, `mask`: the encoder's states and which of them are real.

        A pretrained model gets the tokens, and so does `tiny` where it copies nothing, in free text. Else it would need far more data
        than the pool to find out where in the input it is, so it is told: hard monotonic attention (Aharoni and Goldberg, ACL 2017)
        adds the encoder's state of the input token that is to be copied next. (F1 on 500 fresh sentences of the sample's grammar,
        after 5 epochs on 1,000 with gold: 64.7 without, 87.7 with.)
        """
        embedded = self.t5.embed(tokens)
        if not self.symbols:
            return embedded
        following = copied.minimum(mask.sum(1, keepdim=True) - 1)[..., None].expand(-1, -1, read.shape[2])
        return embedded + read.gather(1, following)

    @torch.inference_mode()
    def label_each(self, inputs, rngs=None, batch_size=256):
        """Yields (index, Label), longest inputs first, so that a batch holds inputs of similar length. (256 at a time are six
        times as fast as 8.) `rngs`: every input's, as in Cursor."""
        lengths = [len(self.encode_input(input)) for input in inputs]
        order = sorted(range(len(inputs)), key=lambda i: -lengths[i])
        order, too_long = those_that_fit(order, inputs, lengths, self.task, self.encode, self.limit, apart=True)
        yield from too_long
        if self.t5:
            self.t5.prepare(fast_dtype(self.device))
        vocabulary = torch.arange(min(len(self.tokenizer), self.model.config.vocab_size)) if self.task.kind == "text" else None
        for batch in labelling_batches(order, lengths, batch_size):
            cursors = [make_cursor(self.task, inputs[i], self.encode, self.end, lengths[i], vocabulary, self.limit, rngs and rngs[i])
                       for i in batch]
            ids = padded([self.encode_input(inputs[i]) for i in batch], self.pad, self.device)
            decoder = T5Decoder(self, ids, ids != self.pad) if self.t5 else AnyDecoder(self.model, ids, ids != self.pad)
            write_batch(cursors, decoder, self.start, self.pad, self.end)
            yield from ((i, Label(inputs[i], *cursor.result())) for i, cursor in zip(batch, cursors))


class CausalStudent:
    """A causal LM, finetuned decoder-only. Its embeddings, two thirds of the 270M LLM, stay as they are: twice as fast a step. It writes
    tokens that targets have held or, of free text, that `texts` hold, which it may copy."""
    kind, seed, samples, cut = "causal", 0, None, 0         # as above

    def __init__(self, model, tokenizer, task, device, texts=()):
        self.model, self.tokenizer, self.task, self.device = model.to(device).eval(), tokenizer, task, device
        self.encode = PieceEncoder(tokenizer)
        self.end = line_ends(tokenizer)
        self.begin = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
        self.limit = context_length(model)
        self.attention = model.config._attn_implementation      # for training; PackedDecoder sets its own
        PackedDecoder(model, prompt=self.end[:1])               # a model that it refuses is refused now, not when it has been trained
        self.vocabulary = {min(self.end)}.union(*(self.encode.all(split_words(text)) for text in texts))
        for embeddings in (model.get_input_embeddings(), model.get_output_embeddings()):
            embeddings.weight.requires_grad = False

    def encode_example(self, input, output):
        source = self.tokenizer(question(self.task, input), add_special_tokens=False).input_ids
        target = self.encode.all(self.task.pieces(input, output)) + [min(self.end)]
        self.vocabulary.update(target)
        source = self.begin + source
        self.cut += len(source) + len(target) > self.limit
        source = source[:self.limit - 1]
        return source, target[:self.limit - len(source)]

    def loss(self, batch):
        """Mean cross-entropy over target tokens, among the tokens of its vocabulary. There are logits only where a target
        stands, and only of these few thousand tokens of 262,144: three times as fast a step."""
        rows = [source + target for source, target in batch]
        self.model.set_attn_implementation(self.attention)
        # The state that predicts a target token is the one before it.
        where = [(n, len(source) - 1 + t) for n, (source, target) in enumerate(batch) for t in range(len(target))]
        row, position = torch.tensor(where, device=self.device).T
        known = torch.tensor(sorted(self.vocabulary), device=self.device)
        targets = torch.searchsorted(known, torch.tensor([t for _, target in batch for t in target], device=self.device))
        with autocast(self.device):
            hidden = self.model.base_model(input_ids=padded(rows, 0, self.device), use_cache=False).last_hidden_state
            logits = (hidden[row, position] @ self.model.get_output_embeddings().weight[known].T).float()
        cap = getattr(self.model.config.get_text_config(), "final_logit_softcapping", None)
        return cross_entropy(softcapped(logits, cap), targets)

    def weights(self):
        return [weight for weight in self.model.parameters() if weight.requires_grad]

    def label_each(self, inputs, rngs=None):
        decoder = PackedDecoder(self.model, prompt=self.begin)
        vocabulary = torch.tensor(sorted(self.vocabulary)) if self.task.kind == "text" else None
        yield from label_with_causal_lm(decoder, self.task, inputs, self.encode, vocabulary, rngs)


def label(student, inputs, title="labelling", quiet=False, place=None, samples=None, beside=None, weight=0):
    """The student's labels of `inputs` (sentences), in their order: a list of Labels. `place`: as in `train`.

    With `samples` (None: the student's own), a label is the task's vote on so many outputs, each drawn by its probability (minimum
    Bayes risk decoding), so that a bracket that the student would write in two outputs of five is not lost; its score is the mean of
    theirs. The student's seed and the sentence give the random numbers: what else is in the batch does not matter, but for rounding.
    `beside`: {input: Label} by another, the teacher, each of which counts as `weight` outputs in that vote; of trees a bracket then needs
    as many votes. DataError for a score that is no number.
    """
    samples = samples or student.samples or SAMPLES.get((student.kind, student.task.kind), 1)
    labels, step = [], DRAWN if samples > 1 else max(1, len(inputs))
    with tqdm(total=samples * len(inputs), desc=title, unit="output", disable=quiet, position=place, leave=place is None) as progress:
        for begin in range(0, len(inputs), step):
            asked = [(x, n) for x in inputs[begin:begin + step] for n in range(samples)]
            rngs = [random.Random(f"{student.seed} {n} {x}") for x, n in asked] if samples > 1 else None
            found = [None] * len(asked)
            for i, one in student.label_each([x for x, _ in asked], rngs):
                if one.score is not None and not math.isfinite(one.score):      # the last step of training may have done it
                    raise DataError(f"{title}: the score of a label is {one.score}: the learning rate was too high")
                found[i] = one
                progress.update()
            if samples > 1:
                found = [voted(student.task, found[i:i + samples], (beside or {}).get(asked[i][0]), weight)
                         for i in range(0, len(found), samples)]
            labels += found
    return labels


class TunedTeacher(Teacher):
    """`--teacher tuned:MODEL`: a student trained on the labeled split stands in for the prompted LLM."""

    def __init__(self, spec, task, splits, seed, device, quiet=False):
        self.spec, self.task, self.labeled, self.seed, self.device, self.quiet = spec, task, splits.labeled, seed, device, quiet
        self.student = None
        self.texts = splits.texts() if student_kind(spec) == "tiny" else []         # a pretrained model needs none
        self.name = f"tuned:{spec}, trained on {len(splits.labeled)} gold examples"
        recipes = {kind: vars(recipe) for kind, recipe in RECIPES.items()}
        self.key = json.dumps(["tuned", identified(spec), recipes, task.config(), seed, splits.labeled, self.texts])

    def label(self, inputs):
        if self.student is None:
            self.student = make_student(self.spec, self.task, self.texts, self.seed, self.device)
            train(self.student, self.labeled, RECIPES[self.student.kind], self.seed, "teacher: training", self.quiet)
        yield from self.student.label_each(inputs)


def tuned_teacher(spec, task, splits, seed=0, device=torch.device("cpu"), votes=1, quiet=False):
    """The teacher that `tuned:MODEL` names; with `votes`, as many, of other seeds, that vote. DataError where it names no model."""
    model = spec.removeprefix("tuned:")
    if not model:
        raise DataError(f"--teacher {spec}: expected a model behind it, such as tuned:gguf:FILE")
    members = [TunedTeacher(model, task, splits, seed + 1000 * k, device, quiet) for k in range(votes)]
    return VotingTeacher(task, members, quiet) if votes > 1 else members[0]


# ----------------------------------------------------------------------------------------------------
# Saving, loading, using.

def save_student(student, folder):
    """Weights (safetensors), tokenizer, and what the task needs to know, in `folder`."""
    save(folder, student.model, student.tokenizer)
    about = {"kind": student.kind, "seed": student.seed, "samples": student.samples, **student.task.config()}
    if student.kind == "causal":
        about["vocabulary"] = sorted(student.vocabulary)
    write_atomically(Path(folder) / "student.json", json.dumps(about) + "\n")


def load_student(folder, device=torch.device("cpu")):
    """The student that `save_student` wrote. DataError for any other."""
    try:
        about = json.loads((Path(folder) / "student.json").read_text(encoding="utf-8"))
        task = make_task(about)
        if about["kind"] == "causal":
            student = CausalStudent(*load_causal_lm(folder), task, device)
            student.vocabulary = set(about["vocabulary"])
        else:
            model, tokenizer = load_encoder_decoder(folder)
            tokenizer = parted_by_spaces(tokenizer) if about["kind"] == "tiny" and task.kind == "text" else tokenizer
            student = Seq2SeqStudent(model, tokenizer, task, device, about["kind"])
        student.seed, student.samples = about.get("seed", 0), about.get("samples")
        if student.samples is not None and (type(student.samples) is not int or student.samples < 1):
            raise ValueError(f"expected samples to be at least 1, found {student.samples!r}")
        if task.kind != "text":
            found, = label(student, ["a b c"], quiet=True)  # damage shows now, not after a thousand sentences
            task.check(*found[:2])
        return student
    except Exception as error:                              # the files may be anybody's
        raise DataError(f"{folder}: expected a trained student, such as runs/NAME/final: {first_line(error)}") from None


def main():
    parser = CommandLine(
        description="Label sentences, one a line with the words separated by spaces, with a trained student.",
        epilog="example: echo 'The mice were treated with tamoxifen .' | python student.py --model runs/NAME/final --pretty")
    parser.add_argument("--model", required=True, help="a student's folder: runs/NAME/final")
    parser.add_argument("--pretty", action="store_true", help="draw the tree or the slots")
    parser.add_argument("--samples", type=int,
                        help="outputs drawn for a sentence, and voted; 1: decode greedily (as in the run that trained it)")
    args = parser.parse_args()
    check_least("--samples", args.samples, 1)
    student = load_student(args.model, device_named("auto"))
    if sys.stdin is None:
        raise DataError("standard input: expected a sentence a line, found it closed")
    sentences = read_sentences(sys.stdin.buffer)
    for found in label(student, sentences, quiet=not sys.stderr.isatty(), samples=args.samples):
        print(f"{student.task.draw(found.input, found.output)}\n" if args.pretty else found.output)


if __name__ == "__main__":
    run_command(main)
