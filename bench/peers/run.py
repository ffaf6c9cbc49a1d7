#!/usr/bin/env python3
"""Quintet beside other programs that run jina-embeddings-v3 on a CPU: same weights, same token ids, taking turns.

    cargo build --release -p quintet-engine --example bench_driver
    python bench/peers/run.py --quintet target/release/examples/bench_driver --work-dir DIR --out bench/results/DATE-peers.md

Every program is a process that loads once and then waits; for each repetition and workload each of them runs in turn,
alone. Makes the checkpoint and the peers' own files where they are missing. Samples are kept in the .json beside --out;
--append adds to them, so that a long comparison can be made in parts. README.md beside this file says the rest.
"""
import argparse
import contextlib
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import peer_llama_cpp
import peer_onnxruntime
import peer_openvino
import peer_transformers
import protocol
import report
import workloads

PYTHON_PEERS = {name: module.__file__ for module in (peer_transformers, peer_onnxruntime, peer_openvino) for name in module.SETTINGS}
PEERS = [*PYTHON_PEERS, *peer_llama_cpp.SETTINGS]
DEFAULT_PEERS = ["transformers", "transformers-adapters", "onnxruntime", "onnxruntime-int8", "openvino", "openvino-int8",
                 "llama.cpp", "llama.cpp-q8_0"]
SETTLE_S = 0.05  # threads that spin after their work have gone to sleep by then
COLD_TOKENS = 1500  # longer workloads are not run to warm up first
GUESSED_RATE = 200  # tokens/s, for how often these are repeated


def log(text):
    print(f"[{datetime.datetime.now():%H:%M:%S}] {text}", file=sys.stderr, flush=True)


# --- processes ----------------------------------------------------------------------------------------------------
class Process:
    """One program, started; its memory and CPU time are read from /proc."""

    def __init__(self, name, command, threads, core, log_file):
        self.name = name
        environment = os.environ | {key: str(threads) for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        pin = (lambda: os.sched_setaffinity(0, {core})) if threads == 1 else None
        self.start = time.perf_counter()
        self.process = subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log_file,
                                        text=True, env=environment, preexec_fn=pin)
        self.ready = self.receive()

    def receive(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with {self.process.wait()}")
        return json.loads(line)

    def ask(self, workload, mode, vectors=False):
        request = workload | {"mode": mode, "vectors": vectors}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self.receive()

    def measure(self, workload, mode):
        """Seconds, CPU seconds and the peak of resident bytes of one pass."""
        time.sleep(SETTLE_S)
        with contextlib.suppress(OSError):
            Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")  # forgets the peak so far
        before = self.cpu_seconds()
        seconds = self.ask(workload, mode)["seconds"]
        return {"seconds": seconds, "cpu_s": self.cpu_seconds() - before, "peak_rss": self.peak_rss()}

    def cpu_seconds(self):
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9

    def peak_rss(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    def close(self):
        self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()


def is_ours(name):
    return name.startswith("quintet-")


def command(name, args, threads):
    if is_ours(name):
        return [args.quintet, "--model", args.work_dir, "--precision", name.removeprefix("quintet-"), "--threads", threads,
                "--packed", args.peers_dir / f"{name}.pack"]
    if name in peer_llama_cpp.SETTINGS:
        return peer_llama_cpp.command(name, protocol.Folders(args.work_dir, args.peers_dir), args.llama_driver, threads)
    return [sys.executable, PYTHON_PEERS[name], "--setting", name, "--checkpoint", args.work_dir, "--peers-dir", args.peers_dir,
            "--threads", threads]


def prepare(names, args):
    """Makes what is missing, each peer's files in a process of its own."""
    import checkpoint

    checkpoint.ensure(args.work_dir, outliers=args.outliers)
    for name in names:
        if is_ours(name):
            # Packs the weights, unless that is done.
            subprocess.run(list(map(str, command(name, args, os.cpu_count()))), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
            continue
        file = PYTHON_PEERS.get(name, peer_llama_cpp.__file__)
        extra = [] if name in PYTHON_PEERS else ["--driver", args.llama_driver]
        made = subprocess.run([sys.executable, file, "--setting", name, "--checkpoint", args.work_dir,
                               "--peers-dir", args.peers_dir, "--prepare", *extra])
        if made.returncode:
            sys.exit(f"the files of {name} could not be made")


def read_ahead(name, args):
    """Puts a program's files into the page cache, so that its start measures the program and not the disk."""
    folders = {"transformers": "merged", "transformers-bf16": "merged", "transformers-adapters": "adapters", "onnxruntime": "onnx",
               "onnxruntime-int8": "onnx-int8", "onnxruntime-int8-8bit": "onnx-int8-8bit", "openvino-bf16": "openvino",
               "llama.cpp": "gguf", "llama.cpp-q8_0": "gguf-q8_0"}
    if is_ours(name):
        paths = [*args.work_dir.iterdir(), args.peers_dir / f"{name}.pack"]
    else:
        paths = (args.peers_dir / folders.get(name, name)).iterdir()
    for path in paths:
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.read(1 << 24):
                    pass


def start(name, args, threads, log_file):
    read_ahead(name, args)
    process = Process(name, command(name, args, threads), threads, args.core, log_file)
    first, warm_up = workloads.make(["1x16", "1x128"]).values()
    process.ask(first, "batch")
    process.ready["start_s"] = time.perf_counter() - process.start
    process.ready["start_rss"] = process.peak_rss()
    process.ask(warm_up, "batch")
    if name in peer_llama_cpp.SETTINGS:
        process.ready |= {"versions": peer_llama_cpp.VERSION, "setting": peer_llama_cpp.SETTINGS[name]}
    log(f"  {name}: first vector after {process.ready['start_s']:.1f} s, {process.ready['start_rss'] / 1e9:.2f} GB")
    return process


# --- measuring ----------------------------------------------------------------------------------------------------
def run_group(names, args, threads, log_file):
    """All workloads by the programs of `names`, interleaved; one entry of the .json's `runs`."""
    log(f"{threads} thread(s): {', '.join(names)}")
    run = {"date": f"{datetime.datetime.now():%Y-%m-%d %H:%M}", "threads": threads, "load": [os.getloadavg()[0]], "samples": []}
    processes = []
    try:
        for name in names:
            processes.append(start(name, args, threads, log_file))
        run["peers"] = {p.name: p.ready for p in processes}
        for name, workload in workloads.make(args.workloads).items():
            run["samples"] += run_workload(name, workload, processes, args)
    finally:
        for process in processes:
            process.close()
    run["load"].append(os.getloadavg()[0])
    return run


def run_workload(name, workload, processes, args):
    entrants = [(p, mode) for p in processes for mode in workloads.modes(name, is_ours(p.name))
                if is_ours(p.name) or name not in workloads.OURS_ONLY]
    tokens = sum(map(len, workload["sequences"]))
    if tokens <= COLD_TOKENS or args.warm_all:
        slowest = max(p.ask(workload, mode)["seconds"] for p, mode in entrants)
    else:
        slowest = tokens / GUESSED_RATE
    repetitions = max(1, min(args.repetitions, int(args.seconds / slowest)))
    samples = []
    for repetition in range(repetitions):
        turn = repetition % len(entrants)
        for process, mode in entrants[turn:] + entrants[:turn]:
            sample = process.measure(workload, mode)
            samples.append({"workload": name, "tokens": tokens, "mode": mode, "peer": process.name, "repetition": repetition} | sample)
    rates = [f"{p.name} {mode + ' ' if mode in ('singly', 'sorted') else ''}"
             f"{tokens / np.median([s['seconds'] for s in samples if s['peer'] == p.name and s['mode'] == mode]):.0f}"
             for p, mode in entrants]
    log(f"  {name}, {repetitions} repetition(s), tokens/s: {', '.join(rates)}")
    return samples


def run_accuracy(names, args, log_file):
    """{name: smallest cosine and largest component difference to transformers in f32}; one program at a time."""
    workload, rows = workloads.accuracy(), {}
    for name in ["transformers", *(n for n in names if n != "transformers")]:
        process = start(name, args, os.cpu_count(), log_file)
        vectors = np.array(process.ask(workload, "singly", vectors=True)["vectors"], np.float64)
        process.close()
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        if name == "transformers":
            expected = vectors
        rows[name] = {"min_cosine": float((vectors * expected).sum(1).min()), "worst_component": float(np.abs(vectors - expected).max())}
        log(f"  {name}: min cosine {rows[name]['min_cosine']:.7f}, worst component {rows[name]['worst_component']:.1e}")
    return rows


def groups_of(names, together):
    """Ours in every group, at most `together` peers beside them."""
    ours, peers = [n for n in names if is_ours(n)], [n for n in names if not is_ours(n)]
    if not peers:
        return [ours]
    return [ours + peers[i:i + together] for i in range(0, len(peers), together)]


def machine():
    info = Path("/proc/cpuinfo").read_text().splitlines()
    flags = next(line for line in info if line.startswith("flags")).split()
    return {"cpu": next(line.split(":", 1)[1].strip() for line in info if line.startswith("model name")), "cores": os.cpu_count(),
            "features": [f for f in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8") if f in flags],
            "system": platform.platform()}


def names_of(text):
    return [part.strip() for part in text.split(",") if part.strip()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quintet", type=Path, default=Path("target/release/examples/bench_driver"), help="built example bench_driver")
    parser.add_argument("--precisions", type=names_of, default=["exact"], help="of Quintet: exact,balanced,fast")
    parser.add_argument("--peers", type=names_of, default=DEFAULT_PEERS, help=f"of {', '.join(PEERS)}; `all`, or `none`")
    parser.add_argument("--workloads", help=f"separated by `;`: {'; '.join(workloads.NAMES)}; `short` is all up to 1024 tokens, "
                        "`mixed` the mixed lengths, `long` 1x2048 and 1x8192; default all but 1x8192")
    parser.add_argument("--threads", type=lambda text: [int(n) for n in names_of(text)], default=[2], help="1,2 runs both, one after the other")
    parser.add_argument("--core", type=int, default=os.cpu_count() - 1, help="the core that one thread is pinned to")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=15.0, help="fewer repetitions where one program would take longer than this "
                        "over all of a workload's; never none")
    parser.add_argument("--warm-all", action="store_true", help=f"a pass to warm up for workloads above {COLD_TOKENS} tokens, too")
    parser.add_argument("--together", type=int, default=len(PEERS), help="peers loaded at the same time beside Quintet; the others "
                        "get a round of their own with Quintet in it")
    parser.add_argument("--accuracy", action="store_true", help="vectors of four texts against transformers in f32; no timing")
    parser.add_argument("--outliers", action="store_true", help="make a checkpoint with planted outlier channels (own --work-dir and --peers-dir)")
    parser.add_argument("--prepare", action="store_true", help="only make the files that are missing")
    parser.add_argument("--work-dir", type=Path, default=os.environ.get("QUINTET_BENCH_DIR"), help="the checkpoint, 1.1 GB")
    parser.add_argument("--peers-dir", type=Path, default=os.environ.get("QUINTET_PEERS_DIR"), help="the peers' files, 13 GB; WORK_DIR/peers")
    parser.add_argument("--llama-driver", type=Path, default=os.environ.get("QUINTET_LLAMA_DRIVER"), help="built llama_driver")
    parser.add_argument("--out", type=Path, help="table; samples go to the .json beside it")
    parser.add_argument("--append", action="store_true", help="keep the samples that the .json has, and add to them")
    parser.add_argument("--table", action="store_true", help="only draw the table of the .json again")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="what the table is drawn from; cpu for one thread on a busy machine")
    args = parser.parse_args()
    store = args.out.with_suffix(".json") if args.out else None
    results = {"machine": machine(), "runs": [], "accuracy": {}}
    if store and store.exists() and (args.append or args.table):
        results = json.loads(store.read_text())
    if args.table:
        return finish(results, args, store)
    if not args.work_dir:
        parser.error("--work-dir is missing")
    args.work_dir = Path(args.work_dir)
    args.peers_dir = Path(args.peers_dir or args.work_dir / "peers")
    args.workloads = pick_workloads(args.workloads, parser)
    peers = {"all": PEERS, "none": []}.get(",".join(args.peers), args.peers)
    for name in peers:
        if name not in PEERS:
            parser.error(f"no peer `{name}`, expected {', '.join(PEERS)}")
    if any(name in peer_llama_cpp.SETTINGS for name in peers) and not args.llama_driver:
        parser.error("llama.cpp needs --llama-driver")
    names = [f"quintet-{precision}" for precision in args.precisions] + list(peers)
    args.peers_dir.mkdir(parents=True, exist_ok=True)
    prepare([*names, "transformers"] if args.accuracy else names, args)
    if args.prepare:
        return
    with (args.peers_dir / "processes.log").open("a") as log_file:
        if args.accuracy:
            results["accuracy"].setdefault("outliers" if args.outliers else "full shape", {}).update(run_accuracy(names, args, log_file))
            finish(results, args, store)
            return
        for threads in args.threads:
            for group in groups_of(names, args.together):
                results["runs"].append(run_group(group, args, threads, log_file))
                if store:
                    store.write_text(json.dumps(results))
    finish(results, args, store)


def pick_workloads(text, parser):
    if not text:
        return [name for name in workloads.NAMES if name != "1x8192"]
    sets = {"short": ["1x16", "1x128", "8x128", "1x512"], "mixed": ["32 mixed", "64 mixed, five tasks", "64 mixed, no adapter"],
            "long": ["1x2048", "1x8192"], "all": workloads.NAMES}
    picked = [name for part in text.split(";") for name in sets.get(part.strip(), [part.strip()])]
    for name in picked:
        if name not in workloads.NAMES:
            parser.error(f"no workload `{name}`, expected {'; '.join([*workloads.NAMES, *sets])}")
    return picked


def finish(results, args, store):
    text = report.draw(results, args.clock)
    print(text)
    if args.out:
        store.write_text(json.dumps(results))
        args.out.write_text(text)


if __name__ == "__main__":
    main()
