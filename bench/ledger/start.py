#!/usr/bin/env python3
"""How long a server takes from its start until it is ready, with a large ledger and with none, taking turns.

    cargo bench -p quintet-server --bench ledger -- large.db --entries 1000000 --seconds 1
    python bench/ledger/start.py --quintet target/release/quintet --state large.db [--rounds 5]

Prints the milliseconds until it listens and until it is ready. Needs nothing but Python.
"""
import argparse
import json
import statistics
import subprocess
import tempfile
import time


def start(quintet, state):
    """Milliseconds until a server with this state listens, and until it is ready."""
    command = [quintet, "serve", "--listen", "127.0.0.1:0", "--log-format", "json", "--threads", "1", "--model", "mini"]
    started, reached = time.monotonic(), {}
    process = subprocess.Popen([*command, "--state", state], stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stderr:
            reached[json.loads(line).get("message")] = (time.monotonic() - started) * 1e3
            if "ready" in reached:
                return reached["listening"], reached["ready"]
        raise SystemExit(f"the server ended with {process.wait()}")
    finally:
        process.kill()
        process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quintet", default="target/release/quintet")
    parser.add_argument("--state", required=True, help="the large one")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    times = {"large": [], "new": []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.rounds):
            for name, state in (("large", args.state), ("new", f"{folder}/{number}.db")):
                times[name].append(start(args.quintet, state))
    for name, turns in times.items():
        for what, values in zip(("listening", "ready"), zip(*turns)):
            print(f"{name}: {what} after {statistics.median(values):.0f} ms in the median, {min(values):.0f} to {max(values):.0f}")


if __name__ == "__main__":
    main()
