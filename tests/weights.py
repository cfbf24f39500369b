"""Weights that no mistake of naming leaves unnoticed."""

import torch
from torch import nn


@torch.no_grad()
def scatter(net: nn.Module, seed: int = 0) -> nn.Module:
    """Give each norm, bias, layer scale and running statistic its own value; fresh networks have ones and zeros."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in net.state_dict().items():
        if name.endswith(("running_var", "norm.weight", "gamma", "layer_scale")) or (
            name.endswith("weight") and tensor.ndim == 1
        ):
            scale = 0.2 if name.endswith(("gamma", "layer_scale")) else 1.0
            tensor.copy_(scale * (0.5 + torch.rand(tensor.shape, generator=generator)))
        elif name.endswith(("running_mean", "bias")):
            tensor.copy_(0.1 * torch.randn(tensor.shape, generator=generator))
        elif name.endswith("num_batches_tracked"):
            tensor.fill_(7)
    return net.eval()


def image(height: int, width: int, channels: int = 3) -> torch.Tensor:
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(height))
