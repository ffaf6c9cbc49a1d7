#!/usr/bin/env python3
"""What a tenant at full blast takes from another's queries: latencies with it over latencies on the quiet server.

    python bench/load/tenants.py --quintet target/release/quintet --output bench/results/DATE-tenants.md

One account keeps so many requests in flight, each a text as long as the query's or passages; the other sends a query at a
time, with short pauses. Every vector is compared with that of `quintet embed`. Needs requirements.txt.
"""
import argparse
import asyncio
import datetime
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "testdata" / "clients"))
import mix  # noqa: E402
from client import Client  # noqa: E402
from report import machine, percentile  # noqa: E402
from served import Served  # noqa: E402

IN_FLIGHT = 256
PAUSE_S = (0.01, 0.05)  # between two queries
NO_LIMIT = "1000000000"


class Tenants:
    """Two accounts in a state of their own."""

    def __init__(self, quintet, state):
        self.quintet, self.state = quintet, state
        self.light, self.flood = self._key("light"), self._key("flood")

    def _key(self, name):
        account = json.loads(self._run("accounts", "create", name, "--postpaid", "--json"))["id"]
        return self._run("keys", "create", "--account", account, name).strip()

    def _run(self, *words):
        command = [self.quintet, *words, "--state", self.state]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def options(self):
        limits = ("--requests-per-minute", "--tokens-per-minute", "--concurrent-requests")
        return ["--state", self.state, "--price", "0.02", *(word for limit in limits for word in (limit, NO_LIMIT))]


async def queries(client, requests, seconds):
    dice, outcomes, end = random.Random(5), [], time.monotonic() + seconds
    while time.monotonic() < end:
        await asyncio.sleep(dice.uniform(*PAUSE_S))
        outcomes.append(await client.send(dice.choice(requests)))
    return outcomes


async def beside(server, tenants, light, flood, seconds):
    """Outcomes of the light tenant, and of the other."""
    async with Client(server.url, tenants.light) as one, Client(server.url, tenants.flood) as other:
        load = flood and asyncio.create_task(other.closed_loop(flood, IN_FLIGHT, seconds + 1))
        await asyncio.sleep(1 if flood else 0)
        answered = await queries(one, light, seconds)
        return answered, await load if load else []


def page(args, rows):
    lines, wrong, quiet = [], 0, None
    for name, answered, load in rows:
        latencies = sorted(outcome.latency_s * 1e3 for outcome in answered)
        p50, p99 = percentile(latencies, 0.5), percentile(latencies, 0.99)
        quiet = quiet or (p50, p99)
        wrong += sum(outcome.status not in (200, 503) or outcome.status == 200 and not outcome.right for outcome in answered + load)
        refused = sum(outcome.status == 503 for outcome in answered + load)
        lines.append(f"| {name} | {len(answered)} | {p50:.1f} | {p99:.1f} | {latencies[-1]:.1f} | {p50 / quiet[0]:.1f} | {p99 / quiet[1]:.1f} | {len(load):,} | {refused} |")
    return f"""# A tenant's queries beside another tenant at full blast

{datetime.date.today()}, {machine()}, load {os.getloadavg()[0]:.1f} before; model {args.model}, {args.threads} thread(s), {args.precision}, accounts in SQLite; `python bench/load/tenants.py --threads {args.threads} --seconds {args.seconds:g}`. The other keeps {IN_FLIGHT} requests in flight.

| beside | queries | p50 ms | p99 ms | most ms | p50 over quiet | p99 over quiet | the other's requests | refused |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
{chr(10).join(lines)}

Answers lost or otherwise than `quintet embed`'s: {wrong}.
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
    with tempfile.TemporaryDirectory() as folder:
        tenants = Tenants(args.quintet, f"{folder}/state.db")
        options = ["--threads", str(args.threads), "--precision", args.precision, *tenants.options()]
        with Served(args.quintet, args.model, *options) as server:
            rows = []
            for name, flood in (("nobody", None), ("queries", of("query")), ("passages", of("passages"))):
                rows.append((name, *asyncio.run(beside(server, tenants, of("query"), flood, args.seconds))))
    text, wrong = page(args, rows)
    args.output.write_text(text)
    print(args.output, file=sys.stderr)
    if wrong:
        sys.exit(f"{wrong} answers were lost or wrong")


if __name__ == "__main__":
    main()
