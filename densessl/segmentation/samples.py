"""What the loader's workers make of a data set: training samples without end, validation pictures in order."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from densessl.errors import UserError
from densessl.segmentation.datasets import SegmentationDataset
from densessl.segmentation.protocols import Protocol
from densessl.segmentation.transforms import inference_picture, training_sample


class TrainingSamples(Dataset):
    """The protocol's ``samples``, epoch after epoch, each epoch in an order of its own drawn from the seed.

    An item is (picture, mask), or the UserError that a file raised: raised in a worker it would arrive as a traceback.
    """

    def __init__(
        self,
        data: SegmentationDataset,
        protocol: Protocol,
        seed: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        self.data, self.protocol, self.seed, self.mean, self.std = data, protocol, seed, mean, std
        count = max(1, round(protocol.fraction * len(data)))
        self.rows = np.sort(np.random.default_rng(seed).permutation(len(data))[:count]).tolist()

    def __len__(self) -> int:
        return self.protocol.samples

    def index(self, number: int) -> tuple[int, int]:
        """Epoch and picture of a sample."""
        epoch, place = divmod(number, len(self.rows))
        order = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return epoch, self.rows[int(torch.randperm(len(self.rows), generator=order)[place])]

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor] | UserError:
        epoch, index = self.index(number)
        try:
            image, mask = self.data[index]
        except UserError as error:
            return error
        return training_sample(
            image, mask, self.protocol, self.mean, self.std, seed=self.seed, epoch=epoch, index=index
        )


class InferenceSamples(Dataset):
    """(picture at the protocol's scale, mask as it is scored), or the UserError that a file raised."""

    def __init__(
        self, data: SegmentationDataset, protocol: Protocol, mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        self.data, self.protocol, self.mean, self.std = data, protocol, mean, std

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor] | UserError:
        try:
            image, mask = self.data[index]
        except UserError as error:
            return error
        if self.protocol.scored:
            mask = cv2.resize(mask, self.protocol.scored[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        return inference_picture(image, self.protocol, self.mean, self.std), torch.from_numpy(mask)


def batch_of(items: list[Any]) -> Any:
    """The items stacked, or the first error among them."""
    return next((item for item in items if isinstance(item, UserError)), None) or default_collate(items)
