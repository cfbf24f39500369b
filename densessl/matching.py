"""Which places of two maps belong together: by where they lie, or by what they look like."""

from __future__ import annotations

import torch
from torch import Tensor


def cell_centers(affine: Tensor, height: int, width: int) -> Tensor:
    """Where the cells of a height x width map lie in the source picture.

    ``affine`` (B, 2, 3) maps (y, x, 1) of the view's unit square to source pixels, so crops, flips and turns need no
    case of their own. Returns (B, height * width, 2): (y, x) in source pixels, in raster order.
    """
    y = (torch.arange(height, device=affine.device, dtype=affine.dtype) + 0.5) / height
    x = (torch.arange(width, device=affine.device, dtype=affine.dtype) + 0.5) / width
    unit = torch.stack([*torch.meshgrid(y, x, indexing="ij"), torch.ones_like(y[:, None] * x)], dim=-1)
    # Not a matrix product: autocast would compute it in bf16, which can't tell pixel 300 from 301.
    return (unit.flatten(0, 1)[:, None] * affine[:, None]).sum(-1)


def unflipped(affine: Tensor) -> Tensor:
    """The same crops as if no view had been mirrored: what the official VICRegL code matches by (its no_flip_grid)."""
    (a, b), (c, d) = affine[:, 0, :2].unbind(1), affine[:, 1, :2].unbind(1)
    mirrored = a * d - b * c < 0
    back = affine.clone()
    back[:, :, 2] += affine[:, :, 1]  # x -> 1 - x of the unit square
    back[:, :, 1] *= -1
    return torch.where(mirrored[:, None, None], back, affine)


@torch.no_grad()
def nearest(a: Tensor, b: Tensor, k: int | None = None) -> tuple[Tensor, Tensor]:
    """For each place of ``a`` its nearest place of ``b`` (Euclidean), the ``k`` closest pairs of each picture.

    ``a`` (B, P, C), ``b`` (B, Q, C). Returns indices (B, K) into a's and into b's places with K = min(k, P), in cell
    order of a: the variance over pictures of the k-th pair means something only if the k-th pair lies at a similar
    place in each. Ties go to the earlier cell. VICRegL §3.2, https://arxiv.org/abs/2210.01571.
    """
    # Subtracting before squaring keeps pixel coordinates exact; the matrix-product form loses them to cancellation.
    distance = torch.cdist(_wide(a), _wide(b), compute_mode="donot_use_mm_for_euclid_dist")
    closest, to = distance.min(dim=2)
    places = closest.argsort(dim=1, stable=True)[:, :k].sort(dim=1).values
    return places, to.gather(1, places)


def take(cells: Tensor, places: Tensor) -> Tensor:
    """The named places of each picture: (B, P, C) and indices (B, K) to (B, K, C)."""
    return cells.gather(1, places[:, :, None].expand(-1, -1, cells.shape[2]))


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
