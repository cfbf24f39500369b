"""The equations: functions of embeddings, without parameters and without a word about processes.

Each takes the rows this process owns and, where statistics run over the batch, everyone's. The mean of a value over
processes is the value of the whole batch, and the mean of the gradients is its gradient: the backward needs no
collective. All statistics are computed in fp32 (or fp64) outside autocast; bf16 has too few digits for them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-4  # inside the square root of the standard deviation, VICReg eq. 1


def _outside_autocast(criterion: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """bf16 has 8 bits of precision, too few for statistics, and autocast would return to it in every product."""

    @wraps(criterion)
    def precise(z: Tensor, *others: Any, **named: Any) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):
            return criterion(_precise(z), *map(_precise, others), **{k: _precise(v) for k, v in named.items()})

    return precise


def _precise(z: Any) -> Any:
    return z.float() if isinstance(z, Tensor) and z.dtype in (torch.float16, torch.bfloat16) else z


# --- information maximisation -----------------------------------------------------------------------------------------


@_outside_autocast
def invariance(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference of matched embeddings, over everything: VICReg eq. 5 divided by D, as its code has it."""
    return F.mse_loss(a, b)


@_outside_autocast
def variance(z: Tensor, everyone: Tensor | None = None, gamma: float = 1.0) -> Tensor:
    """How far the standard deviation of each dimension falls short of ``gamma``, averaged. VICReg eq. 1.

    ``z`` (n, D), or (n, L, D) with a statistic for each of L places: the rows this process owns. ``everyone`` (N, ...):
    the rows of all processes, by default z; read without gradient. Scalar in [0, gamma]; 0.99 if all rows are equal.
    https://arxiv.org/abs/2105.04906
    """
    centered, mean = _centered(z, everyone)
    n, total = z.shape[0], centered.shape[0]
    own = (z - mean).square().sum(0) / (total - 1)
    # Own rows carry the gradient of everyone's value; the engine's mean over processes needs total / n times as much.
    var = centered.square().sum(0) / (total - 1) + total / n * (own - own.detach())
    return F.relu(gamma - (var + EPSILON).sqrt()).mean()


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


@_outside_autocast
def barlow_twins(
    a: Tensor, b: Tensor, lambd: float, everyone_a: Tensor | None = None, everyone_b: Tensor | None = None
) -> Tensor:
    """Squared distance of the cross-correlation matrix from the identity, off-diagonal entries weighted by ``lambd``.

    ``a``, ``b`` (n, D): this process's rows of two views, each dimension of mean 0 and variance 1 over the batch;
    ``everyone_*`` (N, D) those of all processes, by default the same, read without gradient. The squared norm of
    A^T B is the product of the two N x N Gram matrices, so the smaller side is formed. Scalar >= 0; D for zeros.
    Barlow Twins eq. 1 and 2, https://arxiv.org/abs/2103.03230
    """
    all_a = (a if everyone_a is None else everyone_a).detach()
    all_b = (b if everyone_b is None else everyone_b).detach()
    (n, dim), total = a.shape, len(all_a)
    own = (a * b).sum(0) / total
    # Own rows carry the gradient of everyone's value, total / n times: the engine takes the mean over processes.
    diagonal = (all_a * all_b).sum(0) / total + total / n * (own - own.detach())
    if total < dim:
        squares = ((a @ all_a.mT) * (b @ all_b.mT)).sum() / total**2
    else:
        squares = ((a @ (all_a.mT @ all_b)) * b).sum() / total**2
    squares = squares * (total / n)
    squares = squares + (squares - squares.detach())  # each entry holds two rows and only one is in the graph
    return (1 - diagonal).square().sum() + lambd * (squares - diagonal.square().sum())


@_outside_autocast
def whitened(z: Tensor, eps: float = 0.0) -> Tensor:
    """Rows with mean 0 and unit covariance, (..., K, D) to the same: by the inverse of the Cholesky factor.

    ``eps`` mixes that share of the identity into the covariance; at 0, K must be larger than D. NaN where the
    covariance is singular, as collapsed rows make it. W-MSE §3, https://arxiv.org/abs/2007.06346
    """
    if not eps and z.shape[-2] <= z.shape[-1]:
        raise ValueError(
            f"{z.shape[-2]} rows can't be whitened in {z.shape[-1]} dimensions: it takes more rows than that"
        )
    z = z - z.mean(-2, keepdim=True)
    sigma = (1 - eps) * (z.mT @ z) / (z.shape[-2] - 1) + eps * torch.eye(z.shape[-1], device=z.device, dtype=z.dtype)
    factor, failed = torch.linalg.cholesky_ex(sigma)
    factor = torch.where(failed[..., None, None] > 0, torch.nan, factor)
    return torch.linalg.solve_triangular(factor, z.mT, upper=False).mT


# --- agreement of two branches ----------------------------------------------------------------------------------------


@_outside_autocast
def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Mean cosine of matched rows (..., D), in [-1, 1]. The squared distance of unit rows is 2 - 2 cos."""
    return F.cosine_similarity(a, b, dim=-1).mean()


@_outside_autocast
def similarity(a: Tensor, b: Tensor) -> Tensor:
    """Cosine of each row of ``a`` (..., n, D) with each of ``b`` (..., m, D): (..., n, m)."""
    return F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).mT


@_outside_autocast
def propagated(x: Tensor, values: Tensor, power: float) -> Tensor:
    """``values`` (B, P, E) of each place and of those that it looks like: summed, weighted by cosine ** ``power``.

    The cosines are those of the places' ``x`` (B, P, D), negative ones cut off. Values are brought to unit length, as
    in the authors' code. PixPro eq. 3 and 4, https://arxiv.org/abs/2011.10043
    """
    return similarity(x, x).relu().pow(power) @ F.normalize(values, dim=-1)


# --- contrast ---------------------------------------------------------------------------------------------------------


@_outside_autocast
def contrast(query: Tensor, keys: Tensor, tau: float, first: int = 0) -> Tensor:
    """InfoNCE of ``query`` (n, D) among everyone's ``keys`` (N, D): query i belongs to key first + i.

    About ln N for keys that have nothing in common. MoCo v3 §3, https://arxiv.org/abs/2104.02057
    """
    return F.cross_entropy(similarity(query, keys) / tau, torch.arange(first, first + len(query), device=query.device))


@_outside_autocast
def nt_xent(
    a: Tensor,
    b: Tensor,
    tau: float,
    everyone_a: Tensor | None = None,
    everyone_b: Tensor | None = None,
    first: int = 0,
) -> Tensor:
    """Each view of a picture against both views of all others: about ln(2N - 1) at first. SimCLR eq. 1.

    ``a``, ``b`` (n, D), or (n, L, D) with a contrast for each of L places: this process's rows, which are the rows
    ``first`` to first + n of ``everyone_*`` (N, ...), by default the same. Gradients flow through everyone's rows.
    https://arxiv.org/abs/2002.05709
    """
    n, dim = len(a), a.shape[-1]
    everyone = (a if everyone_a is None else everyone_a, b if everyone_b is None else everyone_b)
    rows, keys = (torch.cat(pair).reshape(-1, a[0].numel() // dim, dim).transpose(0, 1) for pair in ((a, b), everyone))
    total = keys.shape[1] // 2
    logits = similarity(rows, keys).div(tau).flatten(0, 1)  # (L * 2n, 2N)
    own = torch.arange(first, first + n, device=a.device)
    itself, partner = (torch.cat(pair).repeat(rows.shape[0]) for pair in ((own, own + total), (own + total, own)))
    return F.cross_entropy(logits.scatter(1, itself[:, None], -torch.inf), partner)


@_outside_autocast
def info_nce(query: Tensor, key: Tensor, negatives: Tensor, tau: float) -> Tensor:
    """One positive ``key`` (n, D) for each ``query`` (n, D) against the same ``negatives`` (K, D). MoCo eq. 1.

    https://arxiv.org/abs/1911.05722
    """
    positive = F.cosine_similarity(query, key, dim=-1)[:, None]
    logits = torch.cat([positive, similarity(query, negatives)], dim=1) / tau
    return F.cross_entropy(logits, torch.zeros(len(query), dtype=torch.long, device=query.device))


# --- clusters ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
@_outside_autocast
def sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """Codes (N, K) of rows with ``scores`` (N, K) in [-1, 1]: rows sum to 1 and prototypes share the rows equally.

    SwAV eq. 3 to 5, https://arxiv.org/abs/2006.09882. The prototypes' shares are exact only in the limit.
    """
    codes = torch.exp((scores - scores.max()) / epsilon)  # a common factor, which the first division takes out
    for _ in range(iterations):
        codes = codes / codes.sum(0) / codes.shape[1]
        codes = codes / codes.sum(1, keepdim=True) / codes.shape[0]
    return codes * codes.shape[0]
