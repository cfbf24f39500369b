"""Labelled pictures: folders of classes, or tar shards with class numbers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from densessl.data.decoding import RGB
from densessl.data.pictures import Pictures, StoredPictures
from densessl.data.pixels import Pixels
from densessl.data.sources.files import find_files
from densessl.data.sources.shards import Shards
from densessl.errors import UserError
from densessl.files import printable, read_utf8
from densessl.reading import described
from densessl.trees import few, incomplete

LAYOUT = """
FOLDER/
  train/CLASS/NAME.jpg   val/CLASS/NAME.jpg   (or test/)
or
FOLDER/
  train-0000.tar ...     val-0000.tar ...     (or test-*.tar), with KEY.jpg, and KEY.cls that holds 0, 1, 2 or so
  classes.txt            one class a line, the first is label 0; optional
"""


class Labelled(NamedTuple):
    pictures: Pictures
    labels: np.ndarray  # (pictures,) int64, an index of classes
    classes: tuple[str, ...]


def open_labelled(path: str | Path, split: str) -> Labelled:
    """The pictures of "train", "val" or "test" with their labels.

    The classes of folders are those of train/, by name. Raises UserError with the expected and the found tree where
    nothing, or not all, of a layout is there.
    """
    root = Path(path)
    if shards := sorted(map(str, root.glob(f"{split}-*.tar"))):
        return _of_shards(root, Shards(shards))
    for part in ("train", split):
        if not (root / part).is_dir():
            raise incomplete(root, f"there is neither {part}/ nor {part}-*.tar", LAYOUT)
    return _of_folders(root, split)


def read_as(split: Labelled, pixels: Pixels) -> Labelled:
    """``split`` with pictures as ``pixels`` say. Raises UserError where these are not in files."""
    if pixels == RGB:
        return split
    if not isinstance(split.pictures, StoredPictures):
        raise UserError(f"these are RGB pictures of 8 bits; this backbone takes {described(pixels)}")
    return split._replace(pictures=StoredPictures(split.pictures.source, pixels))


def held_out(path: str | Path) -> str:
    """The split to score on: "val" where it is there, else "test", of which some sets keep the labels to themselves."""
    root = Path(path)
    for split in ("val", "test"):
        if (root / split).is_dir() or any(root.glob(f"{split}-*.tar")):
            return split
    raise incomplete(root, "nothing to score on: there is neither val nor test", LAYOUT)


def _of_shards(root: Path, shards: Shards) -> Labelled:
    labels, file = shards.labels(), root / "classes.txt"
    pictures = StoredPictures(shards, RGB)
    if not file.is_file():
        return Labelled(pictures, labels, tuple(map(str, range(int(labels.max()) + 1))))
    classes = tuple(line.strip() for line in read_utf8(file).rstrip().splitlines())
    if labels.max() >= len(classes):
        wrong = int(labels.argmax())
        raise UserError(f"{file} names {len(classes)} classes, but {shards.path(wrong)} has label {labels[wrong]}")
    return Labelled(pictures, labels, classes)


def _of_folders(root: Path, split: str) -> Labelled:
    classes = tuple(sorted(f.name for f in (root / "train").iterdir() if f.is_dir() and not f.name.startswith(".")))
    try:
        files = find_files(str(root / split))
    except UserError:
        raise incomplete(root, f"no pictures in {split}/", LAYOUT) from None
    start = len(os.path.join(files.root, ""))
    names = [files.file(i)[start:].partition(os.sep)[0] for i in range(len(files))]
    numbers = {name: number for number, name in enumerate(classes)}
    if unknown := set(names) - set(classes):
        raise incomplete(root, f"{split}/ has what is no class folder of train/: {few(unknown)}", LAYOUT)
    if split == "train" and (empty := set(classes) - set(names)):
        raise incomplete(root, f"class folders of train/ without pictures: {few(empty)}", LAYOUT)
    return Labelled(
        StoredPictures(files, RGB),
        np.array([numbers[name] for name in names], np.int64),
        tuple(map(printable, classes)),
    )
