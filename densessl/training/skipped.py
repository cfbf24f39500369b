"""Skipped steps, kept so that they can be computed again: RUN/skipped/stepNNNNNNN/.

In it the weights before the step, each process's views as the loader gave them, and facts.json. Random numbers follow
from seed, step and process.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from densessl.data.views import View, Views
from densessl.errors import UserError
from densessl.training import distributed

KEPT = 2  # steps of a run: the first tell most, and each holds the weights
FOLDER, WEIGHTS, FACTS = "skipped", "model.safetensors", "facts.json"


def place(run: Path, step: int) -> Path:
    """Of the step that counts from 0: named by how many are done after it, as states are."""
    return run / FOLDER / f"step{step + 1:07d}"


def keep(place: Path, views: Views, weights: dict[str, Tensor], facts: dict[str, Any]) -> str:
    """Write this process's part; the first one's has ``weights`` and ``facts``. Returns why it can't, if it can't."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        save_file(dict(_named(views)), place / f"views{distributed.rank()}.safetensors")
        if distributed.is_first():
            save_file(weights, place / WEIGHTS)
            facts = {**facts, "processes": distributed.world_size()}
            (place / FACTS).write_text(json.dumps(facts, indent=1), encoding="utf-8")
    except (OSError, SafetensorError) as error:
        return f"{place}: {getattr(error, 'strerror', None) or error}"
    return ""


def facts(place: Path) -> dict[str, Any]:
    """What `keep` was given. Raises UserError."""
    try:
        found = json.loads((place / FACTS).read_text(encoding="utf-8"))
        for key in ("step", "progress", "pictures", "processes"):
            found[key]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{place} holds no skipped step: {FACTS}: {type(error).__name__}: {error}") from None
    return found


def views(place: Path) -> Views:
    """This process's views. Raises UserError."""
    tensors = read(place / f"views{distributed.rank()}.safetensors")
    large, small = (
        [
            View(tensors[f"{kind}{i}.image"].permute(0, 3, 1, 2), tensors[f"{kind}{i}.affine"])
            for i in range(sum(name.startswith(kind) and name.endswith("image") for name in tensors))
        ]
        for kind in ("large", "small")
    )
    photometric = [tensors[f"photometric{i}"] for i in range(sum(name.startswith("photometric") for name in tensors))]
    return Views(large, small, tensors.get("pictures"), photometric)


def read(path: Path) -> dict[str, Tensor]:
    """Tensors by name. Raises UserError."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} can't be read: {error}") from None


def _named(views: Views) -> Iterator[tuple[str, Tensor]]:
    for kind, crops in (("large", views.large), ("small", views.small)):
        for i, view in enumerate(crops):
            yield f"{kind}{i}.image", view.image.permute(0, 2, 3, 1).contiguous()  # as it lies in memory
            yield f"{kind}{i}.affine", view.affine
    if views.pictures is not None:
        yield "pictures", views.pictures
    for i, numbers in enumerate(views.photometric):
        yield f"photometric{i}", numbers
