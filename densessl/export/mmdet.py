"""To mmdetection: its own ResNet, and mmpretrain's ConvNeXt with a norm for each map."""

from __future__ import annotations

from pathlib import Path

import torch
from timm.models.convnext import ConvNeXt
from torch import Tensor

from densessl.backbones import Backbone
from densessl.export import mmpretrain
from densessl.export.exporter import Stages, first_norms, installed
from densessl.export.files import torch_save
from densessl.export.values import of_stored

SUFFIX = ".pth"
NEEDS: tuple[str, ...] = ()


def write(backbone: Backbone, file: Path) -> None:
    torch_save({"state_dict": _tensors(backbone), "meta": {}}, file)


def open(backbone: Backbone, file: Path) -> Stages:
    convnext = isinstance(backbone.net, ConvNeXt)
    backbones = installed("mmpretrain.models.backbones" if convnext else "mmdet.models.backbones")
    net = mmpretrain.network(backbone, backbones, **({"out_indices": (0, 1, 2, 3)} if convnext else {}))
    net.load_state_dict(torch.load(file, weights_only=True)["state_dict"])
    net.eval()  # returns nothing there
    return mmpretrain.stages_of(net)


def snippet(backbone: Backbone, file: Path) -> str:
    given = mmpretrain.facts(backbone)
    if isinstance(backbone.net, ConvNeXt):
        given |= {"out_indices": [0, 1, 2, 3]}
        before = 'custom_imports = dict(imports=["mmpretrain.models"], allow_failed_imports=False)\n'
        kind = "mmpretrain.ConvNeXt"
    else:
        before, kind = "", "ResNet"
        given |= {"num_stages": 4, "frozen_stages": -1, "norm_cfg": {"type": "SyncBN", "requires_grad": True}}
    lines = "".join(f"    {key}={value!r},\n" for key, value in given.items())
    return f"""\
# A part of a configuration. Keep frozen_stages at -1: stages that stay frozen are of use for supervised weights.
{before}backbone = dict(
    type="{kind}",
{lines}    init_cfg=dict(type="Pretrained", checkpoint={str(file)!r}),
)
{_preprocessor(backbone)}"""


def _preprocessor(backbone: Backbone) -> str:
    mean, std, remark = of_stored(backbone)
    said = f"# Mean and std are {remark}.\n" if remark else ""
    if backbone.in_chans not in (1, 3):
        return f"""\
data_preprocessor = dict(type="DetDataPreprocessor", pad_size_divisor=32)
# That subtracts 1 or 3 means alone: the pipeline has to bring {backbone.in_chans} channels less mean, by std.
{said}mean = {mean}
std = {std}
"""
    return f"""\
{said}data_preprocessor = dict(
    type="DetDataPreprocessor",
    mean={mean},
    std={std},
    bgr_to_rgb={backbone.in_chans == 3},
    pad_size_divisor=32,
)
"""


def _tensors(backbone: Backbone) -> dict[str, Tensor]:
    """A detector normalises each map of a ConvNeXt: the last as ours does, the others by ones and zeros at first."""
    found = mmpretrain.tensors(backbone, "mmdet")
    return found | first_norms(backbone) if isinstance(backbone.net, ConvNeXt) else found
