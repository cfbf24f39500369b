"""What an export target is: a module with these names."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from densessl.backbones import Backbone
from densessl.errors import UserError
from densessl.foreign.layouts import ConvNeXtNames
from densessl.key_report import key_report

Stages = Callable[[Tensor], Sequence[Tensor]]


class NotInstalled(Exception):
    """The destination's package isn't here, so nothing can be said of what it makes of a file."""


class Exporter(Protocol):
    """One destination: its file, and how its users open it."""

    @property
    def SUFFIX(self) -> str:
        """How the destination wants its files to end."""

    @property
    def NEEDS(self) -> tuple[str, ...]:
        """Packages without which nothing can be written; others are for ``open`` alone."""

    def write(self, backbone: Backbone, file: Path) -> None:
        """The backbone as the destination wants it. Raises UserError for a network that it doesn't have, OSError."""

    def open(self, backbone: Backbone, file: Path) -> Stages:
        """The destination's own network with the file's weights, as its four stage maps of pictures (B, C, H, W).

        Raises NotInstalled without the destination's package, and RuntimeError unless it takes all keys and no others.
        """

    def snippet(self, backbone: Backbone, file: Path) -> str:
        """Python for the destination that makes ``vectors`` and ``maps`` of ``image``, equal to densessl's.

        Comments say where the destination differs with the same weights.
        """


def installed(package: str) -> Any:
    """The imported package. Raises NotInstalled, also where it is there and doesn't work."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise NotInstalled(f"{package} isn't installed ({error})") from None


def plain(backbone: Backbone, target: str) -> None:
    """Raises UserError for a stem that no other library has."""
    if backbone.stem != "imagenet":
        raise UserError(f"{target} has no {backbone.name} with a {backbone.stem} stem; densessl.load_backbone takes it")


def renamed(backbone: Backbone, name_of: Callable[[str], str]) -> dict[str, Tensor]:
    """The backbone's tensors under the destination's names."""
    return {name_of(key): tensor.contiguous() for key, tensor in backbone.net.state_dict().items()}


def plain_convnext(backbone: Backbone, name_of: ConvNeXtNames, target: str) -> dict[str, Tensor]:
    """Under the names of a library whose ConvNeXt has linear layers and, but for V2, a layer scale: it gets ones.

    Raises UserError for more than a 4 x 4 stem.
    """
    if len(list(backbone.net.stem.children())) != 2:
        raise UserError(f"{target} has no ConvNeXt with the stem of {backbone.name}; --to timm takes it")
    found = {}
    for key, tensor in backbone.net.state_dict().items():
        linear = tensor.ndim == 4 and ".mlp." in key
        found[name_of(key)] = (tensor.flatten(1) if linear else tensor).contiguous()
        if key.endswith(".mlp.fc2.bias") and not backbone.name.startswith("convnextv2"):
            found[name_of(key.replace("mlp.fc2.bias", "gamma"))] = torch.ones_like(tensor)
    return found


def fitting(tensors: Mapping[str, Tensor], net: nn.Module, target: str, name: str) -> dict[str, Tensor]:
    """``tensors`` in the shapes of the destination's network, layer scale, which it always has, set to ones.

    Only axes of length 1 come or go. Raises UserError with a key report where they don't fit.
    """
    wanted = net.state_dict()
    scales = {key: value.new_ones(value.shape) for key, value in wanted.items() if _is_scale(key)}
    found = {
        key: tensor.reshape(wanted[key].shape) if key in wanted and _same(tensor, wanted[key]) else tensor
        for key, tensor in {**scales, **tensors}.items()
    }
    if report := key_report(wanted, found):
        raise UserError(f"not exported: {target}'s {name} would not load it: {report}")
    return found


def first_norms(backbone: Backbone) -> dict[str, Tensor]:
    """norm0 to norm2 of ports of ConvNeXt for dense use, which normalise each map: untrained, ones and zeros."""
    return {
        f"norm{i}.{part}": torch.full((width,), float(part == "weight"))
        for i, width in enumerate(backbone.channels[:3])
        for part in ("weight", "bias")
    }


def _is_scale(key: str) -> bool:
    return key.rpartition(".")[2] in ("gamma", "layer_scale") and ".grn." not in key


def _same(a: Tensor, b: Tensor) -> bool:
    return [side for side in a.shape if side != 1] == [side for side in b.shape if side != 1]
