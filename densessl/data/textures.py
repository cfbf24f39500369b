"""Textures: what the objects and grounds of the scenes are made of, one class each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

Height = Callable[[np.ndarray, np.ndarray], np.ndarray]

# A regular texture is a height over the plane, (u, v) in periods to about [-1, 1]; its sign decides the colour.


def _near(x: np.ndarray) -> np.ndarray:
    """Distance to the nearest whole number, 0 to 0.5."""
    return np.abs(x - np.rint(x))


def _bond(along: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Every other row moved by half a period."""
    return along + 0.5 * (np.rint(row) % 2)


def _bricks(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    row = 0.75 * v
    joint = np.minimum(0.5 - _near(row), 2 * _near(_bond(0.4 * u, row)))
    return 7 * (joint - 0.1)


def _waves(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return 4 * _near(v + 0.4 * np.sin(2.2 * u)) - 1


def _net(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return 6 * (np.minimum(_near(0.6 * u), _near(0.6 * v)) - 0.1)


def _stripes(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return 4 * _near(u) - 1


def _checks(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return 1.5 * (4 * _near(0.45 * u) - 1) * (4 * _near(0.45 * v) - 1)


def _dots(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return 4 * (0.3 - np.hypot(_near(_bond(0.9 * u, v)), _near(v)))


def _rings(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return 8 * (0.1 - np.abs(0.31 - np.hypot(_near(0.6 * u), _near(0.6 * v))))


def _crosses(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    across, down = _near(0.7 * u), _near(0.7 * v)
    return 7 * np.minimum(0.12 - np.minimum(across, down), 0.38 - np.maximum(across, down))


def _zigzag(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return 4 * _near(v + 1.3 * _near(0.5 * u)) - 1


def _dashes(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return 6 * np.minimum(0.22 - _near(v), 1.5 * (0.3 - _near(_bond(0.4 * u, v))))


GROUNDS: dict[str, Height | None] = {"bricks": _bricks, "waves": _waves, "net": _net, "grain": None}
OBJECTS: dict[str, Height | None] = {
    "stripes": _stripes,
    "checks": _checks,
    "dots": _dots,
    "rings": _rings,
    "crosses": _crosses,
    "zigzag": _zigzag,
    "dashes": _dashes,
    "spots": None,
}
TEXTURES = GROUNDS | OBJECTS


class Look(NamedTuple):
    """What objects of a texture have in common beside its pattern."""

    period: float  # pixels at a unit of 1
    hues: float  # degrees of 180: the line through grey on which its two colours lie, one on each side


LOOKS = {
    "bricks": Look(14, 0),
    "waves": Look(10, 45),
    "net": Look(9, 90),
    "grain": Look(8, 135),
    "stripes": Look(8, 22),
    "checks": Look(15, 22),
    "dots": Look(9, 67),
    "rings": Look(16, 67),
    "crosses": Look(12, 112),
    "zigzag": Look(12, 112),
    "dashes": Look(9, 157),
    "spots": Look(18, 157),
}


def _noise(rng: np.random.Generator, height: int, width: int, period: float) -> np.ndarray:
    """(height, width) smooth noise of deviation around 0.5, with hills about `period` pixels apart."""
    shape = (int(height / period) + 3, int(width / period) + 3)
    coarse = rng.standard_normal(shape, np.float32)
    fine = cv2.resize(coarse, None, fx=period, fy=period, interpolation=cv2.INTER_CUBIC)
    return fine[:height, :width]


def texture(rng: np.random.Generator, name: str, height: int, width: int, unit: float) -> np.ndarray:
    """(3, height, width) float32 RGB, 0 to 255 and a little beyond, of a texture at random scale, turn and colours.

    `unit` is the length, in pixels, that the scale is relative to. Colours are drawn without regard to the texture, and
    which of the two is the figure is a coin flip.
    """
    look = LOOKS[name]
    period = unit * look.period * math.exp(rng.uniform(-0.15, 0.15))
    sharp = np.float32(rng.uniform(0.08, 0.25) * period)
    formula = TEXTURES[name]
    shade: np.ndarray
    if name == "grain":
        shade = 0.5 + 0.4 * _noise(rng, height, width, 0.3 * period)
    elif formula is None:
        shade = 0.5 + 1.5 * sharp * (_noise(rng, height, width, 0.55 * period) - np.float32(rng.uniform(0.1, 0.5)))
    else:
        shade = 0.5 + sharp * formula(*_plane(rng, height, width, period))
    shade = np.clip(shade, 0, 1)
    # Two colours on opposite sides of a grey which is their mean, so that it says nothing; either may be the lighter.
    angle = math.radians(look.hues + rng.normal(0, 4))
    chroma = math.cos(angle) * np.array([1, -1, 0]) / math.sqrt(2) + math.sin(angle) * np.array([1, 1, -2]) / math.sqrt(
        6
    )
    half = rng.choice((-1, 1)) * rng.uniform(45, 70) * chroma + rng.uniform(-25, 25)
    middle = rng.uniform(90, 165) + rng.normal(0, 8, 3)
    center, span = np.array([middle, 2 * half], np.float32)[..., None, None]
    return (center + span * (shade - shade.mean())) * _light(rng, height, width, unit)


def _light(rng: np.random.Generator, height: int, width: int, unit: float) -> np.ndarray:
    """(height, width): light falls unevenly, a slope and clouds."""
    light = 1 + 0.08 * rng.standard_normal((int(height / unit / 40) + 3, int(width / unit / 40) + 3), np.float32)
    for axis, slope in enumerate(rng.uniform(-0.25, 0.25, 2)):
        light += np.expand_dims(np.linspace(-slope, slope, light.shape[axis], dtype=np.float32), 1 - axis)
    return cv2.resize(light, (width, height), interpolation=cv2.INTER_CUBIC)


def _plane(rng: np.random.Generator, height: int, width: int, period: float) -> tuple[np.ndarray, np.ndarray]:
    """(u, v) of every pixel, in periods: turned, moved and slightly bent."""
    turn = rng.uniform(-0.3, 0.3)  # most things in photographs stand upright
    start_u, start_v, bend_u, bend_v = rng.uniform((0, 0, -0.006, -0.006), (1, 1, 0.006, 0.006))
    x = (np.arange(width, dtype=np.float32) - width / 2) / np.float32(period)
    y = ((np.arange(height, dtype=np.float32) - height / 2) / np.float32(period))[:, None]
    cos, sin = np.float32(math.cos(turn)), np.float32(math.sin(turn))
    u, v = cos * x + sin * y, cos * y - sin * x
    return u + np.float32(bend_u) * v * v + np.float32(start_u), v + np.float32(bend_v) * u * u + np.float32(start_v)
