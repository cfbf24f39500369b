"""What a protocol is: every setting of an evaluation, frozen, with the data sets it differs on."""

from __future__ import annotations

import abc
from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

import densessl.protocol
from densessl.config import Positive, Share

Size = Annotated[int, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


@dataclass(frozen=True, kw_only=True)
class Protocol(densessl.protocol.Protocol, abc.ABC):
    """What all kinds share: which maps are read, and how pictures become crops and predictions. Sizes are in pixels."""

    # The published data sets it was defined for, by their title, and what differs there; empty: any.
    on: dict[str, dict[str, Any]] = Field(default_factory=dict)
    data: str = ""  # which of these data sets the settings are for
    features: Literal["stages", "last"]  # four raw stage maps, or the last one
    output_stride: Literal[8, 16, 32]  # of the backbone: 8 and 16 by dilation
    final_norm: bool = False  # of the last map by the backbone's own norm, where it has one
    scale: tuple[Size, Size] | None  # (long, short) side that a picture is fitted into; None: its own size
    ratio: tuple[Positive, Positive]  # random factor on the scale in training
    crop: tuple[Size, Size]  # height, width
    max_share: Annotated[float, Field(gt=0, le=1)]  # most that one class may have of a crop; 1: any
    flip: Share
    photometric: bool
    batch: Size
    inference: Literal["whole", "slide"]
    window: Size | None  # of inference slide, square
    stride: Size | None  # between windows
    scored: tuple[Size, Size] | None = None  # masks and predictions are scored at this size; None: that of the mask
    test_ratios: tuple[Positive, ...] = (1.0,)  # predictions at these factors on the scale are averaged
    test_flip: bool = False  # and those of the mirrored picture
    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0  # of the training pictures, drawn by the seed

    def __post_init__(self) -> None:
        if self.ratio[0] > self.ratio[1]:
            raise ValueError(f"ratio={list(self.ratio)} must have the smaller factor first")
        if self.inference == "slide" and not (self.window and self.stride and self.stride <= self.window):
            raise ValueError(
                f"inference=slide needs a window and a stride of at most the window, or pixels are left out; "
                f"window={self.window}, stride={self.stride}"
            )

    @property
    @abc.abstractmethod
    def samples(self) -> int:
        """Crops of training pictures that are asked for."""

    def settings(self) -> dict[str, Any]:
        """All that decides the score: everything but names, source and what other data sets would have."""
        return {key: value for key, value in super().settings().items() if key not in ("on", "data")}


@dataclass(frozen=True, kw_only=True)
class Linear(Protocol):
    """A head is trained on crops by gradient descent: linear on a frozen backbone, unless the first two say more."""

    decoder: Literal["linear", "fpn", "upernet", "deeplabv3plus"] = "linear"
    backbone_lr: NotNegative = 0.0  # on the schedule of lr; 0: the backbone is frozen, else a copy is fine-tuned
    dropout: Share  # of whole channels, before the 1x1 convolution
    norm: bool = True  # BatchNorm before it, of a linear head
    optimizer: Literal["adamw", "sgd"]  # betas 0.9, 0.999, or momentum 0.9
    lr: Positive
    weight_decay: NotNegative
    schedule: Literal["poly", "cosine", "step"] = "poly"  # step: a tenth from four fifths on
    power: NotNegative  # of the polynomial decay from lr to min_lr
    min_lr: NotNegative
    warmup: Annotated[int, Field(ge=0)]  # iterations, linear
    iterations: Size

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup >= self.iterations:
            raise ValueError(f"warmup={self.warmup} must be below iterations={self.iterations}: set both")
        if self.decoder == "linear":
            return
        if self.features != "stages" or not self.norm:
            raise ValueError(f"decoder={self.decoder} reads all maps as it likes: features=stages norm=true")
        dilated = self.decoder == "deeplabv3plus"
        if dilated == (self.output_stride == 32):
            raise ValueError(f"decoder={self.decoder} needs output_stride={'8 or 16' if dilated else 32}")
        if self.decoder != "fpn" and self.batch < 2:
            raise ValueError(f"decoder={self.decoder} normalises pooled pixels over the batch: batch=2 or more")

    @property
    def samples(self) -> int:
        return self.iterations * self.batch


@dataclass(frozen=True, kw_only=True)
class Sampled(Protocol):
    """The backbone sees ``crops`` of the training pictures, each once."""

    crops: Size

    @property
    def samples(self) -> int:
        return self.crops


@dataclass(frozen=True, kw_only=True)
class Fast(Sampled):
    """Features at sampled places are computed once; a linear layer is trained on them at many learning rates."""

    places: Size  # of each crop
    lrs: tuple[Positive, ...]  # AdamW's, side by side, falling linearly to 0; the best on held-out pictures is taken
    weight_decay: NotNegative
    iterations: Size
    rows: Size  # places an iteration
    held_out: Annotated[float, Field(gt=0, lt=1)]  # share of the training pictures that chooses


@dataclass(frozen=True, kw_only=True)
class Retrieval(Sampled):
    """Each place takes the classes of the most similar places of the training pictures."""

    places: Size  # remembered, of all crops together
    k: Size  # neighbours
    temperature: Positive  # of the softmax over their cosines


@dataclass(frozen=True, kw_only=True)
class Clusters(Sampled):
    """Each place takes the name of its cluster, a class that the cluster covers in the training pictures."""

    places: Size  # clustered, of all crops together
    clusters: Size
    # majority: the class a cluster covers most; hungarian: as many clusters as classes, one each, the best such pairing
    matching: Literal["majority", "hungarian"] = "majority"
    iterations: Size  # of k-means
