"""What an evaluation leaves behind: results.json, .md, .csv and pictures.png; tables of a comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from densessl import outcomes as shared
from densessl.detection.datasets import DetectionDataset
from densessl.detection.pictures import sheet
from densessl.detection.protocols import deviations, digest
from densessl.detection.result import Outcome, Result
from densessl.detection.table import csv_table, table


def write(folder: Path, outcome: Outcome, val: DetectionDataset) -> None:
    """The four files; the pictures show the first seed. Raises UserError."""
    first = outcome.results[0]
    ap = first.scores["box", "ap"]
    score = "-" if math.isnan(ap) else f"{100 * ap:.1f}"
    about = f"{first.protocol.name} [{digest(first.protocol)}]"  # all that was changed would not fit on it
    title = f"{outcome.name}, {about}, box AP {score} on all of {val.title} {val.split}"
    shared.write_files(
        folder,
        {
            "pictures.png": sheet(val, first.shown, title),
            "results.md": table([outcome]),
            "results.csv": csv_table([outcome]),
            "results.json": record(outcome),
        },
    )


def write_comparison(folder: Path, outcomes: Sequence[Outcome]) -> None:
    """comparison.md, .csv and .json of several backbones. Raises UserError."""
    summary = shared.comparison(outcomes, _about(outcomes[0]))
    files = {"comparison.md": table(outcomes), "comparison.csv": csv_table(outcomes), "comparison.json": summary}
    shared.write_files(folder, files)


def record(outcome: Outcome) -> dict[str, Any]:
    """One backbone's results as JSON has them: scores are fractions, null where there is no object."""
    return shared.record(outcome, _about(outcome), _seed)


def _about(outcome: Outcome) -> dict[str, Any]:
    """What every number depends on."""
    result = outcome.results[0]
    facts = shared.protocol_facts(result.protocol, deviations(result.protocol))
    return {
        "protocol": facts,
        "data": {**result.data, "classes": result.classes},
        "intervals": shared.interval_facts(len(outcome.results)),
    }


def _seed(result: Result) -> dict[str, Any]:
    groups: dict[str, dict[str, Any]] = {}
    for (group, key), value in result.scores.items():
        groups.setdefault(group, {})[key] = shared.number(value)
    return {**groups, "fitted": result.fitted}
