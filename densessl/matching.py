"""Which places of two maps belong together: by where they lie, or by what they look like."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

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


def crop_pairs(
    pivots: int, crops: int, large: int | None, small: int | None, back: int | None
) -> Counter[tuple[int, int, int | None]]:
    """How often each (from crop, to crop, number of matches) counts: each pivot with every other crop, both ways.

    ``pivots`` of the ``crops`` are large and come first. From a large map ``large`` matches count, from a small one
    ``small``, and ``back`` from the other large one; None is all.
    """
    pairs: Counter[tuple[int, int, int | None]] = Counter()
    for i in range(pivots):
        for j in set(range(crops)) - {i}:
            pairs[i, j, large] += 1
            pairs[j, i, back if j < pivots else small] += 1
    return pairs


def matched(
    cells: list[Tensor], places: list[Tensor], pairs: Counter[tuple[int, int, int | None]]
) -> Iterator[tuple[float, Tensor, Tensor]]:
    """Matched embeddings (B, K, D) of both sides, and their share of all ``pairs``.

    ``cells``: embeddings (B, P, D) of each crop; ``places`` (B, P, C): what decides which of them match, positions or
    the embeddings themselves. Pairs of crops with equally many matches are joined along K, since a mean over all their
    places is the mean over the pairs.
    """
    groups = defaultdict(list)
    for (i, j, count), times in pairs.items():
        a, b = nearest(places[i], places[j], count)
        groups[a.shape[1], times].append((take(cells[i], a), take(cells[j], b)))
    for (_, times), found in groups.items():
        a, b = (torch.cat(side, dim=1) for side in zip(*found, strict=True))
        yield len(found) * times / pairs.total(), a, b


def close(a: Tensor, b: Tensor, a_shape: tuple[int, int], b_shape: tuple[int, int], threshold: float) -> Tensor:
    """Which cells of two views lie less than ``threshold`` diagonals of the larger cell apart. PixPro §3.1.

    ``a``, ``b``: affines (B, 2, 3); the maps' (height, width). Returns bool (B, P, Q), places in raster order.
    https://arxiv.org/abs/2011.10043
    """
    distance = torch.cdist(
        cell_centers(a, *a_shape), cell_centers(b, *b_shape), compute_mode="donot_use_mm_for_euclid_dist"
    )
    diagonals = [(x[:, :, :2] / x.new_tensor(shape)).sum(2).norm(dim=1) for x, shape in ((a, a_shape), (b, b_shape))]
    return distance < threshold * torch.maximum(*diagonals)[:, None, None]


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
