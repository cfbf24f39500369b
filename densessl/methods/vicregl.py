"""VICRegL. Bardes, Ponce, LeCun 2022, https://arxiv.org/abs/2210.01571."""

from collections import Counter, defaultdict
from typing import Literal

import torch
from torch import Tensor

from densessl import criteria
from densessl.backbones import Backbone, pooled
from densessl.config import Count, Share
from densessl.data.views import Views
from densessl.heads import mlp, norm_like
from densessl.matching import cell_centers, nearest, take, unflipped
from densessl.method import Method
from densessl.methods.vicreg import global_terms
from densessl.training.distributed import gather


class VICRegL(Method):
    """VICReg on pooled vectors (share ``alpha``) and on matched places of the maps (share 1 - ``alpha``).

    Places of a large crop are matched with those of every other crop, both ways, once by where they lie in the picture
    and once by the distance of their embeddings. The closest ``num_matches`` pairs (from a large map, from a small one)
    count; a map with fewer cells gives all it has.

    ``norm`` is that of the heads' hidden layers, by default as the backbone has it.
    ``compat="official"`` reproduces the authors' code where it departs from geometry and paper: mirrored crops are
    matched as if they were not, feature matching keeps every place, and the way back keeps the small count.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        alpha: Share = 0.75,
        expander: tuple[Count, ...] = (8192, 8192, 8192),
        projector: tuple[Count, ...] = (512, 512, 512),
        num_matches: tuple[Count, Count] = (20, 4),
        lambd: float = 25.0,
        mu: float = 25.0,
        nu: float = 1.0,
        norm: Literal["batch", "layer"] | None = None,
        compat: Literal["official"] | None = None,
    ) -> None:
        super().__init__()
        norm, width = norm or norm_like(backbone), backbone.channels[-1]
        self.backbone = backbone
        self.expander = mlp(width, *expander, norm=norm) if alpha > 0 else None
        self.projector = mlp(width, *projector, norm=norm) if alpha < 1 else None
        self.alpha, self.num_matches, self.official = alpha, num_matches, compat == "official"
        self.weights = {"invariance": lambd, "variance": mu, "covariance": nu}

    def forward(self, views: Views) -> dict[str, Tensor]:
        crops = [*views.large, *views.small]
        maps = [self.backbone(view.image) for view in crops]
        terms: dict[str, Tensor] = {}
        if self.expander is not None:
            embeddings = [self.expander(pooled(stages)) for stages in maps]
            self._add(terms, "global", self.alpha, global_terms(embeddings, pivots=len(views.large)))
        if self.projector is not None:
            cells = [self._project(stages[-1]) for stages in maps]
            affines = [unflipped(view.affine) if self.official else view.affine for view in crops]
            centers = [cell_centers(a, *m[-1].shape[2:]) for a, m in zip(affines, maps, strict=True)]
            for name, places in (("location", centers), ("feature", cells)):
                every_place = self.official and name == "feature"
                matches = self._matches(len(views.large), len(crops), every_place)
                self._add(terms, name, 1 - self.alpha, local_terms(cells, places, matches))
        return terms

    def _project(self, features: Tensor) -> Tensor:
        """(B, C, H, W) to (B, H * W, D) in raster order; batch statistics run over all places of all pictures."""
        assert self.projector is not None
        cells = features.flatten(2).mT
        return self.projector(cells.flatten(0, 1)).unflatten(0, cells.shape[:2])

    def _matches(self, pivots: int, crops: int, every_place: bool) -> Counter[tuple[int, int, int | None]]:
        """How often each (from crop, to crop, number of pairs) counts: each pivot with every other crop, both ways."""
        matches: Counter[tuple[int, int, int | None]] = Counter()
        large, small = (None, None) if every_place else self.num_matches
        for i in range(pivots):
            for j in set(range(crops)) - {i}:
                matches[i, j, large] += 1
                matches[j, i, large if j < pivots and not self.official else small] += 1
        return matches

    def _add(self, terms: dict[str, Tensor], name: str, share: float, values: tuple[Tensor, ...]) -> None:
        for (kind, weight), value in zip(self.weights.items(), values, strict=True):
            terms[f"{name}_{kind}"] = share * weight * value


def local_terms(
    cells: list[Tensor], places: list[Tensor], matches: Counter[tuple[int, int, int | None]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Invariance, variance and covariance of matched places, each averaged over ``matches`` and unweighted.

    ``cells``: embeddings (B, P, D) of each crop; ``places`` (B, P, C): what decides which of them match, positions or
    the embeddings themselves. Variance and covariance are those over pictures of the k-th pair, for each k apart.
    """
    groups = defaultdict(list)
    for (i, j, count), times in matches.items():
        a, b = nearest(places[i], places[j], count)
        groups[a.shape[1], times].append((take(cells[i], a), take(cells[j], b)))
    sums = torch.zeros(3, device=cells[0].device)
    for (_, times), pairs in groups.items():
        # Matches of one length are one tensor, since a mean over all their places is the mean over the matches.
        a, b = (torch.cat(side, dim=1) for side in zip(*pairs, strict=True))
        z = torch.cat([a, b], dim=1)
        everyone = gather(z.detach())
        terms = criteria.invariance(a, b), criteria.variance(z, everyone), criteria.covariance(z, everyone)
        sums = sums + len(pairs) * times / matches.total() * torch.stack(terms)
    s, v, c = sums.unbind()
    return s, v, c
