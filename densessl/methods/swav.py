"""SwAV. Caron et al. 2020, https://arxiv.org/abs/2006.09882."""

from typing import Literal

import torch
from torch import Tensor, nn

from densessl import criteria
from densessl.backbones import Backbone, pooled
from densessl.config import Count, Positive, Share
from densessl.data.views import Views
from densessl.heads import each, held, mlp
from densessl.losses import predicted, swav_codes
from densessl.memory import Queue
from densessl.method import Method
from densessl.training.distributed import gather


class SwAV(Method):
    """Each crop predicts the code of the two large ones: how everyone's batch shares itself out among the prototypes.

    About ln ``prototypes`` at first. Prototypes have unit length; the authors set it outside autograd after each step,
    here the gradient passes through. They are held for the share ``freeze`` of the run. ``queue`` embeddings of each
    large crop join the batch when codes are made, collected from the share ``queue_from`` of the run on and used once
    there are enough of them. Each crop has batch statistics of its own; in the authors' code crops of one size share
    them, and all crops do in the head.
    """

    crops = "two and small"

    def __init__(
        self,
        backbone: Backbone,
        *,
        projector: tuple[Count, ...] = (2048, 128),
        prototypes: Count = 3000,
        tau: Positive = 0.1,
        epsilon: Positive = 0.05,
        iterations: Count = 3,
        freeze: Share = 0.0,
        queue: int = 0,
        queue_from: Share = 0.0,
        norm: Literal["batch", "layer", "none"] = "batch",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = mlp(backbone.channels[-1], *projector, norm=norm, out_bias=True)
        self.prototypes = nn.Linear(projector[-1], prototypes, bias=False)
        self.queues = nn.ModuleList(Queue(queue, projector[-1]) for _ in range(2 if queue else 0))
        self.tau, self.epsilon, self.iterations, self.freeze, self.queue_from = (
            tau,
            epsilon,
            iterations,
            freeze,
            queue_from,
        )

    def forward(self, views: Views) -> dict[str, Tensor]:
        z = each(self.projector, map(pooled, self.maps([*views.large, *views.small])))
        self.show("global", *z)
        prototypes = held(self.prototypes.weight, free=self.progress >= self.freeze)
        scores = criteria.similarity(torch.cat(z), prototypes).chunk(len(z))
        self.show("prototypes", scores[0] / self.tau)
        self.newest: list[Tensor] = []  # of each large crop, for its queue
        codes = [self._codes(gather(z[i].detach()), i) for i in range(len(views.large))]
        return {"swav": predicted(scores, codes, self.tau)}

    def _codes(self, everyone: Tensor, view: int) -> Tensor:
        """This process's rows of the codes (N, prototypes) of everyone's embeddings (N, D)."""
        earlier = None
        if self.queues and self.progress >= self.queue_from:
            queue = self.queues[view]
            assert isinstance(queue, Queue)
            if queue.full:
                earlier = queue()
            self.newest.append(everyone)
        return swav_codes(everyone, self.prototypes.weight, self.epsilon, self.iterations, earlier)

    def update(self) -> None:
        for queue, rows in zip(self.queues, self.newest, strict=False):  # none before queue_from
            assert isinstance(queue, Queue)
            queue.push(rows)
