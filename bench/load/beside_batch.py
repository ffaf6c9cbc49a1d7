#!/usr/bin/env python3
"""What a batch that runs takes from live queries: latencies beside it and on the quiet server.

    python bench/load/beside_batch.py --quintet target/release/quintet --output bench/results/DATE-batch.md

One account's batch has more lines than can be met, short texts or lists of passages; another account sends a query at a time,
with short pauses. Every vector is compared with that of `quintet embed`. Needs requirements.txt.
"""
import argparse
import asyncio
import datetime
import itertools
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import aiohttp

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "testdata" / "clients"))
import mix  # noqa: E402
from client import Client  # noqa: E402
from report import machine, percentile  # noqa: E402
from served import Served  # noqa: E402
from tenants import PAUSE_S, Tenants, queries  # noqa: E402

INPUTS = 50_000  # a batch has no more
MET = 100  # lines before the queries begin


class Batch:
    """A batch of these requests, over and over."""

    def __init__(self, session, url, requests):
        self.session, self.url, self.requests = session, url, requests

    async def _json(self, method, path, **body):
        async with self.session.request(method, f"{self.url}/v1/{path}", **body) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def start(self):
        line = lambda number, request: json.dumps({"custom_id": str(number), "method": "POST", "url": "/v1/embeddings",
                                                   "body": json.loads(request.body)})
        lines, inputs = [], 0
        for number, request in enumerate(itertools.cycle(self.requests)):
            inputs += len(request.texts)
            if inputs > INPUTS:
                break
            lines.append(line(number, request))
        form = aiohttp.FormData({"purpose": "batch"})
        form.add_field("file", "\n".join(lines), filename="lines.jsonl")
        file = await self._json("POST", "files", data=form)
        asked = {"input_file_id": file["id"], "endpoint": "/v1/embeddings", "completion_window": "24h"}
        self.id = (await self._json("POST", "batches", json=asked))["id"]
        while (await self.state())[0] < MET:
            await asyncio.sleep(0.05)

    async def state(self):
        """Lines that were met, tokens, and when."""
        batch = await self._json("GET", f"batches/{self.id}")
        assert batch["status"] in ("validating", "in_progress"), batch
        return batch["request_counts"]["completed"], batch["usage"]["total_tokens"], time.monotonic()

    async def cancel(self):
        await self._json("POST", f"batches/{self.id}/cancel")


async def beside(server, tenants, light, lines, seconds):
    """Outcomes of the queries, and lines and tokens a second of the batch."""
    headers = {"authorization": f"Bearer {tenants.flood}"}
    async with Client(server.url, tenants.light) as one, aiohttp.ClientSession(headers=headers) as session:
        if not lines:
            return await queries(one, light, seconds), 0, 0
        batch = Batch(session, server.url, lines)
        await batch.start()
        before = await batch.state()
        answered = await queries(one, light, seconds)
        after = await batch.state()
        await batch.cancel()
        met, tokens, elapsed = (end - start for start, end in zip(before, after))
        return answered, met / elapsed, tokens / elapsed


def page(args, rows):
    table, wrong, quiet = [], 0, None
    for name, answered, lines, tokens in rows:
        latencies = sorted(outcome.latency_s * 1e3 for outcome in answered)
        p50, p99 = percentile(latencies, 0.5), percentile(latencies, 0.99)
        quiet = quiet or (p50, p99)
        wrong += sum(outcome.status != 200 or not outcome.right for outcome in answered)
        table.append(f"| {name} | {len(answered)} | {p50:.1f} | {p99:.1f} | {latencies[-1]:.1f} | {p50 / quiet[0]:.1f} | {p99 / quiet[1]:.1f} | {lines:,.0f} | {tokens:,.0f} |")
    return f"""# Live queries beside a batch

{datetime.date.today()}, {machine()}, load {os.getloadavg()[0]:.1f} before; model {args.model}, {args.threads} thread(s), {args.precision}, accounts in SQLite; `python bench/load/beside_batch.py --threads {args.threads} --seconds {args.seconds:g}`. A query at a time, {PAUSE_S[0] * 1e3:.0f} to {PAUSE_S[1] * 1e3:.0f} ms between two.

| beside | queries | p50 ms | p99 ms | most ms | p50 over quiet | p99 over quiet | lines of the batch/s | its tokens/s |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
{chr(10).join(table)}

Queries lost or answered otherwise than by `quintet embed`: {wrong}.
""", wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quintet", default="target/release/quintet", help="program under test")
    parser.add_argument("--model", default="mini", help="model that it serves")
    parser.add_argument("--threads", type=int, default=max(1, os.cpu_count() - 1), help="of the server")
    parser.add_argument("--precision", default="exact")
    parser.add_argument("--seconds", type=float, default=20, help="of each case")
    parser.add_argument("--output", type=Path, required=True, help="page to write")
    args = parser.parse_args()
    requests = mix.make(args.quintet, args.model, 200, None)
    of = lambda kind: [request for request in requests if request.kind == kind]
    rows = []
    for name, lines in (("nobody", None), ("a batch of queries", of("query")), ("a batch of passages", of("passages"))):
        # A state of its own, so that nothing is left of the batch before.
        with tempfile.TemporaryDirectory() as folder:
            tenants = Tenants(args.quintet, f"{folder}/state.db")
            options = ["--threads", str(args.threads), "--precision", args.precision, *tenants.options()]
            with Served(args.quintet, args.model, *options) as server:
                rows.append((name, *asyncio.run(beside(server, tenants, of("query"), lines, args.seconds))))
    text, wrong = page(args, rows)
    args.output.write_text(text)
    print(args.output, file=sys.stderr)
    if wrong:
        sys.exit(f"{wrong} answers were lost or wrong")


if __name__ == "__main__":
    main()
