"""Weights that no mistake of naming leaves unnoticed."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn


@torch.no_grad()
def scatter(net: nn.Module, seed: int = 0) -> nn.Module:
    """Give each norm, bias, layer scale and running statistic its own value; fresh networks have ones and zeros."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in net.state_dict().items():
        if name.endswith(("running_var", "norm.weight", "gamma", "layer_scale", "layer_scale_parameter")) or (
            name.endswith("weight") and tensor.ndim == 1
        ):
            scale = 0.2 if name.endswith(("gamma", "layer_scale", "layer_scale_parameter")) else 1.0
            tensor.copy_(scale * (0.5 + torch.rand(tensor.shape, generator=generator)))
        elif name.endswith(("running_mean", "bias")):
            tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
        elif name.endswith("num_batches_tracked"):
            tensor.fill_(7)
    return net.eval()


def image(height: int, width: int, channels: int = 3) -> torch.Tensor:
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(height))


def renamed(state: Mapping[str, torch.Tensor], rules: Sequence[tuple[str, str]]) -> dict[str, torch.Tensor]:
    """Each key after all substitutions, one after the other; none may make two keys alike."""
    found = {}
    for key, tensor in state.items():
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        found[key] = tensor
    assert len(found) == len(state)
    return found


def timm_maps(net: Any, x: torch.Tensor) -> list[torch.Tensor]:
    return net.forward_intermediates(x, intermediates_only=True)[-4:]
