"""Colour, grey, blur and solarise on the training device: workers draw the numbers, the device changes a batch at once.

The numbers are those that the workers' form draws for the same view, by the same code; the results differ by that
form's rounding to grey levels after every operation (its brightness and contrast round down, its hues are multiples of
two degrees).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from densessl.data.photometric import Photometric
from densessl.data.pixels import GREY
from densessl.device import gpu_is_used

if TYPE_CHECKING:
    from densessl.config import PhotometricConfig

# What is drawn for a view, as numbers in a row. First seven mixtures, each of (pixel, mean grey of the picture, grey of
# the pixel): three before the hue is turned, three after it, since jitter has a random order, and the last for grey.
MIXTURES = 7
SAME = (1.0, 0.0, 0.0)
HUE = 3 * MIXTURES  # sixths of a turn
MIRROR = HUE + 1  # a value above half of it is taken from it: 255 solarises, 510 changes nothing
KERNEL = MIRROR + 1  # the rest: half of the blur's kernel, from the middle outwards
# What is computed in: 16 bits halve the memory's time on a GPU, and an eighth of a grey level is finer than uint8.
DTYPES = {"cuda": torch.float16}


def on_device(cfg: PhotometricConfig) -> bool:
    """Whether `where` means the device; auto means a GPU, where training has one (as training.distributed finds it)."""
    return cfg.where == "device" or (cfg.where == "auto" and gpu_is_used())


def numbers(
    jitter: Sequence[tuple[str, float]] = (), grey: bool = False, solarise: bool = False, kernel: Sequence[float] = (1,)
) -> list[float]:
    """The row of a view: brightness, contrast, saturation (factors) and hue (-0.5 to 0.5) in the order of `jitter`."""
    row, place = [*SAME * MIXTURES, 0.0, 255.0 if solarise else 510.0, *kernel], 0
    for name, value in jitter:
        if name == "hue":
            row[HUE], place = 6 * value, 3 * len(SAME)
            continue
        row[place] = value
        if name != "brightness":
            row[place + (1 if name == "contrast" else 2)] = 1 - value
        place += len(SAME)
    if grey:
        row[HUE - len(SAME) : HUE] = 0.0, 0.0, 1.0
    return row


class Draw(Photometric):
    """In a worker: leaves the image as it is, and the row says what to do to it.

    All rows of one view number have one width, `width`; the kernel is one number long where nothing is ever blurred.
    """

    def __init__(self, cfg: PhotometricConfig, size: int, number: int) -> None:
        super().__init__(cfg, size, number)
        self.taps = self.widest // 2 + 1 if self.blur_p else 1
        self.width = KERNEL + self.taps

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, Sequence[float]]:
        """Draws from `rng` what Photometric would."""
        change = self.draw(rng)
        half = change.half or [1.0]
        half += [0.0] * (self.taps - len(half))
        return image, numbers(change.jitter, change.grey, change.solarise, half)


def retouch(image: Tensor, rows: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 to floats in [0, 255], each picture by its row of `rows` (B, Draw.width), on one device.

    Nothing here reads a value of a tensor, so nothing waits. The result lies plane by plane in memory.
    """
    dtype = DTYPES.get(image.device.type, torch.float32)
    x = image.to(dtype, memory_format=torch.contiguous_format)
    rows = rows.to(dtype).view(*rows.shape, 1, 1)
    mixtures = rows[:, :HUE].unflatten(1, (MIXTURES, 3))
    for number in range(MIXTURES):
        if number == 3:
            x = _turn(x, rows[:, HUE])
        x = _mix(x, mixtures[:, number])
    if rows.shape[1] > KERNEL + 1:
        x = _blur(x, rows[:, KERNEL:, 0, 0])
    return torch.minimum(x, rows[:, MIRROR, None] - x)


def _mix(x: Tensor, shares: Tensor) -> Tensor:
    """Shares (B, 3, 1, 1) of pixel, mean grey and grey: brightness, contrast, saturation, grey or nothing."""
    red, green, blue = x.unbind(1)
    grey = (red * GREY[0]).add_(green, alpha=GREY[1]).add_(blue, alpha=GREY[2])
    level = grey.mean((1, 2), keepdim=True) * shares[:, 1]
    rest = torch.addcmul(level, grey, shares[:, 2])
    return torch.addcmul(rest.unsqueeze(1), x, shares[:, :1]).clamp_(0, 255)


def _turn(x: Tensor, sixths: Tensor) -> Tensor:
    """Hues turned by (B, 1, 1) sixths of a circle; largest and smallest channel stay as they are, as in HSV."""
    red, green, blue = x.unbind(1)
    high, low = x.amax(1), x.amin(1)
    chroma = high - low
    hue = torch.where(green == high, (blue - red).add_(chroma, alpha=2), (red - green).add_(chroma, alpha=4))
    hue = torch.where(red == high, green - blue, hue).div_(chroma.clamp(min=1e-3)).add_(sixths)
    # A channel is full up to a sixth from its own hue (0, 2, 4), empty from two sixths on, and falls straight between.
    away = [(hue + (3 - 2 * channel)).remainder_(6).sub_(3).abs_() for channel in range(3)]
    return torch.stack([torch.addcmul(low, chroma, a.neg_().add_(2).clamp_(0, 1)) for a in away], 1)


def _blur(x: Tensor, half: Tensor) -> Tensor:
    """Each picture with its own kernel (B, reach + 1), first across, then down; borders mirror as OpenCV's do."""
    reach = half.shape[1] - 1
    kernel = torch.cat([half.flip(1)[:, :-1], half], 1)
    kernel = kernel.repeat_interleave(3, 0)[:, None, None]
    planes = F.pad(x, (reach,) * 4, mode="reflect").flatten(0, 1)[None]
    planes = F.conv2d(planes, kernel, groups=planes.shape[1])
    return F.conv2d(planes, kernel.transpose(2, 3), groups=planes.shape[1]).view_as(x)
