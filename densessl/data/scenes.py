"""Scenes: made-up pictures of textured objects in front of textured grounds, with the class of every pixel."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import cv2
import numpy as np
from pycocotools import mask as rle

from densessl.data.pixels import Pixels
from densessl.data.textures import GROUNDS, OBJECTS, TEXTURES, texture
from densessl.errors import UserError

SPLITS = ("train", "val")
FULL = 160  # the side, in pixels, that the lengths below are for; other sizes scale them
LEAST = 16  # pixels that must be seen of an object, else it is none


class Shape(NamedTuple):
    """An object: its texture, its box (top, left, bottom, right) and how much it covers each pixel of that."""

    name: str
    box: tuple[int, int, int, int]
    cover: np.ndarray  # uint8, 0 to 255


class Scenes:
    """`count` square pictures of `size` pixels; picture i follows from (seed, split, i) alone.

    3 to 6 ellipses, polygons and blobs of 8 textures overlap on a ground of 4 others. Colours, contrast, light, turn
    and scale are drawn for each without regard to its class; haze, blur and noise for each picture. Only structure
    tells a class: the mean colour of a region says nothing.
    """

    pixels = Pixels()
    classes = tuple(TEXTURES)  # a mask's value is the place in it; grounds first

    def __init__(self, count: int = 2_000, size: int = FULL, seed: int = 0, split: str = "train") -> None:
        if split not in SPLITS:
            raise UserError(f"scenes have no split {split!r}, but {' and '.join(SPLITS)}")
        if count < 1 or size < 32:
            raise UserError(f"scenes need count >= 1 and size >= 32, not {count} and {size}")
        self.count, self.size, self.seed, self.split = count, size, seed, split
        self._unit = size / FULL
        self._drawn: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self.count

    def path(self, i: int) -> str:
        return f"scenes/{self.split}/{i}"

    def list_hash(self) -> str:
        return f"scenes {self.split} {self.size} {self.seed}"

    def mask(self, i: int) -> np.ndarray:
        """(size, size) uint8: the class of every pixel."""
        ground, shapes = self._layout(i)
        mask = np.full((self.size, self.size), self.classes.index(ground), np.uint8)
        for name, (top, left, bottom, right), cover in shapes:
            mask[top:bottom, left:right][cover > 127] = self.classes.index(name)
        return mask

    def instances(self, i: int) -> tuple[np.ndarray, list[str]]:
        """(size, size) uint8: n where the n-th object from the back is seen, 0 on the ground; and their classes."""
        _, shapes = self._layout(i)
        numbers = np.zeros((self.size, self.size), np.uint8)
        for number, (_, (top, left, bottom, right), cover) in enumerate(shapes, 1):
            numbers[top:bottom, left:right][cover > 127] = number
        return numbers, [shape.name for shape in shapes]

    def objects(self, i: int) -> list[tuple[str, dict[str, Any]]]:
        """Class and pycocotools' run lengths of what is seen of every object, from back to front."""
        numbers, names = self.instances(i)
        shapes = rle.encode(np.asfortranarray(numbers[..., None] == np.arange(1, len(names) + 1), np.uint8))
        return [(name, shape) for name, shape in zip(names, shapes, strict=True) if rle.area(shape) >= LEAST]

    def read(self, i: int, reduction: object = None) -> np.ndarray:
        """(size, size, 3) uint8 RGB. Kept once drawn, 77 kB at 160 pixels: drawing takes longer than all its crops."""
        if i not in self._drawn:
            self._drawn[i] = self._draw(i)
        return self._drawn[i]

    def _draw(self, i: int) -> np.ndarray:
        rng = self._rng(i, "paint")
        ground, shapes = self._layout(i)
        picture = texture(rng, ground, self.size, self.size, self._unit)  # (3, size, size)
        reach = 2 * round(4 * self._unit) + 1
        for name, (top, left, bottom, right), cover in shapes:
            part = picture[:, top:bottom, left:right]
            part *= 1 - cv2.blur(cover, (reach, reach)) * np.float32(0.5 / 255)  # its shadow
            front = texture(rng, name, bottom - top, right - left, self._unit)
            part += (front - part) * (cover * np.float32(1 / 255))
        return self._photograph(picture, rng)

    def _photograph(self, picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(3, size, size) float32 to (size, size, 3) uint8, with haze, blur and noise."""
        contrast = rng.uniform(0.75, 1.1)
        haze = (1 - contrast) * rng.uniform(60, 195)
        if (sigma := rng.uniform(-0.5, 1.0) * self._unit) > 0.3:
            picture = np.stack([cv2.GaussianBlur(channel, (0, 0), sigma) for channel in picture])
        noise = rng.integers(-128, 128, picture.shape, np.int8)  # normal noise would take a fifth of the whole time
        picture = picture * np.float32(contrast) + np.float32(haze) + noise * np.float32(rng.uniform(1, 6) / 74)
        return cv2.merge(list(np.clip(picture, 0, 255).astype(np.uint8)))

    def _layout(self, i: int) -> tuple[str, list[Shape]]:
        """The ground's texture, and the objects from back to front."""
        rng = self._rng(i, "layout")
        shapes = []
        for _ in range(rng.integers(3, 7)):
            outline = _outline(rng) * rng.uniform(24, 48) * self._unit + rng.uniform(0, self.size, 2)
            top, left = np.clip(np.floor(outline.min(0)) - 1, 0, self.size).astype(int).tolist()
            bottom, right = np.clip(np.ceil(outline.max(0)) + 2, 0, self.size).astype(int).tolist()
            cover = np.zeros((bottom - top, right - left), np.uint8)
            corners = np.rint((outline - (top, left))[:, ::-1] * 16).astype(np.int32)  # x, y; 4 bits of fraction
            cv2.fillPoly(cover, [corners], 255, cv2.LINE_AA, shift=4)
            shapes.append(Shape(rng.choice(list(OBJECTS)), (top, left, bottom, right), cover))
        return str(rng.choice(list(GROUNDS))), shapes

    def _rng(self, i: int, purpose: str) -> np.random.Generator:
        key = (SPLITS.index(self.split), i, ("layout", "paint").index(purpose))
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))


def _outline(rng: np.random.Generator) -> np.ndarray:
    """(points, 2): an ellipse, polygon or blob of radius about 1 around 0."""
    kind = rng.integers(3)
    count = int(rng.integers(3, 8)) if kind == 1 else 48
    angle = np.arange(count) * (2 * math.pi / count)
    radius = np.ones(count)
    if kind == 1:
        angle = angle + rng.uniform(-0.5, 0.5, count) * (2 * math.pi / count) * 0.6
        radius = rng.uniform(0.85, 1.35, count)
    elif kind == 2:
        for lobes in (2, 3, 5):
            radius = radius + rng.uniform(0, 0.5 / lobes) * np.cos(lobes * angle + rng.uniform(0, 2 * math.pi))
    points = np.stack([radius * np.sin(angle), radius * np.cos(angle)], 1)
    points[:, 0] *= rng.uniform(0.65, 1)
    turn = rng.uniform(0, 2 * math.pi)
    return points @ np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
