"""The published classes of a data set: what a value in its files means, its name and its colour."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NamedTuple

from densessl.data.palette import Color
from densessl.segmentation.datasets.files import IGNORE


class ClassTable(NamedTuple):
    """``classes`` and ``colors`` by label; ``labels`` maps every value that may stand in a file to its label or 255."""

    classes: tuple[str, ...]
    colors: tuple[Color, ...]
    labels: dict[int, int]


def read_table(name: str) -> ClassTable:
    """classes/NAME.csv, beside this file: value, label (255: ignored), name, r, g, b, in the order of labels."""
    with (Path(__file__).parent / "classes" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    kept = [row for row in rows if int(row["label"]) != IGNORE]
    return ClassTable(
        classes=tuple(row["name"] for row in kept),
        colors=tuple((int(row["r"]), int(row["g"]), int(row["b"])) for row in kept),
        labels={int(row["value"]): int(row["label"]) for row in rows},
    )
