"""SimSiam. Chen, He 2021, https://arxiv.org/abs/2011.10566."""

from typing import Literal

from torch import Tensor

from densessl import losses
from densessl.backbones import Backbone, pooled
from densessl.config import Count
from densessl.data.views import Views
from densessl.heads import each, mlp
from densessl.method import Method
from densessl.terms import regularisers


class SimSiam(Method):
    """A predictor on one view meets the other's projection, which gets no gradient; both ways. In [-1, 1].

    ``predictor`` is the width of its bottleneck. ``norm="none"`` leaves out all batch statistics of the heads. ``mu``
    and ``nu`` add VICReg's variance and covariance of the projections (its table 4 has 1 and 0.01). The authors keep
    the predictor's learning rate constant: optim.constant.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        projector: tuple[Count, ...] = (2048, 2048, 2048),
        predictor: Count = 512,
        mu: float = 0.0,
        nu: float = 0.0,
        norm: Literal["batch", "layer", "none"] = "batch",
    ) -> None:
        super().__init__()
        width = projector[-1]
        self.backbone = backbone
        self.projector = mlp(backbone.channels[-1], *projector, norm=norm, bias=False, out_norm=norm == "batch")
        self.predictor = mlp(width, predictor, width, norm=norm, bias=False, out_bias=True)
        self.mu, self.nu = mu, nu

    def forward(self, views: Views) -> dict[str, Tensor]:
        a, b = each(self.projector, map(pooled, self.maps(views.large)))
        self.show("global", a, b)
        p, q = each(self.predictor, [a, b])
        return {"simsiam": losses.simsiam(p, q, a, b), **regularisers([a, b], self.mu, self.nu)}
