"""DeepCluster-v2. Caron et al. 2020 (SwAV), appendix, https://arxiv.org/abs/2006.09882."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from densessl import criteria
from densessl.backbones import Backbone, pooled
from densessl.config import Count, Positive
from densessl.data.views import Views
from densessl.heads import each, mlp
from densessl.kmeans import spherical_kmeans
from densessl.method import Method
from densessl.training.distributed import from_first, gather, permutation, refuse


class DeepClusterV2(Method):
    """Each crop predicts the cluster that its picture had after the last epoch, among as many sets of centroids.

    The embeddings of both large crops of every picture are remembered (1 kB a picture at width 128) and clustered
    after each epoch by spherical k-means. Pictures without a cluster yet are passed over, and so is the whole first
    epoch, in which the authors' code only fills the memory. Batch statistics as in swav.
    """

    crops = "two and small"
    memory: Tensor
    clusters: Tensor

    def __init__(
        self,
        backbone: Backbone,
        *,
        projector: tuple[Count, ...] = (2048, 128),
        prototypes: tuple[Count, ...] = (3000, 3000, 3000),
        tau: Positive = 0.1,
        iterations: Count = 10,
        norm: Literal["batch", "layer", "none"] = "batch",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = mlp(backbone.channels[-1], *projector, norm=norm, out_bias=True)
        self.width, self.prototypes, self.tau, self.iterations = projector[-1], prototypes, tau, iterations

    def begin(self, pictures: int, batch: int) -> None:
        if pictures < max(self.prototypes):
            refuse(
                f"method.prototypes={self.prototypes}: {pictures} pictures can't form that many clusters; "
                f"take at most {pictures}, better a tenth of it"
            )
        self.epoch = pictures // batch
        self.register_buffer("memory", torch.zeros(2, pictures, self.width))
        self.register_buffer("clusters", torch.full((len(self.prototypes), pictures), -1))
        for i, count in enumerate(self.prototypes):
            self.register_buffer(f"centroids{i}", torch.zeros(count, self.width))

    def forward(self, views: Views) -> dict[str, Tensor]:
        assert views.pictures is not None, "which picture is which?"
        crops = [*views.large, *views.small]
        z = each(self.projector, map(pooled, self.maps(crops)))
        self.show("global", *z)
        everyone = gather(views.pictures)
        self.newest = everyone, [gather(z[i].detach()) for i in range(2)]
        losses, rows = [], torch.cat(z)
        for i in range(len(self.prototypes)):
            scores = criteria.similarity(rows, self.get_buffer(f"centroids{i}")) / self.tau
            self.show("prototypes", scores[: len(z[0])])
            clusters = self.clusters[i, views.pictures].repeat(len(crops))
            known = self.clusters[i, everyone] >= 0  # its mean is taken over everyone's, the engine's over processes
            loss = F.cross_entropy(scores, clusters, ignore_index=-1, reduction="sum") / len(clusters)
            losses.append(loss / known.float().mean().clamp(min=1 / len(known)))
        return {"deepcluster": torch.stack(losses).mean()}

    @torch.no_grad()
    def update(self) -> None:
        everyone, embeddings = self.newest
        for i, rows in enumerate(embeddings):
            self.memory[i, everyone] = F.normalize(rows.to(self.memory.dtype))
        if (self.step + 1) % self.epoch:
            return
        for i, count in enumerate(self.prototypes):
            seen = self.memory[i % 2].any(1)
            rows = self.memory[i % 2, seen]
            first = rows[permutation(len(rows), rows.device)[:count]]
            centroids, nearest = spherical_kmeans(rows, first, self.iterations)
            self.get_buffer(f"centroids{i}").copy_(from_first(centroids))
            self.clusters[i, seen] = from_first(nearest)
