"""Multistage Collaborative Knowledge Distillation (Zhao et al., ACL 2024), the whole algorithm in one file.

    python mckd.py --data data/craft --stages 3                     # the method
    python mckd.py --data data/craft --stages 1                     # vanilla knowledge distillation
    python mckd.py --data data/craft --stages 3 --method own        # without cross-partition labelling
    python mckd.py --data data/craft --method sft --labeled 50      # supervised finetuning on gold
    python mckd.py --data data/craft --method teacher               # the prompted LLM alone

A student trained on an LLM's noisy pseudolabels learns the pattern of the good ones; the bad ones have no pattern, so it
can only memorise them, one by one. On inputs that it was *not* trained on it is therefore often better than the LLM. So
two students, each trained on one half of the unlabeled data, relabel each other's half, stage after stage, and a last
student is trained on both halves. Read `mckd()` first; what follows it is what it calls, and then the command line.
"""
import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch
import transformers

from data.splits import Data, DataError, Example, load_data, read_pseudolabels, write_atomically, write_jsonl
from data.tasks import make_task
from metrics import score
from student import RECIPES, TunedTeacher, label, make_student, save_student, train
from teacher import Label, cache_file, label_with_cache, make_teacher


# ----------------------------------------------------------------------------------------------------
# The algorithm (paper.md's pseudocode is Figure 1 of the paper; the names are the paper's).

def mckd(run, D_unlabeled, t, n, cross=True):
    """n-stage MCKD. Returns y, the pseudolabels of every stage: y[i] is the list of labels ŷ_i of D_unlabeled.

    `t` is the teacher, a function from inputs to labels. n = 1 is vanilla KD. `cross=False` lets every student relabel the
    half that it was trained on (the paper's ablation).
    """
    y = [run.once("pseudolabels/stage0", lambda: t(D_unlabeled))]                       # ŷ_0, the LLM's
    A, B = partition(len(D_unlabeled), run.settings.seed)                               # fixed for the whole run

    for i in range(1, n):                                                               # intermediate stages: a new pair each
        s_A = Teach(run, f"stage{i}_A", on=A, labels=y[i - 1], then_label=B if cross else A)
        s_B = Teach(run, f"stage{i}_B", on=B, labels=y[i - 1], then_label=A if cross else B)
        y.append(run.once(f"pseudolabels/stage{i}", lambda: in_order(s_A(D_unlabeled) | s_B(D_unlabeled))))

    s_n = Teach(run, f"stage{n}_final", on=A + B, labels=y[n - 1], then_label=[])       # final stage: one student, both halves
    s_n(D_unlabeled)
    return y


def partition(size, seed):
    """Two random halves of range(size): disjoint, together everything, of sizes that differ by one at most."""
    if size < 4:
        raise DataError(f"expected at least 4 unlabeled examples for two partitions, found {size}")
    order = random.Random(seed).sample(range(size), size)
    return sorted(order[:(size + 1) // 2]), sorted(order[(size + 1) // 2:])
