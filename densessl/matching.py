"""Which places of two maps belong together: by where they lie, or by what they look like."""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import lru_cache
from typing import NamedTuple

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
    return _closest(*_distances(a, b).min(dim=-1), k)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances (..., P, Q) of places ``a`` (..., P, C) and ``b`` (..., Q, C), in fp32."""
    a, b = _wide(a), _wide(b)
    if a.shape[-1] < 8:  # coordinates: subtracting before squaring is exact where the product form would cancel
        return (a[..., :, None, :] - b[..., None, :, :]).square().sum(-1)
    # Embeddings vary about their mean by as much as they differ, so around it the product form is as exact as they are.
    center = b.flatten(0, -2).mean(0)
    a, b = a - center, b - center
    with torch.autocast(a.device.type, enabled=False):
        return a.square().sum(-1)[..., :, None] + b.square().sum(-1)[..., None, :] - 2 * a @ b.mT


def _closest(distance: Tensor, to: Tensor, k: int | None) -> tuple[Tensor, Tensor]:
    """The ``k`` closest of each row's pairs (..., P), in the order of P: their places, and where they lead ``to``."""
    places = distance.argsort(dim=-1, stable=True)[..., :k].sort(dim=-1).values
    return places, to.gather(-1, places)


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


class Matches(NamedTuple):
    """Places that belong together, as rows of all crops' cells under each other: crop after crop, and in a crop picture
    after picture. ``a`` matches ``b``, each (B, M) with a line for each of B pictures, and the m-th match has the share
    ``share[m]`` of all. ``places`` (B, L) are the sides of the matches with their shares ``weight`` (L,); those of maps
    that give all their cells stand there once for all the pairs in which they do.
    """

    a: Tensor
    b: Tensor
    share: Tensor
    places: Tensor
    weight: Tensor


@torch.no_grad()
def matches(places: list[Tensor], pairs: Counter[tuple[int, int, int | None]]) -> Matches:
    """Match all ``pairs`` of crops, as `crop_pairs` lists them, by ``places`` (B, P, C) of each crop.

    What ``places`` holds, positions or the embeddings themselves, is compared as in `nearest`, for a crop and all
    others of one size at once. The mean over pairs of crops of the mean over their matches is the sum by ``share``.
    """
    batch, sizes, device = len(places[0]), [each.shape[1] for each in places], places[0].device
    starts = [batch * sum(sizes[:i]) for i in range(len(sizes))]
    picture = torch.arange(batch, device=device)[:, None]

    others = defaultdict(list)
    for i, j in sorted({(min(i, j), max(i, j)) for i, j, _ in pairs}):
        others[i, sizes[j]].append(j)
    closest: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}  # distance (B, P) of each place, and where it leads
    for (i, size), js in others.items():
        distance = _distances(places[i], torch.cat([places[j] for j in js], 1)).unflatten(2, (len(js), size))
        there, back = distance.min(3), distance.min(1)
        for n, j in enumerate(js):
            closest[i, j] = there.values[:, :, n], there.indices[:, :, n]
            closest[j, i] = back.values[:, n], back.indices[:, n]

    alike = defaultdict(list)  # pairs with equally many matches of an equal share
    for (i, j, count), times in pairs.items():
        alike[sizes[i], min(count or sizes[i], sizes[i]), times].append((i, j))
    a, b, share, sides, weight = [], [], [], [], []
    whole: dict[int, float] = defaultdict(float)  # crops that give all their cells
    for (size, count, times), crops in alike.items():
        each = times / pairs.total() / count
        distance, to = (torch.stack(t, 1) for t in zip(*(closest[pair] for pair in crops), strict=True))
        found = _closest(distance, to, count)
        constants = [(starts[i], starts[j], sizes[j]) for i, j in crops]
        start_a, start_b, size_b = (_constant(row, device)[:, None] for row in zip(*constants, strict=True))
        a.append((start_a + size * picture[:, None] + found[0]).flatten(1))
        b.append((start_b + size_b * picture[:, None] + found[1]).flatten(1))
        share += [each] * (len(crops) * count)
        sides += [b[-1]]
        weight += [each / 2] * (len(crops) * count)
        if count == size:
            for i, _ in crops:
                whole[i] += each / 2
        else:
            sides += [a[-1]]
            weight += [each / 2] * (len(crops) * count)
    for i, each in whole.items():
        sides.append(starts[i] + sizes[i] * picture + torch.arange(sizes[i], device=device))
        weight += [each] * sizes[i]
    return Matches(
        torch.cat(a, 1),
        torch.cat(b, 1),
        _constant(tuple(share), device),
        torch.cat(sides, 1),
        _constant(tuple(weight), device),
    )


@lru_cache(maxsize=256)
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Kept, because a copy from the host makes it wait for the device. Floats in fp64."""
    return torch.tensor(values, device=device, dtype=torch.float64 if isinstance(values[0], float) else torch.int64)


def close(a: Tensor, b: Tensor, a_shape: tuple[int, int], b_shape: tuple[int, int], threshold: float) -> Tensor:
    """Which cells of two views lie less than ``threshold`` diagonals of the larger cell apart. PixPro §3.1.

    ``a``, ``b``: affines (B, 2, 3); the maps' (height, width). Returns bool (B, P, Q), places in raster order.
    https://arxiv.org/abs/2011.10043
    """
    distance = torch.cdist(
        cell_centers(a, *a_shape), cell_centers(b, *b_shape), compute_mode="donot_use_mm_for_euclid_dist"
    )
    diagonals = [(x[:, :, 0] / h + x[:, :, 1] / w).norm(dim=1) for x, (h, w) in ((a, a_shape), (b, b_shape))]
    return distance < threshold * torch.maximum(*diagonals)[:, None, None]


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
