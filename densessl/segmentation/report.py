"""What an evaluation leaves behind: results.json, .md, .csv, pictures.png and confusion.png; tables of a comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from densessl import outcomes as shared
from densessl.segmentation.boundary import WIDTH
from densessl.segmentation.confusion_chart import confusion_chart
from densessl.segmentation.datasets import SegmentationDataset
from densessl.segmentation.intervals import RESAMPLES, SEED
from densessl.segmentation.pictures import sheet
from densessl.segmentation.protocols import deviations, label
from densessl.segmentation.result import Outcome, Result
from densessl.segmentation.table import csv_table, table


def write(folder: Path, outcome: Outcome, val: SegmentationDataset) -> None:
    """The five files; the pictures show the first seed, the confusion matrix all. Raises UserError."""
    first = outcome.results[0]
    about = f"{outcome.name}, {label(first.protocol)}"
    title = f"{about}, mIoU {_per_cent(first.miou)} on all of {val.title} {val.split}"
    confusion = torch.stack([r.confusion for r in outcome.results]).sum(0)
    chart = confusion_chart(confusion, first.classes, f"{about}, {val.title} {val.split}")
    shared.write_files(
        folder,
        {
            "pictures.png": sheet(val, first.shown, title),
            "confusion.png": chart,
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
    """One backbone's results as JSON has them: scores are fractions, null where a class has none."""
    return shared.record(outcome, _about(outcome), _seed)


def _about(outcome: Outcome) -> dict[str, Any]:
    """What every number depends on."""
    result = outcome.results[0]
    return {
        "protocol": shared.protocol_facts(result.protocol, deviations(result.protocol)),
        "data": {**result.data, "classes": result.classes},
        "intervals": shared.interval_facts(len(outcome.results), "pictures", resamples=RESAMPLES, seed=SEED),
        "boundary_width": WIDTH,
    }


def _seed(result: Result) -> dict[str, Any]:
    groups = {g: {k: shared.number(v) for k, v in found.items()} for g, found in result.measured.items()}
    return {
        **groups.pop("scores"),
        **groups,
        "confusion": result.confusion.tolist(),
        "fitted": {key: shared.number(value) for key, value in result.fitted.items()},
    }


def _per_cent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"
