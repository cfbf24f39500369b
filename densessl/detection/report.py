"""What an evaluation leaves behind: results.json, .md, .csv and pictures.png; tables of a comparison."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image

from densessl.detection.datasets import DetectionDataset
from densessl.detection.pictures import sheet
from densessl.detection.protocols import deviations, digest
from densessl.detection.result import Outcome, Result, Row, Spread
from densessl.detection.table import csv_table, table
from densessl.errors import UserError
from densessl.files import aside
from densessl.versions import versions


def write(folder: Path, outcome: Outcome, val: DetectionDataset) -> None:
    """The four files; the pictures show the first seed. Raises UserError."""
    first = outcome.results[0]
    ap = first.scores["box", "ap"]
    score = "-" if math.isnan(ap) else f"{100 * ap:.1f}"
    about = f"{first.protocol.name} [{digest(first.protocol)}]"  # all that was changed would not fit on it
    title = f"{outcome.name}, {about}, box AP {score} on all of {val.title} {val.split}"
    _save(
        folder,
        {
            "pictures.png": sheet(val, first.shown, title),
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
    """One backbone's results as JSON has them: scores are fractions, null where there is no object."""
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
    }


def _groups(rows: Mapping[Row, Spread]) -> dict[str, dict[str, Any]]:
    groups: dict[str, dict[str, Any]] = {}
    for (group, key), value in rows.items():
        groups.setdefault(group, {})[key] = value._asdict()
    return groups


def _seed(result: Result) -> dict[str, Any]:
    groups: dict[str, dict[str, Any]] = {}
    for (group, key), value in result.scores.items():
        groups.setdefault(group, {})[key] = value if math.isfinite(value) else None
    return {
        "seed": result.seed,
        **groups,
        "fitted": result.fitted,
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
