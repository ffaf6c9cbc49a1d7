"""Draws the losses of the log."""

import json
from pathlib import Path


def draw(log: Path, target: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [json.loads(line) for line in log.read_text(encoding="utf8").splitlines()]
    figure, axes = pyplot.subplots(1, 3, figsize=(13, 3.6))
    for axis, stage, unit in ((axes[0], "static", "step"), (axes[1], "body", "window")):
        # a stage that was stopped and resumed logs some steps twice; the last one counts
        points = {row[unit]: row for row in rows if row.get("stage") == stage and "distance" in row}
        checks = {row[unit]: row for row in rows if row.get("stage") == stage and "validation" in row}
        axis.plot(list(points), [row["distance"] for row in points.values()], label="distance to the teacher")
        axis.plot(list(points), [row["contrast"] for row in points.values()], label="contrast (InfoNCE)")
        axis.plot(list(checks), [row["validation"] for row in checks.values()], ".-", label="held-out accuracy")
        axis.set(title=stage, xlabel=f"{unit}s", ylim=(0, 2.5))
        axis.legend(fontsize=7)
    names = dict.fromkeys(row["name"] for row in rows if row.get("stage") == "adapter")
    for name in names:
        points = {row["step"]: row["loss"] for row in rows if row.get("stage") == "adapter" and row["name"] == name}
        axes[2].plot(list(points), list(points.values()), label=name)
    axes[2].set(title="adapters, total loss", xlabel="steps")
    if names:
        axes[2].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(target, dpi=70)
