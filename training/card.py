"""Writes the model card from the measured figures and the exported files."""

import hashlib
import json
from pathlib import Path

import numpy as np

from .evaluate import MAIN_METRIC, OWN_ADAPTER, language_table, table, values
from .settings import Paths

#: (set, part, metric, at least, aim, words) of the quality that the project asks for.
TARGETS = [
    ("sts", "en", "spearman", 72, 80, "STS-B English test, Spearman, text-matching"),
    ("sts", "others", "spearman", 55, 70, "STS-B in five other languages, mean"),
    ("tatoeba", "mean", "accuracy", 45, 75, "Tatoeba to English, accuracy, mean of 29 languages"),
    ("tatoeba", "worst", "accuracy", 10, 40, "Tatoeba, worst language"),
    ("xquad", "en", "ndcg_at_10", 70, 85, "XQuAD English, nDCG@10, query and passage adapters"),
    ("xquad", "others", "ndcg_at_10", 45, 70, "XQuAD in five other languages, mean"),
    ("sib-classification", "mean", "accuracy_full", 55, 75, "SIB-200, logistic regression on the train split, mean"),
    ("sib-classification", "mean", "accuracy", 55, 75, "SIB-200, logistic regression on 8 texts a topic, mean"),
]


def part_of(found: dict, part: str) -> float:
    others = [value for language, value in found.items() if language != "en"]
    parts = {"en": lambda: found["en"], "others": lambda: np.mean(others), "worst": lambda: min(found.values())}
    return float(parts.get(part, lambda: np.mean(list(found.values())))())


def targets_table(rows: list, size: int) -> str:
    lines = ["| | at least | aim | own adapter | no adapter |", "|---|---|---|---|---|"]
    for name, part, metric, least, aim, words in TARGETS:
        adapter = "+".join(dict.fromkeys(OWN_ADAPTER[name]))
        cells = [values(rows, name, choice, size, metric) for choice in (adapter, "none")]
        shown = [f"{part_of(found, part):.1f}" if found else "-" for found in cells]
        lines.append(f"| {words} | {least} | {aim} | {shown[0]} | {shown[1]} |")
    for name in OWN_ADAPTER:
        adapter = "+".join(dict.fromkeys(OWN_ADAPTER[name]))
        own, none = values(rows, name, adapter, size), values(rows, name, "none", size)
        if own and none:
            own, none = part_of(own, "mean"), part_of(none, "mean")
            lines.append(
                f"| {name}: {adapter} against no adapter, mean | not worse | better | {own:.1f} | {none:.1f} |"
            )
    adapter = "+".join(OWN_ADAPTER["xquad"])
    full, short = (values(rows, "xquad", adapter, width) for width in (size, 64))
    if full and short:
        kept = 100 * part_of(short, "mean") / part_of(full, "mean")
        lines.append(f"| XQuAD with 64 of {size} dimensions, share kept | 90 | 95 | {kept:.1f} | |")
    return "\n".join(lines)


def teacher_table(rows: list, taught: list, size: int) -> str:
    """English, beside the teacher, which knows no adapters."""
    if not taught:
        return "(not measured for this export)"
    width = max(row["dimensions"] for row in taught)
    lines = ["| English | mini, own adapter | mini, no adapter | teacher |", "|---|---|---|---|"]
    for name, own in OWN_ADAPTER.items():
        adapter = "+".join(dict.fromkeys(own))
        cells = [values(rows, name, adapter, size), values(rows, name, "none", size), values(taught, name, "none", width)]
        if all("en" in found for found in cells):
            lines.append(f"| {name} ({MAIN_METRIC[name]}) | " + " | ".join(f"{found['en']:.1f}" for found in cells) + " |")
    return "\n".join(lines)


def mteb_table(rows: list, checked: list) -> str:
    """The same figures by the mteb package; `rows` has MTEB's main scores under other names in part."""
    if not checked:
        return "(not measured for this export)"
    size = max(row["dimensions"] for row in rows)
    lines = ["| task of mteb | mteb | here | largest difference in a language |", "|---|---|---|---|"]
    for task in dict.fromkeys(row["task"] for row in checked):
        found = {row["language"]: 100 * row["main_score"] for row in checked if row["task"] == task}
        name = next(row["set"] for row in checked if row["task"] == task)
        metric = "f1" if name == "tatoeba" else MAIN_METRIC[name]
        own = values(rows, name, "+".join(dict.fromkeys(OWN_ADAPTER[name])), size, metric)
        means = [np.mean([one[language] for language in found]) for one in (found, own)]
        apart = max(abs(found[language] - own[language]) for language in found)
        lines.append(f"| {task} ({metric}) | {means[0]:.2f} | {means[1]:.2f} | {apart:.2f} |")
    return "\n".join(lines)


def read_rows(file: Path) -> list:
    """Nothing if the file is missing: `teacher.json` and `mteb.json` take longer to make than they are worth each time."""
    return json.loads(file.read_text(encoding="utf8"))["rows"] if file.exists() else []


def write(paths: Paths, figures: Path, target: Path) -> None:
    """`figures` is what `evaluate --json` wrote; beside it lie `teacher.json` and `mteb.json`."""
    rows = read_rows(figures)
    taught, checked = (read_rows(figures.with_name(f"{name}.json")) for name in ("teacher", "mteb"))
    size = max(row["dimensions"] for row in rows)
    files = [paths.model / name for name in ("config.json", "model.safetensors", "tokenizer.json")]
    hashes = "\n".join(
        f"| `model/{file.name}` | {file.stat().st_size} | `{hashlib.sha256(file.read_bytes()).hexdigest()}` |"
        for file in files
    )
    template = (Path(__file__).parent / "card.md").read_text(encoding="utf8")
    for mark, text in (
        ("{targets}", targets_table(rows, size)),
        ("{teacher}", teacher_table(rows, taught, size)),
        ("{mteb}", mteb_table(rows, checked)),
        ("{dimensions}", table(rows)),
        ("{languages}", language_table(rows, size)),
        ("{size}", str(size)),
        ("{files}", "| file | bytes | SHA-256 |\n|---|---|---|\n" + hashes),
    ):
        template = template.replace(mark, text)
    target.write_text(template, encoding="utf8")
