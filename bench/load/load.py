#!/usr/bin/env python3
"""`quintet serve` under load: rates until refusal, short queries beside bulk, SIGTERM in mid-load, a peer.

    python bench/load/load.py --quintet target/release/quintet --output bench/results/DATE-load.md

Needs requirements.txt. Arrivals are Poisson and wait for nobody (open loop); latency counts from the moment a request
was due, so a slow server cannot hide. Every vector of every answer is compared with that of `quintet embed`. Writes a
page and a plot beside it. `--seconds 4` gives a first look in two minutes and `--parts` less than all; a run that is ended writes
what it has. `--peer PYTHON` adds peer.py, run by that
Python, to the same load. soak.py is for hours, document.py for one long text, connections.py for many connections. The
client takes its part of the processor: give the server `--threads` fewer than there are cores.
"""
import argparse
import asyncio
import base64
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "testdata" / "clients"))
import mix  # noqa: E402
import numpy  # noqa: E402
import report  # noqa: E402
from client import Client  # noqa: E402
from process import cpu_s, memory_kib  # noqa: E402
from served import KEY, Served  # noqa: E402

SHARES_OF_CAPACITY = [0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.25, 2.0]
PARTS = ["saturation", "rising", "bulk", "sigterm"]
SATURATING = 64  # requests in flight
BULK = {"passages": 32, "document": 6}  # bulk requests in flight, beside queries
QUERIES_PER_S = 10
PEER_SHARE = 0.5  # of the capacity of the peer, for latencies
QUEUE_S = 5.0  # the queue holds this much work, so that a short run reaches refusal,
QUEUE_TOKENS = 40_000  # or five documents


def bench(args, requests):
    """Tokens a second of `quintet bench` on the same mix: wall, and per second of CPU."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"workloads": {"mix": [ids for request in requests for ids in request.token_ids]}}, file)
        file.flush()
        command = [args.quintet, "bench", "--model", args.model, "--threads", str(args.threads), "--json"]
        command += ["--precision", args.precision, "--task", "retrieval.passage", "--repeat", "1", "--workload", file.name]
        answer = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    measured = json.loads(answer.stdout)["workloads"][0]
    return {"wall": measured["tokens_per_s"], "cpu": measured["tokens"] / measured["cpu_s"]}


def serve(args, *arguments):
    options = ["--threads", str(args.threads), "--precision", args.precision]
    return Served(args.quintet, args.model, *options, *arguments)


async def saturate(args, requests):
    """Tokens a second over the same texts as `bench`, each once, with the queue never empty but at the end."""
    with serve(args) as server:
        async with Client(server.url, KEY) as client:
            await client.closed_loop(requests, SATURATING, 1)
            before, start = cpu_s(server.process.pid), time.monotonic()
            outcomes = await client.all_of(requests, SATURATING)
            wall, cpu = time.monotonic() - start, cpu_s(server.process.pid) - before
    tokens = sum(outcome.tokens for outcome in outcomes if outcome.status == 200)
    return {"wall": tokens / wall, "cpu": tokens / cpu, "outcomes": outcomes}


async def rising(args, requests, capacity, measured):
    """Each step on the same server: rate, tokens a second, outcomes."""
    mean = sum(request.tokens for request in requests) / len(requests)
    queue_tokens = measured["queue_tokens"] = max(QUEUE_TOKENS, int(capacity * QUEUE_S))
    with serve(args, "--max-queue-tokens", str(queue_tokens)) as server:
        for seed, share in enumerate(SHARES_OF_CAPACITY):
            rate = share * capacity / mean
            async with Client(server.url, KEY) as client:
                start = time.monotonic()
                outcomes = await client.open_loop(requests, rate, args.seconds, seed)
                wall = time.monotonic() - start
            done = sum(outcome.tokens for outcome in outcomes if outcome.status == 200)
            late = max((outcome.sent - outcome.due for outcome in outcomes), default=0.0)
            memory = memory_kib(server.process.pid)
            measured["steps"].append({"share": share, "rate": rate, "tokens_per_s": done / wall, "outcomes": outcomes,
                                      "late_s": late, "memory_kib": memory})
            print(f"  {share:4.2f} of capacity: {len(outcomes)} requests", file=sys.stderr)


async def beside_bulk(args, requests, answers):
    """Latencies of short queries alone and beside bulk work that never ends."""
    queries = [request for request in requests if request.kind == "query"]
    passages = [request for request in requests if request.kind == "passages"]
    documents = [request for request in requests if request.kind == "document"]
    cases = {
        "nothing": None,
        "passages": (passages, None),
        "passages, `X-Tier: batch`": (passages, "batch"),
        "documents": (documents, None),
        "documents, `X-Tier: batch`": (documents, "batch"),
    }
    for name, bulk in cases.items():
        with serve(args) as server:
            async with Client(server.url, KEY) as client:
                await client.open_loop(queries, QUERIES_PER_S, 1)
                load = bulk and asyncio.create_task(client.closed_loop(bulk[0], BULK[bulk[0][0].kind], args.seconds + 1, bulk[1]))
                await asyncio.sleep(1 if bulk else 0)
                beside = await client.open_loop(queries, QUERIES_PER_S, args.seconds)
                answers[name] = {"queries": beside, "bulk": await load if load else []}
        print(f"  beside {name}", file=sys.stderr)


async def terminated(args, requests, capacity):
    """SIGTERM while requests wait, run and arrive: which of those sent before it were answered."""
    mean = sum(request.tokens for request in requests) / len(requests)
    with serve(args) as server:
        async with Client(server.url, KEY) as client:
            load = asyncio.create_task(client.open_loop(requests, 1.2 * capacity / mean, args.seconds))
            await asyncio.sleep(args.seconds * 0.7)
            signalled = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            outcomes = await load
        code = server.process.wait(timeout=90)
    before = [outcome for outcome in outcomes if outcome.sent < signalled]
    waiting = [outcome for outcome in before if outcome.ended > signalled]
    return {"before": before, "waiting": waiting, "after": [o for o in outcomes if o.sent >= signalled], "code": code,
            "stopped_s": max((outcome.ended for outcome in waiting), default=signalled) - signalled}


class Peer:
    """peer.py on a free port; a context manager as `Served`."""

    def __init__(self, python, threads):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [python, str(Path(__file__).with_name("peer.py")), "--port", str(port), "--threads", str(threads)]
        self.process = subprocess.Popen(command)

    def __enter__(self):
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/health")
                return self
            except OSError:
                if self.process.poll() is not None:
                    raise RuntimeError("the peer ended") from None
                time.sleep(0.5)

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


def cosines(url, request):
    """Of the peer's vectors with ours."""
    headers = {"content-type": "application/json"}
    post = urllib.request.Request(f"{url}/v1/embeddings", request.body, headers)
    rows = json.load(urllib.request.urlopen(post))["data"]
    for row, expected in zip(rows, request.expected, strict=True):
        theirs, ours = (numpy.frombuffer(base64.b64decode(vector), "<f4") for vector in (row["embedding"], expected))
        yield float(theirs @ ours)


async def beside_peer(args, requests):
    """Saturation of both, taking turns, then latencies of both at the same rate, which the peer can bear."""
    answers, few = {"peer": [], "quintet": []}, requests[:len(requests) // 4]
    for _ in range(2):
        for name in answers:
            with Peer(args.peer, args.threads) if name == "peer" else serve(args) as server:
                async with Client(server.url, KEY) as client:
                    await client.closed_loop(few, 4, 1)
                    start = time.monotonic()
                    outcomes = await client.all_of(few, SATURATING)
                    tokens = sum(outcome.tokens for outcome in outcomes if outcome.status == 200)
                    answers[name].append(tokens / (time.monotonic() - start))
    mean = sum(request.tokens for request in few) / len(few)
    with Peer(args.peer, args.threads) as peer:
        worst = min(cosine for request in few[:40] for cosine in cosines(peer.url, request))
    rate, latencies = PEER_SHARE * max(answers["peer"]) / mean, {}
    for name in answers:
        with Peer(args.peer, args.threads) if name == "peer" else serve(args) as server:
            async with Client(server.url, KEY) as client:
                await client.closed_loop(few, 1, 1)
                latencies[name] = await client.open_loop(few, rate, args.seconds)
    return {"tokens_per_s": answers, "rate": rate, "latencies": latencies, "worst_cosine": worst}


async def measure(args, requests, measured):
    """Fills `measured` part by part, so that a run that ends before its time leaves what it has."""
    for number in range(args.rounds if "saturation" in args.parts else 0):
        print(f"saturation, round {number + 1}", file=sys.stderr)
        measured["rounds"].append({"bench": bench(args, requests), "server": await saturate(args, requests)})
    rates = sorted(r["bench"]["wall"] for r in measured["rounds"])
    capacity = measured["capacity"] = rates[len(rates) // 2] if rates else bench(args, requests)["wall"]
    print(f"capacity {capacity:.0f} tokens/s", file=sys.stderr)
    if "rising" in args.parts:
        await rising(args, requests, capacity, measured)
    if "bulk" in args.parts:
        await beside_bulk(args, requests, measured["beside_bulk"])
    if "sigterm" in args.parts:
        measured["terminated"] = await terminated(args, requests, capacity)
    if args.peer:
        measured["peer"] = await beside_peer(args, requests)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quintet", default="target/release/quintet", help="program under test")
    parser.add_argument("--model", default="mini", help="model that it serves")
    parser.add_argument("--threads", type=int, default=max(1, os.cpu_count() - 1), help="of the server and of bench")
    parser.add_argument("--precision", default="exact")
    parser.add_argument("--seconds", type=float, default=20, help="of each step")
    parser.add_argument("--rounds", type=int, default=3, help="of bench and saturation, taking turns")
    parser.add_argument("--parts", default=",".join(PARTS), help="what is measured, with commas [%(default)s]")
    parser.add_argument("--requests", type=int, default=400, help="different ones")
    parser.add_argument("--peer", metavar="PYTHON", help="Python with what peer.py needs")
    parser.add_argument("--corpus", type=Path, help="text file whose words are sent")
    parser.add_argument("--output", type=Path, required=True, help="page to write; the plot goes beside it")
    args = parser.parse_args()
    load_before = os.getloadavg()[0]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended before its time"))
    print("making requests", file=sys.stderr)
    requests = mix.make(args.quintet, args.model, args.requests, args.corpus)
    measured = {"rounds": [], "steps": [], "beside_bulk": {}}
    try:
        asyncio.run(measure(args, requests, measured))
    finally:
        wrong = report.write(args, requests, measured, load_before)
        print(args.output, file=sys.stderr)
    if wrong:
        sys.exit(f"{wrong} answers were lost or wrong")


if __name__ == "__main__":
    main()
