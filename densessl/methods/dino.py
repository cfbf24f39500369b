"""DINO. Caron et al. 2021, https://arxiv.org/abs/2104.14294."""

from typing import Literal

import torch
from torch import Tensor, nn

from densessl import criteria
from densessl.backbones import Backbone, pooled
from densessl.config import Count, Positive, Share
from densessl.data.views import Views
from densessl.heads import each, held, mlp
from densessl.losses import mean_of_everyone, predicted
from densessl.method import Method
from densessl.momentum import Target, rising


class DINO(Method):
    """Every crop predicts what a slow teacher says of the two large ones, centred and sharpened.

    About ln ``prototypes`` at first. ``tau_t`` is the teacher's temperature at the beginning and after the share
    ``warmup`` of the run, ``center`` how much of the centre each step keeps, ``freeze`` the share of the run in which
    the prototypes are held. Prototypes have unit length (the code's norm_last_layer).
    """

    crops = "two and small"
    center: Tensor

    def __init__(
        self,
        backbone: Backbone,
        *,
        projector: tuple[Count, ...] = (2048, 2048, 256),
        prototypes: Count = 65536,
        tau_s: Positive = 0.1,
        tau_t: tuple[Positive, Positive] = (0.04, 0.07),
        warmup: Share = 0.3,
        center: Share = 0.9,
        momentum: Share = 0.996,
        freeze: Share = 0.01,
        norm: Literal["batch", "layer", "none"] = "none",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = mlp(backbone.channels[-1], *projector, norm=norm, out_bias=True, act=nn.GELU)
        self.prototypes = nn.Linear(projector[-1], prototypes, bias=False)
        for layer in (*self.projector, self.prototypes):
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
        self.target = Target(backbone, self.projector, self.prototypes)
        self.register_buffer("center", torch.zeros(prototypes))
        self.tau_s, self.tau_t, self.warmup = tau_s, tau_t, warmup
        self.kept, self.momentum, self.freeze = center, momentum, freeze

    def forward(self, views: Views) -> dict[str, Tensor]:
        prototypes = held(self.prototypes.weight, free=self.progress >= self.freeze)
        z = each(self.projector, map(pooled, self.maps([*views.large, *views.small])))
        self.show("global", *z)
        student = (criteria.similarity(torch.cat(z), prototypes) / self.tau_s).chunk(len(z))
        targets = torch.cat(self.target(view.image for view in views.large))
        teacher = criteria.similarity(targets, self.target[2].weight)
        share = min(1.0, self.progress / self.warmup) if self.warmup else 1.0
        tau = self.tau_t[0] + (self.tau_t[1] - self.tau_t[0]) * share
        scores = (teacher - self.center) / tau
        self.show("prototypes", scores)
        self.mean = mean_of_everyone(teacher)
        return {"dino": predicted(student, scores.softmax(1).chunk(len(views.large)))}

    def update(self) -> None:
        self.center.lerp_(self.mean, 1 - self.kept)
        parts = self.backbone, self.projector, self.prototypes
        self.target.follow(*parts, momentum=rising(self.momentum, self.progress))
