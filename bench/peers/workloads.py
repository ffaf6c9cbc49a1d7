"""The token ids that everyone is given; the same in every run."""
import math
import random
from statistics import NormalDist

from protocol import MERGED_TASK

VOCAB_SIZE = 250002
TASKS = ["retrieval.query", "retrieval.passage", "separation", "classification", "text-matching"]
EQUAL = {"1x16": (1, 16), "1x128": (1, 128), "8x128": (8, 128), "1x512": (1, 512), "1x2048": (1, 2048), "1x8192": (1, 8192)}
# Quintet alone runs the last one: what the adapters cost it.
NAMES = ["1x16", "1x128", "8x128", "32 mixed", "1x512", "1x2048", "1x8192", "64 mixed, five tasks", "64 mixed, no adapter"]
OURS_ONLY = {"64 mixed, no adapter"}


def mixed_lengths(count, rng):
    """Evenly spaced quantiles of a log-normal with median 60 tokens, in a random order."""
    normal = NormalDist(math.log(60), 0.8)
    lengths = [round(math.exp(normal.inv_cdf((i + 0.5) / count))) for i in range(count)]
    rng.shuffle(lengths)
    return lengths


def make(names=NAMES):
    """{name: {"sequences": [[token id]], "tasks": [name of each sequence's task]}}."""
    made = {}
    for name in names:
        rng = random.Random(f"11/{name.split(',')[0]}")
        lengths = [EQUAL[name][1]] * EQUAL[name][0] if name in EQUAL else mixed_lengths(int(name.split()[0]), rng)
        sequences = [[0] + [rng.randrange(4, VOCAB_SIZE - 1) for _ in range(n - 2)] + [2] for n in lengths]
        tasks = [MERGED_TASK] * len(sequences)
        if name.endswith("five tasks"):
            tasks = [TASKS[i % 5] for i in range(len(sequences))]
        elif name.endswith("no adapter"):
            tasks = ["raw"] * len(sequences)
        made[name] = {"sequences": sequences, "tasks": tasks}
    return made


def modes(name, ours):
    """How a workload may be run: peers meet mixed lengths in two ways, both are measured."""
    if name in EQUAL:
        return ["batch"]
    return ["packed"] if ours else ["singly", "sorted"]


def accuracy():
    """Four texts of 48 tokens."""
    rng = random.Random("11/accuracy")
    sequences = [[0] + [rng.randrange(4, VOCAB_SIZE - 1) for _ in range(46)] + [2] for _ in range(4)]
    return {"sequences": sequences, "tasks": [MERGED_TASK] * 4}
