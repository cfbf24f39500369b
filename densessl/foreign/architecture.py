"""Which of timm's networks the shapes of foreign weights show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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


STEMS: dict[tuple[tuple[int, ...], bool], str] = {  # widths of three convolutions, and whether shortcuts pool
    ((32, 32, 64), False): "c",
    ((32, 32, 64), True): "d",
    ((24, 32, 64), True): "t",
    ((64, 64, 128), False): "s",
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
    names = [f"stages.{{i}}.blocks.{{j}}.{part}.weight" for part in ("conv_dw", "norm", "mlp.fc1", "mlp.fc2")]
    depths = _depths(layout, tensors, names, 0)
    if layout.name_of("stem.2.weight") in tensors:
        raise UserError("a ConvNeXt with more than a 4x4 stem: NAME=FILE names it, as timm does")
    first = next(
        name for name in map(layout.name_of, ("stem.0.weight", "stages.0.blocks.0.norm.weight")) if name in tensors
    )
    width = len(tensors[first])
    version = "v2" if any(layout.name_of(f"stages.{i}.blocks.0.mlp.grn.weight") in tensors for i in range(4)) else ""
    name = f"convnext{version}_{CONVNEXTS.get((depths, width), '')}"
    if not timm.is_model(name):
        raise UserError(
            f"a ConvNeXt{version.upper()} of depths {', '.join(map(str, depths))} that begins with {width} channels, "
            "for which no name is known; NAME=FILE names it, as timm does"
        )
    return name


def _resnet(layout: Layout, tensors: Mapping[str, Tensor]) -> str:
    names = [f"layer{{i}}.{{j}}.{part}{k}.weight" for part in ("conv", "bn") for k in (1, 2, 3)]
    depths = _depths(layout, tensors, names, 1)
    bottleneck = any(
        layout.name_of(f"layer{i}.0.{part}3.weight") in tensors for i in (1, 2, 3, 4) for part in ("conv", "bn")
    )
    deep = [layout.name_of(f"conv1.{i}.weight") for i in (0, 3, 6)]
    stem = tensors.get(layout.name_of("conv1.weight"))
    name = RESNETS.get((depths, bottleneck), "")
    what = f"a ResNet of depths {', '.join(map(str, depths))} with {'bottlenecks' if bottleneck else 'basic blocks'}"
    if not name:
        raise UserError(f"{what}; NAME=FILE names it, as timm does")
    if deep[0] in tensors:
        widths = tuple(len(tensors[key]) if key in tensors else 0 for key in deep)
        name += STEMS.get((widths, layout.name_of("layer2.0.downsample.2.weight") in tensors), "")
    elif stem is not None and stem.shape[-1] == 3:
        raise UserError(
            f"{what} that begins with a 3x3 convolution: neither its padding nor what it pools is in a file. As "
            "backbone.init of pretrain, with backbone.stem=small, it is taken to pad 1 and to pool nothing"
        )
    elif stem is not None and len(stem) != 64:
        raise UserError(
            f"{what}, whose stem has {len(stem)} channels instead of 64 (x{len(stem) / 64:g}): timm has none such"
        )
    if not timm.is_model(name):
        raise UserError(f"{what}, for which no name is known ({name}?); NAME=FILE names it, as timm does")
    return name


def _depths(layout: Layout, tensors: Mapping[str, Tensor], keys: Sequence[str], start: int) -> tuple[int, ...]:
    """Blocks of each stage, up to the last of which any of ``keys`` is there: one that is missing is no other depth."""

    def there(i: int, j: int) -> bool:
        return any(layout.name_of(key.format(i=i, j=j)) in tensors for key in keys)

    return tuple(max((j + 1 for j in range(64) if there(i, j)), default=0) for i in range(start, start + 4))
