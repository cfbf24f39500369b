"""What a method shows, as numbers with names: one step of all processes."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from densessl.backbones import pooled
from densessl.data.views import Views
from densessl.health import measures
from densessl.health.places import NAMES, place_sums
from densessl.health.rows import some
from densessl.training.distributed import gather_together

ROWS = 512  # of a kind, over all processes: the cost of a rank grows with their cube
PICTURES, DISTANCES = 64, 2**22  # whose places are compared, and how many distances between places at most
ASSIGNED = 256  # pictures, of each of which there may be 65536 scores


@torch.no_grad()
def values(shown: Mapping[str, list[Tensor]], views: Views) -> dict[str, float]:
    """The measures of what a method has shown of ``views``, which lie on its device; a call of all processes.

    Names are health/KIND_MEASURE; kinds are the backbone's pooled vectors, "global" and "local" embeddings (without a
    head for these the cells of the last map), "prototypes". Left out is what can't be measured: what was not shown,
    what is not finite, agreement of views of which one was shown.
    """
    maps = shown["maps"][:2]
    local = shown.get("local", [m.flatten(2).mT for m in maps])[:2]
    kinds = {
        "backbone": [pooled(m) for m in maps],
        "global": shown.get("global", [])[:2],
        "local": [local[0].flatten(0, 1)] if local[0].shape[1] > 1 else [],
    }
    parts = {(kind, i): some(x, ROWS).float() for kind, rows in kinds.items() for i, x in enumerate(rows)}
    if len(local) == 2 and local[0].shape[1] > 1:
        parts["places", 0] = _place_sums(local, views, (maps[0].shape[2], maps[0].shape[3]))
    for x in shown.get("prototypes", [])[:1]:
        scores = some(x, ASSIGNED)
        mean, entropy = measures.assignments(scores)
        assigned = len(scores)
        parts["prototypes", 0] = torch.cat([mean, entropy[None]])[None]
    everyones = dict(zip(parts, gather_together(*parts.values()), strict=True))

    numbers: dict[str, float] = {}
    tensors: dict[str, Tensor] = {}
    for (kind, i), rows in everyones.items():
        if not rows.isfinite().all():
            continue
        if kind == "places":
            shared, *sums = rows.sum(0)
            numbers["local_chance"] = 1 / local[0].shape[1]
            tensors |= {f"local_{name}": total / shared for name, total in zip(NAMES, sums, strict=True)}
        elif kind == "prototypes":
            numbers["prototypes_rows"], numbers["prototypes_count"] = assigned * len(rows), rows.shape[1] - 1
            found = measures.usage(rows[:, :-1].mean(0), rows[:, -1].mean())
            tensors |= {f"prototypes_{name}": x for name, x in found.items()}
        elif i:
            both = everyones[kind, 0], rows
            tensors |= {
                f"{kind}_alignment": measures.alignment(*both).mean(),
                f"{kind}_strangers": measures.strangers(*both),
            }
        elif len(rows) > 1:
            numbers |= {f"{kind}_rows": len(rows), f"{kind}_dims": rows.shape[1]}
            tensors |= {f"{kind}_{name}": x for name, x in measures.of_rows(rows).items()}
    if tensors:
        numbers |= dict(zip(tensors, torch.stack(list(tensors.values())).tolist(), strict=True))
    return {f"health/{name}": x for name, x in numbers.items() if math.isfinite(x)}


def _place_sums(local: list[Tensor], views: Views, shape: tuple[int, int]) -> Tensor:
    most = max(1, min(PICTURES, DISTANCES // (shape[0] * shape[1]) ** 2))
    (a, b), (a_affine, b_affine) = local, (view.affine for view in views.large[:2])
    return place_sums(some(a, most), some(b, most), some(a_affine, most), some(b_affine, most), shape)
