"""What is sent: short queries, passages in lists, long documents, each with the answer of `quintet embed`."""
import base64
import json
import random
import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

SEED = 5
# Tokens: a query is log-normal around 12, a passage around 60, a document log-uniform.
QUERY, PASSAGE, SPREAD = 12, 60, 0.7
DOCUMENT = (1000, 6500)  # by the mean of words: some have a tenth more
MAX_PASSAGES = 16  # of one request
SHARES = {"query": 0.6, "passages": 0.38, "document": 0.02}
TASKS = ["retrieval.passage", "retrieval.passage", "separation", "classification", "text-matching", "raw"]


@dataclass
class Request:
    """A body, ready to send, and what must come back."""

    kind: str
    body: bytes
    texts: list
    task: str
    tokens: int = 0
    token_ids: list = None
    expected: list = None  # base64 of each vector


def words(corpus):
    """Words of a file, or of this repository's own pages."""
    pages = [corpus] if corpus else sorted(Path(__file__).resolve().parents[2].glob("*.md"))
    text = " ".join(page.read_text() for page in pages)
    return re.findall(r"[^\s|`*#]+", text)


def make(program, model, count, corpus=None):
    """`count` different requests in the shares of SHARES, the same in every run."""
    source, dice = words(corpus), random.Random(SEED)
    per_word = tokens_per_word(program, model, source)

    def text(tokens):
        length = max(1, round(tokens / per_word))
        start = dice.randrange(len(source))
        return " ".join(source[(start + i) % len(source)] for i in range(length))

    def log_normal(median):
        return min(median * 2.718281828 ** dice.gauss(0, SPREAD), 1000)

    requests = []
    for kind in dice.choices(list(SHARES), SHARES.values(), k=count):
        if kind == "query":
            task, texts = "retrieval.query", [text(log_normal(QUERY))]
        elif kind == "passages":
            task, texts = dice.choice(TASKS), [text(log_normal(PASSAGE)) for _ in range(dice.randint(1, MAX_PASSAGES))]
        else:
            low, high = DOCUMENT
            task, texts = "retrieval.passage", [text(low * (high / low) ** dice.random())]
        body = {"input": texts, "task": task, "encoding_format": "base64"}
        requests.append(Request(kind, json.dumps(body, ensure_ascii=False).encode(), texts, task))
    add_answers(program, model, requests)
    return requests


def rows(command, lines):
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
        file.flush()
        answer = subprocess.run([*command, "--input", file.name], stdout=subprocess.PIPE, check=True)
    return [json.loads(line) for line in answer.stdout.splitlines()]


def tokens_per_word(program, model, source):
    sample = " ".join(source[:2000])
    return rows([program, "tokenize", "--model", model, "--json"], [{"text": sample}])[0]["tokens"] / len(source[:2000])


def add_answers(program, model, requests):
    lines = [{"text": text, "task": request.task} for request in requests for text in request.texts]
    embedded = iter(rows([program, "embed", "--model", model, "--type", "base64"], lines))
    tokenized = iter(rows([program, "tokenize", "--model", model, "--json"], lines))
    for request in requests:
        answers = [next(embedded) for _ in request.texts]
        request.expected = [answer["embedding"] for answer in answers]
        request.tokens = sum(answer["tokens"] for answer in answers)
        request.token_ids = [next(tokenized)["token_ids"] for _ in request.texts]
        assert all(len(base64.b64decode(vector)) > 0 for vector in request.expected)
