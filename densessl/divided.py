"""Statistics of many places over everyone's pictures, of which each process computes its share of the places."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from densessl import criteria
from densessl.training.distributed import gather, rank, share, total_own, world_size


def everyones_statistics(
    rows: Tensor, places: Tensor, everyones_rows: Callable[[], Tensor], weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Variance and covariance, (L,) each, at each of L places over everyone's pictures: this process's rows (R, D) and
    where each of its pictures has its places, (n, L); ``everyones_rows`` waits for everyone's, which `gathering` began
    to send. See criteria.variance_and_covariance.

    A process reads everyone's rows at its share of the places alone: its own rows at all places against everyone's are
    as many products, but every process would read all there is. Values of others' places are 0 here and its own as
    many times as large, so that the mean over processes is the value. The gradient is found, and sent to whom it
    belongs, in the forward; therefore ``weights`` (2, L) says what the loss will be, up to a factor: the sum of these
    times the values. For another loss the gradient is NaN.
    """
    if world_size() == 1:
        return criteria.variance_and_covariance(rows, places)
    variance, covariance = _Divided.apply(rows, places, everyones_rows, weights)
    return variance, covariance


class _Divided(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, places: Tensor, everyones_rows: Callable[[], Tensor], weights: Tensor
    ) -> tuple[Tensor, ...]:
        everyones_places = gather(places + rank() * len(rows))
        everyone = everyones_rows()
        everyone = everyone if everyone.dtype == torch.float64 else everyone.float()  # also to add gradients up
        weights, mine = weights.to(everyone.dtype), share(places.shape[1])
        with torch.enable_grad(), torch.autocast(rows.device.type, enabled=False):  # the backward's products, too
            found = criteria.variance_and_covariance(everyone.requires_grad_(), everyones_places[:, mine])
            part = torch.stack(found)
            (gradient,) = torch.autograd.grad((part * weights[:, mine]).sum(), everyone)
        ctx.save_for_backward(weights)
        ctx.gradient, ctx.dtype = total_own(gradient), rows.dtype
        values = torch.zeros_like(weights)
        values[:, mine] = world_size() * part.detach()
        return tuple(values)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (weights,) = ctx.saved_tensors
        given = torch.stack(upstream)
        factor = (given * weights).sum() / weights.square().sum().clamp_min(torch.finfo(weights.dtype).tiny)
        as_said = (given - factor * weights).abs().max() <= 1e-3 * given.abs().max()
        factor = torch.where(as_said, world_size() * factor, torch.nan)
        return (ctx.gradient() * factor).to(ctx.dtype), None, None, None
