"""W-MSE. Ermolov, Siarohin, Sangineto, Sebe 2021, https://arxiv.org/abs/2007.06346."""

from itertools import combinations
from typing import Literal

import torch
from torch import Tensor

from densessl import criteria
from densessl.backbones import Backbone, pooled
from densessl.config import Count, Share
from densessl.data.views import Views
from densessl.heads import mlp
from densessl.method import Method
from densessl.training.distributed import gather, permutation


class WMSE(Method):
    """Views of a picture agree after whitening, which leaves no room for collapse. Any number of large crops.

    As in the authors' code, and unlike the paper's formula, each view is whitened on its own, in random sub-batches of
    ``w_size`` pictures that are the same for all views, ``w_iter`` times; the head sees all views together. ``eps`` is
    the share of the identity that is mixed into the covariance. ``distance`` is that of unit vectors, or of the plain
    ones. Sub-batches are drawn from everyone's pictures. In [0, 4], about 2 for views that have nothing in common.
    """

    crops = "large"

    def __init__(
        self,
        backbone: Backbone,
        *,
        projector: tuple[Count, ...] = (1024, 128),
        w_size: Count = 256,
        w_iter: Count = 1,
        eps: Share = 0.0,
        distance: Literal["cosine", "euclidean"] = "cosine",
        norm: Literal["batch", "layer", "none"] = "batch",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = mlp(backbone.channels[-1], *projector, norm=norm, out_bias=True)
        self.w_size, self.w_iter, self.eps, self.distance = w_size, w_iter, eps, distance

    def forward(self, views: Views) -> dict[str, Tensor]:
        z = self.projector(torch.cat([pooled(m) for m in self.maps(views.large)]))
        self.show("global", *z.chunk(len(views.large)))
        z = gather(z.unflatten(0, (len(views.large), -1)).transpose(0, 1)).transpose(0, 1)  # (V, N, D)
        rounds = [self._round(z[:, permutation(z.shape[1], z.device)]) for _ in range(self.w_iter)]
        return {"wmse": torch.stack(rounds).mean()}

    def _round(self, z: Tensor) -> Tensor:
        white = criteria.whitened(z.unflatten(1, (-1, self.w_size)), self.eps)  # (V, sub-batch, w_size, D)
        if self.distance == "cosine":
            pairs = [2 - 2 * criteria.cosine(a, b) for a, b in combinations(white, 2)]
        else:
            pairs = [criteria.invariance(a, b) for a, b in combinations(white, 2)]
        return torch.stack(pairs).mean()
