"""The view sheet: pictures with the crops that training takes of them, outlined, and the views beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from densessl.config import Config
from densessl.data.contact import as_rgb, fitted
from densessl.data.decoding import Unreadable
from densessl.data.loader import Loader
from densessl.data.pictures import Pictures
from densessl.data.to_device import ToDevice
from densessl.data.views import View
from densessl.errors import UserError

GAP, LINE = 8, 16  # pixels between parts, and of a line of text
LARGE, SMALL = (235, 95, 0), (0, 140, 255)  # colours of crops
TALL = 336  # pixels: how high the outlined picture is at least
LEAST = 160  # pixels a side that the large views are shown at; smaller ones are enlarged by a whole number


class Seen(NamedTuple):
    """One view of one picture: (H, W, C) uint8, its affine (2, 3), and whether it is a large one."""

    image: np.ndarray
    affine: np.ndarray
    large: bool

    @property
    def colour(self) -> tuple[int, int, int]:
        return LARGE if self.large else SMALL

    @property
    def mirrored(self) -> bool:
        return bool(np.linalg.det(self.affine[:, :2]) < 0)


class Source(NamedTuple):
    """The picture is (h, w, C) of 8 or 16 bits."""

    path: str
    picture: np.ndarray
    views: list[Seen]


def sources(images: Pictures, cfg: Config, count: int) -> list[Source]:
    """The first pictures of the run's first epoch, with the views that its loader makes of them. Raises UserError."""
    loader = Loader(
        images,
        cfg.views,
        cfg.photometric,
        batch=min(count, len(images)),
        seed=cfg.seed,
        workers=0,
        unreadable=cfg.data.unreadable,
    )
    ((_, views),) = loader.from_step(0, 1)
    channels = len(cfg.data.mean)
    views = ToDevice("cpu", (0.0,) * channels, (1.0,) * channels)(views)  # what is left to be done there
    assert views.pictures is not None
    found = []
    for place, row in enumerate(views.pictures.tolist()):
        path, picture = _readable(images, row)
        seen = [_seen(view, place, True) for view in views.large] + [_seen(view, place, False) for view in views.small]
        found.append(Source(path, picture, seen))
    return found


def _readable(images: Pictures, row: int) -> tuple[str, np.ndarray]:
    """Of a picture, or of the next one that can be read, which stands in for it in the loader."""
    for i in range(row, row + len(images)):
        try:
            picture = images.read(i % len(images))
        except Unreadable:
            continue
        return images.path(i % len(images)), picture
    raise UserError("no picture can be read")


def _seen(view: View, place: int, large: bool) -> Seen:
    image = (view.image[place].permute(1, 2, 0) * 255).round().clamp(0, 255).byte()  # it was divided by 255
    return Seen(image.numpy(), view.affine[place].numpy(), large)


def corners(affine: np.ndarray) -> np.ndarray:
    """(4, 2) y, x in source pixels of the view's corners: upper left, upper right, lower right, lower left."""
    return np.array([(0, 0, 1), (0, 1, 1), (1, 1, 1), (1, 0, 1)]) @ affine.T.astype(float)


def outlined(picture: np.ndarray, views: Sequence[Seen], height: int, width: int) -> np.ndarray:
    """The (h, w, C) picture fitted into height x width, with the outline and number of every view.

    Numbers count from 1 and are followed by m where the view is mirrored; a dot marks the view's upper left corner.
    """
    page = fitted(as_rgb(picture), height, width)
    scale = np.array(page.shape[:2]) / picture.shape[:2]
    thick = max(1, height // 160)
    places = []
    for view in views:  # pixel (i, j) has its centre at (i + 0.5, j + 0.5); the borders of the page are inside
        ends = (corners(view.affine) * scale - 0.5).clip(0, np.array(page.shape[:2]) - 1)
        places.append(np.rint(ends).astype(int)[:, ::-1])
    for view, ends in zip(views, places, strict=True):
        cv2.polylines(page, [ends.astype(np.int32)], True, view.colour, thick)
        cv2.circle(page, ends[0].tolist(), 2 * thick, view.colour, cv2.FILLED)
    drawing = Image.fromarray(page)
    draw = ImageDraw.Draw(drawing)
    font = ImageFont.load_default(13)
    for number, (view, ends) in enumerate(zip(views, places, strict=True), 1):
        inwards = ends.mean(0) - ends[0]
        x, y = ends[0] + inwards * 20 / max(1, float(np.linalg.norm(inwards)))  # beside the dot
        text = f"{number}{'m' * view.mirrored}"
        draw.text((x, y), text, view.colour, font, "mm", stroke_width=2, stroke_fill="white")
    return np.array(drawing)


def sheet(found: Sequence[Source]) -> Image.Image:
    """One line a picture: it with the outlines, then its large views and its small ones, pixel for pixel."""
    lines = [_line(source) for source in found]
    width = GAP + max(line.width + GAP for line in lines)
    page = Image.new("RGB", (width, GAP + sum(line.height + GAP for line in lines)), "white")
    top = GAP
    for line in lines:
        page.paste(line, (GAP, top))
        top += line.height + GAP
    return page


def _line(source: Source) -> Image.Image:
    """The path above; to the right of the picture the large views, then columns of small ones under each other."""
    side = max(view.image.shape[0] for view in source.views)
    zoom = max(1, -(-LEAST // side))
    tall = max(side * zoom, TALL)
    left = outlined(source.picture, source.views, tall, 3 * tall // 2)
    parts = [(0, LINE, left)]
    across, down, widest = left.shape[1] + GAP, 0, 0
    labels = []
    for number, view in enumerate(source.views, 1):
        image = np.kron(as_rgb(view.image), np.ones((zoom, zoom, 1), np.uint8))
        high, wide = image.shape[:2]
        if down and (down + high > tall or view.large != source.views[number - 2].large):
            across, down, widest = across + widest + GAP, 0, 0
        parts.append((across, LINE + down, image))
        labels.append((across, LINE + down + high, f"{number}{' mirrored' * view.mirrored}", view.colour))
        down, widest = down + high + LINE, max(widest, wide)
    width = across + widest
    height = LINE + max(left.shape[0], *(y for _, y, *_ in labels))
    page = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(13)
    draw.text((0, 0), source.path.encode("latin-1", "replace").decode("latin-1"), "black", font)
    for x, y, part in parts:
        page.paste(Image.fromarray(part), (x, y))
    for x, y, text, colour in labels:
        draw.text((x, y), text, colour, font)
    return page
