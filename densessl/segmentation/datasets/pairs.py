"""A data set that is files in pairs, a picture and its mask: finding them, reading them, refusing what doesn't fit."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import numpy as np

from densessl.data.decoding import RGB
from densessl.data.palette import Color
from densessl.data.pixels import Pixels
from densessl.errors import UserError
from densessl.reading import described
from densessl.segmentation.datasets.files import IGNORE, picture_size, read_mask, read_picture, told_turn
from densessl.segmentation.datasets.occurrence import single_share, tell_classes
from densessl.trees import few, incomplete

log = logging.getLogger("densessl")

SMEARED = 0.004  # of the pixels of clean masks 0.0005 stand alone, after JPEG or smooth resizing 0.005 to 0.05
SMEARED_WORDS = (
    "{:.1%} of the pixels have another value than all around them, as where masks were saved as JPEG or resized "
    "smoothly: they have to be made anew from what they were drawn in, as PNG, and resized by the nearest pixel"
)


class Pairs:
    """Pictures and masks in files, one pair an item; there is at least one.

    ``lookup`` has 256 entries: the value in a mask file -> label, ``IGNORE``, or -1 where the value is no class. Where
    there are not ``published`` pictures, that is said: scores of a part are no scores of the whole.
    """

    pixels = RGB
    rgb = True  # of 8 bits, or grey, all pictures are known to be

    def __init__(
        self,
        pairs: Sequence[tuple[Path, Path]],
        *,
        title: str,
        split: str,
        classes: tuple[str, ...],
        colors: tuple[Color, ...],
        lookup: np.ndarray,
        published: int | None = None,
    ) -> None:
        # One array: 118,000 pairs take 20 MB; Path objects would take five times that, again in each forked worker.
        self._paths = np.array([[os.fsencode(path) for path in pair] for pair in pairs])
        self.title = title
        self.split = split
        self.classes = classes
        self.colors = colors
        self.lookup = lookup
        self._checked: set[Pixels] = set()  # shared with those that `read_as` makes
        if published not in (None, len(pairs)):
            log.warning("%s: %d of the %d pictures of %s are here", title, len(pairs), published, split)

    def __len__(self) -> int:
        return len(self._paths)

    def pair(self, index: int) -> tuple[Path, Path]:
        """Where the picture and its mask lie."""
        picture, mask = self._paths[index]
        return Path(os.fsdecode(picture)), Path(os.fsdecode(mask))

    def name(self, index: int) -> str:
        return self.pair(index)[0].stem

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Picture (H, W, C) of ``pixels.dtype`` and mask (H, W) uint8; 255 in the mask is ignored."""
        picture = read_picture(self.pair(index)[0], self.pixels)
        return picture, self._mask(index, *picture.shape[:2])

    def read_as(self, pixels: Pixels) -> Self:
        """The same pairs with pictures of other channels or values. Raises UserError where they are known not to be."""
        if self.rgb and (pixels.channels not in (1, 3) or set(pixels.range) - {(0, 255)}):
            raise UserError(f"{self.title} has RGB pictures of 8 bits; this backbone takes {described(pixels)}")
        changed = copy.copy(self)
        changed.pixels = pixels
        return changed

    def mask(self, index: int) -> np.ndarray:
        """The mask alone, held against its picture's size and the classes. Raises UserError."""
        return self._mask(index, *picture_size(self.pair(index)[0], self.pixels))

    def _mask(self, index: int, height: int, width: int) -> np.ndarray:
        values = self.values(index)
        self._hold_sizes(index, values, height, width)
        return self.translate(values, self.pair(index)[1])

    def _hold_sizes(self, index: int, values: np.ndarray, height: int, width: int) -> None:
        picture, file = self.pair(index)
        if values.shape == (height, width):
            return
        height, width, _ = read_picture(picture, self.pixels).shape  # a PNG may tell of a turn behind its pixels
        if values.shape != (height, width):
            raise UserError(
                f"{file}: the mask is {values.shape[1]}x{values.shape[0]} pixels, its picture {picture.name} is "
                f"{width}x{height}{told_turn(picture)}; they must be equal"
            )

    def values(self, index: int) -> np.ndarray:
        """(H, W) uint8 of which ``lookup`` makes labels: as the file holds them, one number a pixel."""
        return read_mask(self.pair(index)[1])

    def translate(self, values: np.ndarray, file: Path) -> np.ndarray:
        """Labels (H, W) uint8 of the values in a file. Raises UserError for a value that is no class."""
        labels = self.lookup[values]
        if labels.min() < 0:
            wrong = int(values[labels < 0][0])
            known = np.flatnonzero(self.lookup[:IGNORE] >= 0)
            raise UserError(
                f"{file}: the mask holds the value {wrong}, but {self.title} has the labels "
                f"{known[0]} to {known[-1]}, and {IGNORE} for pixels to ignore{_smeared(values)}"
            )
        return labels.astype(np.uint8)

    def recognise(self, counts: np.ndarray, holds: np.ndarray) -> str:
        """What the masks are instead of what the layout says, and what to do; empty where nothing shows.

        Args:
            counts: (256,) pixels of each value, over all masks.
            holds: (masks, 256) whether a mask holds a value.
        """
        return ""

    def check(self) -> None:
        """Reads every mask once, so that a wrong one is found before training and not hours into it.

        Says which classes no mask holds and what share of the pixels is ignored. Raises UserError for a mask that is
        wrong, and for masks of another kind.
        """
        if self.pixels in self._checked:
            return
        holds = np.zeros((len(self), 256), bool)
        counts, single = np.zeros(256, np.int64), 0.0
        with ThreadPoolExecutor(4) as pool:
            for index, (found, apart) in enumerate(pool.map(self._look, range(len(self)))):
                holds[index] = found > 0
                counts += found
                single += apart / len(self)
        if instead := self.recognise(counts, holds):
            raise UserError(f"{self.pair(0)[1].parent}: {instead}")
        if (wrong := (holds & (self.lookup < 0)).any(1)).any():
            self.mask(int(wrong.argmax()))  # which says what is wrong
        labels = np.zeros(256, np.int64)
        np.add.at(labels, self.lookup[counts > 0], counts[counts > 0])
        tell_classes(self, labels, again=bool(self._checked))
        if single > SMEARED and not self._checked:
            log.warning("%s %s: %s", self.title, self.split, SMEARED_WORDS.format(single))
        self._checked.add(self.pixels)

    def _look(self, index: int) -> tuple[np.ndarray, float]:
        """Pixels of each value (256,), and the share of those that differ from all around them."""
        values = self.values(index)
        self._hold_sizes(index, values, *picture_size(self.pair(index)[0], self.pixels))
        return np.bincount(values.ravel(), minlength=256), single_share(values)


def _smeared(values: np.ndarray) -> str:
    share = single_share(values)
    return f". {SMEARED_WORDS.format(share)}" if share > SMEARED else ""


def lookup_of(labels: dict[int, int]) -> np.ndarray:
    """A lookup from file value to label; values not named are no class, 255 is always ignored."""
    lookup = np.full(256, -1, np.int16)
    for value, label in labels.items():
        lookup[value] = label
    lookup[IGNORE] = IGNORE
    return lookup


def by_stem(folder: Path, endings: Sequence[str]) -> dict[str, Path]:
    """The folder's files, sub-folders too, by their path without the ending; hidden ones are left out.

    Endings match in any case, the first that fits counts. Raises UserError for two of one name.
    """
    files: dict[str, Path] = {}
    for file in sorted(folder.rglob("*")):
        ending = next((e for e in endings if file.name.lower().endswith(e.lower())), None)
        if ending is None or file.name.startswith("."):
            continue
        stem = file.relative_to(folder).as_posix()[: -len(ending)]
        if stem in files:
            raise UserError(f"{file}: {files[stem].name} has the same name; which one belongs to the mask?")
        files[stem] = file
    return files


def pair_up(root: Path, layout: str, pictures: tuple[Path, Sequence[str]], masks: tuple[Path, Sequence[str]]) -> list:
    """Pictures and masks of the same stem; each side is a folder and the endings of its files.

    Raises UserError for what has no partner, for a missing folder and where there is nothing at all.
    """
    for folder, _ in (pictures, masks):
        if not folder.is_dir():
            raise incomplete(root, f"{folder.relative_to(root).as_posix()} is missing", layout)
    found, labelled = by_stem(*pictures), by_stem(*masks)
    where = " and ".join(folder.relative_to(root).as_posix() for folder, _ in (pictures, masks))
    if not found and not labelled:
        raise incomplete(root, f"no pictures and no masks in {where}", layout)
    wrong = []
    if without := found.keys() - labelled.keys():
        wrong.append(f"{len(without)} pictures without mask (masks are {', '.join(masks[1])}): {few(without)}")
        lossy = by_stem(masks[0], (".jpg", ".jpeg", ".webp")).keys() & without
        if lossy:
            wrong[-1] += f"; {len(lossy)} of the masks are JPEG or WebP, which change values: PNGs are needed"
    if without := labelled.keys() - found.keys():
        wrong.append(f"{len(without)} masks without picture: {few(without)}")
    if wrong:
        raise incomplete(root, f"{where}: {'; '.join(wrong)}", layout)
    return [(found[stem], labelled[stem]) for stem in sorted(found)]


def require(root: Path, pairs: Sequence[tuple[Path, Path]], source: str, layout: str) -> None:
    """Raises UserError for pictures and masks that ``source`` names and that aren't there, or if it names none."""
    if not pairs:
        raise incomplete(root, f"{source} names no pictures", layout)
    folders = {path.parent for pair in pairs for path in pair}
    have = {folder: set(os.listdir(folder)) if folder.is_dir() else set() for folder in folders}
    for what, paths in zip(("pictures", "masks"), zip(*pairs, strict=True), strict=True):
        if missing := [path for path in paths if path.name not in have[path.parent]]:
            names = few(f"{path.parent.name}/{path.name}" for path in missing)
            raise incomplete(root, f"{len(missing)} {what} of {source} are missing: {names}", layout)
