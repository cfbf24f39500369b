"""The equations: functions of embeddings, without parameters and without a word about processes.

Each takes the rows this process owns and, where statistics run over the batch, everyone's. The mean of a value over
processes is the value of the whole batch, and the mean of the gradients is its gradient: the backward needs no
collective. All statistics are computed in fp32 (or fp64) outside autocast; bf16 has too few digits for them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-4  # inside the square root of the standard deviation, VICReg eq. 1


def _outside_autocast(criterion: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """bf16 has 8 bits of precision, too few for statistics, and autocast would return to it in every product."""

    @wraps(criterion)
    def precise(z: Tensor, *others: Tensor | None, **named: Tensor | None) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):
            return criterion(_precise(z), *map(_precise, others), **{k: _precise(v) for k, v in named.items()})

    return precise


def _precise(z: Tensor | None) -> Tensor | None:
    return z.float() if z is not None and z.dtype in (torch.float16, torch.bfloat16) else z


@_outside_autocast
def invariance(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference of matched embeddings, over everything: VICReg eq. 5 divided by D, as its code has it."""
    return F.mse_loss(a, b)


@_outside_autocast
def variance(z: Tensor, everyone: Tensor | None = None) -> Tensor:
    """How far the standard deviation of each dimension falls short of 1, averaged. VICReg eq. 1.

    ``z`` (n, D), or (n, L, D) with a statistic for each of L places: the rows this process owns. ``everyone`` (N, ...):
    the rows of all processes, by default z; read without gradient. Scalar in [0, 1]; 0.99 if all rows are equal.
    https://arxiv.org/abs/2105.04906
    """
    centered, mean = _centered(z, everyone)
    n, total = z.shape[0], centered.shape[0]
    own = (z - mean).square().sum(0) / (total - 1)
    # Own rows carry the gradient of everyone's value; the engine's mean over processes needs total / n times as much.
    var = centered.square().sum(0) / (total - 1) + total / n * (own - own.detach())
    return F.relu(1 - (var + EPSILON).sqrt()).mean()


@_outside_autocast
def covariance(z: Tensor, everyone: Tensor | None = None) -> Tensor:
    """Squared off-diagonal entries of the covariance matrix, summed and divided by D. VICReg eq. 3 and 4.

    Shapes and ``everyone`` as in `variance`; with L places the mean of L covariances. The squared norm of the D x D
    matrix equals that of the N x N Gram matrix, so the smaller one is formed, and of the Gram matrix only own rows.
    Scalar >= 0. https://arxiv.org/abs/2105.04906
    """
    centered, mean = _centered(z, everyone)
    (n, dim), total = (z.shape[0], z.shape[-1]), centered.shape[0]
    rows = (z - mean).reshape(n, -1, dim).transpose(0, 1)  # (L, n, D)
    others = centered.reshape(total, -1, dim).transpose(0, 1)  # (L, N, D)
    if total < dim:
        squares = (rows @ others.mT).square().sum((1, 2))
    else:
        squares = ((rows @ (others.mT @ others)) * rows).sum((1, 2))
    diagonal = (rows.square().sum(1) * others.square().sum(1)).sum(1)
    own = (squares - diagonal).mean() / ((total - 1) ** 2 * dim) * (total / n)
    # Each entry holds two rows and only one of them is in the graph, so its gradient is half of the true one.
    return own + (own - own.detach())


def _centered(z: Tensor, everyone: Tensor | None) -> tuple[Tensor, Tensor]:
    """Everyone's rows around their mean, and the mean; without gradient.

    Own rows centred by this constant have the true gradient, since deviations from a mean sum to zero.
    """
    everyone = (z if everyone is None else everyone).detach()
    if everyone.shape[0] < 2:
        raise ValueError("a statistic over the batch needs at least 2 pictures, got 1")
    mean = everyone.mean(0)
    return everyone - mean, mean
