"""VICReg. Bardes, Ponce, LeCun 2022, https://arxiv.org/abs/2105.04906."""

from typing import Literal

import torch
from torch import Tensor

from densessl import criteria
from densessl.backbones import Backbone, pooled
from densessl.config import Count
from densessl.data.views import Views
from densessl.heads import mlp, norm_like
from densessl.method import Method
from densessl.training.distributed import gather


class VICReg(Method):
    """Invariance, variance and covariance of expanded pooled vectors, with the weights of the authors' code.

    The code halves the paper's variance term and divides invariance by the width; the published scores belong to it.
    Small crops, where there are any, are compared with the large ones, as VICRegL's code does at alpha 1. ``norm`` is
    that of the expander's hidden layers, by default as the backbone has it.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        expander: tuple[Count, ...] = (8192, 8192, 8192),
        lambd: float = 25.0,
        mu: float = 25.0,
        nu: float = 1.0,
        norm: Literal["batch", "layer"] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.expander = mlp(backbone.channels[-1], *expander, norm=norm or norm_like(backbone))
        self.lambd, self.mu, self.nu = lambd, mu, nu

    def forward(self, views: Views) -> dict[str, Tensor]:
        embeddings = [self.expander(pooled(self.backbone(view.image))) for view in [*views.large, *views.small]]
        s, v, c = global_terms(embeddings, pivots=len(views.large))
        # The code sums the covariances of its two branches where it averages their variances.
        return {"invariance": self.lambd * s, "variance": self.mu * v, "covariance": 2 * self.nu * c}


def global_terms(embeddings: list[Tensor], pivots: int) -> tuple[Tensor, Tensor, Tensor]:
    """Invariance averaged over all (pivot, other) pairs, variance and covariance over all views; each unweighted.

    ``embeddings``: a (n, D) for each view, the ``pivots`` large ones first.
    """
    pairs = [(i, j) for i in range(pivots) for j in range(len(embeddings)) if i != j]
    s = torch.stack([criteria.invariance(embeddings[i], embeddings[j]) for i, j in pairs]).mean()
    z = torch.stack(embeddings, dim=1)
    everyone = gather(z.detach())
    return s, criteria.variance(z, everyone), criteria.covariance(z, everyone)
