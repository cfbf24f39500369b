"""Outcomes side by side: Markdown to read, CSV to calculate with."""

from __future__ import annotations

from collections.abc import Sequence

from densessl.outcomes import Row, csv_lines, interval_facts, interval_text, markdown
from densessl.segmentation.protocols import label
from densessl.segmentation.result import Outcome

SCORES = {
    "miou": "**mIoU**",
    "boundary_miou": "boundary mIoU",
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "frequency_weighted_iou": "frequency-weighted IoU",
}


def table(outcomes: Sequence[Outcome]) -> str:
    """Markdown: the protocol with its hash, then a column a backbone and a row a score and class, in per cent."""
    first = outcomes[0].results[0]
    rows: list[tuple[Row, str]] = [(("scores", key), text) for key, text in SCORES.items()]
    rows += [(("class_iou", name), f"IoU {name}") for name in first.classes]
    note = interval_text(interval_facts(len(outcomes[0].results), "pictures"))
    return markdown(outcomes, rows, label(first.protocol), note, intervals=lambda row: row[0] == "scores")


def csv_table(outcomes: Sequence[Outcome]) -> str:
    """As ``csv_lines``; ``low`` and ``high`` are the ends of the interval."""

    def of(row: Row) -> list[str]:
        group, key = row
        return [key, ""] if group == "scores" else [group.removeprefix("class_"), key]

    return csv_lines(outcomes, label(outcomes[0].results[0].protocol), ["score", "class"], of)
