"""SimCLR. Chen, Kornblith, Norouzi, Hinton 2020, https://arxiv.org/abs/2002.05709."""

from typing import Literal

from torch import Tensor

from densessl import losses
from densessl.backbones import Backbone, pooled
from densessl.config import Count, Positive
from densessl.data.views import Views
from densessl.heads import each, mlp
from densessl.method import Method


class SimCLR(Method):
    """Two views of a picture against the views of all others in everyone's batch. About ln(2N - 1) at first."""

    def __init__(
        self,
        backbone: Backbone,
        *,
        projector: tuple[Count, ...] = (2048, 128),
        tau: Positive = 0.1,
        norm: Literal["batch", "layer", "none"] = "batch",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = mlp(backbone.channels[-1], *projector, norm=norm)
        self.tau = tau

    def forward(self, views: Views) -> dict[str, Tensor]:
        a, b = each(self.projector, map(pooled, self.maps(views.large)))
        self.show("global", a, b)
        return {"nt_xent": losses.simclr(a, b, self.tau)}
