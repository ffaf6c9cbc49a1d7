#!/usr/bin/env python3
"""Real clients, unchanged, against a running server: each gets the vectors of `quintet embed`, bit for bit.

    python testdata/clients/check.py --quintet target/release/quintet

Needs the packages of requirements.txt, and node and npm for openai-node. Prints a line per client; exit 1 if one fails.
Nothing leaves this machine, but npm's download of openai-node.
"""
import argparse
import json
import os
import sys
import tempfile
import time
import traceback
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

# Before the clients are imported: no telemetry, and tiktoken's vocabularies from LiteLLM's package.
os.environ |= {
    "ANONYMIZED_TELEMETRY": "False",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "TIKTOKEN_CACHE_DIR": str(Path(find_spec("litellm").origin).parent / "litellm_core_utils" / "tokenizers"),
}
for variable in [name for name in os.environ if name.lower().endswith("_proxy")]:
    del os.environ[variable]

from served import Reference, Served  # noqa: E402

# Routes that must be there. One that is there and not in this list fails too: its clients are waiting.
ROUTES = "/v1/embeddings,/v1/batches,/v1/rerank,/rerank,/v2/embed,/,/embed,/similarity"


def clients():
    import jina_clients
    import openai_clients
    import other_clients

    return openai_clients.CLIENTS + jina_clients.CLIENTS + other_clients.CLIENTS, other_clients.Skipped


def version(name):
    package = name.partition(",")[0]
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        package_json = json.loads((Path(__file__).parent / "node" / "package.json").read_text())
        return package_json["dependencies"]["openai"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quintet", default="target/release/quintet", help="program under test")
    parser.add_argument("--model", default="mini", help="model that it serves")
    parser.add_argument("--routes", default=ROUTES, help="routes that must be there, with commas [%(default)s]")
    parser.add_argument("--only", help="only clients whose name contains this")
    args = parser.parse_args()
    checks, skipped = clients()
    if args.only:
        checks = [check for check in checks if args.only in check[0]]
    required, failed = args.routes.split(","), []
    with tempfile.TemporaryDirectory() as files, Served(args.quintet, args.model, "--files", files) as server:
        reference = Reference(args.quintet, args.model)
        print("| client | version | route | vectors, bit for bit | s |")
        print("| --- | --- | --- | --- | --- |")
        for name, route, check in checks:
            started, before = time.monotonic(), reference.compared
            try:
                if route not in required:
                    assert not server.has(route), f"`{route}` is there: add it to ROUTES"
                    result = "not yet"
                else:
                    check(server, reference)
                    result = str(reference.compared - before or "scores, to 1e-6")
            except skipped as reason:
                result = "skipped"
                print(f"skipped: {name}: {reason}", file=sys.stderr)
            except Exception:
                result = "FAILED"
                failed.append(name)
                traceback.print_exc()
            print(f"| {name} | {version(name)} | `{route}` | {result} | {time.monotonic() - started:.1f} |", flush=True)
    if failed:
        sys.exit(f"failed: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
