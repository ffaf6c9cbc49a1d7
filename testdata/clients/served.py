"""A running `quintet serve`, and what `quintet embed` says to the same texts."""
import base64
import json
import os
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np

KEY = "sesame"
# The first is the model's own name; clients look at the second to see whether they may send `dimensions`.
MODEL, ALIAS = "mini", "text-embedding-3-small"
LOAD_S = 120

TEXTS = [
    "Where do storks spend the winter?",
    "Abfahrt der Züge nach Berlin: 8:15 und 10:45 Uhr.",
    "気温は二十度まで上がるでしょう。",
    "Центральный банк повысил ставку.",
    "يقع المتحف في وسط المدينة القديمة",
    "a",
    "   ",
    "Two stork emoji 🐦🐦, a family 👨‍👩‍👧‍👦 and e\u0301 in two code points",
    'Quotes " and \\ backslashes, <b>tags</b> & ampersands, a tab\tand a zero-width\u200bspace',
    "The stork is a large, long-legged wading bird with a long, stout bill. " * 40,
]
CHUNKS = ["Berlin is the capital of Germany.", " It has 3.9 million inhabitants.", " The city lies on the Spree."]


class Served:
    """A server on a free port of the loopback; a context manager that stops it."""

    def __init__(self, program, model, *arguments):
        self.program, self.model = program, model
        self.log_file = tempfile.TemporaryFile("w+", prefix="quintet-serve-")
        command = [program, "serve", "--model", model, "--model-id", MODEL, "--model-id", ALIAS]
        command += ["--listen", "127.0.0.1:0", "--log-format", "json", *arguments]
        environment = {k: v for k, v in os.environ.items() if not k.startswith("QUINTET_")}
        if "--state" not in arguments:  # its accounts have keys of their own
            environment["QUINTET_API_KEY"] = KEY
        self.process = subprocess.Popen(command, stderr=self.log_file, env=environment)
        try:
            self.url = f"http://{self._address()}"
            self._wait_until_ready()
        except BaseException:
            self.process.kill()
            raise
        self.v1 = f"{self.url}/v1"

    def log(self):
        position = self.log_file.tell()
        self.log_file.seek(0)
        text = self.log_file.read()
        self.log_file.seek(position)
        return text

    def _address(self):
        return self._within(LOAD_S, self._listening)

    def _listening(self):
        for line in self.log().splitlines():
            entry = json.loads(line) if line.startswith("{") else {}
            if entry.get("message") == "listening":
                return entry["address"]
        return None

    def _wait_until_ready(self):
        def ready():
            try:
                return urllib.request.urlopen(f"{self.url}/health/ready").status == 200
            except urllib.error.HTTPError:
                return False

        self._within(LOAD_S, ready)

    def _within(self, seconds, found):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended with {self.process.returncode}:\n{self.log()}")
            if value := found():
                return value
            time.sleep(0.02)
        raise RuntimeError(f"the server was not ready within {seconds} s:\n{self.log()}")

    def has(self, route):
        """Whether something answers POST there."""
        headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
        try:
            urllib.request.urlopen(urllib.request.Request(self.url + route, b"{}", headers))
            return True
        except urllib.error.HTTPError as error:
            return error.code not in (404, 405)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)
        self.log_file.close()


class Reference:
    """Vectors of `quintet embed`, by text and options; compares a client's with them."""

    def __init__(self, program, model):
        self.command = [program, "embed", "--model", model, "--type", "base64"]
        self.known = {}
        self.compared = 0
        for task in ("raw", "retrieval.query", "retrieval.passage"):
            self.vectors(TEXTS, task)

    def _embed(self, texts, *arguments):
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
            file.writelines(json.dumps(text if isinstance(text, dict) else {"text": text}) + "\n" for text in texts)
            file.flush()
            command = [*self.command, *arguments, "--input", file.name]
            answer = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        return [json.loads(line) for line in answer.stdout.splitlines()]

    def vectors(self, texts, task="raw", dimensions=None, normalized=True, truncate="error"):
        """Little-endian f32 of each text."""
        key = (task, dimensions, normalized, truncate)
        missing = [text for text in dict.fromkeys(texts) if (text, *key) not in self.known]
        if missing:
            arguments = ["--task", task, "--truncate", truncate, *(["--dimensions", str(dimensions)] if dimensions else [])]
            rows = self._embed(missing, *arguments, *([] if normalized else ["--no-normalize"]))
            self.known |= {(text, *key): base64.b64decode(row["embedding"]) for text, row in zip(missing, rows, strict=True)}
        return [self.known[text, *key] for text in texts]

    def chunks(self, chunks, task):
        """Vectors of one document's chunks."""
        with_chunks = self._embed([{"chunks": chunks}], "--late-chunking", "--task", task)
        return [base64.b64decode(chunk["embedding"]) for chunk in with_chunks[0]["chunks"]]

    def bits(self, texts, task="raw"):
        """Each vector's signs, as 0 and 1."""
        return [(np.frombuffer(v, "<f4") > 0).astype(np.uint8) for v in self.vectors(texts, task)]

    def same(self, found, texts, task="raw", **options):
        """Asserts that a client's vectors are those of `quintet embed`, bit for bit."""
        self.equal(found, self.vectors(texts, task, **options))

    def equal(self, found, expected):
        """Asserts that vectors, as bytes or numbers, are these bit for bit."""
        assert len(found) == len(expected), f"{len(found)} vectors, expected {len(expected)}"
        for index, (vector, wanted) in enumerate(zip(found, expected, strict=True)):
            bits = vector if isinstance(vector, bytes) else np.asarray(vector, "<f4").tobytes()
            if bits != wanted:
                raise AssertionError(f"vector {index}: {difference(bits, wanted)}")
        self.compared += len(found)


def difference(found, expected):
    found, expected = np.frombuffer(found, "<f4"), np.frombuffer(expected, "<f4")
    if len(found) != len(expected):
        return f"{len(found)} components, expected {len(expected)}"
    return f"{(found != expected).sum()} of {len(expected)} components differ, by {np.abs(found - expected).max():.3g} at most"


def work_folder(name):
    """A folder under `target/` that is kept between runs."""
    folder = Path(__file__).resolve().parents[2] / "target" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
