"""Whether two networks compute the same stage maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Stages = Callable[[Tensor], Sequence[Tensor]]
SIZES = ((96, 96), (97, 75))  # the odd one tells apart rules of padding and rounding
TOLERANCE = 1e-5


@torch.inference_mode()
def differences(ours: Stages, theirs: Stages, in_chans: int) -> list[float]:
    """Per stage, the largest difference over fixed inputs, relative to the map's largest value; inf for another shape.

    nan where a map is not finite. On the CPU in float32, without autocast.
    """
    found: list[list[float]] = []
    for height, width in SIZES:
        image = torch.randn(2, in_chans, height, width, generator=torch.Generator().manual_seed(0))
        try:
            maps = ours(image)
        except RuntimeError:
            if found:
                continue  # some ResNets take even sizes only, there as here
            raise
        found.append([_difference(a, b) for a, b in zip(maps, theirs(image), strict=True)])
    return [max(stage, key=lambda value: (value != value, value)) for stage in zip(*found, strict=True)]


def _difference(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return torch.inf
    return ((a - b).abs().max() / a.abs().max()).item()
