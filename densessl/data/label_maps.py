"""Label maps among images: whether a collection holds masks beside the images that they belong to."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from densessl.data.decoding import Unreadable
from densessl.data.header import form_at
from densessl.data.pictures import Pictures, StoredPictures, contents_of
from densessl.data.sources.files import Files
from densessl.data.stored import read_stored
from densessl.files import printable

SAMPLE, SECONDS = 96, 3.0  # images that are looked at, and for how long at most
FEWEST = 3  # of them, on each side
VALUES = 64  # that a label map has at most
FLAT = 0.85  # share of pixels that are like those to the right and below, as in areas of one class
PURE = 0.9  # share of a place's images that are of one kind
PAIRED = 0.8  # share of label maps whose image is there
KNOWN = 200_000  # paths that are all held against each other: 50 MB for half a second
LOSSY = ("JPEG", "WebP")
WORDS = {  # of what label maps' folders and names are called
    *("annot", "annotation", "annotations", "gt", "groundtruth", "label", "labels", "mask", "masks", "parsing", "seg"),
    *("segmentation", "segmentations", "segments", "semantic", "stuffthingmaps", "trimap", "trimaps", "truth"),
}
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
TAIL = re.compile(r"(?:[-_.][A-Za-z][A-Za-z0-9]*)+$")  # words behind the number of an image


class _Seen(NamedTuple):
    """An image of the sample: its row, its path below the collection, and whether it looks like a label map."""

    row: int
    parts: tuple[str, ...]
    flat: bool


Key = Callable[[tuple[str, ...]], str]


def find_label_maps(images: Pictures) -> str:
    """A sentence on label maps among the images, with the data.path that is meant; empty where there are none.

    A sample is read, for a few seconds at most. Label maps are lossless, with few values in flat areas, have folders or
    an ending of their own, and are called label maps or have an image of their name and size. Drawings alone are none.
    """
    if not isinstance(images, StoredPictures) or contents_of(images) is None:
        return ""
    seen = _sample(images)
    deepest = max((len(one.parts) for one in seen), default=1) - 1
    folders: list[Key] = [partial(_folder, level) for level in range(deepest)]
    for level, key in enumerate([*folders, lambda parts: _ending(parts[-1])]):
        groups: dict[str, list[bool]] = {}
        for one in seen:
            groups.setdefault(key(one.parts), []).append(one.flat)
        maps = {name for name, flat in groups.items() if np.mean(flat) >= PURE}
        others = {name for name, flat in groups.items() if np.mean(flat) <= 1 - PURE}
        few = min(sum(len(groups[name]) for name in kind) for kind in (maps, others))
        if few < FEWEST or len(maps) + len(others) < len(groups):
            continue
        if all(map(_called_labels, maps)) or _have_images(images, key, maps, seen):
            share = sum(len(groups[name]) for name in maps) / len(seen)
            where = {os.sep.join(one.parts[: level + 1]) for one in seen if key(one.parts) in others}
            return _said(images, maps, share, where if level < deepest else set())
    return ""


def _sample(images: StoredPictures) -> list[_Seen]:
    """Spread evenly over the collection, in an order of chance, so that an end by time leaves a sample as well."""
    rows = np.unique(np.linspace(0, len(images) - 1, min(SAMPLE, len(images))).round().astype(int))
    until, seen = time.monotonic() + SECONDS, list[_Seen]()
    for row in np.random.default_rng(0).permutation(rows).tolist():
        try:
            seen.append(_Seen(row, _parts(images, row), _is_flat(images, row)))
        except Unreadable:
            continue
        if time.monotonic() > until:
            break
    return seen


def _parts(images: StoredPictures, row: int) -> tuple[str, ...]:
    path = images.source.path(row)
    if isinstance(images.source, Files):
        path = images.source.name(row)
    return tuple(path.split(os.sep))


def _is_flat(images: StoredPictures, row: int) -> bool:
    """Whether an image is lossless and has few values, in areas of one value each. Raises Unreadable."""
    if form_at(images.source.stored(row)[:32]) in LOSSY:
        return False
    picture = read_stored(images, row)[0].opaque()
    same = (picture[1:, :-1] == picture[:-1, :-1]).all(2) & (picture[:-1, 1:] == picture[:-1, :-1]).all(2)
    values = picture.reshape(-1, picture.shape[2])
    step = max(1, len(values) >> 16)
    return bool(same.mean() >= FLAT) and len(np.unique(values[::step], axis=0)) <= VALUES


def _folder(level: int, parts: tuple[str, ...]) -> str:
    return parts[level] if level < len(parts) - 1 else ""


def _ending(name: str) -> str:
    """What names of one kind have in common: a last word behind - or _, and the ending."""
    stem, ending = os.path.splitext(name)
    word = re.search(r"[-_.][A-Za-z]+$", stem)
    return (word[0] if word else "") + ending


def _called_labels(name: str) -> bool:
    return not WORDS.isdisjoint(word.lower() for word in WORD.findall(name))


def _have_images(images: StoredPictures, key: Key, maps: set[str], seen: list[_Seen]) -> bool:
    """Whether label maps have each an image of their name, but for the ``key``, and of their size."""
    if not isinstance(images.source, Files) or len(images) > KNOWN:
        return False
    rows: dict[tuple[str, ...], int] = {}
    count = 0
    for row in range(len(images)):
        parts = _parts(images, row)
        if key(parts) not in maps:
            count += 1
            rows[_common(parts, key)] = row
    if len(rows) < PURE * count:  # as of folders of classes, each with a 001.png
        return False
    own = [one for one in seen if key(one.parts) in maps]
    pairs = [(one.row, rows.get(_common(one.parts, key))) for one in own]
    same = [image is not None and _shape(images, row) == _shape(images, image) for row, image in pairs[:FEWEST]]
    return all(same) and sum(image is not None for _, image in pairs) >= PAIRED * len(pairs)


def _common(parts: tuple[str, ...], key: Key) -> tuple[str, ...]:
    """A path without its ending and what tells label maps from images."""
    stem = os.path.splitext(parts[-1])[0]
    short = TAIL.sub("", stem)
    folders = parts[:-1]
    if (name := key(parts)) in folders:
        folders = tuple(folder for folder in folders if folder != name)
    return (*folders, short if re.search(r"\d", short) else stem)


def _shape(images: StoredPictures, row: int) -> tuple[int, ...]:
    try:
        return read_stored(images, row)[0].picture.shape[:2]
    except Unreadable:
        return ()


def _said(images: StoredPictures, maps: set[str], share: float, where: set[str]) -> str:
    names = ", ".join(sorted(maps)[:3]) + (", ..." if len(maps) > 3 else "")
    said = (
        f"about {share:.0%} of these images look like label maps, which are no images to learn from: those of {names}"
    )
    if not isinstance(images.source, Files):
        return said
    paths = [os.path.join(printable(images.source.root), place) for place in sorted(where)]
    if len(paths) == 1:
        return f"{said}; the images alone are data.path={paths[0]}"
    those = f"the images lie in {', '.join(paths[:3])}{', ...' if len(paths) > 3 else ''}" if paths else ""
    return (
        f"{said}; {those or 'the others are the images'}: data.path also takes a list of their files, one path a line"
    )
