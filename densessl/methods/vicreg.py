"""VICReg. Bardes, Ponce, LeCun 2022, https://arxiv.org/abs/2105.04906."""

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from densessl.backbones import Backbone, pooled
from densessl.config import Count
from densessl.data.views import Views
from densessl.heads import each, mlp, norm_like
from densessl.method import Method
from densessl.terms import invariance_of_pairs, regularisers


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
