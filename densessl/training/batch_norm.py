"""Batch statistics over the pictures of all processes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from densessl.training.distributed import gather, message_device, world_size


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation over the batch of all processes, for CPUs, where torch's own refuses to run.

    Processes hold equally many values of a channel. Statistics are kept in fp32. Same keys as nn.BatchNorm.
    """

    def _check_input_dim(self, x: Tensor) -> None:
        assert x.ndim >= 2

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(x)
        y = x if x.dtype == torch.float64 else x.float()
        local_var, local_mean = torch.var_mean(y, dim=[0, *range(2, x.ndim)], correction=0)
        means, variances = gather(torch.stack([local_mean, local_var])[None]).unbind(dim=1)
        mean, var = means.mean(0), variances.mean(0) + means.var(0, correction=0)
        self._track(mean.detach(), var.detach(), n=world_size() * x.numel() // x.shape[1])
        scale = (var + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        shape = (1, -1, *[1] * (x.ndim - 2))
        y = (y - mean.view(shape)) * scale.view(shape)
        return (y + self.bias.view(shape) if self.affine else y).to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor, n: int) -> None:
        if not self.track_running_stats:
            return
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(var * n / (n - 1), share)


def running_statistics(module: nn.Module) -> Iterator[Tensor]:
    """The buffers of every BatchNorm: all that a method's forward changes."""
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            yield from child.buffers()


def synchronise_batch_norm(module: nn.Module) -> nn.Module:
    """``module`` with every BatchNorm over the batch of all processes, in place; nothing to do with one process.

    Parts whose ``own_statistics`` is true keep to the pictures of their process.
    """
    if world_size() == 1:
        return module
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            assert type(child) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), f"{name}: {type(child)} does more"
            if message_device().type == "cuda":
                setattr(module, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
            else:
                child.__class__ = SyncBatchNorm
        elif not getattr(child, "own_statistics", False):
            synchronise_batch_norm(child)
    return module
