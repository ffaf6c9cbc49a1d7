#!/usr/bin/env python3
"""What a document of 8192 tokens adds to a query of 16 tokens, on the true shape.

    python bench/load/document.py --quintet target/release/quintet --model CHECKPOINT --output bench/results/DATE-document.md

CHECKPOINT is of bench/full_shape/checkpoint.py or the released one; ids are sent, not texts. Queries follow each other with
short pauses: on the quiet server, then beside documents; vectors are compared. Needs requirements.txt.
"""
import argparse
import asyncio
import datetime
import json
import os
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "testdata" / "clients"))
import aiohttp  # noqa: E402
from report import machine, percentile  # noqa: E402
from served import KEY, Served  # noqa: E402

PAUSE_S = (0.5, 1.5)  # between two queries


def token_ids(tokens):
    """`<s>`, whatever, `</s>`."""
    dice = random.Random(tokens)
    return [0, *(dice.randrange(1000, 30_000) for _ in range(tokens - 2)), 2]


async def post(session, url, ids):
    """Seconds, vector and tokens."""
    start = time.monotonic()
    body = {"input": [ids], "token_encoding": "model", "encoding_format": "base64"}
    async with session.post(f"{url}/v1/embeddings", json=body) as answer:
        parsed = await answer.json()
        assert answer.status == 200, parsed
    return time.monotonic() - start, parsed["data"][0]["embedding"], parsed["usage"]["total_tokens"]


async def queries(session, url, ids, until):
    """Seconds of queries that follow each other until `until` says so."""
    dice, seconds, vectors = random.Random(1), [], set()
    while not until(seconds):
        took, vector, _ = await post(session, url, ids)
        seconds.append(took)
        vectors.add(vector)
        await asyncio.sleep(dice.uniform(*PAUSE_S))
    assert len(vectors) == 1, "a query has two vectors"
    return seconds, vectors


async def measure(args, precision, document, query):
    options = ["--threads", str(args.threads), "--precision", precision]
    with Served(args.quintet, args.model, *options) as server:
        headers = {"authorization": f"Bearer {KEY}"}
        timeout = aiohttp.ClientTimeout(total=900)
        async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
            quiet, quiet_vectors = await queries(session, server.url, query, lambda done: len(done) == args.queries)
            alone, vector, tokens = await post(session, server.url, document)
            running = asyncio.create_task(post(session, server.url, document))
            await asyncio.sleep(0.5)
            beside, vectors = await queries(session, server.url, query, lambda _: running.done())
            together, other, _ = await running
            assert (vector, quiet_vectors) == (other, vectors), "load has changed a vector"
    return {"precision": precision, "tokens": tokens, "quiet": quiet, "beside": beside, "alone": alone, "together": together}


def page(args, results):
    lines = [f"""# A query beside a document of 8192 tokens

{datetime.date.today()}, {machine()}, {args.threads} thread(s) for the model; `python bench/load/document.py --threads {args.threads} --precision {" ".join(args.precision)}` on random weights of the true shape (24 x 1024). One query of 16 tokens at a time with pauses of {PAUSE_S[0]} to {PAUSE_S[1]} s. Every vector is that of the quiet server, to the bit.

| precision | queries | p50 | p99 | most | document, tokens | alone, s | beside queries, s |
| --- | --- | --- | --- | --- | --- | --- | --- |"""]
    for result in results:
        for name in ("quiet", "beside"):
            ms = [percentile(result[name], share) * 1000 for share in (0.5, 0.99, 1)]
            document = (f"{result['tokens']} | {result['alone']:.1f} | {result['together']:.1f}"
                        if name == "beside" else "- | - | -")
            lines.append(f"| {result['precision']}, {name} | {len(result[name])} | {ms[0]:.0f} ms | {ms[1]:.0f} ms | {ms[2]:.0f} ms | {document} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quintet", default="target/release/quintet", help="program under test")
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--precision", nargs="+", default=["exact"])
    parser.add_argument("--queries", type=int, default=20, help="on the quiet server")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    document, query = token_ids(8192), token_ids(16)
    results = [asyncio.run(measure(args, precision, document, query)) for precision in args.precision]
    print(json.dumps(results))
    args.output.write_text(page(args, results))


if __name__ == "__main__":
    main()
