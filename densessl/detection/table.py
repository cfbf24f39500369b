"""Outcomes side by side: Markdown to read, CSV to calculate with."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence

from densessl.detection.protocols import label
from densessl.detection.result import Outcome, Row, Spread

NAMES = {
    "ap": "**AP**",
    "ap50": "AP50",
    "ap75": "AP75",
    "ap_small": "APs",
    "ap_medium": "APm",
    "ap_large": "APl",
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
        f"{label(first.protocol)} on {first.data['name']} ({counts} pictures), {over}; per cent, scored as COCO does",
        "",
        f"| | {' | '.join(titles)} |",
        f"|---|{'---:|' * len(titles)}",
    ]
    for row in first.scores:
        cells = [_cell(o.rows[row]) for o in outcomes] + [_cell(d[row], sign="+") for d in differences]
        lines.append(f"| {_title(row)} | {' | '.join(cells)} |")
    costs = {
        "training, s": [statistics.fmean(r.seconds[0] for r in o.results) for o in outcomes],
        "validation, s": [statistics.fmean(r.seconds[1] for r in o.results) for o in outcomes],
        "peak memory, GiB": [statistics.fmean(r.memory for r in o.results) for o in outcomes],
    }
    for text, values in costs.items():
        lines.append(f"| {text} | {' | '.join([*(f'{v:.1f}' for v in values), *[''] * len(differences)])} |")
    return "\n".join(lines) + "\n"


def csv_table(outcomes: Sequence[Outcome]) -> str:
    """A line a number: of a backbone, or of its difference to the first, which then stands under ``minus``.

    Scores are fractions; what there is no value for is empty.
    """
    first = outcomes[0].results[0]
    found: list[tuple[str, str, dict[Row, Spread]]] = [(o.name, "", o.rows) for o in outcomes]
    found += [(o.name, outcomes[0].name, o.minus(outcomes[0])) for o in outcomes[1:]]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["data", "protocol", "seeds", "backbone", "minus", "of", "score", "class", *Spread._fields])
    about = [first.data["name"], label(first.protocol), len(outcomes[0].results)]
    for name, minus, rows in found:
        for (group, key), value in rows.items():
            of = [group.removeprefix("class_"), "ap", key] if group.startswith("class_") else [group, key, ""]
            writer.writerow([*about, name, minus, *of, *("" if v is None else f"{v:.6f}" for v in value)])
    return text.getvalue()


def _title(row: Row) -> str:
    group, key = row
    text = f"AP {key}" if group.startswith("class_") else NAMES[key]
    return f"{group.removeprefix('class_')} {text}".replace("|", r"\|")


def _cell(value: Spread, sign: str = "") -> str:
    if value.mean is None:
        return "-"
    error = f" ± {100 * value.std:.1f}" if value.std is not None else ""
    return f"{100 * value.mean:{sign}z.1f}{error}"
