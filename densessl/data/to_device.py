"""Views on their way to the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from densessl.data.device_photometric import retouch
from densessl.data.views import View, Views


class ToDevice:
    """Moves uint8 views, a quarter of the bytes of float ones; there it does what `photometric` says, and normalises.

    Channels stay last in memory. `mean` and `std` are per channel, of pixel values in [0, 1].
    """

    def __init__(self, device: torch.device | str, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.device = device
        self.center, self.spread = (torch.tensor(v, device=device).view(-1, 1, 1) for v in (mean, std))

    @torch.no_grad()
    def __call__(self, views: Views) -> Views:
        pictures = None if views.pictures is None else views.pictures.to(self.device, non_blocking=True)
        crops = views.large + views.small
        rows: Sequence[Tensor | None] = views.photometric or [None] * len(crops)
        moved = [self._view(view, row) for view, row in zip(crops, rows, strict=True)]
        return Views(moved[: len(views.large)], moved[len(views.large) :], pictures)

    def _view(self, view: View, rows: Tensor | None) -> View:
        top = torch.iinfo(view.image.dtype).max
        image = view.image.to(self.device, non_blocking=True)
        if rows is None:
            image = image.to(torch.float32)
        else:
            image = retouch(image, rows.to(self.device, non_blocking=True))
            image = image.to(torch.float32, memory_format=torch.channels_last)
        image = image.sub_(self.center * top).div_(self.spread * top)
        return View(image, view.affine.to(self.device, non_blocking=True))
