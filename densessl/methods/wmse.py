"""W-MSE. Ermolov, Siarohin, Sangineto, Sebe 2021, https://arxiv.org/abs/2007.06346."""

from typing import Literal

import torch
from torch import Tensor

from densessl import losses
from densessl.backbones import Backbone, pooled
from densessl.config import Count, Share
from densessl.data.views import Views
from densessl.heads import mlp
from densessl.method import Method


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
        z = self.projector(torch.cat([pooled(m) for m in self.maps(views.large)])).chunk(len(views.large))
        self.show("global", *z)
        loss = losses.wmse(*z, w_size=self.w_size, w_iter=self.w_iter, eps=self.eps, distance=self.distance)
        return {"wmse": loss}
