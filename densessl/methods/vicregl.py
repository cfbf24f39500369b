"""VICRegL. Bardes, Ponce, LeCun 2022, https://arxiv.org/abs/2210.01571."""

from typing import Literal

import torch
from torch import Tensor

from densessl import criteria
from densessl.backbones import Backbone, pooled
from densessl.config import Count, Positive, Share
from densessl.data.views import Views
from densessl.heads import mlp, norm_like, on_cells
from densessl.matching import cell_centers, crop_pairs, matched, unflipped
from densessl.method import Method
from densessl.methods.vicreg import invariance_of_pairs, variance_and_covariance
from densessl.training.distributed import gather, rank


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
        self.alpha, self.num_matches, self.official = alpha, num_matches, compat == "official"
        self.matching, self.local, self.tau = matching, local, tau
        vicreg = {"invariance": lambd, "variance": mu, "covariance": nu}
        self.weights = vicreg if criterion == "vicreg" else {"contrast": 1.0}

    def forward(self, views: Views) -> dict[str, Tensor]:
        crops, pivots = [*views.large, *views.small], len(views.large)
        maps = [self.backbone(view.image) for view in crops]
        terms: dict[str, Tensor] = {}
        if self.expander is not None:
            self._add(terms, "global", self.alpha, self._global([self.expander(pooled(m)) for m in maps], pivots))
        if self.projector is not None:
            cells = [on_cells(self.projector, stages[-1]) for stages in maps]
            affines = [unflipped(view.affine) if self.official else view.affine for view in crops]
            centers = [cell_centers(a, *m[-1].shape[2:]) for a, m in zip(affines, maps, strict=True)]
            for name, places in (("location", centers), ("feature", cells)):
                if self.matching in ("both", name):
                    large, small = (None, None) if self.official and name == "feature" else self.num_matches
                    pairs = crop_pairs(pivots, len(crops), large, small, back=small if self.official else large)
                    parts = [share * self._local(a, b) for share, a, b in matched(cells, places, pairs)]
                    self._add(terms, name, 1 - self.alpha, sum(parts[1:], parts[0]))
        return terms

    def _global(self, z: list[Tensor], pivots: int) -> Tensor:
        if "contrast" in self.weights:
            pairs = [(a, b) for i, a in enumerate(z[:pivots]) for b in z[i + 1 :]]
            return torch.stack([self._contrast(a, b) for a, b in pairs]).mean()[None]
        return torch.stack([invariance_of_pairs(z, z, pivots), *variance_and_covariance(torch.stack(z, dim=1))])

    def _local(self, a: Tensor, b: Tensor) -> Tensor:
        """Each unweighted term of matched embeddings (B, K, D); statistics are those of the k-th pair over pictures."""
        if "contrast" in self.weights:
            return self._contrast(a, b)[None]
        return torch.stack([criteria.invariance(a, b), *variance_and_covariance(torch.cat([a, b], dim=1))])

    def _contrast(self, a: Tensor, b: Tensor) -> Tensor:
        return criteria.nt_xent(a, b, self.tau, gather(a), gather(b), first=rank() * len(a))

    def _add(self, terms: dict[str, Tensor], name: str, share: float, values: Tensor) -> None:
        for (kind, weight), value in zip(self.weights.items(), values, strict=True):
            if name == "global" or kind == "contrast" or kind in self.local:
                terms[f"{name}_{kind}"] = share * weight * value
