"""What keeps a set of named tensors from fitting a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from densessl.errors import UserError


def require_finite(tensors: Mapping[str, Tensor]) -> None:
    """Raises UserError for NaN and infinite values, with the names of their tensors and how many there are in each."""
    bad = {}
    for key, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.sum().isfinite():  # a sum costs a third of isfinite().all()
            continue
        if kinds := _kinds(tensor):  # "" where a sum of finite values overflowed
            bad[key] = f"{key} ({kinds} of {tensor.numel()} values)"
    if bad:
        raise UserError(
            f"not finite are {len(bad)} of {len(tensors)} tensors: {first(list(bad.values()))}; what made them "
            "diverged or overflowed, and no map of theirs means anything"
        )


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


def _kinds(tensor: Tensor) -> str:
    counts = {"NaN": int(tensor.isnan().sum()), "infinite": int(tensor.isinf().sum())}
    return " and ".join(f"{count} {kind}" for kind, count in counts.items() if count)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
