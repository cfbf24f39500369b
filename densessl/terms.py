"""VICReg's and VICRegL's terms, with statistics over the pictures of all processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from densessl import criteria
from densessl.divided import everyones_statistics
from densessl.matching import Matches, crop_pairs, matches
from densessl.places import rows_at
from densessl.training.distributed import gather, gathering, rank


def invariance_of_pairs(predictions: list[Tensor], embeddings: list[Tensor], pivots: int) -> Tensor:
    """Invariance averaged over all (pivot, other) pairs of views; a (n, D) for each view, the ``pivots`` first."""
    pairs = [(i, j) for i in range(pivots) for j in range(len(embeddings)) if i != j]
    return torch.stack([criteria.invariance(predictions[i], embeddings[j]) for i, j in pairs]).mean()


def regularisers(embeddings: list[Tensor], mu: float, nu: float, gamma: float = 1.0) -> dict[str, Tensor]:
    """Variance averaged over the views (n, D), covariance summed over two, as in the code; none where both weigh 0."""
    if not mu and not nu:
        return {}
    v, c = variance_and_covariance(embeddings, gamma)()
    return {"variance": mu * v, "covariance": 2 * nu * c}


def variance_and_covariance(views: list[Tensor], gamma: float = 1.0) -> Callable[[], tuple[Tensor, Tensor]]:
    """Begin to send this process's ``views``, each (n, D); a call of what this gives waits for everyone's and computes
    both over everyone's pictures, averaged over the views.
    """
    n, rows = len(views[0]), torch.cat(views)
    everyones_rows = gathering(rows)

    def found() -> tuple[Tensor, Tensor]:
        everyone = everyones_rows()
        # They lie process after process, and in each view after view.
        places = torch.arange(len(everyone), device=rows.device).view(-1, len(views), n).mT.flatten(0, 1)
        v, c = criteria.variance_and_covariance(rows, places[:n], everyone, places, rank() * n, gamma)
        return v.mean(), c.mean()

    return found


@dataclass(frozen=True)
class VICRegLTerms:
    """VICRegL's terms from embeddings; the arguments are those of `methods.vicregl`, ``weights`` those of the terms."""

    alpha: float
    num_matches: tuple[int, int]
    weights: Mapping[str, float]
    matching: Literal["both", "location", "feature"] = "both"
    local: Collection[str] = ("invariance", "variance", "covariance")
    tau: float = 0.1
    official: bool = False

    def __call__(self, z: list[Tensor], cells: list[Tensor], centers: list[Tensor], pivots: int) -> dict[str, Tensor]:
        """The terms of ``z`` (B, D) and ``cells`` (B, P, D), embeddings of each crop and of its places, which lie at
        ``centers`` (B, P, 2) in the picture; the first ``pivots`` crops are the large ones.
        """
        rows = torch.cat([c.flatten(0, 1) for c in cells]) if self.alpha < 1 else None
        everyones_rows, of_z = None, None
        if "contrast" not in self.weights:  # what others need is on its way while this process matches its places
            everyones_rows = gathering(rows) if rows is not None else None
            of_z = variance_and_covariance(z) if self.alpha > 0 else None
        found = {
            name: matches(places, self._pairs(name, pivots, len(cells)))
            for name, places in (("location", centers), ("feature", cells))
            if rows is not None and self.matching in ("both", name)
        }
        terms: dict[str, Tensor] = {}
        if self.alpha > 0:
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
