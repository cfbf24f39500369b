"""The kinds of protocols of detection: what each has for settings."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

import densessl.protocol
from densessl.config import Positive, Share

Count = Annotated[int, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
LEVELS = 5  # of a pyramid: the four stage maps, and the last one at half the size


@dataclass(frozen=True, kw_only=True)
class Protocol(densessl.protocol.Protocol):
    """What all detectors share. Sizes are in pixels of the scaled picture; pairs are for training and for testing."""

    difficult: bool  # of VOC's objects, those marked so are learned too; they are never scored
    sides: Annotated[tuple[Count, ...], Field(min_length=1)]  # short sides, drawn in training, the last one for tests
    longest: Count  # long side at most
    flip: Share
    anchors: Annotated[tuple[Count, ...], Field(min_length=LEVELS, max_length=LEVELS)]  # at ratios 1:2, 1:1, 2:1
    anchors_drawn: Count  # of a picture for the loss, half of them positive at most
    pre_nms: tuple[Count, Count]  # proposals of a map before suppression
    post_nms: tuple[Count, Count]  # proposals of a picture after it
    rois: Count  # proposals of a picture drawn for the loss, a quarter of them positive at most
    rpn_weight: Positive  # of the two losses of proposals
    score: Share  # detections below are dropped
    detections: Count  # of a picture at most; COCO scores 100
    batch_norm: Literal["trained", "frozen"]  # the backbone's: over the whole batch, or statistics and scale fixed
    precise: Annotated[int, Field(ge=0)]  # batches that statistics are computed from anew after training
    optimizer: Literal["sgd", "adamw"]  # momentum 0.9, or betas 0.9, 0.999
    lr: Positive
    backbone_lr: NotNegative  # on the schedule of lr; 0: the backbone is frozen
    weight_decay: NotNegative  # of weights; not of norms and biases
    warmup: Annotated[int, Field(ge=0)]  # iterations, linear
    warmup_start: Share  # of lr
    steps: tuple[Count, ...]  # iterations after which the rate is a tenth
    iterations: Count
    batch: Count  # pictures, of all processes together

    def __post_init__(self) -> None:
        if list(self.steps) != sorted(set(self.steps)) or max(self.steps, default=0) >= self.iterations:
            raise ValueError(
                f"steps={list(self.steps)} must rise and stay below iterations={self.iterations}: set both"
            )
        if self.warmup >= self.iterations:
            raise ValueError(f"warmup={self.warmup} must be below iterations={self.iterations}: set both")
        if max(self.sides) > self.longest:
            raise ValueError(f"sides={list(self.sides)} must not exceed longest={self.longest}")


@dataclass(frozen=True, kw_only=True)
class FPN(Protocol):
    """Faster R-CNN or, with ``masks``, Mask R-CNN on a feature pyramid of the four stage maps."""

    masks: bool
    channels: Annotated[int, Field(gt=0, multiple_of=32)]  # of the pyramid and of the convolutions of all heads
    box_head: Literal["2fc", "4conv1fc"]
    hidden: Count  # width of its fully connected layers
    norm: Literal["none", "batch", "group"]  # in pyramid, box head 4conv1fc and mask head; group: of 32
    roi_scale: Count  # proposals of this side are read from the map of stride 16


@dataclass(frozen=True, kw_only=True)
class C4(Protocol):
    """Faster R-CNN on the map of stage 3 of a ResNet, its stage 4 as the box head."""

    extra_norm: bool  # batch normalisation after stage 4
