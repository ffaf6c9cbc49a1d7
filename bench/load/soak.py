#!/usr/bin/env python3
"""`quintet serve` for an hour: every route, clients that hang up, bursts beyond the queue, idle connections.

    python bench/load/soak.py --quintet target/release/quintet --seconds 3600 --output bench/results/DATE-soak.md

Needs requirements.txt. Each body is sent once to the quiet server and then again and again: every later answer must be
that one, to the byte but for ids. Samples the server's memory every 10 s; writes a page and a plot beside it.
"""
import argparse
import asyncio
import datetime
import json
import os
import random
import statistics
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "testdata" / "clients"))
import aiohttp  # noqa: E402
import mix  # noqa: E402
from process import memory_kib  # noqa: E402
from report import machine  # noqa: E402
from served import KEY, Served  # noqa: E402

SEED = 7
TASKS = ["retrieval.query", "retrieval.passage", "separation", "classification", "text-matching", "raw"]
QUEUE_TOKENS = 20_000
TEI_ROUTES = ("/embed", "/embed_all", "/similarity")  # a full server is 429 there, 503 elsewhere
IDLE_CONNECTIONS = 200
BURST_EVERY_S, BURST = 120, 48  # so many lists of passages at once: more than the queue holds
HANG_UPS = 0.1  # share of requests whose client goes away within half a second
SAMPLE_S = 10


def bodies(count):
    """Paths and bodies of every route that runs the model."""
    words, dice = mix.words(None), random.Random(SEED)

    def text(low=3, high=60):
        start, length = dice.randrange(len(words)), dice.randint(low, high)
        return " ".join(words[(start + i) % len(words)] for i in range(length))

    def texts(low, high):
        return [text() for _ in range(dice.randint(low, high))]

    made = []
    for number in range(count):
        task = TASKS[number % len(TASKS)]
        made += [
            ("/v1/embeddings", {"input": texts(1, 6), "task": task, "encoding_format": "base64"}),
            ("/v1/embeddings", {"input": [{"text": text(), "task": t} for t in TASKS], "dimensions": [32, 256],
                                "embedding_type": ["float", "int8"]}),
            ("/v1/embeddings", {"input": texts(2, 5), "task": "retrieval.passage", "late_chunking": True}),
            ("/embed", {"inputs": texts(1, 4), "prompt_name": task}),
            ("/similarity", {"inputs": {"source_sentence": text(), "sentences": texts(1, 4)}}),
            ("/v1/rerank", {"query": text(3, 10), "documents": texts(2, 6), "top_n": 3}),
            ("/v1/classify", {"input": texts(1, 3), "labels": ["weather", "money", "travel"]}),
            ("/v2/embed", {"model": "mini", "texts": texts(1, 4), "input_type": "search_document",
                           "embedding_types": ["float", "ubinary"]}),
        ]
    made += [("/v1/embeddings", {"input": text(400, 900), "task": "retrieval.passage", "truncate": True})
             for _ in range(max(1, count // 4))]
    return [(path, json.dumps(body, ensure_ascii=False).encode()) for path, body in made]


def stable(answer):
    """An answer without what differs from request to request."""
    parsed = json.loads(answer)
    if isinstance(parsed, dict):
        parsed.pop("id", None)
    return parsed


class Soak:
    def __init__(self, server):
        self.server, self.counts, self.samples = server, Counter(), []
        self.latencies, self.ids, self.wrong, self.dice = [], set(), [], random.Random(SEED)

    async def post(self, path, body):
        """Status and answer; counts what is neither an answer nor a refusal in order."""
        try:
            async with self.session.post(self.server.url + path, data=body) as answer:
                text, status = await answer.read(), answer.status
                request_id = answer.headers.get("x-request-id", "")
        except (aiohttp.ClientError, TimeoutError) as error:
            self.counts["lost"] += 1
            self.wrong.append(f"{path}: {error!r}")
            return 0, b""
        self.counts["doubled"] += request_id in self.ids
        self.ids.add(request_id)
        self.counts[status] += 1
        if status != 200 and status != (429 if path in TEI_ROUTES else 503):
            self.wrong.append(f"{path}: {status} {text[:200]!r}")
        return status, text

    async def compared(self, path, body, expected):
        start = time.monotonic()
        status, text = await self.post(path, body)
        if status != 200:
            return
        self.latencies.append(time.monotonic() - start)
        if stable(text) == expected:
            self.counts["right"] += 1
        else:
            self.counts["differs"] += 1
            self.wrong.append(f"{path}: another answer")

    async def hang_up(self, path, body):
        sending = asyncio.create_task(self.session.post(self.server.url + path, data=body))
        await asyncio.sleep(self.dice.random() * 0.5)
        if sending.done() and not sending.exception():
            sending.result().close()
        sending.cancel()
        self.counts["hung up"] += 1

    async def arrivals(self, requests, rate, end):
        running = set()
        while time.monotonic() < end:
            await asyncio.sleep(self.dice.expovariate(rate))
            path, body, expected = self.dice.choice(requests)
            gone = self.dice.random() < HANG_UPS
            sent = self.hang_up(path, body) if gone else self.compared(path, body, expected)
            running.add(task := asyncio.create_task(sent))
            task.add_done_callback(running.discard)
        await asyncio.gather(*running, return_exceptions=True)

    async def bursts(self, end):
        words = mix.words(None)
        body = json.dumps({"input": [" ".join(words[i * 60:(i + 1) * 60]) for i in range(8)]}).encode()
        while time.monotonic() + BURST_EVERY_S < end:
            await asyncio.sleep(BURST_EVERY_S)
            statuses = [status for status, _ in await asyncio.gather(*(self.post("/v1/embeddings", body) for _ in range(BURST)))]
            self.counts["burst refused"] += statuses.count(503)
            self.counts["bursts"] += 1

    async def memory(self, start, end):
        while time.monotonic() < end:
            self.samples.append((time.monotonic() - start, memory_kib(self.server.process.pid)))
            await asyncio.sleep(SAMPLE_S)

    async def run(self, requests, rate, seconds):
        headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
        timeout = aiohttp.ClientTimeout(total=300)
        connector = aiohttp.TCPConnector(limit=0)
        host, port = self.server.url.removeprefix("http://").split(":")
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as self.session:
            answered = [(path, body, await self.post(path, body)) for path, body in requests]
            refused = [(path, status, text[:200]) for path, _, (status, text) in answered if status != 200]
            if refused:
                sys.exit(f"refused on a quiet server: {refused[:3]}")
            requests = [(path, body, stable(text)) for path, body, (_, text) in answered]
            idle = [await asyncio.open_connection(host, port) for _ in range(IDLE_CONNECTIONS)]
            start = time.monotonic()
            end = start + seconds
            await asyncio.gather(self.arrivals(requests, rate, end), self.bursts(end), self.memory(start, end))
            for _, writer in idle:
                writer.close()
            await asyncio.sleep(1)
            async with self.session.get(f"{self.server.url}/metrics") as answer:
                self.metrics = await answer.text()

    def metric(self, name):
        lines = (line.rpartition(" ") for line in self.metrics.splitlines() if not line.startswith("#"))
        return sum(float(value) for key, _, value in lines if key.partition("{")[0] == name)


def page(args, soak, plot_file):
    memory = [kib / 1024 for _, kib in soak.samples]
    part = max(1, len(memory) // 6)
    parts = [f"{max(memory[i * part:(i + 1) * part]):.1f}" for i in range(6) if memory[i * part:(i + 1) * part]]
    latencies = sorted(soak.latencies)
    half = soak.samples[len(soak.samples) // 2:]
    times, sizes = [at / 3600 for at, _ in half], [kib / 1024 for _, kib in half]
    slope = statistics.linear_regression(times, sizes).slope if len(half) > 1 else float("nan")
    allocator = os.environ.get("MALLOC_ARENA_MAX", "as it is")

    def ms(share):
        return f"{latencies[min(len(latencies) - 1, int(share * len(latencies)))] * 1000:.0f} ms" if latencies else "-"

    counts = soak.counts
    return f"""# `quintet serve`, {args.seconds / 60:.0f} minutes of soak

{datetime.date.today()}, {machine()}, model {args.model}, {args.threads} thread(s), {args.precision}; `python bench/load/soak.py --seconds {args.seconds:g} --rate {args.rate:g} --threads {args.threads}`, on a machine that other work kept busy.

Every route that runs the model, all tasks, {args.rate:g} requests a second; {HANG_UPS:.0%} of the clients hang up within half a second; every {BURST_EVERY_S} s {BURST} requests at once, more than the queue of {QUEUE_TOKENS:,} tokens holds; {IDLE_CONNECTIONS} connections that say nothing.

| | |
| --- | --- |
| answered, equal to the quiet server's answer to the byte | {counts["right"]:,} |
| answered otherwise | {counts["differs"]} |
| no answer (lost) | {counts["lost"]} |
| request ids seen twice | {counts["doubled"]} |
| statuses | {", ".join(f"{status}: {counts[status]:,}" for status in sorted(k for k in counts if isinstance(k, int)))} |
| bursts, of which refused with 503 | {counts["bursts"]}, {counts["burst refused"]:,} requests |
| clients that hung up | {counts["hung up"]:,} |
| answers that the server counted | {soak.metric("quintet_requests_total"):,.0f} |
| batches, of which between two steps of another | {soak.metric("quintet_batch_tokens_count"):,.0f}, {soak.metric("quintet_interruptions_total"):,.0f} |
| tokens left in the queue, bytes of bodies left | {soak.metric("quintet_queued_tokens"):.0f}, {soak.metric("quintet_body_bytes"):.0f} |
| latency of answers p50, p99, most | {ms(0.5)}, {ms(0.99)}, {ms(1)} |
| memory beside mapped files, most in each sixth of the time, MB | {", ".join(parts)} |
| the same, least squares over the second half, MB an hour | {slope:+.1f}, about a mean of {statistics.mean(sizes):.1f} |
| `MALLOC_ARENA_MAX` | {allocator} |

![memory by time]({plot_file.name})
"""


def plot(soak, file):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(8, 3))
    axis.plot([at / 60 for at, _ in soak.samples], [kib / 1024 for _, kib in soak.samples])
    axis.set(xlabel="minutes", ylabel="memory beside mapped files, MB", ylim=(0, None))
    axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quintet", default="target/release/quintet", help="program under test")
    parser.add_argument("--model", default="mini", help="model that it serves")
    parser.add_argument("--threads", type=int, default=max(1, os.cpu_count() - 1), help="of the server")
    parser.add_argument("--precision", default="exact")
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--rate", type=float, default=2, help="requests a second beside the bursts")
    parser.add_argument("--output", type=Path, required=True, help="page to write; the plot goes beside it")
    args = parser.parse_args()
    options = ["--threads", str(args.threads), "--precision", args.precision, "--max-queue-tokens", str(QUEUE_TOKENS)]
    with Served(args.quintet, args.model, *options) as server:
        soak = Soak(server)
        asyncio.run(soak.run(bodies(12), args.rate, args.seconds))
    plot_file = args.output.with_suffix(".png")
    args.output.write_text(page(args, soak, plot_file))
    plot(soak, plot_file)
    print(args.output, file=sys.stderr)
    if soak.wrong or soak.counts["doubled"]:
        sys.exit("\n".join([f"{len(soak.wrong)} answers were lost or wrong", *sorted(set(soak.wrong))[:20]]))


if __name__ == "__main__":
    main()
