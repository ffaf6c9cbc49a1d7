#!/usr/bin/env python3
"""The trade between speed and error of `fast`, as a table and a drawing.

    quintet calibrate --curve --json DIR > curve.json
    python bench/precision_curve.py curve.json --title "random weights" --svg bench/results/DATE-curve.svg

Each point keeps another share of the weights in 16 bits, the matrices that suffer most first.
"""
import argparse
import json
import math
from pathlib import Path

WIDTH, HEIGHT, MARGIN = 560, 320, 56


def table(points):
    rows = ["| weights in 16 bits, % | tokens/s | 1 - cosine, mean | worst |", "| --- | --- | --- | --- |"]
    rows += [f"| {p['percent']} | {p['tokens_per_s']:.0f} | {p['mean']:.1e} | {p['worst']:.1e} |" for p in points]
    return "\n".join(rows)


def drawing(points, title):
    """Error, in powers of ten, over speed."""
    speeds, errors = [p["tokens_per_s"] for p in points], [math.log10(p["worst"]) for p in points]
    left, right, low, high = min(speeds) * 0.97, max(speeds) * 1.03, math.floor(min(errors)), math.ceil(max(errors))

    def place(speed, error):
        return (MARGIN + (speed - left) / (right - left) * (WIDTH - 2 * MARGIN),
                MARGIN + (high - error) / max(high - low, 1) * (HEIGHT - 2 * MARGIN))

    def text(x, y, words, anchor="middle"):
        return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}">{words}</text>'

    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12">',
             f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>', text(WIDTH / 2, 24, title)]
    for power in range(low, high + 1):
        y = place(left, power)[1]
        parts += [f'<path d="M{MARGIN} {y:.0f}H{WIDTH - MARGIN}" stroke="#ddd"/>', text(MARGIN - 8, y + 4, f"1e{power}", "end")]
    places = [place(speed, error) for speed, error in zip(speeds, errors)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts.append(f'<polyline points="{line}" fill="none" stroke="#06c" stroke-width="2"/>')
    for (x, y), point in zip(places, points):
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="#06c"/>', text(x, y - 10, f"{point['percent']} %")]
    parts += [text(WIDTH / 2, HEIGHT - 12, "tokens/s; labels: share of the weights in 16 bits"),
              text(12, MARGIN - 16, "1 - cosine to `exact`, worst text", "start"),
              text(MARGIN, HEIGHT - 34, f"{left:.0f}"), text(WIDTH - MARGIN, HEIGHT - 34, f"{right:.0f}"), "</svg>"]
    return "\n".join(parts) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="what `quintet calibrate --curve --json` printed")
    parser.add_argument("--title", default="`fast`, mixed with `balanced`")
    parser.add_argument("--svg", type=Path)
    args = parser.parse_args()
    points = json.loads(args.report.read_text())["curve"]
    print(table(points))
    if args.svg:
        args.svg.write_text(drawing(points, args.title))


if __name__ == "__main__":
    main()
