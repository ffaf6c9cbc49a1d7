#!/usr/bin/env python3
"""What a request costs that is refused: 2048 texts of 8192 tokens each, as one body, again and again.

    python bench/load/refused.py --quintet target/release/quintet --output bench/results/DATE-refused.md

Once with the server's own limit of bodies, once with one that lets the body in, so that tokens decide. Memory is sampled
while it goes on. Needs requirements.txt.
"""
import argparse
import asyncio
import datetime
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "testdata" / "clients"))
import aiohttp  # noqa: E402
from process import cpu_s, memory_kib  # noqa: E402
from report import machine  # noqa: E402
from served import KEY, Served  # noqa: E402

TEXTS, TOKENS = 2048, 8192
SAMPLE_S = 0.01


async def most_memory(pid, until):
    most = 0
    while not until():
        most = max(most, memory_kib(pid))
        await asyncio.sleep(SAMPLE_S)
    return most


async def refused(server, body, times):
    """Status, seconds of each, the server's CPU seconds of all, and MB: before, most, after."""
    pid, seconds, headers = server.process.pid, [], {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    async with aiohttp.ClientSession(headers=headers) as session:
        async with session.post(f"{server.url}/v1/embeddings", data=b'{"input": "a stork"}') as answer:
            assert answer.status == 200
        before, cpu, over = memory_kib(pid), cpu_s(pid), False
        sampling = asyncio.create_task(most_memory(pid, lambda: over))
        for _ in range(times):
            start = time.monotonic()
            async with session.post(f"{server.url}/v1/embeddings", data=body) as answer:
                words = json.loads(await answer.read())["error"]["message"]
            seconds.append(time.monotonic() - start)
        over, cpu = True, cpu_s(pid) - cpu
        most = await sampling
        await asyncio.sleep(1)
    return answer.status, words, seconds, cpu, [kib / 1024 for kib in (before, most, memory_kib(pid))]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quintet", default="target/release/quintet", help="program under test")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    text = " ".join(["stork"] * TOKENS)
    body = json.dumps({"input": [text] * TEXTS, "truncate": True}).encode()
    lines = [f"""# A request of {TEXTS} texts of {TOKENS} tokens

{datetime.date.today()}, {machine()}, mini, 1 thread; `python bench/load/refused.py --times {args.times}`. The body has {len(body) / 1e6:.0f} MB.

| limit of bodies | answer | s, median | most | CPU s each | memory before, most, a second after, MB |
| --- | --- | --- | --- | --- | --- |"""]
    for name, options in (("the server's own", []), ("256 MB", ["--max-body-bytes", "268435456", "--max-bodies-bytes", "536870912"])):
        with Served(args.quintet, "mini", "--threads", "1", *options) as server:
            status, words, seconds, cpu, memory = asyncio.run(refused(server, body, args.times))
        seconds.sort()
        lines.append(f"| {name} | {status}: {words} | {seconds[len(seconds) // 2]:.2f} | {seconds[-1]:.2f} | {cpu / args.times:.2f} "
                     f"| {', '.join(f'{value:.0f}' for value in memory)} |")
    args.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
