"""MoCo v2. Chen, Fan, Girshick, He 2020, https://arxiv.org/abs/2003.04297; MoCo, https://arxiv.org/abs/1911.05722."""

from typing import Literal

from torch import Tensor

from densessl import losses
from densessl.backbones import Backbone, pooled
from densessl.config import Count, Positive, Share
from densessl.data.views import Views
from densessl.heads import mlp
from densessl.memory import Queue
from densessl.method import Method
from densessl.momentum import Target
from densessl.training.distributed import gather


class MoCoV2(Method):
    """The first view's query finds the second's key, by a slow encoder, among a queue of earlier keys.

    ``groups`` is how many parts of the batch have batch statistics of their own when keys are made: the authors' eight
    GPUs, among which they shuffle pictures. Queries have those of the whole batch. Without batch statistics there is
    nothing to shuffle.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        projector: tuple[Count, ...] = (2048, 128),
        queue: Count = 65536,
        momentum: Share = 0.999,
        tau: Positive = 0.2,
        groups: Count = 8,
        norm: Literal["batch", "layer", "none"] = "none",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = mlp(backbone.channels[-1], *projector, norm=norm, out_bias=True)
        self.target = Target(backbone, self.projector, groups=groups)
        self.queue = Queue(queue, projector[-1])
        self.momentum, self.tau = momentum, tau

    def forward(self, views: Views) -> dict[str, Tensor]:
        a, b = views.large
        query = self.projector(pooled(*self.maps([a])))
        (key,) = self.target.shuffled(lambda image: tuple(self.target([image])), b.image)
        self.show("global", query, key)
        self.keys = gather(key)
        return {"info_nce": losses.info_nce(query, key, self.queue(), self.tau)}

    def update(self) -> None:
        self.queue.push(self.keys)
        self.target.follow(self.backbone, self.projector, momentum=self.momentum)
