"""MoCo v3. Chen, Xie, He 2021, https://arxiv.org/abs/2104.02057."""

from typing import Literal

from torch import Tensor

from densessl import losses
from densessl.backbones import Backbone, pooled
from densessl.config import Count, Positive, Share
from densessl.data.views import Views
from densessl.heads import each, mlp
from densessl.method import Method
from densessl.momentum import Target, rising


class MoCoV3(Method):
    """A predictor on one view finds the other's key, by a slow encoder, among everyone's keys; both ways.

    Each way is weighted by 2 ``tau``. ``momentum`` rises to 1 along a cosine.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        projector: tuple[Count, ...] = (4096, 256),
        predictor: tuple[Count, ...] = (4096, 256),
        momentum: Share = 0.99,
        tau: Positive = 1.0,
        norm: Literal["batch", "layer", "none"] = "batch",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = mlp(backbone.channels[-1], *projector, norm=norm, bias=False, out_norm=norm == "batch")
        self.predictor = mlp(projector[-1], *predictor, norm=norm, bias=False)
        self.target = Target(backbone, self.projector)
        self.momentum, self.tau = momentum, tau

    def forward(self, views: Views) -> dict[str, Tensor]:
        q1, q2 = each(self.predictor, each(self.projector, map(pooled, self.maps(views.large))))
        self.show("global", q1, q2)
        k2, k1 = self.target(view.image for view in reversed(views.large))
        return {"contrast": losses.moco_v3(q1, q2, k1, k2, self.tau)}

    def update(self) -> None:
        momentum = rising(self.momentum, self.progress)
        self.target.follow(self.backbone, self.projector, momentum=momentum)
