"""Over-clustering: clusters of training features, each named by the class it covers most. No gradient step is taken."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot

from densessl.backbones import Backbone
from densessl.errors import UserError
from densessl.kmeans import spherical_kmeans
from densessl.segmentation.datasets import SegmentationDataset
from densessl.segmentation.protocols import Clusters
from densessl.segmentation.retrieval import collect


class NamedClusters(nn.Module):
    """The class of the nearest of ``centroids`` (N, C), of unit length; ``names`` (N, K) is 1 at each one's class.

    forward: maps -> (B, K, h, w).
    """

    centroids: Tensor
    names: Tensor

    def __init__(self, centroids: Tensor, names: Tensor) -> None:
        super().__init__()
        self.register_buffer("centroids", centroids)
        self.register_buffer("names", names)

    def forward(self, maps: list[Tensor]) -> Tensor:
        cells = normalize(maps[-1].flatten(2).mT, dim=2)
        nearest = (cells @ self.centroids.T).argmax(2)
        return self.names[nearest].mT.unflatten(2, maps[-1].shape[2:])


def fit(
    backbone: Backbone, data: SegmentationDataset, protocol: Clusters, seed: int, device: torch.device, workers: int
) -> tuple[NamedClusters, dict[str, float]]:
    """Named clusters, on ``device``, and their purity: the share of the training places that have their names."""
    if protocol.matching == "hungarian" and protocol.clusters != len(data.classes):
        raise UserError(
            f"{data.title} has {len(data.classes)} classes: matching=hungarian needs clusters={len(data.classes)}, "
            f"not {protocol.clusters}"
        )
    places, shares = collect(backbone, data, protocol, seed, device, workers)
    if len(places) < protocol.clusters:
        raise UserError(f"{data.title}: {len(places)} places can't form clusters={protocol.clusters}: set fewer")
    first = places[torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))[: protocol.clusters]]
    centroids, members = spherical_kmeans(places, first, protocol.iterations)
    covered = torch.zeros(protocol.clusters, shares.shape[1], device=device).index_add_(0, members, shares)
    names = covered.argmax(1)
    if protocol.matching == "hungarian":
        names = torch.from_numpy(linear_sum_assignment(covered.cpu(), maximize=True)[1]).to(device)
    purity = covered.gather(1, names[:, None]).sum() / len(places)
    return NamedClusters(centroids, one_hot(names, shares.shape[1]).float()), {"purity": float(purity)}
