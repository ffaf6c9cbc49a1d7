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
            result = {"precision": precision, "tokens": len(document), "quiet": quiet, "alone": None, "together": None}
            if args.seconds is None:
                result["alone"], vector, _ = await post(session, server.url, document)
            running = asyncio.create_task(post(session, server.url, document))
            await asyncio.sleep(0.5)
            end = time.monotonic() + (args.seconds or 900)
            result["beside"], vectors = await queries(session, server.url, query, lambda _: running.done() or time.monotonic() > end)
            assert quiet_vectors == vectors, "the document has changed a query's vector"
            if args.seconds is None:
                result["together"], other, _ = await running
                assert vector == other, "queries have changed the document's vector"
            else:
                running.cancel()
    return result


def page(args, results):
    lines = [f"""# A query beside a document of 8192 tokens

{datetime.date.today()}, {machine()}, {args.threads} thread(s) for the model; `python bench/load/document.py --threads {args.threads} --precision {" ".join(args.precision)}` on random weights of the true shape (24 x 1024). One query of 16 tokens at a time with pauses of {PAUSE_S[0]} to {PAUSE_S[1]} s. Every vector is that of the quiet server, to the bit.

| precision | queries | p50 | p90 | p99 | most | document, tokens | alone, s | beside queries, s |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |"""]
    for result in results:
        for name in ("quiet", "beside"):
            ms = [percentile(result[name], share) * 1000 for share in (0.5, 0.9, 0.99, 1)]
            whole = (f"{result['tokens']} | {result['alone']:.1f} | {result['together']:.1f}" if result["alone"] and name == "beside"
                     else "- | - | -")
            lines.append(f"| {result['precision']}, {name} | {len(result[name])} | {' | '.join(f'{value:.0f} ms' for value in ms)} | {whole} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quintet", default="target/release/quintet", help="program under test")
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--precision", nargs="+", default=["exact"])
    parser.add_argument("--queries", type=int, default=20, help="on the quiet server")
    parser.add_argument("--seconds", type=float, help="queries beside the document, which is then given up [the whole document]")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    document, query = token_ids(8192), token_ids(16)
    results = [asyncio.run(measure(args, precision, document, query)) for precision in args.precision]
    print(json.dumps(results))
    args.output.write_text(page(args, results))


if __name__ == "__main__":
    main()
