"""The backbone as one function of a picture, for exporters that write computations and not only weights."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.convnext import ConvNeXt
from torch import Tensor, nn
from torch._dynamo.decorators import mark_unbacked
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config

from densessl.backbones import Backbone

NAMES = ["stage1", "stage2", "stage3", "stage4", "vectors"]


class StageMaps(nn.Module):
    """Pictures (B, C, H, W) -> four stage maps, raw, and the pooled vectors (B, C) of the last after its norm."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone: Any = backbone.net

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        for side in (0, 2, 3):
            torch._check(image.shape[side] > 0)
        maps = self.backbone.forward_intermediates(image, intermediates_only=True)[-4:]
        last = self.backbone.norm_pre(maps[-1]) if isinstance(self.backbone, ConvNeXt) else maps[-1]
        return *maps, last.mean((2, 3))


def exported(backbone: Backbone) -> ExportedProgram:
    """For any batch, height and width that the backbone takes: nothing is assumed that the example alone shows."""
    example = torch.zeros(2, backbone.in_chans, 96, 64)
    net = StageMaps(backbone).eval()
    with torch.no_grad(), _config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        if isinstance(backbone.net, ConvNeXt):  # how its convolutions lay out their maps would be read off the example
            mark_unbacked(example, [0, 2, 3])
            return torch.export.export(net, (example,), strict=True)
        dynamic = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}  # unbacked, a ResNet-D's average pools can't be
        return torch.export.export(net, (example,), dynamic_shapes=(dynamic,))
