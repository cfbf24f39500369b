"""What a method remembers of earlier batches: a queue of rows, and centroids of all rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densessl.criteria import similarity
from densessl.training.distributed import permutation


class Queue(nn.Module):
    """The newest ``size`` rows of ``width``, of unit length; random ones to begin with, as in MoCo."""

    rows: Tensor
    pushed: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("rows", F.normalize(torch.randn(size, width)))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.long))

    def forward(self) -> Tensor:
        """(size, width), a copy: pushing must not change what a backward still needs."""
        return self.rows.clone()

    @torch.no_grad()
    def push(self, rows: Tensor) -> None:
        """Everyone's new rows take the place of the oldest; the same in all processes."""
        places = (self.pushed + torch.arange(len(rows), device=rows.device)) % len(self.rows)
        self.rows[places] = F.normalize(rows.to(self.rows.dtype))
        self.pushed += len(rows)

    @property
    def full(self) -> bool:
        """No random row is left. Asking waits for the device."""
        return bool(self.pushed >= len(self.rows))


@torch.no_grad()
def spherical_kmeans(rows: Tensor, count: int, iterations: int) -> tuple[Tensor, Tensor]:
    """Centroids (count, D) and the nearest centroid of each of ``rows`` (N, D), both of unit length.

    Begins with random rows, the same in all processes; a centroid that loses its last row stays where it is.
    DeepCluster-v2, Caron et al. 2020, https://arxiv.org/abs/2006.09882.
    """
    rows = F.normalize(rows)
    centroids = rows[permutation(len(rows), rows.device)[:count]]
    for _ in range(iterations):
        members = _nearest(rows, centroids)
        sums = torch.zeros_like(centroids).index_add_(0, members, rows)
        centroids = torch.where(sums.any(1, keepdim=True), F.normalize(sums), centroids)
    return centroids, _nearest(rows, centroids)


def _nearest(rows: Tensor, centroids: Tensor) -> Tensor:
    # In parts: a million rows against 3000 centroids would take 12 GB.
    return torch.cat([similarity(part, centroids).argmax(1) for part in rows.split(16384)])
