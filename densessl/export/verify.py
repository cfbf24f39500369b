"""Whether two networks compute the same stage maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from densessl.errors import UserError

Stages = Callable[[Tensor], Sequence[Tensor]]
INPUTS = ((2, 96, 96), (2, 97, 75), (1, 32, 32))  # the odd one tells apart rules of padding and rounding
TOLERANCE = 1e-5


@torch.inference_mode()
def differences(ours: Stages, theirs: Stages, in_chans: int) -> list[float]:
    """Per stage, the largest difference over fixed inputs, relative to the map's largest value; inf for another shape.

    nan where a map is not finite. The smallest has a last map of one place. On the CPU in float32, without autocast.
    Raises UserError for an input that only ours takes.
    """
    found: list[list[float]] = []
    for batch, height, width in INPUTS:
        image = torch.randn(batch, in_chans, height, width, generator=torch.Generator().manual_seed(0))
        try:
            maps = ours(image)
        except RuntimeError:
            if found:
                continue  # some ResNets take even sizes only, there as here
            raise
        try:
            others = theirs(image)
        except Exception as error:  # of any library
            raise UserError(
                f"not exported: images of {batch}x{in_chans}x{height}x{width}, which the backbone takes, fail there: "
                + " ".join(str(error).split())
            ) from error
        found.append([_difference(a, b) for a, b in zip(maps, others, strict=True)])
    return [max(stage, key=lambda value: (value != value, value)) for stage in zip(*found, strict=True)]


def _difference(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return torch.inf
    return ((a - b).abs().max() / a.abs().max()).item()
