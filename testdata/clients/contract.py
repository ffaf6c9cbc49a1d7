#!/usr/bin/env python3
"""schemathesis over a running server's /openapi.json: nothing is answered with 5xx, every answer is as documented.

    python testdata/clients/contract.py --quintet target/release/quintet [-- more options of `schemathesis run`]

Requests are made from the schema, right and wrong ones, the same in every run. Exit 1 on any difference.
"""
import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from served import KEY, Served, work_folder

CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "ignored_auth",
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quintet", default="target/release/quintet", help="program under test")
    parser.add_argument("--model", default="mini", help="model that it serves")
    parser.add_argument("--examples", type=int, default=50, help="requests of each kind for each route [%(default)s]")
    parser.add_argument("--schema", type=Path, help="a schema in a file instead of the server's")
    parser.add_argument("more", nargs="*", help="options for schemathesis")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as files, Served(args.quintet, args.model, "--files", files) as server:
        program = Path(sys.executable).with_name("schemathesis")
        command = [program, "run", args.schema.resolve() if args.schema else f"{server.url}/openapi.json", "--url", server.url]
        command += ["--header", f"Authorization: Bearer {KEY}", "--checks", ",".join(CHECKS)]
        command += ["--phases", "examples,coverage,fuzzing", "--max-examples", str(args.examples), "--no-color"]
        command += ["--generation-deterministic", "--request-timeout", "120", *args.more]
        # For POST it is `/embed`, which is asked; for GET the page of `/docs`, which its description does not mention.
        command += ["--exclude-path", "/"]
        environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        ended = subprocess.run(command, cwd=work_folder("schemathesis"), env=environment)
        alive = server.process.poll() is None
    if ended.returncode or not alive:
        sys.exit("the server and its description differ" if alive else "the server ended")


if __name__ == "__main__":
    main()
