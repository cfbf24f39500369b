"""What a method remembers of earlier batches: a queue of rows."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Queue(nn.Module):
    """The newest ``size`` rows of ``width``, of unit length; random ones to begin with, as in MoCo."""

    rows: Tensor
    pushed: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("rows", F.normalize(torch.randn(size, width)))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.long))
        self._full = False

    def forward(self) -> Tensor:
        """(size, width), a copy: pushing must not change what a backward still needs."""
        return self.rows.clone()

    @torch.no_grad()
    def push(self, rows: Tensor) -> None:
        """Everyone's new rows take the place of the oldest; the same in all processes."""
        places = (self.pushed + torch.arange(len(rows), device=rows.device)) % len(self.rows)
        self.rows[places] = F.normalize(rows.to(self.rows.dtype))
        self.pushed += len(rows)

    @property
    def full(self) -> bool:
        """No random row is left. Asking waits for the device, until it is so."""
        self._full = self._full or bool(self.pushed >= len(self.rows))
        return self._full
