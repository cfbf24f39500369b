"""What the loader's workers make of a data set: samples from any iteration on, validation pictures in order."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from densessl.detection.datasets import DetectionDataset
from densessl.detection.protocols.base import FPN, Protocol
from densessl.errors import UserError

Sample = tuple[Tensor, dict[str, Tensor], int]  # picture (3, H, W) from 0 to 1, torchvision's target, seed of its draws


class TrainingSamples(Dataset):
    """The pictures of the iterations ``first`` to ``last``, this process's part of each batch.

    Epoch after epoch, each in an order of its own drawn from the seed. A sample follows from the seed and its number in
    the whole training alone. An item is a Sample or the UserError that a file raised: raised in a worker it would
    arrive as a traceback.
    """

    def __init__(
        self,
        data: DetectionDataset,
        protocol: Protocol,
        seed: int,
        first: int,
        last: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.data, self.protocol, self.seed = data, protocol, seed
        self.first, self.last, self.rank = first, last, rank
        self.share = protocol.batch // world_size

    def __len__(self) -> int:
        return (self.last - self.first) * self.share

    def number(self, place: int) -> int:
        """In the whole training, over all processes."""
        iteration, offset = divmod(place, self.share)
        return (self.first + iteration) * self.protocol.batch + self.rank * self.share + offset

    def index(self, number: int) -> tuple[int, int]:
        """Epoch and picture of a sample."""
        rows = self.data.labelled
        epoch, place = divmod(number, len(rows))
        order = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return epoch, rows[int(torch.randperm(len(rows), generator=order)[place])]

    def __getitem__(self, place: int) -> Sample | UserError:
        number = self.number(place)
        epoch, index = self.index(number)
        try:
            picture, objects = self.data.picture(index), self.data.objects(index)
        except UserError as error:
            return error
        rng = np.random.default_rng((self.seed, epoch, index))
        keep = objects.learnable(self.protocol.difficult)
        boxes = objects.boxes[keep].astype(np.float32)
        flip = rng.random() < self.protocol.flip
        if flip:
            boxes[:, [0, 2]] = picture.shape[1] - boxes[:, [2, 0]]
        target = {"boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(objects.labels[keep])}
        if isinstance(self.protocol, FPN) and self.protocol.masks:
            masks = objects.masks(*picture.shape[:2])[keep]
            target["masks"] = torch.from_numpy(np.ascontiguousarray(masks[:, :, ::-1] if flip else masks))
        return tensor(picture[:, ::-1] if flip else picture), target, int(rng.integers(2**62))


class ValidationSamples(Dataset):
    """(index, picture), or the UserError that a file raised, of every ``world_size``-th picture."""

    def __init__(self, data: DetectionDataset, rank: int = 0, world_size: int = 1) -> None:
        self.data = data
        self.own = range(rank, len(data), world_size)

    def __len__(self) -> int:
        return len(self.own)

    def __getitem__(self, place: int) -> tuple[int, Tensor] | UserError:
        try:
            return self.own[place], tensor(self.data.picture(self.own[place]))
        except UserError as error:
            return error


def tensor(picture: np.ndarray) -> Tensor:
    """(3, H, W) from 0 to 1 of (H, W, 3) uint8."""
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))).float() / 255


def batch_of(items: list[Any]) -> Any:
    """Pictures, targets and seeds as lists, or the first error among the items."""
    error = next((item for item in items if isinstance(item, UserError)), None)
    return error or tuple(map(list, zip(*items, strict=True)))
