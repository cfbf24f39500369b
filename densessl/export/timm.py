"""To timm, into the architecture that its name means by default: no argument of ours is needed there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
from safetensors.torch import save
from timm.models import load_checkpoint
from torch import nn

from densessl.backbones import Backbone
from densessl.export.exporter import Stages, fitting, plain, renamed
from densessl.foreign import layouts

SUFFIX = ".safetensors"
NEEDS: tuple[str, ...] = ()


def architecture(backbone: Backbone) -> nn.Module:
    plain(backbone, "timm")
    return timm.create_model(backbone.name, num_classes=0, in_chans=backbone.in_chans)


def write(backbone: Backbone, file: Path) -> None:
    net = architecture(backbone)
    name_of = layouts.timm_convnext if _normed(net) else layouts.same
    file.write_bytes(save(fitting(renamed(backbone, name_of), net, "timm", backbone.name), {"format": "pt"}))


def open(backbone: Backbone, file: Path) -> Stages:
    net: Any = architecture(backbone).eval()
    load_checkpoint(net, str(file))  # what create_model(checkpoint_path=...) calls: strict
    return lambda image: net.forward_intermediates(image, intermediates_only=True)[-4:]


def snippet(backbone: Backbone, file: Path) -> str:
    mean, std = backbone.metadata["mean"], backbone.metadata["std"]
    weights = f"file={str(file)!r}, num_classes=0, mean={mean}, std={std}, input_size=({backbone.in_chans}, 224, 224)"
    arguments = f"{backbone.name!r}, pretrained=True, pretrained_cfg_overlay=weights"
    vectors = "vectors = net(image)"
    if _normed(architecture(backbone)):
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


def _normed(net: nn.Module) -> bool:
    return "head.norm.weight" in net.state_dict()
