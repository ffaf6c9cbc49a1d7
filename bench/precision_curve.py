#!/usr/bin/env python3
"""The trade between speed and error from `fast` by way of mixes to `balanced`, and `exact`: a table and a drawing.

    quintet calibrate DIR --input texts.txt --curve --json > report.json
    python bench/precision_curve.py "mini=report.json" "true shape=other.json" --svg bench/results/DATE-curve.svg

Each point keeps another share of the weights in 16 bits, the matrices that suffer most first. The models ran in turn.
"""
import argparse
import json
import math
from pathlib import Path

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 560, 380, 64, 32, 64, 56
#: Their points lie beside that of `fast`.
UNNAMED = (5, 10)
LINE, LIGHT, INK, FAINT = "#1f6fb2", "#d9822b", "#222", "#e4e4e4"


def name(percent):
    return {None: "exact", 0: "fast", 100: "balanced"}.get(percent, f"{percent} %")


def table(report):
    rows = ["| weights in 16 bits | tokens/s | 1 - cosine, mean | worst |", "| --- | --- | --- | --- |"]
    rows += [f"| {name(p['percent'])} | {p['tokens_per_s']:.0f} | {p['mean']:.1e} | {p['worst']:.1e} |" for p in report["curve"]]
    return "\n".join(rows)


def text(x, y, words, anchor="middle", color=INK, weight="normal"):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}" font-weight="{weight}">{words}</text>'


def round_steps(least, most):
    """About five round numbers between two."""
    step = 10 ** math.floor(math.log10((most - least) / 4))
    step = next(step * factor for factor in (1, 2, 2.5, 5, 10) if (most - least) / (step * factor) <= 6)
    return [step * index for index in range(math.ceil(least / step), math.floor(most / step) + 1)]


def panel(title, report, left):
    """Error of the worst text, in powers of ten, over speed; `exact` has none and is a line."""
    exact = next(p for p in report["curve"] if p["percent"] is None)
    points = [p for p in report["curve"] if p["percent"] is not None]
    nearest = report["before"]["worst"] if report.get("rounded") else None
    speeds = [p["tokens_per_s"] for p in report["curve"]]
    errors = [math.log10(p["worst"]) for p in points] + ([math.log10(nearest)] if nearest else [])
    least, most = min(speeds), max(speeds)
    least, most = least - 0.08 * (most - least), most + 0.12 * (most - least)
    low, high = math.floor(min(errors)), math.ceil(max(errors))

    def x(speed):
        return left + LEFT + (speed - least) / (most - least) * (WIDTH - LEFT - RIGHT)

    def y(error):
        return TOP + (high - math.log10(error)) / max(high - low, 1) * (HEIGHT - TOP - BOTTOM)

    parts = [text(left + LEFT, 24, title, "start", weight="bold"),
             text(left + LEFT, 44, "1 - cosine to exact, worst text", "start")]
    for power in range(low, high + 1):
        at = y(10.0 ** power)
        parts += [f'<path d="M{left + LEFT} {at:.1f}H{left + WIDTH - RIGHT}" stroke="{FAINT}"/>',
                  text(left + LEFT - 8, at + 4, f"10<tspan dy='-5' font-size='9'>{power}</tspan>", "end")]
    parts += [text(x(speed), HEIGHT - BOTTOM + 20, f"{speed:,.0f}".replace(",", " ")) for speed in round_steps(least, most)]
    parts.append(text(left + (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, "tokens/s"))
    at = x(exact["tokens_per_s"])
    parts += [f'<path d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="{INK}" stroke-dasharray="3 4"/>',
              text(at + 6, TOP + 14, "exact", "start")]
    line = " ".join(f"{x(p['tokens_per_s']):.1f},{y(p['worst']):.1f}" for p in points)
    parts.append(f'<polyline points="{line}" fill="none" stroke="{LINE}" stroke-width="2"/>')
    for p in points:
        at, up = x(p["tokens_per_s"]), y(p["worst"])
        parts.append(f'<circle cx="{at:.1f}" cy="{up:.1f}" r="4" fill="{LINE}"/>')
        if p["percent"] == 0:
            parts.append(text(at + 8, up + 4, name(0), "start", LINE))
        elif p["percent"] not in UNNAMED:
            parts.append(text(at, up + 18, name(p["percent"]), "middle", LINE))
    if nearest:
        at, up = x(points[0]["tokens_per_s"]), y(nearest)
        parts += [f'<circle cx="{at:.1f}" cy="{up:.1f}" r="4" fill="white" stroke="{LIGHT}" stroke-width="2"/>',
                  text(at, up - 10, "fast, rounded to nearest", "end", LIGHT)]
    return parts


def drawing(panels):
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH * len(panels)}" height="{HEIGHT}" '
             'font-family="system-ui, sans-serif" font-size="13">',
             f'<rect width="{WIDTH * len(panels)}" height="{HEIGHT}" fill="white"/>']
    for index, (title, report) in enumerate(panels):
        parts += panel(title, report, index * WIDTH)
    return "\n".join([*parts, "</svg>"]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", metavar="TITLE=FILE", help="what `quintet calibrate --curve --json` printed")
    parser.add_argument("--svg", type=Path)
    args = parser.parse_args()
    named = [report.rpartition("=") for report in args.reports]
    panels = [(title, json.loads(Path(file).read_text())) for title, _, file in named]
    for title, report in panels:
        print(f"{title}, {report['texts']} texts:\n\n{table(report)}\n")
    if args.svg:
        args.svg.write_text(drawing(panels))


if __name__ == "__main__":
    main()
