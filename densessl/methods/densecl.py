"""DenseCL. Wang, Zhang, Shen, Kong, Li 2021, https://arxiv.org/abs/2011.09157."""

from typing import Literal

from torch import Tensor

from densessl import criteria
from densessl.backbones import Backbone, pooled
from densessl.config import Count, Positive, Share
from densessl.data.views import Views
from densessl.heads import mlp, on_cells
from densessl.matching import take
from densessl.memory import Queue
from densessl.method import Method
from densessl.momentum import Target
from densessl.training.distributed import gather


class DenseCL(Method):
    """MoCo v2 on pooled vectors (share 1 - ``lambd``) and on places of the map (share ``lambd``).

    The key of a query's place is the place of the other view whose backbone features are most alike. Its negatives are
    the mean dense keys of earlier pictures. ``groups`` as in moco_v2.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        projector: tuple[Count, ...] = (2048, 128),
        queue: Count = 65536,
        momentum: Share = 0.999,
        tau: Positive = 0.2,
        lambd: Share = 0.5,
        groups: Count = 8,
        norm: Literal["batch", "layer", "none"] = "none",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = mlp(backbone.channels[-1], *projector, norm=norm, out_bias=True)
        self.dense = mlp(backbone.channels[-1], *projector, norm=norm, out_bias=True)
        self.target = Target(backbone, self.projector, self.dense, groups=groups)
        self.queue, self.dense_queue = Queue(queue, projector[-1]), Queue(queue, projector[-1])
        self.momentum, self.tau, self.lambd = momentum, tau, lambd

    def forward(self, views: Views) -> dict[str, Tensor]:
        a, b = views.large
        (last,) = self.maps([a])
        query, cells = self.projector(pooled(last)), on_cells(self.dense, last)
        key, key_cells, key_map = self.target.shuffled(self._keys, b.image)
        self.show("global", query, key)
        self.show("local", cells, key_cells)
        to = criteria.similarity(last.detach().flatten(2).mT, key_map.flatten(2).mT).argmax(2)
        matches = cells.flatten(0, 1), take(key_cells, to).flatten(0, 1)
        self.keys, self.dense_keys = gather(key), gather(key_cells.mean(1))
        return {
            "global": (1 - self.lambd) * criteria.info_nce(query, key, self.queue(), self.tau),
            "dense": self.lambd * criteria.info_nce(*matches, self.dense_queue(), self.tau),
        }

    def _keys(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        _, projector, dense = self.target
        (last,) = self.target.maps([image])
        return projector(pooled(last)), on_cells(dense, last), last

    def update(self) -> None:
        self.queue.push(self.keys)
        self.dense_queue.push(self.dense_keys)
        self.target.follow(self.backbone, self.projector, self.dense, momentum=self.momentum)
