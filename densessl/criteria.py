"""The equations: functions of embeddings, without parameters and without a word about processes.

Each takes the rows this process owns and, where statistics run over the batch, everyone's. The mean of a value over
processes is the value of the whole batch, and the mean of the gradients is its gradient: the backward needs no
collective. All statistics are computed in fp32 (or fp64) outside autocast; bf16 has too few digits for them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from densessl.places import PlaceInvariance, Spread

R = TypeVar("R")


def _outside_autocast(criterion: Callable[..., R]) -> Callable[..., R]:
    """bf16 has 8 bits of precision, too few for statistics, and autocast would return to it in every product."""

    @wraps(criterion)
    def precise(z: Tensor, *others: Any, **named: Any) -> R:
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
def place_invariance(rows: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference of the rows ``a`` and ``b`` (n, M) of ``rows`` (R, D), for each of the M matches."""
    return PlaceInvariance.apply(rows, a.mT, b.mT)


@_outside_autocast
def variance_and_covariance(
    rows: Tensor,
    places: Tensor,
    everyone: Tensor | None = None,
    everyones_places: Tensor | None = None,
    first: int = 0,
    gamma: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """For each of L places, (L,): how far the standard deviations of the dimensions fall short of ``gamma`` on average,
    and the squared off-diagonal entries of the covariance matrix, summed and divided by D. VICReg eq. 1, 3 and 4.

    ``rows`` (R, D): this process's embeddings; ``places`` (n, L): which row each of its n pictures has at each place.
    ``everyone`` (S, D) and ``everyones_places`` (N, L): those of all processes, by default the same, read without
    gradient; this process's pictures are ``first`` to first + n. The squared norm of the D x D matrix equals that of
    the N x N Gram matrix, so the smaller is formed, and of the Gram matrix own lines alone. Values are >= 0; a variance
    of 0.99 says that all rows are equal. Not differentiable twice. https://arxiv.org/abs/2105.04906
    """
    everyone = rows.detach() if everyone is None else everyone
    everyones_places = places if everyones_places is None else everyones_places
    if len(everyones_places) < 2:
        raise ValueError("a statistic over the batch needs at least 2 pictures, got 1")
    variance, covariance = Spread.apply(rows, places.mT, everyone, everyones_places.mT, first, gamma)
    return variance, covariance


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
    gather: Callable[[Tensor], Tensor] = lambda own: own,
    first: int = 0,
    share: Tensor | None = None,
) -> Tensor:
    """Each view of a picture against both views of all others: about ln(2N - 1) at first. SimCLR eq. 1.

    ``a``, ``b`` (n, D), or (n, L, D) with a contrast for each of L places, averaged or summed by ``share`` (L,): this
    process's rows. ``gather`` gives everyone's (N, ...) of such rows, among which these begin at ``first``; it is
    called without gradient. https://arxiv.org/abs/2002.05709
    """
    n, dim = len(a), a.shape[-1]
    units = [F.normalize(each.reshape(n, -1, dim), dim=-1) for each in (a, b)]
    everyone = [gather(each.detach()) for each in units]
    rows, keys = (torch.cat(pair).transpose(0, 1) for pair in (units, everyone))  # (L, 2n, D), (L, 2N, D)
    total = keys.shape[1] // 2
    logits = rows @ keys.mT / tau
    own = torch.arange(first, first + n, device=a.device)
    itself, partner = (
        torch.cat(pair)[:, None].expand(len(rows), -1, 1) for pair in ((own, own + total), (own + total, own))
    )
    among = logits.scatter(2, itself, -torch.inf).logsumexp(2)
    positive = logits.gather(2, partner)[..., 0]
    # Rows are keys of all others too. What those feel is known here, since i is to j as j is to i, but for the
    # denominators, one number a row; so no gradient has to travel.
    theirs = torch.cat([gather(each.T) for each in among.detach().chunk(2, dim=1)]).T[:, None]
    felt = (logits.detach() - theirs).exp().scatter(2, itself, 0.0)
    as_keys = (felt * logits).sum(2) - positive
    losses = (among - positive + as_keys - as_keys.detach()).mean(1)
    return losses.mean() if share is None else (losses * share.to(losses.dtype)).sum()


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
