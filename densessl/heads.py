"""The networks between a backbone and a criterion."""

from __future__ import annotations

from typing import Literal

from torch import nn

from densessl.backbones import Backbone

Norm = Literal["batch", "layer"]
_NORMS = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}


def mlp(channels: int, *widths: int, norm: Norm) -> nn.Sequential:
    """Expander or projector: linear, norm, ReLU for each hidden width, then a linear layer without bias.

    (N, channels) to (N, widths[-1]): VICReg's and VICRegL's form, with their keys (0, 1, 3, 4, 6 for three widths).
    """
    layers: list[nn.Module] = []
    for width in widths[:-1]:
        layers += [nn.Linear(channels, width), _NORMS[norm](width), nn.ReLU(inplace=True)]
        channels = width
    return nn.Sequential(*layers, nn.Linear(channels, widths[-1], bias=False))


def norm_like(backbone: Backbone) -> Norm:
    """A head normalises as its backbone does: batch statistics for ResNet, LayerNorm for ConvNeXt (VICRegL's code)."""
    return "batch" if backbone.batch_norm else "layer"
