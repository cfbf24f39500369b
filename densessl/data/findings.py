"""What a survey found, in words and files."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from densessl.config import DataConfig
from densessl.data.advice import Advice
from densessl.data.check import Span, Survey
from densessl.data.decoding import RGB
from densessl.data.label_maps import find_label_maps
from densessl.data.loader import FEW
from densessl.data.pictures import Pictures, contents_of
from densessl.data.pixels import Pixels
from densessl.data.sources.files import Files
from densessl.data.values import KEPT, TAKEN
from densessl.errors import UserError
from densessl.files import aside, printable

log = logging.getLogger("densessl")
SHOWN = 10  # of a kind, on the terminal
DARK = 65_535 / 3  # pictures of 16 bits that hardly reach it are nearly black where 16 bits are white


def report(images: Pictures, found: Survey, tiny: int) -> str:
    """Lines for a terminal."""
    lines = [f"{found.pictures:,} pictures, {found.pictures - len(found.corrupt):,} readable"]
    if contents := contents_of(images):
        lines.append(f"files   {contents}")
    if mixed := find_label_maps(images):
        lines.append(f"beware  {mixed}")
    if found.width and found.height:
        lines += [f"{n:>9,}  {form}" for form, n in found.forms.most_common()]
        lines += [f"width   {_span(found.width)}", f"height  {_span(found.height)}"]
        lines.append("size    " + ", ".join(f"{w} x {h} ({n:,})" for w, h, n in found.frequent) + ", the most frequent")
        if found.turned:
            lines.append(
                f"turned  {found.turned:,}, as EXIF or XMP says; data.upright=false would leave them as stored"
            )
    kinds = {
        "corrupt": (len(found.corrupt), corrupt(images, found)),
        f"tiny (a side below {tiny} px)": (len(found.tiny), tiny_ones(images, found)),
        "duplicates (the same pixels)": (len(found.duplicates), duplicates(images, found)),
    }
    odd = len(found.misfits())
    if odd:
        kinds["misfits (of another kind than most)"] = (odd, misfits(images, found))
    if names := list(odd_names(images, found)):
        kinds["odd names (read all the same)"] = (len(names), iter(names))
    for kind, (n, rows) in kinds.items():
        lines.append(f"{kind}: {n:,} of {found.pictures:,}, {n / found.pictures:.2%}" if n else f"{kind}: none")
        lines += [f"  {row}" for row in islice(rows, SHOWN)]
        lines += [f"  and {n - SHOWN:,} more; --out FOLDER lists them all"] if n > SHOWN else []
    if found.advice:
        lines += _advice(found, found.advice)
    default = DataConfig.model_fields["unreadable"].default
    allowed = max(FEW, int(default * found.pictures))
    what = "corrupt ones and misfits" if odd else "corrupt ones"
    if found.needed() > default:
        lines.append(f"data.unreadable, {default} by default, allows {allowed:,} {what}; needed is")
        lines.append(f"  data.unreadable={found.needed()}")
    elif found.corrupt or odd:
        lines.append(f"data.unreadable may stay as it is: {default} allows {allowed:,} {what} here")
    return "\n".join(lines)


def _span(span: Span) -> str:
    return f"{span.least} to {span.most}, median {span.median:g}"


def _advice(found: Survey, advice: Advice) -> Iterator[str]:
    """What is stored, the words that read it, and what else is to be known about them."""
    names = ("least", "0.1 %", "99.9 %", "most", "mean", "std")
    yield "channel" + "".join(f"{name:>12}" for name in names) + f"  as stored in {advice.pictures:,} pictures"
    for number, channel in enumerate(advice.channels, 1):
        yield f"{number:>7}" + "".join(f"{value:>12.6g}" for value in channel)
    if advice.pixels.nodata:
        numbers = " and ".join(f"{number:.9g}" for number in advice.pixels.nodata)
        yield f"no data: {numbers}, {advice.missing:.2%} of the numbers, left out above"
        yield "  data.nodata makes them black, as NaN is, and leaves them out of percentiles"
    yield "for the configuration, with mean and deviation of all pixels from black, 0, to white, 1:"
    yield f"  {advice.words()}"
    if advice.sampled:
        yield f"  of {KEPT:,} pixels at most, drawn at random, {TAKEN:,} of a picture: right to about a hundredth"
    used = {kind: found.count(kind) for kind in found.kinds if not advice.pixels.misfit(kind)}
    plain = {kind: n for kind, n in used.items() if not RGB.misfit(kind)}
    if advice.pixels == RGB and all(kind.channels == 1 for kind in used):
        one = advice._replace(pixels=Pixels(1), mean=advice.mean[:1], std=advice.std[:1])
        yield "all are grey, which is repeated for three channels; for one it is"
        yield f"  {one.words()}"
    if unread := sum(used.values()) - sum(plain.values()):
        yield f"without these keys {unread:,} of them could not be read"
    deep = sum(n for kind, n in plain.items() if kind.dtype == "uint16")
    white = max(channel.high for channel in advice.channels)
    if deep and advice.pixels.scaled and white < DARK:
        yield f"{deep:,} have 16 bits but use {white:,.0f} of 65,535: without data.range they would be nearly black"
    if deep and not advice.pixels.scaled:
        yield f"of the 16 bits of {deep:,} of them the upper 8 are read"
    dtypes = sorted({kind.dtype for kind in used})
    if advice.pixels.scaled and len(dtypes) > 1:
        yield f"one range for {' and '.join(dtypes)}; data.percentiles=[0.1,99.9] takes that of each picture instead"
    if used and all(kind.alpha for kind in used):
        yield f"all have an alpha, left out here; backbone.in_chans={advice.pixels.channels + 1} reads it as a channel"


def corrupt(images: Pictures, found: Survey) -> Iterator[str]:
    """Path and reason."""
    return (f"{images.path(row)}: {reason}" for row, reason in found.corrupt.items())


def misfits(images: Pictures, found: Survey) -> Iterator[str]:
    """Path, and why the advice doesn't read it."""
    pixels = found.advice.pixels if found.advice else RGB
    return (f"{images.path(row)}: {pixels.misfit(found.kind_of(row))}" for row in found.misfits().tolist())


def odd_names(images: Pictures, found: Survey) -> Iterator[str]:
    """Path, and what it is: another form of file than its ending says, or a folder that is called like a picture."""
    yield from (f"{images.path(row)}: {form}" for row, form in found.odd.items())
    folders = getattr(getattr(images, "source", None), "odd_folders", list)
    yield from (f"{path}: a folder" for path in folders())


def tiny_ones(images: Pictures, found: Survey) -> Iterator[str]:
    """Paths."""
    return (images.path(row) for row in found.tiny.tolist())


def duplicates(images: Pictures, found: Survey) -> Iterator[str]:
    """Path, and that of the first with the same pixels."""
    return (f"{images.path(row)} = {images.path(first)}" for row, first in found.duplicates.tolist())


def write(folder: Path, images: Pictures, found: Survey, path: str) -> None:
    """check.json with all figures, and corrupt.txt, tiny.txt, duplicates.txt, misfits.txt and odd.txt with every one.

    ``path`` is that of the collection, for who reads the figures later.
    """
    facts: dict[str, Any] = {key: len(getattr(found, key)) for key in ("corrupt", "tiny", "duplicates")}
    facts |= {
        "path": printable(path),
        "pictures": found.pictures,
        "misfits": len(found.misfits()),
        "turned": found.turned,
    }
    facts |= {"unreadable": found.needed(), "forms": found.forms, "frequent": found.frequent}
    facts |= {key: value and value._asdict() for key, value in (("width", found.width), ("height", found.height))}
    if contents := contents_of(images):
        facts |= contents.notes()
    facts["kinds"] = {str(kind): found.count(kind) for kind in found.kinds}
    if found.advice:
        channels = [channel._asdict() for channel in found.advice.channels]
        more = {"pixels": found.advice.pixels._asdict(), "channels": channels, "words": found.advice.words()}
        facts["advice"] = found.advice._asdict() | more
    with aside(folder / "check.json") as part:
        part.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    lists = {
        "corrupt": corrupt(images, found),
        "tiny": tiny_ones(images, found),
        "duplicates": duplicates(images, found),
        "misfits": misfits(images, found),
        "odd": odd_names(images, found),
    }
    for name, rows in lists.items():
        with aside(folder / f"{name}.txt") as part, part.open("w", encoding="utf-8") as file:
            file.writelines(f"{row}\n" for row in rows)


def write_list(file: Path, images: Pictures, found: Survey) -> int:
    """A list of the good pictures that data.path takes, and how many it has.

    Paths are absolute. One that a list can't hold, with a line break or a space at an end, is named and left out.
    Raises UserError.
    """
    source = getattr(images, "source", None)
    if not isinstance(source, Files):
        raise UserError(f"--list {file}: these pictures have no files of their own; pack leaves the corrupt ones out")
    rows = np.flatnonzero(found.good())
    if not len(rows):
        raise UserError(f"--list {file}: not one picture is good; --tiny 0 lets small ones pass")
    written = 0
    with aside(file) as part, part.open("wb") as lines:
        for row in rows.tolist():
            path = os.fsencode(os.path.abspath(source.file(row)))
            if path != path.strip() or b"\n" in path:
                log.warning("left out of %s, which can't hold such a name: %s", file, images.path(row))
            else:
                written += lines.write(path + b"\n") > 0
    return written
