"""To torchvision, with an Identity in the place of its classifier."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

from densessl import layouts
from densessl.backbones import Backbone
from densessl.errors import UserError

SUFFIX = ".pth"
ARCHITECTURES = (
    *("convnext_tiny", "convnext_small", "convnext_base", "convnext_large"),
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
)


def architecture(backbone: Backbone) -> nn.Module:
    if backbone.stem != "imagenet":
        raise UserError(
            f"torchvision has no {backbone.name} with a {backbone.stem} stem; densessl.load_backbone takes it"
        )
    if backbone.name not in ARCHITECTURES:
        raise UserError(f"torchvision has no {backbone.name}, only {', '.join(ARCHITECTURES)}; --to timm takes it")
    if backbone.in_chans != 3:
        raise UserError(
            f"torchvision's {backbone.name} takes 3 channels, this backbone {backbone.in_chans}; --to timm takes it"
        )
    net = getattr(models, backbone.name)()
    if isinstance(net, models.ConvNeXt):
        net.classifier[2] = nn.Identity()
    else:
        net.fc = nn.Identity()
    return net


def tensors(backbone: Backbone, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """torchvision's ConvNeXt always multiplies by layer scale, so it gets ones."""
    name_of = layouts.torchvision_convnext if "features.0.0.weight" in wanted else layouts.same
    ours = {name_of(key): tensor for key, tensor in backbone.net.state_dict().items()}
    return ours | {key: torch.ones_like(value) for key, value in wanted.items() if key.endswith(".layer_scale")}


def write(tensors: dict[str, Tensor], file: Path) -> None:
    buffer = io.BytesIO()  # given a path, torch.save writes the file's name into the file
    torch.save(tensors, buffer)
    file.write_bytes(buffer.getbuffer())


def load(net: nn.Module, file: Path) -> None:
    net.load_state_dict(torch.load(file, weights_only=True))


def stages(net: nn.Module, image: Tensor) -> list[Tensor]:
    return list(create_feature_extractor(net, _stage_names(net))(image).values())


def snippet(backbone: Backbone, net: nn.Module, file: Path) -> str:
    classifier, vectors = "net.fc", "vectors = net(image)"
    if isinstance(net, models.ConvNeXt):
        classifier = "net.classifier[2]"
        vectors = (
            "# densessl's vector is mean(norm); net(image) is norm(mean).\n"
            "vectors = net.classifier[0](net.features(image)).mean((2, 3))"
        )
    return f"""\
import torch
from torchvision.models import {backbone.name}
from torchvision.models.feature_extraction import create_feature_extractor

net = {backbone.name}()
{classifier} = torch.nn.Identity()
net.load_state_dict(torch.load({str(file)!r}, weights_only=True))
net.eval()
{vectors}
maps = list(create_feature_extractor(net, {_stage_names(net)})(image).values())
"""


def _stage_names(net: nn.Module) -> list[str]:
    if isinstance(net, models.ConvNeXt):
        return ["features.1", "features.3", "features.5", "features.7"]
    return ["layer1", "layer2", "layer3", "layer4"]
