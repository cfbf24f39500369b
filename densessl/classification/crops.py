"""Random resized crops of labelled pictures, mirrored or not, in batches: what training sees."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from densessl.classification.features import read_picture, start_worker
from densessl.classification.labelled import Labelled
from densessl.classification.protocols.base import Augmented, Crops, FineTune
from densessl.data.crops import crop_box, take_crop
from densessl.data.multi_crop import view_rng
from densessl.errors import UserError

Key = tuple[int, int]  # epoch, and index of the picture


class Batches:
    """Pictures' indices of every step: each epoch all, in an order of its own, in batches of nearly equal size.

    So none is so small that its statistics mean nothing. All follows from ``seed``.
    """

    def __init__(self, rows: np.ndarray, batch: int, epochs: int, seed: int) -> None:
        self.rows, self.epochs, self.seed = rows, epochs, seed
        self.steps = -(-len(rows) // batch)  # of an epoch

    def __len__(self) -> int:
        return self.epochs * self.steps

    def __iter__(self) -> Iterator[list[Key]]:
        for epoch in range(self.epochs):
            rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(epoch,)))
            for rows in np.array_split(rng.permutation(self.rows), self.steps):
                yield [(epoch, int(row)) for row in rows]


class RandomCrops(Dataset):
    """(C, side, side) and the label; or the UserError that a picture raised, which would else be a traceback."""

    def __init__(self, split: Labelled, side: int, protocol: Crops, seed: int) -> None:
        self.split, self.side, self.protocol, self.seed = split, side, protocol, seed

    def __getitem__(self, key: Key) -> tuple[Tensor, int] | UserError:
        epoch, row = key
        try:
            picture = read_picture(self.split.pictures, row)
        except UserError as error:
            return error
        rng = view_rng(self.seed, epoch, row, 0)
        box = crop_box(rng, picture.shape[0], picture.shape[1], self.protocol.scale)
        crop = take_crop(picture, box, bool(rng.random() < self.protocol.flip), self.side)
        return torch.from_numpy(crop.transpose(2, 0, 1).copy()), int(self.split.labels[row])


def crop_loader(
    split: Labelled,
    rows: np.ndarray,
    protocol: Augmented | FineTune,
    *,
    side: int,
    seed: int,
    workers: int,
    pin_memory: bool,
) -> DataLoader:
    """Batches (B, C, side, side) with labels (B,) int64 of all epochs one after the other, on the CPU."""
    return DataLoader(
        RandomCrops(split, side, protocol, seed),
        batch_sampler=Batches(rows, protocol.batch, protocol.epochs, seed),
        num_workers=workers,
        collate_fn=_together,
        worker_init_fn=start_worker,
        pin_memory=pin_memory,
    )


def _together(items: list[tuple[Tensor, int] | UserError]) -> tuple[Tensor, Tensor] | UserError:
    pairs = []
    for item in items:
        if isinstance(item, UserError):
            return item
        pairs.append(item)
    images, labels = zip(*pairs, strict=True)
    return torch.stack(images), torch.tensor(labels)
