"""Numbers as colours: scales, and colours to tell things apart."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np
from torch import Tensor

Colour = tuple[int, int, int]


def _between(*colours: Colour) -> np.ndarray:
    at = np.linspace(0, len(colours) - 1, 256)
    channels = [np.interp(at, range(len(colours)), channel) for channel in zip(*colours, strict=True)]
    return np.stack(channels, 1).round().astype(np.uint8)


RISING = (
    cv2.applyColorMap(np.arange(256, dtype=np.uint8), cv2.COLORMAP_VIRIDIS).reshape(-1, 3)[:, ::-1].copy()
)  # (256, 3) RGB
FALLING = RISING[::-1].copy()
SIGNED = _between((33, 80, 160), (120, 170, 210), (245, 245, 242), (230, 140, 100), (165, 20, 40))  # white is zero


def shaded(values: Tensor, low: float, high: float, scale: np.ndarray) -> np.ndarray:
    """(..., 3) uint8 of numbers (...): ``scale`` (256, 3) from ``low`` to ``high``, the ends beyond them."""
    places = (values.double().numpy() - low) / max(high - low, 1e-12) * 255
    return scale[places.round().clip(0, 255).astype(np.uint8)]


NAMED: tuple[Colour, ...] = (  # told apart by colour-blind eyes too: Okabe, Ito, https://jfly.uni-koeln.de/color/
    *((0, 114, 178), (230, 159, 0), (0, 158, 115), (240, 228, 66), (204, 121, 167), (86, 180, 233), (213, 94, 0)),
    (70, 70, 70),
)


def distinct(count: int) -> list[Colour]:
    """Eight colours that all eyes tell apart; beyond them, colours that differ in hue, neighbours in lightness too."""
    found = list(NAMED[:count])
    for i in range(len(NAMED), count):
        part = colorsys.hls_to_rgb((0.58 + i * 0.618034) % 1, (0.48, 0.68, 0.36)[i % 3], (0.75, 0.85, 0.65)[i % 3])
        found.append((round(part[0] * 255), round(part[1] * 255), round(part[2] * 255)))
    return found
