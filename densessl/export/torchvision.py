"""To torchvision, with an Identity in the place of its classifier."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

from densessl.backbones import Backbone
from densessl.errors import UserError
from densessl.export.exporter import Stages, fitting, plain, renamed
from densessl.export.files import torch_save
from densessl.foreign import layouts

SUFFIX = ".pth"
NEEDS: tuple[str, ...] = ()
ARCHITECTURES = (
    *("convnext_tiny", "convnext_small", "convnext_base", "convnext_large"),
    *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
)


def architecture(backbone: Backbone) -> nn.Module:
    plain(backbone, "torchvision")
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


def write(backbone: Backbone, file: Path) -> None:
    net = architecture(backbone)
    name_of = layouts.torchvision_convnext if isinstance(net, models.ConvNeXt) else layouts.same
    torch_save(fitting(renamed(backbone, name_of), net, "torchvision", backbone.name), file)


def open(backbone: Backbone, file: Path) -> Stages:
    net = architecture(backbone).eval()
    net.load_state_dict(torch.load(file, weights_only=True))
    extractor = create_feature_extractor(net, _stage_names(backbone))
    return lambda image: list(extractor(image).values())


def snippet(backbone: Backbone, file: Path) -> str:
    classifier, vectors = "net.fc", "vectors = net(image)"
    if backbone.name.startswith("convnext"):
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
maps = list(create_feature_extractor(net, {_stage_names(backbone)})(image).values())
"""


def _stage_names(backbone: Backbone) -> list[str]:
    if backbone.name.startswith("convnext"):
        return ["features.1", "features.3", "features.5", "features.7"]
    return ["layer1", "layer2", "layer3", "layer4"]
