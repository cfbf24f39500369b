"""Health in words, and the measures behind them."""

from __future__ import annotations

from collections.abc import Sequence

from densessl.health.ranges import Range
from densessl.health.verdict import verdict
from densessl.report.chart import said
from densessl.report.quantities import MEASURES, NOUNS, interval, kind_of, last_ranges
from densessl.report.records import Run
from densessl.visual.page import escaped, table

# The beginning of a verdict, and the class of its colour; the words say all.
LOOKS = {"healthy": "good", "nothing": "unknown"}
STYLE = """
.words { border-left: .3rem solid var(--bad); padding: .1rem 0 .1rem .8rem; margin: 0 0 1rem; max-width: 48rem; }
.words.good { border-color: var(--good); } .words.unknown { border-color: var(--pale); }
.words p { margin: 0; } .words p:first-child { font-weight: 600; } .words ul { margin: .4rem 0 0; }
"""


def words(run: Run) -> list[str]:
    """The verdict first."""
    if not run.records:
        return ["nothing is known of the embeddings: no step was logged"]
    try:
        return verdict(run.records, run.method)
    except (KeyError, ZeroDivisionError, ValueError) as error:
        return [f"nothing is known of the embeddings: measures that belong together are missing ({error})"]


def shown(said: Sequence[str], name: str = "") -> str:
    """HTML of `words`."""
    look = LOOKS.get(said[0].split()[0].rstrip(":"), "ill")
    rest = "".join(f"<li>{escaped(each)}</li>" for each in said[1:])
    head = f"{name}: {said[0]}" if name else said[0][:1].upper() + said[0][1:]
    return f'<div class="words {look}"><p>{escaped(head)}</p>{f"<ul>{rest}</ul>" if rest else ""}</div>'


def measures(runs: dict[str, Run]) -> str:
    """A folded table: every measure that has a range, at the end of each run; empty where nothing was measured."""
    found = {label: last_ranges(run) for label, run in runs.items()}
    rows = []
    for name in sorted({name for each in found.values() for name in each}, key=_order):
        row = [kind_of(name), MEASURES.get(name.removeprefix(f"{kind_of(name)}_"), name)]
        for label, run in runs.items():
            row += _judged(run.late.get(f"health/{name}"), found[label].get(name))
        rows.append(row)
    if not rows:
        return ""
    heads = [h for label in runs for h in ((label, "healthy") if len(runs) > 1 else ("at the end", "healthy"))]
    inner = table(["of", "measure", *heads], rows, "measures")
    return f"<details><summary>Every measure that has a range</summary>{inner}</details>"


def _judged(value: float | None, range_: Range | None) -> list[str]:
    if value is None or range_ is None:
        return ["", ""]
    text = f"yes, {interval(range_)}" if range_.excess <= 1 else f"NO: {interval(range_)}"
    return [said(value), text if range_.value == value else f"{text}; judged is {range_.value:.3g}"]


def _order(name: str) -> tuple[int, int]:
    kinds, measures_ = list(NOUNS), list(MEASURES)
    kind, measure = kind_of(name), name.removeprefix(f"{kind_of(name)}_")
    return kinds.index(kind), measures_.index(measure) if measure in measures_ else len(measures_)
