"""All but the method itself: data folders, how an answer is written as a sequence, models and decoding, runs and their folders.

    splits.py      a data folder (task.json and four .jsonl files) <-> lists of examples; files that appear whole or not at all
    trees.py       Penn, labelled and bare trees: reading, cleaning, writing, drawing, spans
    tasks.py       tree, slots, text: what a target sequence looks like, how it is checked and repaired
    noise.py       gold with errors made to measure, for teaching
    models.py      pretrained models, loaded; devices, and the type in which one computes fastest
    api.py         a chat model behind an OpenAI-compatible server
    vocabulary.py  the vocabulary of `tiny`, trained on a run's own inputs
    decoding.py    decoding under the task's constraint, so that every output is a well-formed answer about its own input
    t5.py          T5 in few and large operations, for the small students
    packed.py      a causal LM, many sequences at a time
    batches.py     token arrays and batches
    parallel.py    two students at a time, each in a process of its own
    command.py     what all command lines share: errors in one line, exit codes
    runs.py        a run: its settings, its scores, its final table
    folders.py     a run's folder: its name, its opening or refusal, its lock, its log
    grammar.py     the grammar of biomedical English behind the bundled sample in craft/
    prepare.py     a published corpus -> a data folder: `python data/prepare.py craft`
    archives.py    files from the web, and what is in an archive

One folder a dataset (craft, ptb, atis, snips), each with a README: source, licence, citation, sizes.
"""
import os

# Threads that wait for each other spin for a moment and then sleep (on Linux; to be said before torch is loaded, so what imports torch
# imports this first). Spinning for longer, as is the default, slows all parts of a step where something else wants a core; sleeping at
# once takes longer where nothing else does.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
