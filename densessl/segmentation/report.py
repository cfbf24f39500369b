"""What an evaluation leaves behind: results.json, .md, .csv, pictures.png and confusion.png; tables of a comparison."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from densessl.errors import UserError
from densessl.files import aside
from densessl.segmentation.boundary import WIDTH
from densessl.segmentation.confusion_chart import confusion_chart
from densessl.segmentation.datasets import SegmentationDataset
from densessl.segmentation.intervals import LEVEL, RESAMPLES, SEED, Spread
from densessl.segmentation.pictures import sheet
from densessl.segmentation.protocols import deviations, digest, label
from densessl.segmentation.result import Outcome, Result, Row
from densessl.segmentation.table import csv_table, table
from densessl.versions import versions


def write(folder: Path, outcome: Outcome, val: SegmentationDataset) -> None:
    """The five files; the pictures show the first seed, the confusion matrix all. Raises UserError."""
    first = outcome.results[0]
    about = f"{outcome.name}, {label(first.protocol)}"
    title = f"{about}, mIoU {_per_cent(first.miou)} on all of {val.title} {val.split}"
    confusion = torch.stack([r.confusion for r in outcome.results]).sum(0)
    chart = confusion_chart(confusion, first.classes, f"{about}, {val.title} {val.split}")
    _save(
        folder,
        {
            "pictures.png": sheet(val, first.shown, title),
            "confusion.png": chart,
            "results.md": table([outcome]),
            "results.csv": csv_table([outcome]),
            "results.json": _json(record(outcome)),
        },
    )


def write_comparison(folder: Path, outcomes: Sequence[Outcome]) -> None:
    """comparison.md, .csv and .json of several backbones. Raises UserError."""
    first = outcomes[0]
    differences = {o.name: _groups(o.minus(first)) for o in outcomes[1:]}
    summary = {**_about(first.results[0]), "minus": first.name, "differences": differences}
    files = {"comparison.md": table(outcomes), "comparison.csv": csv_table(outcomes), "comparison.json": _json(summary)}
    _save(folder, files)


def record(outcome: Outcome) -> dict[str, Any]:
    """One backbone's results as JSON has them: scores are fractions, null where a class has none."""
    first = outcome.results[0]
    return {
        "name": outcome.name,
        **_about(first),
        "backbone": first.backbone,
        **_groups(outcome.rows),
        "seeds": [_seed(result) for result in outcome.results],
        "device": first.device,
        "processes": first.processes,
        "versions": versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _about(result: Result) -> dict[str, Any]:
    """What every number depends on."""
    return {
        "protocol": {
            "name": result.protocol.name,
            "hash": digest(result.protocol),
            "deviations": deviations(result.protocol),
            "source": result.protocol.source,
            "settings": result.protocol.settings(),
        },
        "data": {**result.data, "classes": result.classes},
        "intervals": {"over": "pictures", "level": LEVEL, "resamples": RESAMPLES, "seed": SEED},
        "boundary_width": WIDTH,
    }


def _groups(rows: Mapping[Row, Spread]) -> dict[str, dict[str, Any]]:
    groups: dict[str, dict[str, Any]] = {}
    for (group, key), value in rows.items():
        groups.setdefault(group, {})[key] = value._asdict()
    return groups


def _seed(result: Result) -> dict[str, Any]:
    groups = {g: {k: _number(v) for k, v in found.items()} for g, found in result.measured.items()}
    return {
        "seed": result.seed,
        **groups.pop("scores"),
        **groups,
        "confusion": result.confusion.tolist(),
        "fitted": {key: _number(value) for key, value in result.fitted.items()},
        "seconds": {"train": round(result.seconds[0], 1), "val": round(result.seconds[1], 1)},
        "memory_gib": round(result.memory, 3),
    }


def _save(folder: Path, files: Mapping[str, Image.Image | str]) -> None:
    try:
        for name, content in files.items():
            with aside(folder / name) as part:
                if isinstance(content, str):
                    part.write_text(content, encoding="utf-8")
                else:
                    content.save(part)
    except OSError as error:
        raise UserError(f"{folder}: the results can't be written there: {error}") from None


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _per_cent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"
