"""Outcomes side by side: Markdown to read, CSV to calculate with."""

from __future__ import annotations

from collections.abc import Sequence

from densessl.detection.protocols import label
from densessl.detection.result import Outcome
from densessl.outcomes import Row, csv_lines, interval_facts, interval_text, markdown

NAMES = {
    "ap": "**AP**",
    "ap50": "AP50",
    "ap75": "AP75",
    "ap_small": "APs",
    "ap_medium": "APm",
    "ap_large": "APl",
}


def table(outcomes: Sequence[Outcome]) -> str:
    """Markdown: the protocol with its hash, then a column a backbone and a row a score and class, in per cent."""
    first = outcomes[0].results[0]
    rows = [(row, _title(row)) for row in first.scores]
    note = interval_text(interval_facts(len(outcomes[0].results)))
    return markdown(outcomes, rows, label(first.protocol), f"scored as COCO does; {note}")


def csv_table(outcomes: Sequence[Outcome]) -> str:
    """As ``csv_lines``."""

    def of(row: Row) -> list[str]:
        group, key = row
        return [group.removeprefix("class_"), "ap", key] if group.startswith("class_") else [group, key, ""]

    return csv_lines(outcomes, label(outcomes[0].results[0].protocol), ["of", "score", "class"], of)


def _title(row: Row) -> str:
    group, key = row
    return f"{group.removeprefix('class_')} {f'AP {key}' if group.startswith('class_') else NAMES[key]}"
