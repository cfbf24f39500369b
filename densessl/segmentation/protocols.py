"""Protocols: every setting of an evaluation under a name, frozen, with a hash that stands beside each number.

mIoU of the same weights differs by several points between protocols, so a number without its protocol means nothing.
A named protocol never changes; a better one gets another name.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError
from pydantic.dataclasses import dataclass

from densessl.config import Positive, Share
from densessl.errors import UserError

Size = Annotated[int, Field(gt=0)]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The settings. Sizes are in pixels; ``source`` says where they come from. Raises pydantic's ValidationError."""

    name: str
    source: str
    features: Literal["stages", "last"]  # four raw stage maps, or the last one
    output_stride: Literal[8, 16, 32]  # of the backbone: 8 and 16 by dilation
    dropout: Share  # of whole channels, before the 1x1 convolution
    optimizer: Literal["adamw", "sgd"]  # betas 0.9, 0.999, or momentum 0.9
    lr: Positive
    weight_decay: Annotated[float, Field(ge=0)]
    power: Annotated[float, Field(ge=0)]  # of the polynomial decay from lr to min_lr
    min_lr: Annotated[float, Field(ge=0)]
    warmup: Annotated[int, Field(ge=0)]  # iterations, linear
    iterations: Size
    batch: Size
    scale: tuple[Size, Size] | None  # (long, short) side that a picture is fitted into; None: its own size
    ratio: tuple[Positive, Positive]  # random factor on the scale in training
    crop: tuple[Size, Size]  # height, width
    max_share: Annotated[float, Field(gt=0, le=1)]  # most that one class may have of a crop; 1: any
    flip: Share
    photometric: bool
    inference: Literal["whole", "slide"]
    window: Size | None  # of inference slide, square
    stride: Size | None  # between windows

    def __post_init__(self) -> None:
        if self.warmup >= self.iterations:
            raise ValueError(f"warmup={self.warmup} must be below iterations={self.iterations}: set both")
        if self.ratio[0] > self.ratio[1]:
            raise ValueError(f"ratio={list(self.ratio)} must have the smaller factor first")
        if self.inference == "slide" and not (self.window and self.stride and self.stride <= self.window):
            raise ValueError(
                f"inference=slide needs a window and a stride of at most the window, or pixels are left out; "
                f"window={self.window}, stride={self.stride}"
            )

    def settings(self) -> dict[str, Any]:
        """All that decides the score: everything but name and source."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in ("name", "source")}


# mmsegmentation 0.x, base configuration of VOC aug and ADE20K: fit into (2048, 512), factor 0.5 to 2, crop 512, at most
# 75 % of one class, flip, photometric distortion; single scale test.
_MMSEG: dict[str, Any] = {
    "scale": (2048, 512),
    "ratio": (0.5, 2.0),
    "crop": (512, 512),
    "max_share": 0.75,
    "flip": 0.5,
    "photometric": True,
}

VICREGL_CONVNEXT = Protocol(
    name="vicregl_convnext",
    source="VICRegL, segmentation/configs/linear_cnxt-s_public_512x512_40k_BN_voc12aug.py "
    "(https://github.com/facebookresearch/VICRegL): VOC 2012 aug, 8 GPUs x 2 pictures; ConvNeXt-XL used lr=8e-5",
    features="stages",
    output_stride=32,
    dropout=0.0,
    optimizer="adamw",
    lr=1e-4,
    weight_decay=0.05,
    power=1.0,
    min_lr=0.0,
    warmup=1500,
    iterations=40_000,
    batch=16,
    inference="slide",
    window=512,
    stride=341,
    **_MMSEG,
)

VICREGL_RESNET = Protocol(
    name="vicregl_resnet",
    source="VICRegL, segmentation/configs/linear_r50_512x512_40k_voc12aug.py "
    "(https://github.com/facebookresearch/VICRegL) and mmsegmentation's schedule_40k: 8 GPUs x 4 pictures",
    features="last",
    output_stride=8,
    dropout=0.1,
    optimizer="sgd",
    lr=0.01,
    weight_decay=5e-4,
    power=0.9,
    min_lr=1e-4,
    warmup=0,
    iterations=40_000,
    batch=32,
    inference="whole",
    window=None,
    stride=None,
    **_MMSEG,
)

LINEAR_SMALL = Protocol(
    name="linear_small",
    source="densessl: pictures of 100 to 500 pixels, minutes on a processor without GPU; comparable only with itself",
    features="stages",
    output_stride=32,
    dropout=0.0,
    optimizer="adamw",
    lr=1e-2,  # 1e-3 is far from converged after 300 iterations: 17 against 20 mIoU on CamVid
    weight_decay=1e-4,
    power=1.0,
    min_lr=0.0,
    warmup=0,
    iterations=300,
    batch=8,
    scale=None,
    ratio=(0.75, 1.5),
    crop=(192, 192),
    max_share=0.75,
    flip=0.5,
    photometric=False,
    inference="whole",
    window=None,
    stride=None,
)

PROTOCOLS: dict[str, Protocol] = {p.name: p for p in (VICREGL_CONVNEXT, VICREGL_RESNET, LINEAR_SMALL)}


def digest(protocol: Protocol) -> str:
    """Eight hexadecimal digits of the SHA-256 of all settings; name and source don't count."""
    text = json.dumps(protocol.settings(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def deviations(protocol: Protocol) -> list[str]:
    """``key=value`` of every setting that differs from the protocol of that name."""
    named = PROTOCOLS[protocol.name].settings() if protocol.name in PROTOCOLS else {}
    return [f"{key}={value}" for key, value in protocol.settings().items() if named.get(key, value) != value]


def label(protocol: Protocol) -> str:
    """Name and hash, and the settings that deviate from the name."""
    changed = deviations(protocol)
    return " ".join([protocol.name, *([f"with {', '.join(changed)}"] if changed else []), f"[{digest(protocol)}]"])


def find_protocol(name: str, changes: Sequence[str] = ()) -> Protocol:
    """The protocol of a name, with ``key=value`` settings changed. Raises UserError for what doesn't exist or fit."""
    if name not in PROTOCOLS:
        raise UserError(f"protocol {name!r} doesn't exist; there are {', '.join(PROTOCOLS)}")
    protocol = PROTOCOLS[name]
    now = protocol.settings()
    values = {}
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or key not in now:
            near = difflib.get_close_matches(key, now, n=1, cutoff=0.4)
            hint = f"; nearest: {near[0]}" if near else f"; settings: {', '.join(now)}"
            raise UserError(f"--set {change}: key=value with a setting of the protocol is needed{hint}")
        try:
            values[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(f"--set {change}: the value can't be read") from None
    try:
        return dataclasses.replace(protocol, **values)
    except ValidationError as error:
        wrong = (
            f"{'.'.join(map(str, e['loc'])) or name}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors()
        )
        raise UserError(f"--set {' '.join(changes)}: {'; '.join(wrong)}") from None
