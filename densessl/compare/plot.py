"""Score against training time, a point a row: SVG that is readable on white and on black."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

MAIN = {"miou": "mIoU", "linear": "linear accuracy"}  # the score that stands for an evaluation
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 560.0, 400.0, 60.0, 34.0, 16.0, 48.0  # of a panel, and its margins; pixels
LETTER, LINE = 6.8, 13.0  # width of a letter and height of a line of the labels, roughly
STYLE = "text{font:11px sans-serif;fill:#767676}line,path{stroke:#767676;fill:none}circle{fill:#2f81c7}"


class Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """Area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)


def plot(summary: dict[str, Any]) -> str:
    """A panel for each evaluation of what table.summarise gives; rows without a score or a time are left out."""
    panels = []
    for number, kind in enumerate(summary["evaluations"]):
        body = "".join(_panel(kind, summary["rows"]))
        panels.append(f'<g transform="translate({number * WIDTH} 0)">{body}</g>')
    size = f'width="{len(panels) * WIDTH:.0f}" height="{HEIGHT:.0f}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{STYLE}</style>{"".join(panels)}</svg>\n'


def _panel(kind: str, rows: dict[str, Any]) -> Iterator[str]:
    points: dict[str, tuple[float, float, float]] = {}  # minutes, score, spread
    untrained: dict[str, float] = {}
    name = next((key for row in rows.values() for key in row["scores"][kind] if key in MAIN), None)
    for row, found in rows.items():
        if score := found["scores"][kind].get(name):
            mean, spread = 100 * score["mean"], 100 * (score["std"] or 0.0)
            if seconds := found["cost"].get("seconds"):
                points[row] = seconds["mean"] / 60, mean, spread
            else:
                untrained[row] = mean
    yield _text(LEFT, 20, f"{kind}: {MAIN.get(name or '', 'no score yet')}, per cent", "start")
    if not points:
        return
    x = _Axis([minutes for minutes, _, _ in points.values()], LEFT, WIDTH - RIGHT)
    heights = [y + sign * spread for _, y, spread in points.values() for sign in (-1, 1)]
    y = _Axis([*heights, *untrained.values()], HEIGHT - BOTTOM, TOP)
    bottom = HEIGHT - BOTTOM
    yield f'<path d="M{LEFT} {TOP}V{bottom}H{WIDTH - RIGHT}"/>'
    for value, label in x.ticks():
        yield _line(x(value), bottom, x(value), bottom + 4) + _text(x(value), bottom + 17, label)
    for value, label in y.ticks():
        yield _line(LEFT - 4, y(value), LEFT, y(value)) + _text(LEFT - 8, y(value) + 4, label, "end")
    yield _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, "minutes of pretraining")
    taken = []
    for row, mean in untrained.items():
        yield _line(LEFT, y(mean), WIDTH - RIGHT, y(mean), "stroke-dasharray='4 4'")
        yield _text(WIDTH - RIGHT, y(mean) - 4, row, "end")
        taken.append(Box(WIDTH - RIGHT - LETTER * len(row), y(mean) - LINE, WIDTH - RIGHT, y(mean) + 1))
    for minutes, mean, spread in points.values():
        px, py, low, high = x(minutes), y(mean), y(mean - spread), y(mean + spread)
        taken.append(Box(px - 5, min(py - 5, high), px + 5, max(py + 5, low)))
        if spread:
            yield _line(px, low, px, high) + _line(px - 3, low, px + 3, low) + _line(px - 3, high, px + 3, high)
        yield f'<circle cx="{px:.1f}" cy="{py:.1f}" r="4"/>'
    for row, (minutes, mean, _) in sorted(points.items(), key=lambda item: -item[1][1]):
        px, py = x(minutes), y(mean)
        box, away = _place(px, py, LETTER * len(row), taken)
        taken.append(box)
        if away:
            yield _line(px, py, min(max(px, box.left), box.right), min(max(py, box.top), box.bottom), "opacity='.5'")
        yield _text(box.left, box.bottom - 3, row, "start")


def _place(x: float, y: float, width: float, taken: list[Box]) -> tuple[Box, bool]:
    """Where a label covers least of what is there: near its point (x, y), or farther away and so with a line to it."""
    frame = Box(LEFT + 2, TOP - LINE, WIDTH, HEIGHT - BOTTOM - 2)
    best: tuple[float, Box, bool] | None = None
    for distance, angle in product((8, 18, 30, 44, 60, 80), range(0, 360, 30)):
        dx, dy = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        cx, cy = x + dx * (distance + width / 2 * abs(dx)), y + dy * (distance + LINE / 2)
        box = Box(cx - width / 2, cy - LINE / 2, cx + width / 2, cy + LINE / 2)
        covered = sum(map(box.overlap, taken)) + LINE * width - box.overlap(frame)
        if best is None or covered < best[0] - 1e-6:
            best = covered, box, distance > 8
    assert best is not None
    return best[1], best[2]


class _Axis:
    """Values to pixels, with a margin around the values."""

    def __init__(self, values: list[float], start: float, end: float) -> None:
        low, high = min(values), max(values)
        margin = 0.12 * (high - low) or 0.05 * abs(high) or 1.0
        self.low, self.high, self.start, self.end = low - margin, high + margin, start, end

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> Iterator[tuple[float, str]]:
        """About five, 1, 2 or 5 times a power of ten apart."""
        rough = (self.high - self.low) / 6
        power = 10 ** math.floor(math.log10(rough))
        step = next(f * power for f in (1, 2, 5, 10) if f * power >= rough)
        for number in range(math.ceil(self.low / step), math.floor(self.high / step) + 1):
            yield number * step, f"{number * step:.{max(0, -math.floor(math.log10(step)))}f}"


def _text(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, more: str = "") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {more}/>'
