"""The kinds of protocols of classification: what each has for settings."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

import densessl.protocol
from densessl.config import Positive, Share

Count = Annotated[int, Field(gt=0)]
Side = Annotated[int, Field(gt=1)]
Rate = Annotated[float, Field(gt=0)]  # as large as one likes: what diverges is left out
NotNegative = Annotated[float, Field(ge=0)]


@dataclass(frozen=True, kw_only=True)
class Protocol(densessl.protocol.Protocol):
    """What all kinds share."""

    size: Side | None  # of the square crop, in pixels; None: as features.py says
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0  # of the training pictures, as subset.balanced draws them


@dataclass(frozen=True, kw_only=True)
class Neighbours(Protocol):
    """Features of pictures without augmentation, computed once; the nearest training pictures vote."""

    nearest: Count  # neighbours of the plain vote, by Euclidean distance
    weighted: tuple[Count, ...]  # neighbours of the weighted votes, by cosine
    temperature: Positive


@dataclass(frozen=True, kw_only=True)
class Probe(Neighbours):
    """And a linear layer is trained on them at one learning rate."""

    epochs: Count
    batch: Count
    lr: Positive  # Adam's, falling exponentially to end_lr
    end_lr: Positive
    weight_decay: NotNegative


@dataclass(frozen=True, kw_only=True)
class Rates(Protocol):
    """Linear layers at many learning rates, all trained on the same features."""

    lrs: Annotated[tuple[Rate, ...], Field(min_length=1)]  # SGD's; cosine by epochs to 0; the best is taken
    momentum: Share
    weight_decay: NotNegative
    epochs: Count
    batch: Count
    held_out: Annotated[float, Field(gt=0, lt=1)]  # share of the training pictures that chooses instead of training


@dataclass(frozen=True, kw_only=True)
class Crops(Protocol):
    """Training sees random resized crops, others in each epoch."""

    scale: tuple[Share, Share]  # of the picture's area
    flip: Share

    def __post_init__(self) -> None:
        if not 0 < self.scale[1] >= self.scale[0]:
            raise ValueError(f"scale={list(self.scale)} must be two shares of the area, the smaller first")


@dataclass(frozen=True, kw_only=True)
class Sweep(Rates, Neighbours):
    """Features of pictures without augmentation, computed once."""


@dataclass(frozen=True, kw_only=True)
class Augmented(Rates, Crops):
    """Features of random crops, computed in each epoch, the backbone frozen in eval mode."""


@dataclass(frozen=True, kw_only=True)
class FineTune(Crops):
    """The backbone is trained too, BatchNorm in training mode. SGD, cosine by epochs to 0."""

    lr_backbone: NotNegative
    lr_head: Positive
    momentum: Share
    weight_decay: NotNegative
    epochs: Count
    batch: Count
