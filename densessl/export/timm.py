"""To timm, into the architecture that its name means by default: no argument of ours is needed there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save
from timm.models import load_checkpoint
from torch import Tensor, nn

from densessl import layouts
from densessl.backbones import Backbone
from densessl.errors import UserError

SUFFIX = ".safetensors"


def architecture(backbone: Backbone) -> nn.Module:
    if backbone.stem != "imagenet":
        raise UserError(f"timm has no {backbone.name} with a {backbone.stem} stem; densessl.load_backbone takes it")
    return timm.create_model(backbone.name, num_classes=0, in_chans=backbone.in_chans)


def tensors(backbone: Backbone, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """timm always multiplies by layer scale, so it gets ones; its final norm stands in the head."""
    name_of = layouts.timm_convnext if "head.norm.weight" in wanted else layouts.same
    ours = {name_of(key): tensor for key, tensor in backbone.net.state_dict().items()}
    return ours | {key: torch.ones_like(value) for key, value in wanted.items() if key.endswith(".gamma")}


def write(tensors: dict[str, Tensor], file: Path) -> None:
    file.write_bytes(save(tensors, {"format": "pt"}))


def load(net: nn.Module, file: Path) -> None:
    load_checkpoint(net, str(file))  # what create_model(checkpoint_path=...) calls: strict


def stages(net: Any, image: Tensor) -> list[Tensor]:
    return net.forward_intermediates(image, intermediates_only=True)[-4:]


def snippet(backbone: Backbone, net: nn.Module, file: Path) -> str:
    mean, std = backbone.metadata["mean"], backbone.metadata["std"]
    weights = f"file={str(file)!r}, num_classes=0, mean={mean}, std={std}, input_size=({backbone.in_chans}, 224, 224)"
    arguments = f"{backbone.name!r}, pretrained=True, pretrained_cfg_overlay=weights"
    vectors = "vectors = net(image)"
    if "head.norm.weight" in net.state_dict():
        vectors = (
            "# densessl's vector is mean(norm); net(image) is norm(mean), unless head_norm_first=True is given above,\n"
            "# where the file's head.norm.* have to be called norm_pre.*\n"
            "vectors = net.head.norm(net.forward_features(image)).mean((2, 3))"
        )
    return f"""\
import timm

weights = dict({weights})
net = timm.create_model({arguments}).eval()
{vectors}
features = timm.create_model({arguments}, features_only=True).eval()
maps = features(image)[-4:]
"""
