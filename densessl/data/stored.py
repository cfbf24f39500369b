"""A picture as it is stored: its bytes, and what their header says."""

from __future__ import annotations

import io
import re
import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image

from densessl.data.decoding import decode
from densessl.data.pictures import Pictures, StoredPictures


class Form(NamedTuple):
    """The format as Pillow calls it, its mode (colours and alpha), and the bits of a channel."""

    format: str
    mode: str
    bits: int

    def __str__(self) -> str:
        return f"{self.format} {self.mode}, {self.bits} bits"


def read_stored(pictures: Pictures, i: int) -> tuple[np.ndarray, bytes]:
    """A picture and its file as it lies there, which is empty where there is none, as of scenes. Raises Unreadable."""
    if not isinstance(pictures, StoredPictures):
        return pictures.read(i), b""
    data = pictures.source.stored(i)
    return decode(data, pictures.path(i), pictures.pixels), data


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
