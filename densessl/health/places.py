"""Do places that look alike lie at the same place? Cells of two views, and where the views lie in the picture."""

from __future__ import annotations

import torch
from torch import Tensor

from densessl.health import measures
from densessl.matching import cell_centers, nearest, take

SHARED = 0.75  # sides of a cell; half its diagonal is 0.71
NAMES = ("agreement", "distance", "alignment")


def place_sums(a: Tensor, b: Tensor, a_affine: Tensor, b_affine: Tensor, shape: tuple[int, int]) -> Tensor:
    """Of cells (B, P, D) of maps of one ``shape`` (height, width) and the views' affines (B, 2, 3): how many of a's
    places b has as well, and over these the sums of NAMES. (1, 4) in float64.

    agreement: 1 where the cell of b that is most alike (Euclidean) is the one that lies closest in the picture.
    distance: how far from the place that most similar cell lies, in sides of b's cells. alignment: squared distance of
    the unit embeddings of the place itself in both.
    """
    here, there = cell_centers(a_affine, *shape), cell_centers(b_affine, *shape)
    side = (torch.linalg.det(b_affine[:, :, :2].double()).abs() / (shape[0] * shape[1])).sqrt()[:, None]
    by_place, by_feature = nearest(here, there)[1], nearest(a, b)[1]

    def gap(to: Tensor) -> Tensor:
        return (here - take(there, to)).double().norm(dim=2) / side

    each = [(by_place == by_feature).double(), gap(by_feature), measures.alignment(a, take(b, by_place))]
    shared = gap(by_place) <= SHARED
    return torch.stack([shared.sum().double(), *(x[shared].sum() for x in each)])[None]
