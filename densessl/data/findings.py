"""What a survey found, in words and files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from densessl.config import DataConfig
from densessl.data.check import Span, Survey
from densessl.data.loader import FEW
from densessl.data.pictures import Pictures
from densessl.data.sources.files import Files
from densessl.errors import UserError
from densessl.files import aside

SHOWN = 10  # of a kind, on the terminal


def report(images: Pictures, found: Survey, tiny: int) -> str:
    """Lines for a terminal."""
    lines = [f"{found.pictures:,} pictures, {found.pictures - len(found.corrupt):,} readable"]
    if found.moments and found.width and found.height:
        lines += [f"{n:>9,}  {form}" for form, n in found.forms.most_common()]
        lines += [f"width   {_span(found.width)}", f"height  {_span(found.height)}"]
        lines.append("size    " + ", ".join(f"{w} x {h} ({n:,})" for w, h, n in found.frequent) + ", the most frequent")
    kinds = {
        "corrupt": (len(found.corrupt), corrupt(images, found)),
        f"tiny (a side below {tiny} px)": (len(found.tiny), tiny_ones(images, found)),
        "duplicates (the same pixels)": (len(found.duplicates), duplicates(images, found)),
    }
    for kind, (n, rows) in kinds.items():
        lines.append(f"{kind}: {n:,} of {found.pictures:,}, {n / found.pictures:.2%}" if n else f"{kind}: none")
        lines += [f"  {row}" for row in islice(rows, SHOWN)]
        lines += [f"  and {n - SHOWN:,} more; --out FOLDER lists them all"] if n > SHOWN else []
    if found.moments:
        lines.append(f"mean and deviation of all pixels of {found.moments.pictures:,} pictures, for the configuration:")
        lines.append(f"  {configuration(found)}")
    default = DataConfig.model_fields["unreadable"].default
    allowed = max(FEW, int(default * found.pictures))
    if found.needed() > default:
        lines.append(f"data.unreadable, {default} by default, allows {allowed:,} corrupt ones; needed is")
        lines.append(f"  data.unreadable={found.needed()}")
    elif found.corrupt:
        lines.append(f"data.unreadable may stay as it is: {default} allows {allowed:,} corrupt ones here")
    return "\n".join(lines)


def _span(span: Span) -> str:
    return f"{span.least} to {span.most}, median {span.median:g}"


def configuration(found: Survey) -> str:
    """data.mean and data.std as words for a command line; empty where nothing is readable."""
    if not found.moments:
        return ""
    words = zip(("mean", "std"), (found.moments.mean, found.moments.std), strict=True)
    return " ".join(f"data.{key}=[{','.join(f'{value:.4f}' for value in values)}]" for key, values in words)


def corrupt(images: Pictures, found: Survey) -> Iterator[str]:
    """Path and reason."""
    return (f"{images.path(row)}: {reason}" for row, reason in found.corrupt.items())


def tiny_ones(images: Pictures, found: Survey) -> Iterator[str]:
    """Paths."""
    return (images.path(row) for row in found.tiny.tolist())


def duplicates(images: Pictures, found: Survey) -> Iterator[str]:
    """Path, and that of the first with the same pixels."""
    return (f"{images.path(row)} = {images.path(first)}" for row, first in found.duplicates.tolist())


def write(folder: Path, images: Pictures, found: Survey) -> None:
    """check.json with all figures, and corrupt.txt, tiny.txt and duplicates.txt with every one of them."""
    facts: dict[str, Any] = found._asdict() | {key: len(getattr(found, key)) for key in ("corrupt", "tiny")}
    facts |= {"duplicates": len(found.duplicates), "unreadable": found.needed()}
    for key in ("width", "height", "moments"):
        facts[key] = getattr(found, key) and getattr(found, key)._asdict()
    with aside(folder / "check.json") as part:
        part.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    lists = {
        "corrupt": corrupt(images, found),
        "tiny": tiny_ones(images, found),
        "duplicates": duplicates(images, found),
    }
    for name, rows in lists.items():
        with aside(folder / f"{name}.txt") as part, part.open("wb") as file:
            file.writelines(os.fsencode(row) + b"\n" for row in rows)


def write_list(file: Path, images: Pictures, found: Survey) -> int:
    """A list of the good pictures that data.path takes, and how many it has.

    Paths are absolute. One that a list can't hold, with a line break or a space at an end, is refused.
    Raises UserError.
    """
    if not isinstance(getattr(images, "source", None), Files):
        raise UserError(f"--list {file}: these pictures have no files of their own; pack leaves the corrupt ones out")
    rows = np.flatnonzero(found.good())
    if not len(rows):
        raise UserError(f"--list {file}: not one picture is good; --tiny 0 lets small ones pass")
    with aside(file) as part, part.open("wb") as lines:
        for row in rows.tolist():
            path = os.fsencode(os.path.abspath(images.path(row)))
            if path != path.strip() or b"\n" in path:
                raise UserError(f"--list {file}: a list can't hold {images.path(row)!r}; rename it")
            lines.write(path + b"\n")
    return len(rows)
