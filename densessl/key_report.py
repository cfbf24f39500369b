"""What keeps a set of named tensors from fitting a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor


def key_report(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """How names and shapes of ``found`` differ from ``wanted``: counts, and the first of each kind; "" if they fit."""
    shapes = [
        f"{key} is {_shape(found[key])} instead of {_shape(wanted[key])}"
        for key in wanted
        if key in found and found[key].shape != wanted[key].shape
    ]
    kinds = {
        "missing": [key for key in wanted if key not in found],
        "unexpected": [key for key in found if key not in wanted],
        "of another shape": shapes,
    }
    fitting = sum(key in found for key in wanted) - len(shapes)
    lines = [f"{len(keys)} {kind}: {first(keys)}" for kind, keys in kinds.items() if keys]
    return "; ".join([f"{fitting} of {len(wanted)} tensors fit", *lines]) if lines else ""


def first(keys: Sequence[str], count: int = 3) -> str:
    return ", ".join(keys[:count]) + (", ..." if len(keys) > count else "")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
