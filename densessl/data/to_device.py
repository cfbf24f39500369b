"""Views on their way to the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from densessl.data.device_photometric import retouch
from densessl.data.views import View, Views


class ToDevice:
    """Moves views as whole numbers, a quarter of the bytes of floats; there it does what `photometric` says, and
    normalises.

    On a GPU all of it goes through a stream of its own, so that it is done beside the step that the GPU is still busy
    with. Channels stay last in memory. `mean` and `std` are per channel, of pixel values in [0, 1].
    """

    def __init__(self, device: torch.device | str, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.device = torch.device(device)
        self.center, self.spread = (torch.tensor(v, device=device).view(-1, 1, 1) for v in (mean, std))
        self.stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    @torch.no_grad()
    def __call__(self, views: Views) -> Views:
        if self.stream is None:
            return self._moved(views)
        with torch.cuda.stream(self.stream):
            moved = self._moved(views)
        step = torch.cuda.current_stream(self.device)
        step.wait_stream(self.stream)
        for tensor in (moved.pictures, *(tensor for view in moved.large + moved.small for tensor in view)):
            if tensor is not None:
                tensor.record_stream(step)  # else its memory could be given away while the step still reads it
        return moved

    def _moved(self, views: Views) -> Views:
        pictures = None if views.pictures is None else views.pictures.to(self.device, non_blocking=True)
        crops = views.large + views.small
        rows: Sequence[Tensor | None] = views.photometric or [None] * len(crops)
        moved = [self._view(view, row) for view, row in zip(crops, rows, strict=True)]
        return Views(moved[: len(views.large)], moved[len(views.large) :], pictures)

    def _view(self, view: View, rows: Tensor | None) -> View:
        white = torch.iinfo(view.image.dtype).max
        image = view.image.to(self.device, non_blocking=True)
        if rows is None:
            image = image.to(torch.float32)
        else:
            image = retouch(image, rows.to(self.device, non_blocking=True))
            image = image.to(torch.float32, memory_format=torch.channels_last)
        image = image.sub_(self.center * white).div_(self.spread * white)
        return View(image, view.affine.to(self.device, non_blocking=True))
