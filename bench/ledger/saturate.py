#!/usr/bin/env python3
"""What accounts cost a saturated server: `quintet serve` with `--state` and without, taking turns.

    python bench/ledger/saturate.py --quintet target/release/quintet [--rounds 5] [--seconds 10] [--tokens 20,200]

Clients keep so many requests in flight, each with a text of its own, so that none is a free retry. Prints tokens per second
of both, and which share of the process's CPU time the threads of the store took. Needs nothing but Python.
"""
import argparse
import http.client
import json
import os
import random
import statistics
import subprocess
import tempfile
import threading
import time
from pathlib import Path

WORDS = "stork winter river train bank music water night garden letter island window summer paper bridge".split()


class Served:
    def __init__(self, args, state):
        command = [args.quintet, "serve", "--listen", "127.0.0.1:0", "--log-format", "json", "--threads", str(args.threads)]
        command += ["--model", args.model] if args.model else []
        self.key = "none"
        if state:
            run = lambda *words: subprocess.run([args.quintet, *words, "--state", state], check=True, capture_output=True, text=True).stdout
            account = json.loads(run("accounts", "create", "bench", "--postpaid", "--json"))["id"]
            self.key = run("keys", "create", "--account", account, "bench").strip()
            command += ["--state", state, "--price", "0.02"]
            for limit in ["--requests-per-minute", "--tokens-per-minute", "--concurrent-requests"]:
                command += [limit, "1000000000"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.address = None
        for line in self.process.stderr:
            event = json.loads(line)
            if event.get("message") == "listening":
                self.address = event["address"]
            if event.get("message") == "ready":
                break
        threading.Thread(target=lambda: [None for _ in self.process.stderr], daemon=True).start()

    def cpu_s(self):
        """Of the process, and of the store's threads."""
        whole = store = 0
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            name, _, rest = (task / "stat").read_text().rpartition(")")
            fields = rest.split()
            seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            whole += seconds
            store += seconds if "(store-" in name else 0
        return whole, store

    def stop(self):
        self.process.terminate()
        self.process.wait()


def saturate(served, args, tokens):
    """Tokens per second, requests per second, share of the store's threads."""
    end = time.monotonic() + args.seconds
    done = []

    def client(seed):
        chance = random.Random(seed)
        connection = http.client.HTTPConnection(served.address)
        headers = {"authorization": f"Bearer {served.key}", "content-type": "application/json"}
        while time.monotonic() < end:
            text = " ".join(chance.choices(WORDS, k=tokens)) + f" {chance.random()}"
            body = json.dumps({"input": text, "dimensions": 32, "encoding_format": "base64"})
            connection.request("POST", "/v1/embeddings", body, headers)
            answer = connection.getresponse()
            value = json.loads(answer.read())
            assert answer.status == 200, value
            done.append(value["usage"]["total_tokens"])

    before = served.cpu_s()
    started = time.monotonic()
    clients = [threading.Thread(target=client, args=[random.random()]) for _ in range(args.clients)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    elapsed = time.monotonic() - started
    whole, store = (after - start for after, start in zip(served.cpu_s(), before))
    return sum(done) / elapsed, len(done) / elapsed, store / whole


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quintet", default="target/release/quintet")
    parser.add_argument("--model", help="model that is served [the built-in mini]")
    parser.add_argument("--threads", type=int, default=1, help="of the model [%(default)s]")
    parser.add_argument("--clients", type=int, default=16, help="requests in flight [%(default)s]")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    parser.add_argument("--tokens", default="20,200", help="words of a text, with commas")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        plain, hosted = Served(args, None), Served(args, f"{folder}/state.db")
        try:
            for words in map(int, args.tokens.split(",")):
                ratios, shares = [], []
                for number in range(args.rounds):
                    turn = [(plain, "plain"), (hosted, "hosted")]
                    rates = {name: saturate(served, args, words) for served, name in (turn if number % 2 else turn[::-1])}
                    ratios.append(rates["hosted"][0] / rates["plain"][0])
                    shares.append(rates["hosted"][2])
                    print(f"{words} words: plain {rates['plain'][0]:.0f} tokens/s, hosted {rates['hosted'][0]:.0f} tokens/s "
                          f"({rates['hosted'][1]:.0f} requests/s), store {100 * shares[-1]:.2f} % of the CPU time", flush=True)
                print(f"{words} words: hosted / plain {statistics.median(ratios):.3f} (median), store {100 * statistics.median(shares):.2f} %")
        finally:
            plain.stop()
            hosted.stop()


if __name__ == "__main__":
    main()
