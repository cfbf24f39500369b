"""VICRegL. Bardes, Ponce, LeCun 2022, https://arxiv.org/abs/2210.01571."""

from collections import Counter
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from densessl import criteria
from densessl.backbones import Backbone, pooled
from densessl.config import Count, Positive, Share
from densessl.data.views import Views
from densessl.divided import everyones_statistics
from densessl.heads import each, mlp, norm_like
from densessl.matching import Matches, cell_centers, crop_pairs, matches, unflipped
from densessl.method import Method
from densessl.methods.vicreg import invariance_of_pairs, variance_and_covariance
from densessl.places import rows_at
from densessl.training.distributed import gather, gathering, rank


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

    def criterion(self, z: list[Tensor], cells: list[Tensor], centers: list[Tensor], pivots: int) -> dict[str, Tensor]:
        """The terms of ``z`` (B, D) and ``cells`` (B, P, D), embeddings of each crop and of its places, which lie at
        ``centers`` (B, P, 2) in the picture; the first ``pivots`` crops are the large ones.
        """
        rows = torch.cat([c.flatten(0, 1) for c in cells]) if self.projector is not None else None
        everyones_rows, of_z = None, None
        if "contrast" not in self.weights:  # what others need is on its way while this process matches its places
            everyones_rows = gathering(rows) if rows is not None else None
            of_z = variance_and_covariance(z) if self.expander is not None else None
        found = {
            name: matches(places, self._pairs(name, pivots, len(cells)))
            for name, places in (("location", centers), ("feature", cells))
            if rows is not None and self.matching in ("both", name)
        }
        terms: dict[str, Tensor] = {}
        if self.expander is not None:
            self._add(terms, "global", self.alpha, self._global(z, pivots, of_z))
        if rows is not None:
            for name, values in self._local(rows, found, everyones_rows).items():
                self._add(terms, name, 1 - self.alpha, values)
        return terms

    def _pairs(self, matching: str, pivots: int, crops: int) -> Counter[tuple[int, int, int | None]]:
        large, small = (None, None) if self.official and matching == "feature" else self.num_matches
        return crop_pairs(pivots, crops, large, small, back=small if self.official else large)

    def _global(self, z: list[Tensor], pivots: int, statistics: Callable[[], tuple[Tensor, Tensor]] | None) -> Tensor:
        if statistics is None:
            pairs = [(a, b) for i, a in enumerate(z[:pivots]) for b in z[i + 1 :]]
            return torch.stack([self._contrast(a, b) for a, b in pairs]).mean()[None]
        return torch.stack([invariance_of_pairs(z, z, pivots), *statistics()])

    def _local(
        self, rows: Tensor, found: dict[str, Matches], everyones_rows: Callable[[], Tensor] | None
    ) -> dict[str, Tensor]:
        """Of each way of matching the unweighted terms, for all crops' cells (R, D); statistics are those of the m-th
        match over pictures.
        """
        if everyones_rows is None:
            sides = {name: (rows_at(rows, m.a), rows_at(rows, m.b), m.share) for name, m in found.items()}
            return {name: self._contrast(*side)[None] for name, side in sides.items()}
        # Both ways in one call, as everyone's rows are gathered once a step.
        places = torch.cat([m.places for m in found.values()], 1)
        weight = torch.cat([m.weight for m in found.values()])
        of_kind = [self.weights[kind] * (kind in self.local) for kind in ("variance", "covariance")]
        statistics = everyones_statistics(rows, places, everyones_rows, torch.stack([k * weight for k in of_kind]))
        parts = zip(*(values.split([len(m.weight) for m in found.values()]) for values in statistics), strict=True)
        terms = {}
        for (name, m), of_places in zip(found.items(), parts, strict=True):
            invariance = criteria.place_invariance(rows, m.a, m.b)
            values = [(invariance, m.share), *((statistic, m.weight) for statistic in of_places)]
            # Not `@`, which autocast would compute in bf16.
            terms[name] = torch.stack([(value * share.to(value.dtype)).sum() for value, share in values])
        return terms

    def _contrast(self, a: Tensor, b: Tensor, share: Tensor | None = None) -> Tensor:
        return criteria.nt_xent(a, b, self.tau, gather, first=rank() * len(a), share=share)

    def _add(self, terms: dict[str, Tensor], name: str, share: float, values: Tensor) -> None:
        for (kind, weight), value in zip(self.weights.items(), values, strict=True):
            if name == "global" or kind == "contrast" or kind in self.local:
                terms[f"{name}_{kind}"] = share * weight * value
