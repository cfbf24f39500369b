"""A picture as it is stored: its bytes, and what their header says."""

from __future__ import annotations

import io
import os
import re
import warnings
from typing import NamedTuple

from PIL import Image

from densessl.data.images import Images, Unreadable
from densessl.data.loader import Pictures
from densessl.data.shards import Shards


class Form(NamedTuple):
    """The format as Pillow calls it, its mode (colours and alpha), and the bits of a channel."""

    format: str
    mode: str
    bits: int

    def __str__(self) -> str:
        return f"{self.format} {self.mode}, {self.bits} bits"


def path_of(images: Pictures, i: int) -> str:
    """What a picture is called, by its number where the collection has no names."""
    return getattr(images, "path", str)(i)


def stored_bytes(images: Pictures, i: int) -> bytes | None:
    """A picture's file as it lies in its folder or shard; None where there is none, as of scenes. Raises Unreadable."""
    try:
        if isinstance(images, Images):
            with open(images.path(i), "rb") as file:
                return file.read()
        if isinstance(images, Shards):
            place = images.index[i]
            with open(images.files[place["shard"]], "rb", buffering=0) as shard:
                return os.pread(shard.fileno(), int(place["size"]), int(place["offset"]))
    except OSError as error:
        raise Unreadable(path_of(images, i), error.strerror or str(error)) from None
    return None


def form_of(data: bytes) -> Form | None:
    """From the header alone; None of what Pillow doesn't know."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, which is not read
            header = Image.open(io.BytesIO(data))
    except Exception:  # what a broken header raises depends on the format
        return None
    # How a tile is stored says what the mode can't: Pillow opens 16 bits a colour as RGB of 8.
    layout = (header.tile[0][3] if getattr(header, "tile", None) else None) or ("",)
    raw = layout if isinstance(layout, str) else str(layout[0])
    told = re.match(r"(?!BGR).*;(\d+)", raw)  # BGR;16 are the bits of all three
    bits = int(told[1]) if told else {"1": 1, "I": 32, "F": 32}.get(header.mode, 8)
    return Form(str(header.format), header.mode, bits)
