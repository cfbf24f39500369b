"""Which training pictures count, where not all do: those of a list, or a share drawn by a seed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np

from densessl.classification.labelled import Labelled
from densessl.errors import UserError
from densessl.files import read_utf8

FEW = 3  # names that an error tells


def listed(split: Labelled, file: Path) -> np.ndarray:
    """Indices, ascending, of the pictures that ``file`` names, one a line, as SimCLR's lists for ImageNet do.

    A line is a file name, n01440764_10026.JPEG, with its folder before it where several pictures share the name. Raises
    UserError with line numbers for a name that no picture or several have, for one that stands twice, and for what is
    no list.
    """
    lines: dict[str, int] = {}
    for number, line in enumerate(_text(file).splitlines(), 1):
        if name := line.strip():
            if name in lines:
                raise UserError(f"{file}: {name} stands on lines {lines[name]} and {number}")
            lines[name] = number
    if not lines:
        raise UserError(f"{file}: the list is empty; it needs one file name a line")
    depths = sorted({name.count("/") for name in lines})
    found: dict[str, int] = {}
    for row in range(len(split.labels)):
        parts = split.pictures.path(row).split(os.sep)
        for depth in depths:
            name = "/".join(parts[-1 - depth :])
            if name in found:
                one, other = (split.pictures.path(i) for i in (found[name], row))
                raise UserError(f"{file}, line {lines[name]}: {name} may be {one} or {other}; put its folder before it")
            if name in lines:
                found[name] = row
    if missing := [name for name in lines if name not in found]:
        first = ", ".join(f"{name} (line {lines[name]})" for name in missing[:FEW])
        raise UserError(
            f"{file}: {len(missing)} of {len(lines)} names are no training picture: {first}"
            f"{', ...' if len(missing) > FEW else ''}; the first training picture is {split.pictures.path(0)}"
        )
    return np.sort(np.array(list(found.values())))


def list_title(file: Path) -> str:
    """The list's name and eight digits of its SHA-256. Raises UserError."""
    return f"{file.name} [{hashlib.sha256(_text(file).encode()).hexdigest()[:8]}]"


def balanced(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Indices, ascending, of a share of ``labels`` (N,) that holds equally many of each class, or all of a small one.

    The total is ``fraction`` of N, but at least one of each class; what doesn't divide falls to classes by chance.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    by_class = np.argsort(labels[order], kind="stable")
    _, starts, counts = np.unique(labels[order][by_class], return_index=True, return_counts=True)
    place = np.empty(len(labels), np.int64)  # among those of its class, in the order drawn
    place[by_class] = np.arange(len(labels)) - np.repeat(starts, counts)
    return np.sort(order[np.argsort(place, kind="stable")[: max(len(counts), round(fraction * len(labels)))]])


def _text(file: Path) -> str:
    try:
        return read_utf8(file)
    except OSError as error:
        raise UserError(f"{file}: the list of training pictures can't be read: {error.strerror}") from None
