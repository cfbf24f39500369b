"""To torch.export: a program that needs torch alone, for any batch and size."""

from __future__ import annotations

from pathlib import Path

import torch

from densessl.backbones import Backbone
from densessl.export.exporter import Stages
from densessl.export.program import exported

SUFFIX = ".pt2"
NEEDS: tuple[str, ...] = ()


def write(backbone: Backbone, file: Path) -> None:
    torch.export.save(exported(backbone), file)


def open(backbone: Backbone, file: Path) -> Stages:
    module = torch.export.load(file).module()
    return lambda image: module(image)[:4]


def snippet(backbone: Backbone, file: Path) -> str:
    return f"""\
import torch

net = torch.export.load({str(file)!r}).module()
*maps, vectors = net(image)
"""
