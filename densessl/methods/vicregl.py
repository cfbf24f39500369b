"""VICRegL. Bardes, Ponce, LeCun 2022, https://arxiv.org/abs/2210.01571."""

from typing import Literal

from torch import Tensor

from densessl.backbones import Backbone, pooled
from densessl.config import Count, Positive, Share
from densessl.data.views import Views
from densessl.heads import each, mlp, norm_like
from densessl.matching import cell_centers, unflipped
from densessl.method import Method
from densessl.terms import VICRegLTerms


class VICRegL(Method):
    """VICReg on pooled vectors (share ``alpha``) and on matched places of the maps (share 1 - ``alpha``).

    Places of a large crop are matched with those of every other crop, both ways, once by where they lie in the picture
    and once by the distance of their embeddings (``matching``). The closest ``num_matches`` pairs (from a large map,
    from a small one) count; a map with fewer cells gives all it has. ``local`` names the local terms that count.

    ``criterion="simclr"`` is the paper's SimCLR-L: NT-Xent at temperature ``tau`` instead of VICReg, where the
    negatives of a match are the same match of other pictures. ``norm`` is that of the heads' hidden layers, by default
    as the backbone has it. ``compat="official"`` reproduces the authors' code where it departs from geometry and
    paper: mirrored crops are matched as if they were not, feature matching keeps every place, and the way back keeps
    the small count.
    """

    crops = "any"

    def __init__(
        self,
        backbone: Backbone,
        *,
        alpha: Share = 0.75,
        expander: tuple[Count, ...] = (8192, 8192, 8192),
        projector: tuple[Count, ...] = (512, 512, 512),
        num_matches: tuple[Count, Count] = (20, 4),
        matching: Literal["both", "location", "feature"] = "both",
        local: tuple[Literal["invariance", "variance", "covariance"], ...] = ("invariance", "variance", "covariance"),
        criterion: Literal["vicreg", "simclr"] = "vicreg",
        tau: Positive = 0.1,
        lambd: float = 25.0,
        mu: float = 25.0,
        nu: float = 1.0,
        norm: Literal["batch", "layer", "none"] | None = None,
        compat: Literal["official"] | None = None,
    ) -> None:
        super().__init__()
        norm, width = norm or norm_like(backbone), backbone.channels[-1]
        self.backbone = backbone
        self.expander = mlp(width, *expander, norm=norm) if alpha > 0 else None
        self.projector = mlp(width, *projector, norm=norm) if alpha < 1 else None
        self.official = compat == "official"
        vicreg = {"invariance": lambd, "variance": mu, "covariance": nu}
        weights = vicreg if criterion == "vicreg" else {"contrast": 1.0}
        self.criterion = VICRegLTerms(alpha, num_matches, weights, matching, local, tau, self.official)

    def forward(self, views: Views) -> dict[str, Tensor]:
        crops, pivots = [*views.large, *views.small], len(views.large)
        maps = self.maps(crops)
        z = each(self.expander, map(pooled, maps)) if self.expander is not None else []
        cells = [m.flatten(2).mT for m in maps]
        if self.projector is not None:
            rows = each(self.projector, (c.flatten(0, 1) for c in cells))
            cells = [r.unflatten(0, c.shape[:2]) for r, c in zip(rows, cells, strict=True)]
            self.show("local", *cells)
        self.show("global", *z)
        affines = [unflipped(view.affine) if self.official else view.affine for view in crops]
        centers = [cell_centers(a, *m.shape[2:]) for a, m in zip(affines, maps, strict=True)]
        return self.criterion(z, cells, centers, pivots)
