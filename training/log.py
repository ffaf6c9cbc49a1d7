"""A log of one JSON object a line, in the work folder and on stderr."""

import json
import sys
import time
from pathlib import Path


class Log:
    """Call it with plain values; each line also gets the seconds since the program began."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.began = time.monotonic()

    def __call__(self, **fields) -> None:
        fields["elapsed_s"] = round(time.monotonic() - self.began, 1)
        line = json.dumps({key: shorten(value) for key, value in fields.items()}, ensure_ascii=False)
        with open(self.path, "a", encoding="utf8") as file:
            print(line, file=file)
        print(line, file=sys.stderr, flush=True)


def shorten(value):
    return float(f"{value:.5g}") if isinstance(value, float) else value
