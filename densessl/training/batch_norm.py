"""Batch statistics over the images of all processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from densessl.training.distributed import gather, gathering, total, world_size


class SyncBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalization over the batch of all processes.

    In place of torch's own, which refuses to run on CPUs, and on GPUs waits for the device three times a forward,
    to find processes that hold nothing. Here processes hold equally many values of a channel. Statistics are kept in
    fp32. Same keys as nn.BatchNorm.
    """

    def _check_input_dim(self, x: Tensor) -> None:
        assert x.ndim >= 2

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(x)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        if x.is_cuda:
            running = (self.running_mean, self.running_var, self.momentum)
            return _NormalizeOnGpu.apply(x, self.weight, self.bias, *running, self.eps)
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
        if self.running_mean is None or self.running_var is None:
            return
        assert self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(var * n / (n - 1), self.momentum)


class _NormalizeOnGpu(torch.autograd.Function):
    """The kernels that nn.SyncBatchNorm calls, with counts that are constants: the host waits for nothing.

    Sums over the batch are those of all processes in the gradient of ``x``, and of this one in those of weight and
    bias, which the engine averages like all others.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momentum: float,
        eps: float,
    ) -> Tensor:
        x = _make_dense(x)
        own = torch.cat(torch.batch_norm_stats(x, eps))  # mean and 1 / deviation
        means, inverse_stds = gathering(own[None])().chunk(2, dim=1)
        counts = torch.full((world_size(),), x.numel() // x.shape[1], dtype=own.dtype, device=x.device)
        mean, inverse_std = torch.batch_norm_gather_stats_with_counts(
            x, means, inverse_stds, running_mean, running_var, momentum, eps, counts
        )
        ctx.save_for_backward(x, weight, mean, inverse_std, counts.int())
        return torch.batch_norm_elemt(x, weight, bias, mean, inverse_std, eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse_std, counts = ctx.saved_tensors
        gradient = _make_dense(gradient)
        of_input, of_weight, of_bias = ctx.needs_input_grad[:3]
        sum_dy, sum_dy_xmu, weight_gradient, bias_gradient = torch.batch_norm_backward_reduce(
            gradient, x, mean, inverse_std, weight, of_input, of_weight, of_bias
        )
        input_gradient = None
        if of_input:
            sum_dy, sum_dy_xmu = total(torch.cat([sum_dy, sum_dy_xmu])).chunk(2)
            input_gradient = torch.batch_norm_backward_elemt(
                gradient, x, mean, inverse_std, weight, sum_dy, sum_dy_xmu, counts
            )
        return input_gradient, weight_gradient, bias_gradient, None, None, None, None


def _make_dense(x: Tensor) -> Tensor:
    """Laid out as the kernels take it: channels last stays, which they have forms for."""
    return x if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) else x.contiguous()


def running_statistics(module: nn.Module) -> Iterator[Tensor]:
    """The buffers of every BatchNorm: all that a method's forward changes."""
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            yield from child.buffers()


def synchronise_batch_norm(module: nn.Module) -> nn.Module:
    """``module`` with every BatchNorm over the batch of all processes, in place; nothing to do with one process.

    Parts whose ``own_statistics`` is true keep to the images of their process.
    """
    if world_size() == 1:
        return module
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            assert type(child) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), f"{name}: {type(child)} does more"
            assert child.momentum is not None, f"{name}: the mean of all batches would have to be asked of the device"
            child.__class__ = SyncBatchNorm
        elif not getattr(child, "own_statistics", False):
            synchronise_batch_norm(child)
    return module
