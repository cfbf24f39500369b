"""PixPro. Xie, Lin, Zhang, Zhang, Cao, Lin, Hu 2021, https://arxiv.org/abs/2011.10043."""

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from densessl import criteria
from densessl.backbones import Backbone
from densessl.config import Count, Positive, Share
from densessl.data.views import Views
from densessl.heads import mlp, on_cells
from densessl.matching import close
from densessl.method import Method
from densessl.momentum import Target, rising


class PixPro(Method):
    """Places of two views that lie close together agree, after each place is smoothed by those it looks like.

    Pairs count whose centres are less than ``threshold`` diagonals of the larger cell apart, in source pixels; a
    picture whose crops share no such pair adds nothing. A place is propagated by the cosines with all others of its
    view, negative ones cut off, to the ``power``. ``momentum`` rises to 1 along a cosine. In [-4, 4].
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        projector: tuple[Count, ...] = (4096, 256),
        momentum: Share = 0.99,
        threshold: Positive = 0.7,
        power: Positive = 2.0,
        norm: Literal["batch", "layer", "none"] = "batch",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = mlp(backbone.channels[-1], *projector, norm=norm, out_bias=True)
        self.propagation = nn.Linear(projector[-1], projector[-1])
        self.target = Target(backbone, self.projector)
        self.momentum, self.threshold, self.power = momentum, threshold, power

    def forward(self, views: Views) -> dict[str, Tensor]:
        maps = self.maps(views.large)
        smooth = [self._propagated(on_cells(self.projector, each)) for each in maps]
        self.show("local", *smooth)
        targets = self._targets(view.image for view in views.large)
        a, b = (view.affine for view in views.large)
        height, width = maps[0].shape[2:]  # of both: large crops have one size
        pairs = close(a, b, (height, width), (height, width), self.threshold).to(smooth[0].dtype)
        agreement = self._agreement(smooth[0], targets[1], pairs) + self._agreement(smooth[1], targets[0], pairs.mT)
        return {"pixpro": -2 * agreement}

    def _propagated(self, x: Tensor) -> Tensor:
        return criteria.propagated(x, self.propagation(x), self.power)

    @torch.no_grad()
    def _targets(self, images: Iterable[Tensor]) -> list[Tensor]:
        return [on_cells(self.target[1], last) for last in self.target.maps(images)]

    def _agreement(self, query: Tensor, key: Tensor, pairs: Tensor) -> Tensor:
        """Mean over pictures of the mean cosine of their pairs (B, P, Q)."""
        cosines = (criteria.similarity(query, key) * pairs).sum((1, 2))
        return (cosines / pairs.sum((1, 2)).clamp(min=1)).mean()

    def update(self) -> None:
        self.target.follow(self.backbone, self.projector, momentum=rising(self.momentum, self.progress))
