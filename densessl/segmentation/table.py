"""Outcomes side by side: Markdown to read, CSV to calculate with."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence

from densessl.segmentation.intervals import LEVEL, Spread
from densessl.segmentation.protocols import label
from densessl.segmentation.result import Outcome, Result, Row

SCORES = {
    "miou": "**mIoU**",
    "boundary_miou": "boundary mIoU",
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "frequency_weighted_iou": "frequency-weighted IoU",
}


def table(outcomes: Sequence[Outcome]) -> str:
    """Markdown: the protocol with its hash, then a column a backbone and a row a score and class, in per cent.

    After the backbones a column each with the difference to the first. All outcomes are of one protocol, data set and
    seeds.
    """
    first = outcomes[0].results[0]
    seeds = [r.seed for r in outcomes[0].results]
    counts = ", ".join(f"{part['pictures']} {part['split']}" for part in (first.data["train"], first.data["val"]))
    over = f"seeds {', '.join(map(str, seeds))}: mean ± standard deviation" if len(seeds) > 1 else f"seed {seeds[0]}"
    titles = [o.name for o in outcomes] + [f"{o.name} minus {outcomes[0].name}" for o in outcomes[1:]]
    differences = [o.minus(outcomes[0]) for o in outcomes[1:]]
    lines = [
        f"{label(first.protocol)} on {first.data['name']} ({counts} pictures), {over}; per cent, "
        f"[{LEVEL:.0%} interval over the pictures of {first.data['val']['split']}]",
        "",
        f"| | {' | '.join(titles)} |",
        f"|---|{'---:|' * len(titles)}",
    ]
    rows: list[tuple[Row, str]] = [(("scores", key), text) for key, text in SCORES.items()]
    rows += [(("class_iou", name), f"IoU {name}".replace("|", r"\|")) for name in first.classes]
    for row, text in rows:
        cells = [_cell(o.rows[row], interval=row[0] == "scores") for o in outcomes]
        cells += [_cell(difference[row], sign="+") for difference in differences]
        lines.append(f"| {text} | {' | '.join(cells)} |")
    for text, key in (("training, s", _training), ("validation, s", _validation), ("peak memory, GiB", _memory)):
        costs = [f"{statistics.fmean(map(key, o.results)):.1f}" for o in outcomes] + [""] * len(differences)
        lines.append(f"| {text} | {' | '.join(costs)} |")
    return "\n".join(lines) + "\n"


def csv_table(outcomes: Sequence[Outcome]) -> str:
    """A line a number: of a backbone, or of its difference to the first, which then stands under ``minus``.

    Scores are fractions, ``low`` and ``high`` the ends of the interval; what there is no value for is empty.
    """
    first = outcomes[0].results[0]
    found: list[tuple[str, str, dict[Row, Spread]]] = [(o.name, "", o.rows) for o in outcomes]
    found += [(o.name, outcomes[0].name, o.minus(outcomes[0])) for o in outcomes[1:]]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["data", "protocol", "seeds", "backbone", "minus", "score", "class", *Spread._fields])
    about = [first.data["name"], label(first.protocol), len(outcomes[0].results)]
    for name, minus, rows in found:
        for (group, key), value in rows.items():
            of = [key, ""] if group == "scores" else [group.removeprefix("class_"), key]
            writer.writerow([*about, name, minus, *of, *("" if v is None else f"{v:.6f}" for v in value)])
    return text.getvalue()


def _cell(value: Spread, *, interval: bool = True, sign: str = "") -> str:
    if value.mean is None:
        return "-"
    error = f" ± {100 * value.std:.1f}" if value.std is not None else ""
    ends = [f"{100 * end:{sign}z.1f}" for end in (value.low, value.high) if end is not None]
    return f"{100 * value.mean:{sign}z.1f}{error}" + (f" [{', '.join(ends)}]" if interval and ends else "")


def _training(result: Result) -> float:
    return result.seconds[0]


def _validation(result: Result) -> float:
    return result.seconds[1]


def _memory(result: Result) -> float:
    return result.memory
