"""The names that other libraries give to a backbone's tensors.

A layout is a function from our key (timm's name, ConvNeXt's final norm ``norm_pre``) to theirs. Export applies it,
import applies its inverse, so there is one rule for both.
"""

from __future__ import annotations

import re

_TORCHVISION_BLOCK = {
    "conv_dw": "block.0",
    "norm": "block.2",
    "mlp.fc1": "block.3",
    "mlp.fc2": "block.5",
    "gamma": "layer_scale",
}


def timm_convnext(key: str) -> str:
    """timm's ConvNeXt as it is by default: the final norm stands in the head, after the mean."""
    return re.sub(r"^norm_pre\.", "head.norm.", key)


def torchvision_convnext(key: str) -> str:
    """torchvision's ConvNeXt: stem, stages and the downsampling between them take turns in ``features``."""
    if block := re.fullmatch(r"stages\.(\d+)\.blocks\.(\d+)\.(.+?)(\.(?:weight|bias))?", key):
        stage, index, part, kind = block.groups(default="")
        return f"features.{2 * int(stage) + 1}.{index}.{_TORCHVISION_BLOCK.get(part, part)}{kind}"
    if between := re.fullmatch(r"stages\.(\d+)\.downsample\.(.+)", key):
        return f"features.{2 * int(between[1])}.{between[2]}"
    return re.sub(r"^norm_pre\.", "classifier.0.", re.sub(r"^stem\.", "features.0.", key))


def same(key: str) -> str:
    """ResNet: timm kept torchvision's names."""
    return key
