"""BYOL. Grill et al. 2020, https://arxiv.org/abs/2006.07733."""

from typing import Literal

from torch import Tensor

from densessl import losses
from densessl.backbones import Backbone, pooled
from densessl.config import Count, Share
from densessl.data.views import Views
from densessl.heads import each, mlp
from densessl.method import Method
from densessl.momentum import Target, rising
from densessl.terms import regularisers


class BYOL(Method):
    """A predictor on one view meets the projection of the other by a slow target; both ways. In [0, 8], 4 at first.

    The target starts as a copy; the authors' code draws it anew. ``tau`` rises to 1 along a cosine. With
    ``schedule="constant"`` the paper's ablations: ``tau=1`` is a fixed random target, ``tau=0`` a hard copy. ``mu`` and
    ``nu`` add VICReg's variance and covariance of the projections (its table 4 has 1 and 0.01).
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        projector: tuple[Count, ...] = (4096, 256),
        predictor: tuple[Count, ...] = (4096, 256),
        tau: Share = 0.996,
        schedule: Literal["cosine", "constant"] = "cosine",
        mu: float = 0.0,
        nu: float = 0.0,
        norm: Literal["batch", "layer", "none"] = "batch",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = mlp(backbone.channels[-1], *projector, norm=norm)
        self.predictor = mlp(projector[-1], *predictor, norm=norm)
        self.target = Target(backbone, self.projector)
        self.tau, self.schedule, self.mu, self.nu = tau, schedule, mu, nu

    def forward(self, views: Views) -> dict[str, Tensor]:
        z = each(self.projector, map(pooled, self.maps(views.large)))
        self.show("global", *z)
        t2, t1 = self.target(view.image for view in reversed(views.large))
        p1, p2 = each(self.predictor, z)
        return {"byol": losses.byol(p1, p2, t1, t2), **regularisers(z, self.mu, self.nu)}

    def update(self) -> None:
        tau = rising(self.tau, self.progress) if self.schedule == "cosine" else self.tau
        self.target.follow(self.backbone, self.projector, momentum=tau)
