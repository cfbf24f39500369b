"""k-means on the unit sphere."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from densessl.criteria import similarity


@torch.no_grad()
def spherical_kmeans(rows: Tensor, centroids: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Centroids (K, D) and the nearest centroid of each of ``rows`` (N, D), by cosine; centroids have unit length.

    Begins with ``centroids``, customarily random rows; one that loses its last row stays where it is. As in
    DeepCluster-v2, Caron et al. 2020, https://arxiv.org/abs/2006.09882.
    """
    rows, centroids = F.normalize(rows), F.normalize(centroids)
    for _ in range(iterations):
        sums = torch.zeros_like(centroids).index_add_(0, _nearest(rows, centroids), rows)
        centroids = torch.where(sums.any(1, keepdim=True), F.normalize(sums), centroids)
    return centroids, _nearest(rows, centroids)


def _nearest(rows: Tensor, centroids: Tensor) -> Tensor:
    # In parts: a million rows against 3000 centroids would take 12 GB.
    return torch.cat([similarity(part, centroids).argmax(1) for part in rows.split(16384)])
