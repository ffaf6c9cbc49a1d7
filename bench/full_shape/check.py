#!/usr/bin/env python3
"""The whole model at its true shape: `quintet embed` against transformers' JinaEmbeddingsV3Model in float32.

    python bench/full_shape/check.py --work-dir DIR --quintet target/release/quintet [--long] [--output FILE.md]

Random weights (24 layers, hidden 1024, vocabulary 250002, five adapters), the same token ids through both. Ours runs all
tasks and lengths in one mixed batch; the reference one sequence at a time with one task's LoRA merged into the weights.
Checkpoint (1.1 GB) and reference vectors stay in DIR and are used again. Prints the worst component difference of the
normalised vectors for each task and length; exit 1 above 1e-5. Needs torch, transformers 5.23, safetensors and 8 GB.
"""
import argparse
import datetime
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

import checkpoint
from checkpoint import ref

LENGTHS = [1, 2, 17, 64, 130, 512]
LONG = 2048
TOLERANCE = 1e-5
ALL_TASKS = [ref.NONE] + ref.TASKS


def make_sequences(lengths):
    generator = torch.Generator().manual_seed(checkpoint.SEED)
    sequences = {}
    for n in lengths:
        body = torch.randint(4, ref.FULL.vocab - 1, (max(n - 2, 0),), generator=generator).tolist()
        sequences[n] = ([0] + body + [2])[:n]
    return sequences


def reference_vectors(work_dir, sequences):
    """{(task, length): normalised vector}; computed once for each length."""
    cache = work_dir / f"reference-seed{checkpoint.SEED}.npz"
    vectors = dict(np.load(cache)) if cache.exists() else {}
    for task in ALL_TASKS:
        missing = [n for n in sequences if f"{task}/{n}" not in vectors]
        if not missing:
            continue
        print(f"reference: {task} ...", file=sys.stderr)
        model = checkpoint.reference_model(work_dir, task)
        for n in missing:
            vectors[f"{task}/{n}"] = ref.l2(ref.hidden_states(model, sequences[n]).mean(0)).numpy()
        del model
        np.savez(cache, **vectors)
    return {(task, n): vectors[f"{task}/{n}"] for task in ALL_TASKS for n in sequences}


def quintet_vectors(binary, work_dir, sequences, threads):
    """The same, by one call of the binary; short and long, task and task stand side by side in its input."""
    keys = [(task, n) for n in sequences for task in ALL_TASKS]
    texts, output = work_dir / "input.jsonl", work_dir / "output.npy"
    texts.write_text("".join(json.dumps({"token_ids": sequences[n], "task": "raw" if task == ref.NONE else task}) + "\n"
                             for task, n in keys))
    command = [binary, "embed", "--model", work_dir, "--input", texts, "--format", "npy", "--output", output]
    subprocess.run(command + (["--threads", str(threads)] if threads else []), check=True)
    rows = np.load(output)
    assert rows.shape == (len(keys), ref.FULL.hidden), rows.shape
    return dict(zip(keys, rows))


def report(expected, found, lengths, version):
    """(markdown, worst difference)."""
    diff = {key: float(np.abs(found[key] - want).max()) for key, want in expected.items()}
    cosine = min(float(found[key].astype(np.float64) @ want.astype(np.float64)
                       / np.linalg.norm(found[key].astype(np.float64)) / np.linalg.norm(want.astype(np.float64)))
                 for key, want in expected.items())
    worst = float(np.max(list(diff.values())))  # NaN stays NaN
    lines = ["# Full shape against transformers", "",
             f"{datetime.date.today()}, {version}, transformers {transformers.__version__}, torch {torch.__version__}; "
             f"`bench/full_shape/check.py`, seed {checkpoint.SEED}.", "",
             "24 layers, hidden 1024, random bf16 weights, five adapters; all rows in one mixed batch. Largest component",
             "difference of the normalised vectors to the float32 reference, by sequence length in tokens:", "",
             "| task | " + " | ".join(map(str, lengths)) + " |", "| --- |" + " --- |" * len(lengths)]
    lines += [f"| {task} | " + " | ".join(f"{diff[task, n]:.1e}" for n in lengths) + " |" for task in ALL_TASKS]
    lines += ["", f"Worst component {worst:.2e} (allowed {TOLERANCE:.0e}), worst cosine 1 - {max(1 - cosine, 0.0):.1e}.", ""]
    return "\n".join(lines), worst


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, required=True, help="holds the checkpoint and the reference vectors")
    parser.add_argument("--quintet", default="target/release/quintet", help="binary under test")
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.json to put beside the weights")
    parser.add_argument("--threads", type=int, help="threads of both")
    parser.add_argument("--long", action="store_true", help=f"a sequence of {LONG} tokens too")
    parser.add_argument("--reference-only", action="store_true", help="stop before the binary is called")
    parser.add_argument("--output", type=Path, help="write the report here too")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    sequences = make_sequences(LENGTHS + ([LONG] if args.long else []))
    checkpoint.ensure(args.work_dir, args.tokenizer)
    expected = reference_vectors(args.work_dir, sequences)
    if args.reference_only:
        return
    found = quintet_vectors(args.quintet, args.work_dir, sequences, args.threads)
    version = subprocess.run([args.quintet, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    text, worst = report(expected, found, list(sequences), version)
    print(text)
    if args.output:
        args.output.write_text(text)
    if not worst <= TOLERANCE:
        sys.exit(f"worst component difference {worst:.2e} is above {TOLERANCE:.0e}")


if __name__ == "__main__":
    main()
