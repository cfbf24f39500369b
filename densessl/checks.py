"""What a method asks of a configuration beyond the types of its arguments."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count, pairwise
from typing import Any

MOST = 2**32  # weights of a layer, 64 GB with the optimiser's: no machine that is trained on holds several


def places(backbone: str, stem: str, size: int) -> int:
    """Places a side of the last map that a network of timm makes of a crop; 0 where it can't take the crop."""
    if "convnext" in backbone:  # patches without padding, but where they overlap
        return (-(-size // 4) if "_ols" in backbone else size // 4) // 8
    if backbone.startswith("resnetaa"):  # which average without padding, beside convolutions with it
        after_stem = size if stem == "small" else -(-size // 2) // 2
        return 0 if after_stem % 8 else after_stem // 8
    if backbone.startswith("resnetblur") and stem != "small" and size < 17:  # a single place has no neighbours to blur
        return 0
    return -(-size // (8 if stem == "small" else 32))


def sizes(backbone: str, stem: str, method: str, large: int, small: int | None, arguments: dict[str, Any]) -> None:
    """Whether the network can take crops of so many pixels, and the method has places to compare in their maps."""
    local = method in ("densecl", "pixpro") or (method == "vicregl" and arguments["alpha"] < 1)
    for key, size, least in (("large", large, 1 + local), ("small", small, 1)):
        if size is None or places(backbone, stem, size) >= least:
            continue
        enough = next(pixels for pixels in count(size) if places(backbone, stem, pixels) >= least)
        side = places(backbone, stem, size)
        why = f"gives {method} maps of {side} x {side} to match the places of" if side else "can't take such crops"
        raise ValueError(
            f"views.{key}.size={size}: {backbone} {why}; views.{key}.size={enough} is the next that is right"
        )


def widths(**arguments: Any) -> None:
    for key in ("expander", "projector", "predictor"):
        layers = arguments.get(key)
        if not isinstance(layers, tuple):  # one width, or none
            continue
        for before, after in pairwise(layers):
            if before * after > MOST:
                raise ValueError(
                    f"method.{key}={list(layers)}: from {before} to {after} are {before * after:.0e} weights, which "
                    f"no memory holds; the methods' own widths are at most 8192"
                )


def wmse(batch: int, projector: tuple[int, ...], w_size: int, **_: Any) -> None:
    width = projector[-1]
    if w_size <= width:
        raise ValueError(
            f"method.w_size={w_size} pictures can't whiten the {width} dimensions of method.projector: "
            f"it must be larger, {2 * width} as in the paper"
        )
    if batch % w_size:
        raise ValueError(
            f"batch={batch} is no multiple of method.w_size={w_size}: batch={max(1, batch // w_size) * w_size} would be"
        )


def queue(batch: int, queue: int, groups: int, **_: Any) -> None:
    _divides(batch, queue)
    if batch % groups or batch < 2 * groups:
        fits = [n for n in range(1, batch // 2 + 1) if batch % n == 0]
        raise ValueError(
            f"batch={batch} can't be cut into method.groups={groups} equal parts of at least 2 pictures: "
            f"method.groups={min(fits, key=lambda n: abs(n - groups))} would work"
        )


def swav(batch: int, queue: int, prototypes: int, **_: Any) -> None:
    _divides(batch, queue)
    if batch + queue < prototypes:
        more = -(-(prototypes - batch) // batch) * batch
        raise ValueError(
            f"batch={batch} and method.queue={queue} can't be shared out among method.prototypes={prototypes}: "
            f"method.queue={more} or method.prototypes={batch + queue} would work"
        )


def _divides(batch: int, queue: int) -> None:
    if queue % batch:
        raise ValueError(
            f"method.queue={queue} is no multiple of batch={batch}: method.queue={-(-queue // batch) * batch} would be"
        )


def upright(method: str, turn: float, flip_vertical: float, compat: object) -> None:
    if method == "vicregl" and compat and (turn or flip_vertical):
        raise ValueError(
            f"method.compat={compat} with views.turn={turn:g}, views.flip_vertical={flip_vertical:g}: the authors' "
            "code has no such views, and matches as if none were mirrored; leave method.compat out to match by geometry"
        )


def photometric(colours: bool, where: str, channels: int, scaled: bool) -> None:
    if colours and channels != 3:
        raise ValueError(
            f"photometric.kind=colour with backbone.in_chans={channels}: colours have three channels; use "
            "photometric.kind=channels or auto"
        )
    if colours and scaled:
        raise ValueError(
            "photometric.kind=colour changes pictures of 8 bits, and data.range or data.percentiles makes them of 16; "
            "use photometric.kind=channels or auto, which keeps all 16"
        )
    if not colours and where == "device":
        raise ValueError(
            "photometric.where=device changes colours alone, and these views are of photometric.kind=channels, as all "
            "but three channels of 8 bits are; use photometric.where=workers or auto"
        )


CHECKS: dict[str, Callable[..., None]] = {"wmse": wmse, "moco_v2": queue, "densecl": queue, "swav": swav}

CROPS = {
    "two": (lambda large, small: large == 2 and not small, "two large crops and no small ones"),
    "two and small": (lambda large, small: large == 2, "two large crops, and any number of small ones"),
    "large": (lambda large, small: not small, "two large crops or more, and no small ones"),
    "any": (lambda large, small: True, "any crops"),
}


def crops(method: str, kind: str, large: int, small: int) -> None:
    """``kind`` as in Method.crops."""
    fits, takes = CROPS[kind]
    if not fits(large, small):
        raise ValueError(f"views.large.count={large}, views.small.count={small}: {method} takes {takes}")
