"""Pooled features of pictures as they are, without augmentation, from a frozen backbone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from densessl.backbones import Backbone, pooled
from densessl.data.crops import by_fours
from densessl.data.decoding import Unreadable
from densessl.data.pictures import Pictures
from densessl.errors import UserError
from densessl.progress import progress
from densessl.reading import normalisation

BATCH = 64
SMALL = 64  # pixels of the long side up to which pictures are taken as they are
CROP, SHORT = 224, 256  # else the short side becomes 256 and the middle 224 are taken; other crops in proportion


def features(
    backbone: Backbone,
    pictures: Pictures,
    rows: np.ndarray,
    *,
    size: int | None,
    workers: int = 0,
    title: str = "features",
) -> Tensor:
    """(rows, C) float32 on the CPU: ``pooled`` of the backbone's maps, in eval mode, on the backbone's device.

    ``size`` is the side of the centre crop; None takes pictures as they are. Raises UserError for a picture that can't
    be read, and where sizes differ though they should be taken as they are.
    """
    prepared = _Prepared(pictures, rows, size)
    refuse_small(backbone, *prepared.shape)
    loader = DataLoader(
        prepared,
        BATCH,
        num_workers=workers,
        collate_fn=_together,
        worker_init_fn=start_worker,
        pin_memory=next(backbone.parameters()).is_cuda,
    )
    found = torch.empty(len(rows), backbone.channels[-1])
    with frozen(backbone):
        for part, images in zip(found.split(BATCH), progress(loader, title), strict=True):
            part.copy_(pooled(backbone(normalised(backbone, images))[-1]))
    return found


@contextmanager
def frozen(backbone: Backbone) -> Iterator[None]:
    """In eval mode and without gradients; afterwards in the mode it was in."""
    was_training = backbone.training
    backbone.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        backbone.train(was_training)


def normalised(backbone: Backbone, images: Tensor) -> Tensor:
    """Pictures (B, C, H, W), uint8 or uint16, on the backbone's device as the backbone takes them."""
    device = next(backbone.parameters()).device
    mean, std = (torch.tensor(values, device=device).view(1, -1, 1, 1) for values in normalisation(backbone))
    white = torch.iinfo(images.dtype).max
    return (images.to(device, non_blocking=True).float() / white - mean) / std


def refuse_small(backbone: Backbone, height: int, width: int) -> None:
    """Raises UserError for pictures below the stride of a network that doesn't pad."""
    if min(height, width) < backbone.strides[-1] and backbone.name.startswith("convnext"):
        need = f"size={backbone.strides[-1]} or more"
        raise UserError(f"pictures of {width}x{height} pixels are too small for {backbone.name}: {need}")


def crop_size(pictures: Pictures) -> int | None:
    """The crop where none is asked for, by the first picture: None, as they are, up to 64 pixels, else 224."""
    return None if max(read_picture(pictures, 0).shape[:2]) <= SMALL else CROP


def centre_crop(picture: np.ndarray, size: int) -> np.ndarray:
    """(size, size, C): resized so that 8/7 of ``size`` is the short side, as 256 is of 224, then the middle."""
    height, width = picture.shape[:2]
    scale = round(size * SHORT / CROP) / min(height, width)
    shape = (round(width * scale), round(height * scale))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    picture = by_fours(lambda part: cv2.resize(part, shape, interpolation=interpolation), picture)
    top, left = (picture.shape[0] - size) // 2, (picture.shape[1] - size) // 2
    return picture[top : top + size, left : left + size]


class _Prepared(Dataset):
    """(C, h, w), or the UserError that a picture raised: raised in a worker it would arrive as a traceback."""

    def __init__(self, pictures: Pictures, rows: np.ndarray, size: int | None) -> None:
        self.pictures, self.rows, self.size = pictures, rows, size
        self.shape = (size, size) if size else read_picture(pictures, int(rows[0])).shape[:2]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Tensor | UserError:
        try:
            picture = read_picture(self.pictures, int(self.rows[number]))
        except UserError as error:
            return error
        if self.size:
            picture = centre_crop(picture, self.size)
        elif picture.shape[:2] != self.shape:
            sizes = " and ".join(f"{width}x{height}" for height, width in (picture.shape[:2], self.shape))
            return UserError(f"pictures of {sizes} pixels can't be taken as they are: size=N brings all to NxN")
        return torch.from_numpy(picture.transpose(2, 0, 1).copy())


def read_picture(pictures: Pictures, row: int) -> np.ndarray:
    """(h, w, C) as the pictures' ``pixels`` say. Raises UserError."""
    try:
        return pictures.read(row)
    except Unreadable as error:
        raise UserError(f"{error}; a score needs every picture: mend it or take it out") from None


def _together(items: list[Any]) -> Tensor | UserError:
    return next((item for item in items if isinstance(item, UserError)), None) or torch.stack(items)


def start_worker(worker: int) -> None:
    cv2.setNumThreads(0)  # OpenCV's threads do not survive the fork
