#!/usr/bin/env python3
"""Our tokenizer against the Python `tokenizers` library on real text, line for line.

    python testdata/check_tokenizer.py --shared DIR --quintet target/release/quintet

DIR holds `tokenizer/tokenizer.json` (XLM-R), `tokenizer/resaved-variant.json` (the other head), `tokenizer/golden.jsonl`
and `data/<folder>/...`. Every distinct line, table cell and JSON string of `data` goes through both, with both heads.
Prints counts per folder; exit 1 on any difference. Needs `tokenizers` (0.23.3).
"""
import argparse
import csv
import io
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from tokenizers import Tokenizer

SHOWN = 10  # differences printed for each folder and head
BATCH = 4096


def json_strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from json_strings(item)


def decode(data):
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def strings(name, data):
    """The texts in one file: cells of a table, strings of JSON, lines of anything else."""
    suffix = Path(name).suffix
    if suffix == ".zip":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for member in archive.namelist():
                yield from strings(member, archive.read(member))
    elif suffix in (".csv", ".tsv"):
        quoting = csv.QUOTE_MINIMAL if suffix == ".csv" else csv.QUOTE_NONE
        for row in csv.reader(io.StringIO(decode(data)), delimiter="," if suffix == ".csv" else "\t", quoting=quoting):
            yield from row
    elif suffix == ".json":
        yield from json_strings(json.loads(data))
    elif suffix == ".jsonl":
        for line in decode(data).splitlines():
            yield from json_strings(json.loads(line))
    elif suffix not in (".md", ".xml"):
        yield from decode(data).split("\n")


def folder_texts(folder):
    texts = {}  # a dict keeps the order and drops repeats
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        texts.update(dict.fromkeys(strings(path.name, path.read_bytes())))
    return list(texts)


def resaved_variant(tokenizer_json, variant):
    """tokenizer.json with the other head; the charsmap stays its own."""
    charsmap = tokenizer_json["normalizer"]["precompiled_charsmap"]
    head = json.loads(json.dumps(variant))
    head["normalizer"]["normalizers"][0]["precompiled_charsmap"] = charsmap
    return tokenizer_json | head


def python_ids(tokenizer_path, texts):
    tokenizer = Tokenizer.from_file(str(tokenizer_path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    for start in range(0, len(texts), BATCH):
        for encoding in tokenizer.encode_batch(texts[start : start + BATCH]):
            yield encoding.ids


def quintet_ids(binary, tokenizer_path, texts, scratch):
    lines = scratch / "texts.jsonl"
    with lines.open("w") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    command = [binary, "tokenize", "--input", lines, "--model", tokenizer_path, "--json"]
    answer = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    rows = [json.loads(line) for line in answer.stdout.splitlines() if line.strip()]
    assert [row["index"] for row in rows] == list(range(len(texts))), f"{len(rows)} lines back for {len(texts)} texts"
    return [row["token_ids"] for row in rows]


def compare(texts, expected, found):
    """Number of differences; the first are printed."""
    differences = 0
    for text, want, got in zip(texts, expected, found, strict=True):
        if want != got:
            differences += 1
            if differences <= SHOWN:
                print(f"  {text[:120]!r}\n    expected {want[:40]}\n    found    {got[:40]}", file=sys.stderr)
    return differences


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, required=True, help="folder with data/ and tokenizer/")
    parser.add_argument("--quintet", default="target/release/quintet", help="binary under test")
    parser.add_argument("--folder", action="append", help="only this folder of data/ (repeatable)")
    args = parser.parse_args()
    tokenizer_dir = args.shared / "tokenizer"
    sources = {f.name: f for f in sorted((args.shared / "data").iterdir()) if f.is_dir()}
    if args.folder:
        sources = {name: sources[name] for name in args.folder}
    golden = [json.loads(line) for line in (tokenizer_dir / "golden.jsonl").read_text().splitlines()]
    with tempfile.TemporaryDirectory() as scratch:
        scratch, failed = Path(scratch), 0
        classic, resaved = tokenizer_dir / "tokenizer.json", scratch / "tokenizer.json"
        variant = json.loads((tokenizer_dir / "resaved-variant.json").read_text())
        resaved.write_text(json.dumps(resaved_variant(json.loads(classic.read_text()), variant)))
        print("| texts of | distinct | tokens | differences, classic head | differences, re-saved head |")
        print("| --- | --- | --- | --- | --- |")
        for name in ["golden.jsonl", *sources]:
            print(f"{name} ...", file=sys.stderr)
            texts = [g["text"] for g in golden] if name == "golden.jsonl" else folder_texts(sources[name])
            counts = []
            for path in (classic, resaved):
                expected = list(python_ids(path, texts))
                if name == "golden.jsonl" and path == classic:
                    assert expected == [g["ids"] for g in golden], "golden.jsonl is not what Python says"
                counts.append(compare(texts, expected, quintet_ids(args.quintet, path, texts, scratch)))
            tokens = sum(map(len, expected))
            failed += sum(counts)
            print(f"| {name} | {len(texts)} | {tokens} | {counts[0]} | {counts[1]} |", flush=True)
    if failed:
        sys.exit(f"{failed} texts differ")


if __name__ == "__main__":
    main()
