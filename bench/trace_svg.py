#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Draws a step of a trace (docs/trace.md) as SVG, for docs/trace.svg:

    bench/trace gpt2 4 2 threaded run.json && python3 bench/trace_svg.py run.0.json 9 >docs/trace.svg

Without a step it takes the last one. Prints on standard error how much of each track's time lies under computation."""
import json
import sys
from html import escape

WIDTH, LEFT, ROW, GAP, TOP = 1120, 76, 30, 8, 24
TRACKS = ["compute", "gather", "reduce", "update", "copy", "host", "io"]
COLORS = {
    "forward": "#4c8bd6", "backward": "#2a5a9c", "WAIT": "#e4e4e4", "FILL": "#9db8d8", "CAST": "#9db8d8",
    "GATHER": "#55a868", "REDUCE_SCATTER": "#dd8452", "ACCUMULATE": "#c9a66b", "NORM": "#c9a66b",
    "EXCHANGE": "#b04a4a", "UPDATE": "#8172b3", "COPY": "#64b5cd", "READ": "#64b5cd", "WRITE": "#3f8aa3",
}


def spans_of(path):
    with open(path, encoding="utf-8") as file:
        events = json.load(file)["traceEvents"]
    return [e for e in events if e["ph"] == "X"]


def under(begin, end, busy):
    """Of [begin, end), how much lies in the busy intervals, which do not overlap."""
    return sum(max(0, min(end, b) - max(begin, a)) for a, b in busy)


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    spans = spans_of(sys.argv[1])
    step = int(sys.argv[2]) if len(sys.argv) > 2 else max(e["args"]["step"] for e in spans)
    window = next(e for e in spans if e["cat"] == "program" and e["name"] == f"step {step}")
    # Updates go on after the step, and those of the step before may reach into this one.
    begin, end = window["ts"], max(e["ts"] + e["dur"] for e in spans if e["args"]["step"] == step)
    shown = [e for e in spans if e["cat"] in TRACKS and e["ts"] < end and e["ts"] + e["dur"] > begin]
    tracks = [t for t in TRACKS if any(e["cat"] == t for e in shown)]
    busy = [(e["ts"], e["ts"] + e["dur"]) for e in shown if e["args"]["operation"] == "USE"]
    for track in tracks[1:]:
        total = sum(e["dur"] for e in shown if e["cat"] == track)
        hidden = sum(under(e["ts"], e["ts"] + e["dur"], busy) for e in shown if e["cat"] == track)
        print(f"{track}: {total / 1e3:.2f} ms, {100 * hidden / total:.0f} % under computation", file=sys.stderr)

    scale = (WIDTH - LEFT - 10) / (end - begin)
    height = TOP + len(tracks) * (ROW + GAP) + 52
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
           f'font-size="11">', f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>']
    every = next(m * 10 ** k for k in range(7) for m in (1, 2, 5) if m * 10 ** k * scale > 70)
    for i in range(int((end - begin) / every) + 1):
        x = LEFT + i * every * scale
        out.append(f'<path d="M{x:.1f} {TOP - 4}V{height - 48}" stroke="#ccc"/>\n'
                   f'<text x="{x:.1f}" y="{TOP - 9}" text-anchor="middle" fill="#555">{i * every / 1e3:g} ms</text>')
    for row, track in enumerate(tracks):
        y = TOP + row * (ROW + GAP)
        out.append(f'<text x="{LEFT - 8}" y="{y + ROW / 2 + 4}" text-anchor="end">{track}</text>')
        for e in sorted((e for e in shown if e["cat"] == track), key=lambda e: e["ts"]):
            a, b = max(e["ts"], begin), min(e["ts"] + e["dur"], end)
            x, w = LEFT + (a - begin) * scale, (b - a) * scale
            kind, unit = e["name"].split(" ")[0], e["args"].get("unit", "")
            if w < 0.25:
                continue
            out.append(f'<rect x="{x:.1f}" y="{y}" width="{max(w, 0.6):.1f}" height="{ROW}" '
                       f'fill="{COLORS.get(kind, "#999")}"/>')
            if w > 6.5 * len(unit) + 4 and kind != "WAIT":
                out.append(f'<text x="{x + w / 2:.1f}" y="{y + ROW / 2 + 4}" text-anchor="middle" '
                           f'fill="#fff">{escape(unit)}</text>')
    x, y = LEFT, height - 22
    for kind in COLORS:
        if not any(e["name"].split(" ")[0] == kind for e in shown) or kind == "CAST":
            continue
        out.append(f'<rect x="{x}" y="{y - 10}" width="12" height="12" fill="{COLORS[kind]}"/>\n'
                   f'<text x="{x + 17}" y="{y}">{kind}</text>')
        x += 34 + 7.4 * len(kind)
    print("\n".join(out + ["</svg>"]))


main()
