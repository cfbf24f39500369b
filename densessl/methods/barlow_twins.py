"""Barlow Twins. Zbontar, Jing, Misra, LeCun, Deny 2021, https://arxiv.org/abs/2103.03230."""

from typing import Literal

from torch import Tensor

from densessl.backbones import Backbone, pooled
from densessl.config import Count
from densessl.data.views import Views
from densessl.heads import each, mlp
from densessl.losses import barlow_twins_of_standardised
from densessl.method import Method
from densessl.training.distributed import world_size


class BarlowTwins(Method):
    """The cross-correlation of two views' embeddings becomes the identity.

    ``lambd`` is the authors' code's (the paper prints 0.005). With ``compat="official"`` the gradient is that of their
    code, which adds the matrix up outside autograd: 1 / processes of the true one. LARS hides the factor for weights,
    not for biases, which is why their biases have a learning rate of their own (optim.vector_lr).
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        projector: tuple[Count, ...] = (8192, 8192, 8192),
        lambd: float = 0.0051,
        norm: Literal["batch", "layer", "none"] = "batch",
        compat: Literal["official"] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = mlp(backbone.channels[-1], *projector, norm=norm, bias=False, out_norm=True)
        self.lambd, self.official = lambd, compat == "official"

    def forward(self, views: Views) -> dict[str, Tensor]:
        a, b = each(self.projector, map(pooled, self.maps(views.large)))
        self.show("global", a, b)
        loss = barlow_twins_of_standardised(a, b, self.lambd)
        if self.official:
            loss = loss.detach() + (loss - loss.detach()) / world_size()
        return {"barlow_twins": loss}
