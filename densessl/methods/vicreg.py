"""VICReg. Bardes, Ponce, LeCun 2022, https://arxiv.org/abs/2105.04906."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densessl import criteria
from densessl.backbones import Backbone, pooled
from densessl.config import Count
from densessl.data.views import Views
from densessl.heads import each, mlp, norm_like
from densessl.method import Method
from densessl.training.distributed import gathering, rank


class VICReg(Method):
    """Invariance, variance and covariance of expanded pooled vectors, with the weights of the authors' code.

    The code halves the paper's variance term and divides invariance by the width; the published scores belong to it.
    Small crops, where there are any, are compared with the large ones, as VICRegL's code does at alpha 1. ``norm`` is
    that of the expander's hidden layers, by default as the backbone has it.

    The paper's variations: a ``predictor`` (its widths; the last is the expander's) before the comparison, table 4;
    every other view through a network of its own, ``second``, of that timm name, which is not exported, table 5; the
    ``embedding`` standardised over the batch, or of unit length with the standard deviation's target at that of the
    unit sphere, table 8.
    """

    crops = "any"

    def __init__(
        self,
        backbone: Backbone,
        *,
        expander: tuple[Count, ...] = (8192, 8192, 8192),
        lambd: float = 25.0,
        mu: float = 25.0,
        nu: float = 1.0,
        norm: Literal["batch", "layer", "none"] | None = None,
        predictor: tuple[Count, ...] = (),
        second: str | None = None,
        embedding: Literal["plain", "standardised", "unit"] = "plain",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.expander = mlp(backbone.channels[-1], *expander, norm=norm or norm_like(backbone))
        self.predictor = mlp(expander[-1], *predictor, norm=norm or norm_like(backbone)) if predictor else nn.Identity()
        self.branches = nn.ModuleList()
        if second:
            other = Backbone(second, in_chans=backbone.in_chans, stem=backbone.stem)
            self.branches.extend([other, mlp(other.channels[-1], *expander, norm=norm or norm_like(other))])
        self.standardise = nn.BatchNorm1d(expander[-1], affine=False) if embedding == "standardised" else nn.Identity()
        self.unit = embedding == "unit"
        self.gamma = expander[-1] ** -0.5 if self.unit else 1.0
        self.lambd, self.mu, self.nu = lambd, mu, nu

    def forward(self, views: Views) -> dict[str, Tensor]:
        z = self._embed([view.image for view in [*views.large, *views.small]])
        self.show("global", *z)
        p = z if isinstance(self.predictor, nn.Identity) else each(self.predictor, z)
        invariance = self.lambd * invariance_of_pairs(p, z, pivots=len(views.large))
        return {"invariance": invariance, **regularisers(z, self.mu, self.nu, self.gamma)}

    def _embed(self, images: list[Tensor]) -> list[Tensor]:
        z, parts = list(images), 2 if self.branches else 1
        for i in range(parts):
            backbone, expander = self.branches if i else (self.backbone, self.expander)
            assert isinstance(backbone, Backbone)
            maps = backbone.each(images[i::parts])
            if not i:
                self.show("maps", *maps[: 2 // parts])  # not two views of which the other network sees one
            z[i::parts] = each(expander, map(pooled, maps))
        z = [self.standardise(rows) for rows in z]
        return [F.normalize(rows.float(), dim=1) for rows in z] if self.unit else z


def invariance_of_pairs(predictions: list[Tensor], embeddings: list[Tensor], pivots: int) -> Tensor:
    """Invariance averaged over all (pivot, other) pairs of views; a (n, D) for each view, the ``pivots`` first."""
    pairs = [(i, j) for i in range(pivots) for j in range(len(embeddings)) if i != j]
    return torch.stack([criteria.invariance(predictions[i], embeddings[j]) for i, j in pairs]).mean()


def regularisers(embeddings: list[Tensor], mu: float, nu: float, gamma: float = 1.0) -> dict[str, Tensor]:
    """Variance averaged over the views (n, D), covariance summed over two, as in the code; none where both weigh 0."""
    if not mu and not nu:
        return {}
    v, c = variance_and_covariance(embeddings, gamma)()
    return {"variance": mu * v, "covariance": 2 * nu * c}


def variance_and_covariance(views: list[Tensor], gamma: float = 1.0) -> Callable[[], tuple[Tensor, Tensor]]:
    """Begin to send this process's ``views``, each (n, D); a call of what this gives waits for everyone's and computes
    both over everyone's pictures, averaged over the views.
    """
    n, rows = len(views[0]), torch.cat(views)
    everyones_rows = gathering(rows)

    def found() -> tuple[Tensor, Tensor]:
        everyone = everyones_rows()
        # They lie process after process, and in each view after view.
        places = torch.arange(len(everyone), device=rows.device).view(-1, len(views), n).mT.flatten(0, 1)
        v, c = criteria.variance_and_covariance(rows, places[:n], everyone, places, rank() * n, gamma)
        return v.mean(), c.mean()

    return found
