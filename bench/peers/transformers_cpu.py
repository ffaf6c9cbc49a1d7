#!/usr/bin/env python3
"""Speed on the CPU: `quintet bench` beside transformers (SDPA, float32, no adapter to apply), interleaved.

    python bench/peers/transformers_cpu.py --work-dir DIR --quintet target/release/quintet --output FILE.md

DIR is the one of bench/full_shape/check.py (made if it is not there). Each round runs every workload by one, then by the
other, the order turning from round to round; the figures are medians over rounds. transformers runs in a process of its
own with the model loaded once, a warm-up pass for each workload, and gives its resident memory after the last round;
ours is the peak of the process. Needs torch, transformers 5.23, psutil.
"""
import argparse
import ctypes
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "full_shape"))
WORKLOADS = {"1x16": (1, 16), "1x128": (1, 128), "8x128": (8, 128), "1x2048": (1, 2048)}


def make_workloads(names):
    import torch
    from checkpoint import SEED, ref

    generator = torch.Generator().manual_seed(SEED)
    return {name: [[0] + torch.randint(4, ref.FULL.vocab - 1, (n - 2,), generator=generator).tolist() + [2]
                   for _ in range(sequences)]
            for name, (sequences, n) in WORKLOADS.items() if name in names}


# --- transformers, in a process of its own ------------------------------------------------------------------------
def worker(work_dir, workload_file, threads):
    """Loads the model, then answers a JSON line of timings for each line on stdin."""
    import psutil
    import torch
    import transformers
    from checkpoint import ref, reference_model

    torch.set_num_threads(threads)
    workloads = json.loads(workload_file.read_text())["workloads"]
    model = reference_model(work_dir, ref.NONE)
    ctypes.CDLL(None).malloc_trim(0)

    @torch.inference_mode()
    def embed(sequences):
        ids = torch.tensor(sequences)  # one length in a workload: nothing is padded
        hidden = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        return ref.l2(hidden.mean(1))

    for sequences in workloads.values():
        embed(sequences)
    versions = f"transformers {transformers.__version__}, torch {torch.__version__}"
    print(json.dumps({"versions": versions}), flush=True)
    for _ in sys.stdin:
        walls = {}
        for name, sequences in workloads.items():
            start = time.perf_counter()
            embed(sequences)
            walls[name] = time.perf_counter() - start
        print(json.dumps({"walls": walls, "rss": psutil.Process().memory_info().rss}), flush=True)


class Transformers:
    def __init__(self, work_dir, workload_file, threads):
        command = [sys.executable, __file__, "--worker", "--work-dir", work_dir, "--workload", workload_file,
                   "--threads", str(threads)]
        self.process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)})
        self.versions = self.answer()["versions"]

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"the transformers process ended with {self.process.wait()}")
        return json.loads(line)

    def round(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = self.answer()
        return answer["walls"], answer["rss"]

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def quintet_round(binary, work_dir, workload_file, threads, repeat):
    """({workload: seconds}, peak resident bytes, GFLOP/s of the machine)."""
    command = [binary, "bench", "--model", work_dir, "--workload", workload_file, "--threads", str(threads),
               "--repeat", str(repeat), "--json"]
    answer = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return {w["name"]: w["wall_s"] for w in answer["workloads"]}, answer["max_rss_bytes"], answer.get("peak_gflops")


# --- report -------------------------------------------------------------------------------------------------------
def cpu_model():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def report(args, workloads, ours, theirs, rss, versions, load):
    lines = ["# CPU: quintet beside transformers", "",
             f"{datetime.date.today()}, {cpu_model()}, {os.cpu_count()} cores, {args.threads} thread(s) each, "
             f"{args.rounds} interleaved rounds, medians; load average {load[0]:.1f} before and {load[1]:.1f} after. {versions}.",
             "", "Full shape, random weights, float32 results; transformers with SDPA and no adapter to apply.", "",
             "| workload | quintet, s | transformers, s | quintet, tokens/s | transformers, tokens/s | ratio | ratio, worst to best round |",
             "| --- | --- | --- | --- | --- | --- | --- |"]
    for name, sequences in workloads.items():
        tokens = sum(map(len, sequences))
        a, b = statistics.median(ours[name]), statistics.median(theirs[name])
        ratios = sorted(y / x for x, y in zip(ours[name], theirs[name]))
        lines.append(f"| {name} | {a:.3f} | {b:.3f} | {tokens / a:.1f} | {tokens / b:.1f} | {b / a:.2f} | "
                     f"{ratios[0]:.2f} to {ratios[-1]:.2f} |")
    lines += [f"| resident memory, GB | {max(rss[0]) / 1e9:.2f} | {max(rss[1]) / 1e9:.2f} | | | {max(rss[1]) / max(rss[0]):.2f} | |", ""]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, required=True, help="holds the full-shape checkpoint")
    parser.add_argument("--quintet", default="target/release/quintet", help="binary under test")
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.json to put beside the weights")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=1, help="`quintet bench --repeat`, passes in one round of ours")
    parser.add_argument("--only", action="append", choices=WORKLOADS, help="only this workload (repeatable)")
    parser.add_argument("--output", type=Path, help="write the table here too")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--workload", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return worker(args.work_dir, args.workload, args.threads)

    import checkpoint

    checkpoint.ensure(args.work_dir, args.tokenizer)
    workloads = make_workloads(args.only or WORKLOADS)
    workload_file = args.work_dir / "workloads.json"
    workload_file.write_text(json.dumps({"workloads": workloads}))
    load = [os.getloadavg()[0]]
    peer = Transformers(args.work_dir, workload_file, args.threads)
    ours, theirs, rss = {name: [] for name in workloads}, {name: [] for name in workloads}, ([], [])
    for i in range(args.rounds):
        print(f"round {i + 1} of {args.rounds} ...", file=sys.stderr)
        for who in (0, 1) if i % 2 == 0 else (1, 0):
            if who == 0:
                walls, memory, _ = quintet_round(args.quintet, args.work_dir, workload_file, args.threads, args.repeat)
            else:
                walls, memory = peer.round()
            rss[who].append(memory)
            for name, wall in walls.items():
                (ours, theirs)[who][name].append(wall)
    peer.close()
    load.append(os.getloadavg()[0])
    version = subprocess.run([args.quintet, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    text = report(args, workloads, ours, theirs, rss, f"{version}, {peer.versions}", load)
    print(text)
    if args.output:
        args.output.write_text(text)


if __name__ == "__main__":
    main()
