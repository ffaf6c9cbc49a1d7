#!/usr/bin/env python3
"""Many connections that do harm elsewhere: idle ones, clients that write or read slowly, clients that are gone.

    python bench/load/connections.py --quintet target/release/quintet --idle 10000 --output bench/results/DATE-connections.md

Queries go on meanwhile; their latency and the server's memory are written down. Needs requirements.txt.
"""
import argparse
import asyncio
import datetime
import json
import resource
import socket
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "testdata" / "clients"))
import aiohttp  # noqa: E402
from process import memory_kib  # noqa: E402
from report import machine, percentile  # noqa: E402
from served import KEY, Served  # noqa: E402

SLOW = 100  # connections of each slow kind
QUERIES = 200
BODY = json.dumps({"input": "Where do storks spend the winter?", "task": "retrieval.query"}).encode()
LARGE = json.dumps({"input": [f"stork {i}" for i in range(1000)]}).encode()  # an answer of 5 MB
GIVEN_UP_S = 40  # the server's own limits for bodies and for answers that nobody reads are 30 s


def head(length):
    return (f"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
            f"content-type: application/json\r\ncontent-length: {length}\r\n\r\n").encode()


async def queries(url):
    """Latencies in ms, one query after the other."""
    latencies = []
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {KEY}"}) as session:
        for _ in range(QUERIES):
            start = time.monotonic()
            async with session.post(f"{url}/v1/embeddings", data=BODY) as answer:
                assert answer.status == 200, await answer.text()
                await answer.read()
            latencies.append((time.monotonic() - start) * 1000)
    return latencies


async def connect(host, port, count, first=b"", receive_buffer=None):
    """Connections that have sent `first` and then nothing."""
    async def one():
        sock = socket.socket()
        sock.setblocking(False)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, (host, port))
        if first:
            await loop.sock_sendall(sock, first)
        return sock

    sockets = []
    for start in range(0, count, 500):
        sockets += await asyncio.gather(*(one() for _ in range(min(500, count - start))))
    return sockets


async def trickle(sockets, end):
    """A byte of the body every second."""
    loop = asyncio.get_running_loop()
    while time.monotonic() < end:
        for sock in sockets:
            try:
                await loop.sock_sendall(sock, b" ")
            except OSError:
                pass  # the server has had enough
        await asyncio.sleep(1)


async def open_connections(url):
    async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("quintet_connections "))


async def measure(args, server):
    host, port = server.url.removeprefix("http://").split(":")
    pid, rows = server.process.pid, []

    async def row(name, sockets):
        start_kib = memory_kib(pid)
        latencies = await queries(server.url)
        rows.append((name, len(sockets), memory_kib(pid) / 1024, percentile(latencies, 0.5), percentile(latencies, 0.99)))
        print(rows[-1], start_kib, file=sys.stderr)

    await queries(server.url)
    await row("none", [])
    idle = await connect(host, port, args.idle)
    await row("idle", idle)
    for sock in idle:
        sock.close()
    writers = await connect(host, port, SLOW, head(100_000) + b"{")
    trickling = asyncio.create_task(trickle(writers, time.monotonic() + GIVEN_UP_S))
    await row("a byte of a body every second", writers)
    readers = await connect(host, port, SLOW, head(len(LARGE)) + LARGE, receive_buffer=4096)
    await asyncio.sleep(5)
    await row("take no byte of an answer of 5 MB", readers)
    await trickling
    await asyncio.sleep(max(0, GIVEN_UP_S - 5))
    left = await open_connections(server.url)
    for sock in writers + readers:
        sock.close()
    return rows, left


def page(args, rows, left):
    lines = [f"""# Many connections

{datetime.date.today()}, {machine()}, mini, {args.threads} thread(s); `python bench/load/connections.py --idle {args.idle}`. {QUERIES} queries one after the other beside each kind of connection.

| connections that | number | memory, MB | query p50, ms | p99, ms |
| --- | --- | --- | --- | --- |"""]
    lines += [f"| {name} | {count} | {memory:.0f} | {p50:.1f} | {p99:.1f} |" for name, count, memory, p50, p99 in rows]
    lines.append(f"\n{GIVEN_UP_S} s later the server had closed the slow ones: {left} connections were open, this question's among them.\n")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quintet", default="target/release/quintet", help="program under test")
    parser.add_argument("--idle", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with Served(args.quintet, "mini", "--threads", str(args.threads)) as server:
        rows, left = asyncio.run(measure(args, server))
    args.output.write_text(page(args, rows, left))


if __name__ == "__main__":
    main()
