"""The Python peers' side of the protocol: load once, then answer each JSON line on stdin with one on stdout.

A peer file has `SETTINGS` ({name: what it is}), `prepare(setting, folders)`, which makes the files it loads, and
`load(setting, folders, threads)`, which returns a `Peer`. It is called with `--prepare` or with `--threads N`.
"""
import argparse
import contextlib
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / "testdata"), str(HERE.parent / "full_shape")]

MERGED_TASK = "retrieval.passage"  # whose adapter is in the weights of the peers that cannot switch
PADDED_TOGETHER = 8  # sequences of one padded sub-batch, after sorting by length


@dataclass
class Folders:
    checkpoint: Path  # bench/full_shape/checkpoint.py
    peers: Path  # what the peers make of it

    def made(self, name, make):
        """`peers/name`, made by `make(partial path)` unless it is there."""
        path = self.peers / name
        if not path.exists():
            print(f"  making {path.name} ...", file=sys.stderr, flush=True)
            partial = path.with_name("partial-" + path.name)
            partial.mkdir(parents=True, exist_ok=True)
            make(partial)
            partial.rename(path)
        return path


class Peer:
    """What a peer file gives back from `load`."""

    versions = ""

    def select(self, task):
        """Turns to `task`; peers with merged weights stay with theirs."""

    def hidden(self, ids, mask):
        """float32 [batch, tokens, hidden] of int64 [batch, tokens]; `mask` is None where nothing is padded."""
        raise NotImplementedError

    def vectors(self, rows):
        """Normalised means of sequences that share a task."""
        longest = max(map(len, rows))
        ids = np.ones((len(rows), longest), np.int64)  # 1 is <pad>
        mask = np.zeros((len(rows), longest), np.int64)
        for i, row in enumerate(rows):
            ids[i, :len(row)] = row
            mask[i, :len(row)] = 1
        padded = mask.min() == 0
        hidden = self.hidden(ids, mask if padded else None)
        pooled = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True) if padded else hidden.mean(1)
        return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)

    def embed(self, sequences, tasks, mode):
        """Vectors of all sequences. `mode`: `singly` or `sorted` for mixed lengths, `batch` for equal ones."""
        out = [None] * len(sequences)
        for task in dict.fromkeys(tasks):
            self.select(task)
            order = [i for i, t in enumerate(tasks) if t == task]
            size = {"singly": 1, "sorted": PADDED_TOGETHER, "batch": len(order)}[mode]
            if mode == "sorted":
                order.sort(key=lambda i: len(sequences[i]))
            for start in range(0, len(order), size):
                part = order[start:start + size]
                for i, vector in zip(part, self.vectors([sequences[i] for i in part])):
                    out[i] = vector
        return out


def main(settings, prepare, load):
    parser = argparse.ArgumentParser()
    parser.add_argument("--setting", choices=settings, required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--peers-dir", type=Path, required=True)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--prepare", action="store_true")
    args = parser.parse_args()
    folders = Folders(args.checkpoint, args.peers_dir)
    if args.prepare:
        return prepare(args.setting, folders)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries may print what they like
    start = time.perf_counter()
    peer = load(args.setting, folders, args.threads)
    ready = {"versions": peer.versions, "setting": settings[args.setting], "load_s": time.perf_counter() - start}
    print(json.dumps(ready), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        start = time.perf_counter()
        vectors = peer.embed(request["sequences"], request["tasks"], request["mode"])
        answer = {"seconds": time.perf_counter() - start}
        if request.get("vectors"):
            answer["vectors"] = [np.asarray(v, np.float32).tolist() for v in vectors]
        print(json.dumps(answer), file=answers, flush=True)


@contextlib.contextmanager
def quiet():
    """Keeps a library's notes away while files are made."""
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
        yield
