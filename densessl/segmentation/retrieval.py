"""Segmentation by the most similar places of the training pictures. Nothing is trained.

Balazevic et al. 2023 ("hummingbird"), https://arxiv.org/abs/2306.01667.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, normalize, one_hot, pad
from torch.utils.data import DataLoader

from densessl.backbones import Backbone
from densessl.progress import progress
from densessl.reading import normalisation
from densessl.segmentation.datasets import SegmentationDataset
from densessl.segmentation.datasets.files import IGNORE
from densessl.segmentation.inference import padded_maps
from densessl.segmentation.protocols import Clusters, Retrieval
from densessl.segmentation.samples import TrainingSamples, batch_of

AT_ONCE = 2**26  # similarities: 256 MB


class NearestPlaces(nn.Module):
    """Class shares of each place of the last map: those of its ``k`` most similar places, weighted by similarity.

    ``keys`` (N, C) of unit length with class shares ``values`` (N, K). forward: maps -> (B, K, h, w).
    """

    keys: Tensor
    values: Tensor

    def __init__(self, keys: Tensor, values: Tensor, k: int, temperature: float) -> None:
        super().__init__()
        self.register_buffer("keys", keys)
        self.register_buffer("values", values)
        self.k, self.temperature = min(k, len(keys)), temperature

    def forward(self, maps: list[Tensor]) -> Tensor:
        queries = normalize(maps[-1].flatten(2).mT.flatten(0, 1), dim=1)
        shares = []
        for part in queries.split(max(1, AT_ONCE // len(self.keys))):
            similar, places = (part @ self.keys.T).topk(self.k, dim=1)
            weights = (similar / self.temperature).softmax(1)
            shares.append((weights[..., None] * self.values[places]).sum(1))
        batch, _, height, width = maps[-1].shape
        return torch.cat(shares).unflatten(0, (batch, height, width)).movedim(3, 1)


def fit(
    backbone: Backbone, data: SegmentationDataset, protocol: Retrieval, seed: int, device: torch.device, workers: int
) -> tuple[NearestPlaces, dict[str, float]]:
    """What is remembered, as a head on ``device``, and how many places that is."""
    keys, values = collect(backbone, data, protocol, seed, device, workers)
    return NearestPlaces(keys, values, protocol.k, protocol.temperature), {"places": len(keys)}


@torch.no_grad()
def collect(
    backbone: Backbone,
    data: SegmentationDataset,
    protocol: Retrieval | Clusters,
    seed: int,
    device: torch.device,
    workers: int,
) -> tuple[Tensor, Tensor]:
    """Places of the protocol's crops, of unit length (N, C), and their class shares (N, K), on ``device``.

    Equally many of each crop, at random among those that have a labelled pixel.
    """
    samples = TrainingSamples(data, protocol, seed, *normalisation(backbone))
    loader = DataLoader(samples, protocol.batch, num_workers=workers, collate_fn=batch_of)
    random = torch.Generator().manual_seed(seed)
    each = -(-protocol.places // protocol.crops)
    keys, values = [], []
    for images, masks in progress(loader, "features"):
        maps, size = padded_maps(backbone, images.to(device), final_norm=protocol.final_norm)
        last = maps[-1]
        whole = pad(masks, (0, size[1] - masks.shape[2], 0, size[0] - masks.shape[1]), value=IGNORE)
        shares = class_shares(whole, len(data.classes), last.shape[2:])
        for cells, share in zip(last.flatten(2).mT, shares.flatten(2).mT, strict=True):
            labelled = (share.sum(1) > 0).nonzero()[:, 0]
            chosen = labelled[torch.randperm(len(labelled), generator=random)[:each]]
            keys.append(normalize(cells[chosen.to(device)], dim=1))
            values.append(share[chosen].to(device))
    return torch.cat(keys), torch.cat(values)


def class_shares(masks: Tensor, classes: int, size: torch.Size) -> Tensor:
    """(B, classes, h, w): what share of each cell's labelled pixels has each class; 0 where none is labelled."""
    known = masks != IGNORE
    pixels = one_hot(masks.where(known, classes), classes + 1)[..., :classes].movedim(3, 1).float()
    counts = adaptive_avg_pool2d(pixels, (size[0], size[1]))
    return counts / counts.sum(1, keepdim=True).clamp(min=1e-9)
