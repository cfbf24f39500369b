"""VICRegL's criterion as its paper has it, pair of crops by pair of crops: the measure for speed and for values.

Plain torch, with every covariance matrix in full and every gradient by autograd, as in the authors' code.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

KINDS = ("invariance", "variance", "covariance")


def criterion(
    z: list[Tensor],
    cells: list[Tensor],
    centers: list[Tensor],
    pivots: int,
    *,
    alpha: float = 0.75,
    num_matches: tuple[int, int] = (20, 4),
    weights: tuple[float, float, float] = (25.0, 25.0, 1.0),
    official: bool = False,
) -> dict[str, Tensor]:
    """The terms of VICRegL.criterion, of the same arguments; https://arxiv.org/abs/2210.01571."""
    pairs = [(i, j) for i in range(pivots) for j in range(len(z)) if i != j]
    invariance = torch.stack([F.mse_loss(z[i], z[j]) for i, j in pairs]).mean()
    spreads = torch.stack([_spread(each[:, None]) for each in z]).mean(0)
    found = {"global": (alpha, torch.cat([invariance[None], spreads]))}
    large, small = num_matches
    for name, places in (("location", centers), ("feature", cells)):
        compared = []
        for i, j in pairs:
            back = large if j < pivots and not official else small
            for a, b, count in ((i, j, large), (j, i, back)):
                p, q = _matches(places[a], places[b], None if official and name == "feature" else count)
                compared.append(_vicreg(_take(cells[a], p), _take(cells[b], q)))
        found[name] = 1 - alpha, torch.stack(compared).mean(0)
    return {
        f"{name}_{kind}": share * weight * value
        for name, (share, values) in found.items()
        for kind, weight, value in zip(KINDS, weights, values, strict=True)
    }


def _vicreg(a: Tensor, b: Tensor) -> Tensor:
    """(3,): the unweighted terms of matched embeddings (B, K, D)."""
    return torch.cat([F.mse_loss(a, b)[None], (_spread(a) + _spread(b)) / 2])


def _spread(x: Tensor) -> Tensor:
    """(2,): variance and covariance terms of (B, K, D) over the pictures, averaged over the K places."""
    n, _, dim = x.shape
    variance = F.relu(1 - (x.var(0) + 1e-4).sqrt()).mean()
    rows = (x - x.mean(0)).transpose(0, 1)
    matrices = rows.mT @ rows / (n - 1)
    diagonal = torch.eye(dim, dtype=torch.bool, device=x.device)
    return torch.stack([variance, matrices.masked_fill(diagonal, 0).square().sum((1, 2)).mean() / dim])


@torch.no_grad()
def _matches(a: Tensor, b: Tensor, count: int | None) -> tuple[Tensor, Tensor]:
    """The nearest place of ``b`` (B, Q, C) for the ``count`` places of ``a`` (B, P, C) that have theirs nearest."""
    distance, to = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").min(2)
    places = distance.argsort(dim=1, stable=True)[:, :count].sort(1).values
    return places, to.gather(1, places)


def _take(cells: Tensor, places: Tensor) -> Tensor:
    return cells.gather(1, places[:, :, None].expand(-1, -1, cells.shape[2]))
