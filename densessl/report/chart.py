"""Curves of a quantity over the steps, one a run: SVG that is whole without a script, in colours of the page."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from densessl.report.axis import Axis, compact, fitting
from densessl.visual.page import escaped

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 360, 200, 50, 10, 8, 22
MOST = 150  # stretches of a curve of which the lowest and the highest point are drawn: a screen shows no more
COLOURS = (  # light, dark; in the order of Okabe and Ito, with enough contrast to either ground
    *(("#0072b2", "#56b4e9"), ("#c24e00", "#f28e4b"), ("#00795a", "#35c79d"), ("#a8487f", "#e39ac4")),
    *(("#8a6d00", "#e6c34a"), ("#5b4bb5", "#a99bf5"), ("#4a4f57", "#c3c8cf"), ("#b3261e", "#ff8a80")),
)
DASHES = ("", "7 3", "2 3", "9 3 2 3")  # the next eight runs, and so on

STYLE = (
    """
.charts { display: grid; gap: 1.1rem 1.5rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr));
  margin: 0 0 1rem; }
.chart { break-inside: avoid; min-width: 0; }
.chart h4 { font-size: .9rem; font-weight: 600; margin: 0 0 .1rem; overflow-wrap: anywhere; }
.chart svg { display: block; width: 100%; height: auto; touch-action: pan-y; }
.chart svg:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; border-radius: .25rem; }
.chart text { font: 11px system-ui, sans-serif; fill: var(--pale); font-variant-numeric: tabular-nums; }
.chart path, .key path { fill: none; stroke-linejoin: round; stroke-linecap: round; }
.chart .grid { stroke: var(--line); } .chart .at { stroke: var(--pale); }
.chart .bound { stroke: var(--ink); stroke-dasharray: 3 4; opacity: .6; }
.chart .dots { stroke: var(--ink); stroke-width: 6; }
.chart .skip { stroke: var(--bad); stroke-width: 2; }
.chart output { color: var(--ink); font-variant-numeric: tabular-nums; }
.curve { stroke: var(--c); stroke-width: 1.8; }
.keys { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: 0 0 .75rem; font-size: .85rem; }
.key svg { width: 28px; height: 8px; margin-right: .4rem; vertical-align: .12rem; }
"""
    + "".join(f".c{i} {{ --c: {light}; }} " for i, (light, _) in enumerate(COLOURS))
    + "\n@media (prefers-color-scheme: dark) { "
    + "".join(f".c{i} {{ --c: {dark}; }} " for i, (_, dark) in enumerate(COLOURS))
    + "}\n@media print { "
    + "".join(f".c{i} {{ --c: {light}; }} " for i, (light, _) in enumerate(COLOURS))
    + "}\n"
)


class Curve(NamedTuple):
    """Of the run ``name``: a value after each of ``steps``, which rise; None where it was not finite."""

    name: str
    steps: Sequence[int]
    values: Sequence[float | None]

    @property
    def known(self) -> list[float]:
        return [value for value in self.values if value is not None]


def chart(title: str, curves: Sequence[Curve], bounds: Sequence[float] = (), healthy: str = "") -> str:
    """A figure. ``bounds`` are drawn where they lie near the curves, ``healthy`` says what they mean.

    An empty curve keeps the next one's colour what it is in other charts.
    """
    values = [value for curve in curves for value in curve.known]
    head = f'<figure class="chart"><h4>{escaped(title)}</h4>'
    if not values:
        return f"{head}<figcaption>no value was finite</figcaption></figure>"
    steps = [step for curve in curves for step in curve.steps]
    x = Axis(min(steps), max(steps) if max(steps) > min(steps) else min(steps) + 1, LEFT, WIDTH - RIGHT)
    y = fitting(values, bounds, HEIGHT - BOTTOM, TOP)
    thin = [thinned(curve) for curve in curves]
    told = [{"n": each.name, "s": each.steps, "v": [_short(value) for value in each.values]} for each in thin]
    attributes = {
        "viewBox": f"0 0 {WIDTH} {HEIGHT}",
        "role": "img",
        "aria-label": _described(title, curves),
        "data-curves": json.dumps([each for each in told if each["s"]], separators=(",", ":")),
        "data-axes": json.dumps([x.low, x.high, y.low, y.high, int(y.log)]),
    }
    written = "".join(f' {name}="{escaped(value)}"' for name, value in attributes.items())
    notes = [note for note in (healthy, "logarithmic" if y.log else "", _gaps(curves)) if note]
    parts = [*_frame(x, y, bounds), *_lines(thin, x, y), '<path class="at" d=""/><path class="dots" d=""/>']
    more = "".join(f"<br>{escaped(note)}" for note in notes)
    caption = f"<figcaption><output>{escaped(_last(curves))}</output>{more}</figcaption>"
    return f"{head}<svg{written}>{''.join(parts)}</svg>{caption}</figure>"


def legend(names: Sequence[str]) -> str:
    """Which line is which run's."""
    keys = (
        f'<span class="key"><svg viewBox="0 0 28 8" aria-hidden="true"><path {_look(i)} d="M1 4H27"/></svg>'
        f"{escaped(name)}</span>"
        for i, name in enumerate(names)
    )
    return f'<div class="keys">{"".join(keys)}</div>'


def thinned(curve: Curve) -> Curve:
    """The lowest and the highest point of each of MOST stretches, and the first that is None."""
    size = math.ceil(len(curve.steps) / MOST)
    if size <= 2:
        return curve
    kept: set[int] = {0, len(curve.steps) - 1}
    for start in range(0, len(curve.steps), size):
        places = range(start, min(start + size, len(curve.steps)))
        known = [(value, place) for place in places if (value := curve.values[place]) is not None]
        kept |= {min(known)[1], max(known)[1]} if known else set()
        kept |= set([place for place in places if curve.values[place] is None][:1])
    order = sorted(kept)
    return Curve(curve.name, [curve.steps[i] for i in order], [curve.values[i] for i in order])


def _frame(x: Axis, y: Axis, bounds: Sequence[float]) -> Iterator[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    for value in y.ticks(5):
        at = y(value)
        yield f'<path class="grid" d="M{LEFT} {at:.1f}H{right}"/>'
        yield f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{compact(value)}</text>'
    for value in x.ticks(5):
        if value == round(value):
            at = x(value)
            anchor = "end" if at > right - 16 else "middle"
            yield f'<path class="grid" d="M{at:.1f} {bottom}v4"/>'
            yield f'<text x="{at:.1f}" y="{HEIGHT - 5}" text-anchor="{anchor}">{compact(value)}</text>'
    for bound in bounds:
        if y.low <= bound <= y.high:
            yield f'<path class="bound" d="M{LEFT} {y(bound):.1f}H{right}"/>'


def _lines(curves: Sequence[Curve], x: Axis, y: Axis) -> Iterator[str]:
    """A gap where a value is None, and a mark at the bottom."""
    for number, curve in enumerate(curves):
        path, drawing, skips = [], False, []
        for step, value in zip(curve.steps, curve.values, strict=True):
            if value is None:
                skips.append(f"M{x(step):.1f} {HEIGHT - BOTTOM}v-7")
            else:
                path.append(f"{'L' if drawing else 'M'}{x(step):.1f} {y(value):.1f}" + ("" if drawing else "h0"))
            drawing = value is not None
        if path:
            yield f'<path {_look(number)} d="{"".join(path)}"/>'
        if skips:
            yield f'<path class="skip" d="{"".join(skips)}"/>'


def _look(number: int) -> str:
    dashes = DASHES[number // len(COLOURS) % len(DASHES)]
    return f'class="curve c{number % len(COLOURS)}"' + (f' stroke-dasharray="{dashes}"' if dashes else "")


def _last(curves: Sequence[Curve]) -> str:
    """In the words of the script."""
    drawn = [curve for curve in curves if curve.steps]
    if len(drawn) == 1:
        return f"step {drawn[0].steps[-1]}: {said(drawn[0].values[-1])}"
    return "at the end: " + ", ".join(f"{each.name} {said(each.values[-1])}" for each in drawn)


def _gaps(curves: Sequence[Curve]) -> str:
    count = sum(len(curve.values) - len(curve.known) for curve in curves)
    return f"{count} not finite, so skipped: red marks at the bottom" if count else ""


def _described(title: str, curves: Sequence[Curve]) -> str:
    texts = []
    for each in curves:
        if each.known:
            name = f" of {each.name}" if len(curves) > 1 else ""
            ends = f"from {said(each.known[0])} at step {each.steps[0]} to {said(each.known[-1])} at {each.steps[-1]}"
            texts.append(f"{title}{name} {ends}, between {said(min(each.known))} and {said(max(each.known))}")
    return "; ".join(texts)


def said(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")
