"""Views: the crops of a batch of pictures, each with where it lies in its picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class View(NamedTuple):
    """One crop of every picture of the batch.

    `image` is (B, C, H, W): uint8 from the loader, float and normalised on the device. `affine` is
    (B, 2, 3) float32 and maps (y, x, 1) of the view's unit square, which spans [0, 1] x [0, 1], to
    source pixels: pixel (i, j) of a picture has its centre at (i + 0.5, j + 0.5).
    """

    image: Tensor
    affine: Tensor


class Views(NamedTuple):
    """All crops of a batch; those of one list have one size. `pictures` (B,) int64: which of
    the collection they are. `photometric`, for each view, large ones first, (B, numbers) float32:
    what the device is still to do to it; empty where the workers did it."""

    large: list[View]
    small: list[View]
    pictures: Tensor | None = None
    photometric: Sequence[Tensor] = ()
