"""Which rows are measured: never too many, and the same ones however many processes share them."""

from __future__ import annotations

import torch
from torch import Tensor

from densessl.training.distributed import rank, world_size


def some(rows: Tensor, most: int) -> Tensor:
    """This process's part of the at most ``most`` rows (n, ...) that all processes choose from all they have.

    One of each of as many stretches of equal length, and not always the first, which of maps of 7 x 7 places might be
    the same corner each time.
    """
    n = len(rows)
    count = max(1, min(n, most // world_size()))
    number = rank() * count + torch.arange(count)  # among everyone's
    start, end = number * n // count, (number + 1) * n // count
    return rows[(start + number * 7919 % (end - start) - rank() * n).to(rows.device)]
