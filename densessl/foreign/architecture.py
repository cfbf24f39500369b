"""Which of timm's networks the shapes of foreign weights show."""

from __future__ import annotations

from collections.abc import Mapping

import timm
from torch import Tensor

from densessl.errors import UserError
from densessl.foreign.layouts import Layout

CONVNEXTS: dict[tuple[tuple[int, ...], int], str] = {
    ((2, 2, 6, 2), 40): "atto",
    ((2, 2, 6, 2), 48): "femto",
    ((2, 2, 6, 2), 64): "pico",
    ((2, 2, 8, 2), 80): "nano",
    ((3, 3, 9, 3), 96): "tiny",
    ((3, 3, 27, 3), 96): "small",
    ((3, 3, 27, 3), 128): "base",
    ((3, 3, 27, 3), 192): "large",
    ((3, 3, 27, 3), 256): "xlarge",
    ((3, 3, 27, 3), 352): "huge",
    ((3, 4, 30, 3), 384): "xxlarge",
}
RESNETS: dict[tuple[tuple[int, ...], bool], str] = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((2, 2, 2, 2), True): "resnet26",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
    ((3, 8, 36, 3), True): "resnet152",
    ((3, 24, 36, 3), True): "resnet200",
}


def timm_name(layout: Layout, tensors: Mapping[str, Tensor]) -> str:
    """timm's name, from depths and widths.

    Of networks that these can't tell apart it is the plain one; whether every tensor fits is for the key report. Raises
    UserError for what timm has no such network for.
    """
    if layout.family == "ViT":
        raise UserError("a ViT, whose number of heads no shape shows: NAME=FILE names it, as timm does")
    return _convnext(layout, tensors) if layout.family == "ConvNeXt" else _resnet(layout, tensors)


def in_chans(layout: Layout, tensors: Mapping[str, Tensor]) -> int:
    """The channels of the pictures that the first convolution takes; 3 where it has no usual name."""
    stems = ("stem.0.weight", "conv1.weight", "conv1.0.weight", "patch_embed.proj.weight")
    found = [tensors[name] for name in map(layout.name_of, stems) if name in tensors]
    return found[0].shape[1] if found and found[0].ndim == 4 else 3


def _convnext(layout: Layout, tensors: Mapping[str, Tensor]) -> str:
    depths = _depths(layout, tensors, "stages.{i}.blocks.{j}.conv_dw.weight", 0)
    stem = layout.name_of("stem.0.weight")
    if stem not in tensors or layout.name_of("stem.2.weight") in tensors:
        raise UserError(f"a ConvNeXt without {stem}, or with more than a 4x4 stem: NAME=FILE names it, as timm does")
    width = len(tensors[stem])
    version = "v2" if layout.name_of("stages.0.blocks.0.mlp.grn.weight") in tensors else ""
    name = f"convnext{version}_{CONVNEXTS.get((depths, width), '')}"
    if not timm.is_model(name):
        raise UserError(
            f"a ConvNeXt{version.upper()} of depths {', '.join(map(str, depths))} that begins with {width} channels, "
            "for which no name is known; NAME=FILE names it, as timm does"
        )
    return name


def _resnet(layout: Layout, tensors: Mapping[str, Tensor]) -> str:
    depths = _depths(layout, tensors, "layer{i}.{j}.conv1.weight", 1)
    bottleneck = layout.name_of("layer1.0.conv3.weight") in tensors
    deep = "conv1.0.weight" in tensors
    stem = "conv1.0.weight" if deep else layout.name_of("conv1.weight")
    name = RESNETS.get((depths, bottleneck), "")
    what = f"a ResNet of depths {', '.join(map(str, depths))} with {'bottlenecks' if bottleneck else 'basic blocks'}"
    if stem not in tensors or not name:
        raise UserError(f"{what}{'' if stem in tensors else f', without {stem}'}; NAME=FILE names it, as timm does")
    width, _, side, _ = tensors[stem].shape
    if side == 3 and not deep:
        raise UserError(
            f"{what} that begins with a 3x3 convolution: neither its padding nor what it pools is in a file. As "
            "backbone.init of pretrain, with backbone.stem=small, it is taken to pad 1 and to pool nothing"
        )
    if not deep and width != 64:
        raise UserError(f"{what}, whose stem has {width} channels instead of 64 (x{width / 64:g}): timm has none such")
    if deep:
        between = tensors.get("layer2.0.downsample.1.weight")
        name += "d" if between is not None and between.ndim == 4 else "c"
    if not timm.is_model(name):
        raise UserError(f"{what}, for which no name is known ({name}?); NAME=FILE names it, as timm does")
    return name


def _depths(layout: Layout, tensors: Mapping[str, Tensor], key: str, start: int) -> tuple[int, ...]:
    return tuple(
        sum(layout.name_of(key.format(i=i, j=j)) in tensors for j in range(64)) for i in range(start, start + 4)
    )
