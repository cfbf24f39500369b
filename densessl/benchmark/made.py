"""Made-up inputs of the sizes of real ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from densessl.config import Config
from densessl.data.views import View, Views
from densessl.matching import cell_centers
from densessl.training import distributed

PICTURE = (375, 500)  # height and width in pixels, ImageNet's most frequent
AREAS = {"large": (0.4, 1.0), "small": (0.08, 0.4)}  # share of the picture that a crop covers


@dataclass(frozen=True)
class Sizes:
    """Of all that VICRegL's criterion is computed from, over all processes; maps are square."""

    batch: int = 16
    large: int = 2
    large_map: int = 7
    small: int = 6
    small_map: int = 3
    width: int = 512
    embedding: int = 8192
    num_matches: tuple[int, int] = (20, 4)
    seed: int = 0


class Embeddings(NamedTuple):
    """The arguments of VICRegL.criterion."""

    z: list[Tensor]
    cells: list[Tensor]
    centers: list[Tensor]
    pivots: int

    @property
    def leaves(self) -> list[Tensor]:
        return [*self.z, *self.cells]


def embeddings(sizes: Sizes, device: torch.device) -> Embeddings:
    """This process's pictures of the batch; leaves of the graph. All processes together have those of one process."""
    random = torch.Generator(device).manual_seed(sizes.seed)
    z, cells, centers = [], [], []
    for kind, count, side in (("large", sizes.large, sizes.large_map), ("small", sizes.small, sizes.small_map)):
        for _ in range(count):
            # Standard deviations below 1, so that the variance term is at work.
            z.append(0.5 * torch.randn(sizes.batch, sizes.embedding, generator=random, device=device))
            cells.append(0.5 * torch.randn(sizes.batch, side**2, sizes.width, generator=random, device=device))
            centers.append(cell_centers(affines(sizes.batch, kind, random), side, side))
    z, cells, centers = ([distributed.own(each).clone() for each in part] for part in (z, cells, centers))
    return Embeddings([each.requires_grad_() for each in z], [c.requires_grad_() for c in cells], centers, sizes.large)


def views(cfg: Config, device: torch.device) -> Views:
    """This process's share of a batch of ``cfg`` as the network gets it: normalised, channels last."""
    n, rank = cfg.batch // distributed.world_size(), distributed.rank()
    random = torch.Generator(device).manual_seed(rank)

    def view(kind: str, size: int) -> View:
        image = torch.randn(n, size, size, cfg.backbone.in_chans, generator=random, device=device)
        return View(image.permute(0, 3, 1, 2), affines(n, kind, random))

    crops = {kind: getattr(cfg.views, kind) for kind in AREAS}
    large, small = ([view(kind, c.size) for _ in range(c.count)] for kind, c in crops.items())
    return Views(large, small, torch.arange(n * rank, n * (rank + 1), device=device))


def affines(n: int, kind: str, random: torch.Generator) -> Tensor:
    """(n, 2, 3) as in View: crops of a picture, half of them mirrored. Not whole pixels, so that no places tie."""
    area, top, left, mirrored = torch.rand(4, n, generator=random, device=random.device)
    low, high = AREAS[kind]
    side = (low + (high - low) * area).sqrt()
    h, w = side * PICTURE[0], side * PICTURE[1]
    y, x = (PICTURE[0] - h) * top, (PICTURE[1] - w) * left
    none, back = torch.zeros_like(h), mirrored < 0.5
    rows = [h, none, y, none, torch.where(back, -w, w), torch.where(back, x + w, x)]
    return torch.stack(rows, 1).unflatten(1, (2, 3))
