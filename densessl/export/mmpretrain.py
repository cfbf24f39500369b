"""To mmpretrain: its ResNet and ConvNeXt, under the prefix that its classifiers have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from timm.models.convnext import ConvNeXt
from torch import Tensor

from densessl.backbones import Backbone
from densessl.errors import UserError
from densessl.export.exporter import Stages, installed, plain, plain_convnext, renamed
from densessl.export.files import torch_save
from densessl.foreign import layouts

SUFFIX = ".pth"
NEEDS: tuple[str, ...] = ()
DEPTHS = {"resnet18": 18, "resnet34": 34, "resnet50": 50, "resnet101": 101, "resnet152": 152}
PREFIX = "backbone."


def write(backbone: Backbone, file: Path) -> None:
    names = {f"{PREFIX}{key}": tensor for key, tensor in tensors(backbone, "mmpretrain").items()}
    torch_save({"state_dict": names, "meta": {}}, file)


def open(backbone: Backbone, file: Path) -> Stages:
    net = network(backbone, installed("mmpretrain.models.backbones"))
    found = torch.load(file, weights_only=True)["state_dict"]
    net.load_state_dict({key.removeprefix(PREFIX): tensor for key, tensor in found.items()})
    net.eval()  # returns nothing there
    return stages_of(net)


def snippet(backbone: Backbone, file: Path) -> str:
    return f"""\
from mmengine.runner import load_checkpoint
from mmpretrain.models.backbones import {_class(backbone)}

net = {_class(backbone)}({arguments(backbone)})
load_checkpoint(net, {str(file)!r}, strict=True, revise_keys=[(r"^backbone\\.", "")])
net.eval()
{maps_and_vectors(backbone)}"""


# --- what mmdetection shares ---


def tensors(backbone: Backbone, target: str) -> dict[str, Tensor]:
    """In the library's names; layer scale, which its ConvNeXt has by default, set to ones."""
    plain(backbone, target)
    if not isinstance(backbone.net, ConvNeXt):
        if _plain_name(backbone) not in DEPTHS:
            raise UserError(
                f"{target} has no {backbone.name}, only {', '.join(DEPTHS)}, with c and d too; --to timm takes it"
            )
        deep = layouts.mmdet_resnet if target == "mmdet" else layouts.mmpretrain_resnet
        return renamed(backbone, deep.get(backbone.name[-1], layouts.same))
    return plain_convnext(backbone, layouts.mmpretrain_convnext, target)


def network(backbone: Backbone, backbones: Any, **more: Any) -> Any:
    return getattr(backbones, _class(backbone))(**(facts(backbone) | more))


def facts(backbone: Backbone) -> dict[str, Any]:
    """Arguments of the library's network; its layer scale must be there to be set."""
    if not isinstance(backbone.net, ConvNeXt):
        given = {"depth": DEPTHS[_plain_name(backbone)], "out_indices": (0, 1, 2, 3), "style": "pytorch"}
        if backbone.name != _plain_name(backbone):
            given |= {"deep_stem": True, "avg_down": backbone.name.endswith("d")}
        return given if backbone.in_chans == 3 else given | {"in_channels": backbone.in_chans}
    stages: Any = backbone.net.stages
    shape = {"depths": [len(stage.blocks) for stage in stages], "channels": list(backbone.channels)}
    given = {"arch": shape, "out_indices": (3,), "gap_before_final_norm": False}
    if backbone.name.startswith("convnextv2"):
        given |= {"use_grn": True, "layer_scale_init_value": 0.0}
    return given if backbone.in_chans == 3 else given | {"in_channels": backbone.in_chans}


def _plain_name(backbone: Backbone) -> str:
    """resnet50 of resnet50c and resnet50d."""
    return backbone.name.rstrip("cd")


def arguments(backbone: Backbone) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in facts(backbone).items())


def stages_of(net: Any) -> Stages:
    """Raw stage maps: its ConvNeXt normalises those that it returns."""

    def raw(image: Tensor) -> list[Tensor]:
        maps = []
        for down, stage in zip(net.downsample_layers, net.stages, strict=True):
            image = stage(down(image))
            maps.append(image)
        return maps

    return raw if hasattr(net, "downsample_layers") else net


def maps_and_vectors(backbone: Backbone) -> str:
    if not isinstance(backbone.net, ConvNeXt):
        return "maps = net(image)\nvectors = maps[-1].mean((2, 3))\n"
    return """\
# net(image) normalises what it returns; densessl's maps are as they leave the stages.
maps = []
for down, stage in zip(net.downsample_layers, net.stages):
    maps.append(stage(down(maps[-1] if maps else image)))
vectors = net.norm3(maps[-1]).mean((2, 3))
"""


def _class(backbone: Backbone) -> str:
    return "ConvNeXt" if isinstance(backbone.net, ConvNeXt) else "ResNet"
