"""Pictures and label masks in files: pairing, reading, and refusing what would spoil a score."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from densessl.errors import UserError

IGNORE = 255
# Pillow stretches grey PNGs of 2 and 4 bits to 0..255; a label needs the stored number.
_STRETCH = {"L;2": 85, "L;4": 17}


class Pairs:
    """Pictures and masks in files, one pair an item.

    ``lookup`` has 256 entries: the value in a mask file -> label, ``IGNORE``, or -1 where the value is no class.
    """

    def __init__(
        self,
        pairs: list[tuple[Path, Path]],
        *,
        title: str,
        split: str,
        classes: tuple[str, ...],
        colors: tuple[tuple[int, int, int], ...],
        lookup: np.ndarray,
    ) -> None:
        self.pairs = pairs
        self.title = title
        self.split = split
        self.classes = classes
        self.colors = colors
        self.lookup = lookup

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, index: int) -> str:
        return self.pairs[index][0].stem

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Picture (H, W, 3) and mask (H, W), both uint8; 255 in the mask is ignored."""
        return read_picture(self.pairs[index][0]), self.mask(index)

    def mask(self, index: int) -> np.ndarray:
        """The mask alone, held against its picture's size and the classes. Raises UserError."""
        picture, file = self.pairs[index]
        values = read_mask(file)
        with _open(picture) as image:
            width, height = image.size
        if values.shape != (height, width):
            raise UserError(
                f"{file}: the mask is {values.shape[1]}x{values.shape[0]} pixels, its picture {picture.name} is "
                f"{width}x{height}; they must be equal"
            )
        labels = self.lookup[values]
        if labels.min() < 0:
            wrong = int(values[labels < 0][0])
            known = np.flatnonzero(self.lookup[:IGNORE] >= 0)
            raise UserError(
                f"{file}: the mask holds the value {wrong}, but {self.title} has the labels "
                f"{known[0]} to {known[-1]}, and {IGNORE} for pixels to ignore"
            )
        return labels.astype(np.uint8)

    def check(self) -> None:
        """Reads every mask once, so that a wrong one is found before training and not hours into it."""
        with ThreadPoolExecutor(4) as pool:
            for _ in pool.map(self.mask, range(len(self))):
                pass


def read_picture(path: Path) -> np.ndarray:
    """(H, W, 3) uint8. EXIF rotation is not applied: a mask knows nothing of it."""
    with _open(path) as image:
        if image.mode.startswith(("I", "F")):
            raise UserError(f"{path}: a picture of mode {image.mode}; 8 bits a channel are needed")
        try:
            return np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError) as error:
            raise UserError(f"{path}: the picture can't be read: {error}") from None


def read_mask(path: Path) -> np.ndarray:
    """(H, W) uint8 as stored: the index of a palette picture, never its colour."""
    with _open(path) as image:
        if image.mode not in ("L", "P", "1"):
            what = "16 or 32 bits" if image.mode.startswith(("I", "F")) else f"mode {image.mode}"
            raise UserError(
                f"{path}: a mask of {what}; one 8-bit channel is needed, grey or palette, whose value is the label"
            )
        tiles = getattr(image, "tile", [])  # (codec, box, offset, how it is stored)
        stored = tiles[0][3] if tiles else ""
        try:
            values = np.asarray(image, dtype=np.uint8)
        except (OSError, SyntaxError) as error:
            raise UserError(f"{path}: the mask can't be read: {error}") from None
    return values // _STRETCH.get(stored, 1) if isinstance(stored, str) else values


def lookup_of(labels: dict[int, int]) -> np.ndarray:
    """A lookup from file value to label; values not named are no class, 255 is always ignored."""
    lookup = np.full(256, -1, np.int16)
    for value, label in labels.items():
        lookup[value] = label
    lookup[IGNORE] = IGNORE
    return lookup


def palette(index: int) -> tuple[int, int, int]:
    """Pascal VOC's colour of a label: the bits of the index dealt out to red, green and blue, highest first."""
    color = [0, 0, 0]
    for bit in range(8):
        color[bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
    return color[0], color[1], color[2]


def few(names: Iterable[str], most: int = 5) -> str:
    """The first few names and how many there are."""
    names = sorted(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def incomplete(path: Path, wrong: str, layout: str) -> UserError:
    """The error of a missing or half-unpacked data set: what is wrong, the tree it should be, what there is."""
    return UserError(f"{path}: {wrong}\nexpected:\n{_indent(layout)}\nfound:\n{_indent(tree(path))}")


def tree(path: Path, most: int = 8) -> str:
    """Two levels of a folder, a few entries each."""
    if not path.is_dir():
        return f"a file {path.name}" if path.exists() else "nothing: there is no such folder"
    lines = []
    entries = sorted(path.iterdir())
    for entry in entries[:most]:
        inside = sorted(child.name for child in entry.iterdir()) if entry.is_dir() else None
        lines.append(entry.name if inside is None else f"{entry.name}/  {few(inside, 3) or 'empty'}")
    if len(entries) > most:
        lines.append(f"and {len(entries) - most} more")
    return "\n".join(lines) or "an empty folder"


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.strip("\n").splitlines())


def _open(path: Path) -> Image.Image:
    try:
        return Image.open(path)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(f"{path}: not a picture: {error}") from None
