"""Textures: what the objects and grounds of the scenes are made of, one class each."""

from __future__ import annotations

import math
from collections.abc import Callable

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
    period = unit * math.exp(rng.uniform(math.log(7), math.log(13)))
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
    # The two colours: clearly different in lightness, so that grey views keep the texture, and somewhat in hue.
    middle = rng.uniform(60, 195, 3)
    half = rng.choice((-1, 1)) * rng.uniform(18, 50) + rng.normal(0, 18, 3)
    low, span = np.array([middle - half, 2 * half], np.float32)[..., None, None]
    return (low + span * shade) * _light(rng, height, width, unit)


def _light(rng: np.random.Generator, height: int, width: int, unit: float) -> np.ndarray:
    """(height, width): light falls unevenly, a slope and clouds."""
    light = 1 + 0.08 * rng.standard_normal((int(height / unit / 40) + 3, int(width / unit / 40) + 3), np.float32)
    for axis, slope in enumerate(rng.uniform(-0.25, 0.25, 2)):
        light += np.expand_dims(np.linspace(-slope, slope, light.shape[axis], dtype=np.float32), 1 - axis)
    return cv2.resize(light, (width, height), interpolation=cv2.INTER_CUBIC)


def _plane(rng: np.random.Generator, height: int, width: int, period: float) -> tuple[np.ndarray, np.ndarray]:
    """(u, v) of every pixel, in periods: turned, moved and slightly bent."""
    turn = rng.uniform(0, 2 * math.pi)
    start_u, start_v, bend_u, bend_v = rng.uniform((0, 0, -0.006, -0.006), (1, 1, 0.006, 0.006))
    x = (np.arange(width, dtype=np.float32) - width / 2) / np.float32(period)
    y = ((np.arange(height, dtype=np.float32) - height / 2) / np.float32(period))[:, None]
    cos, sin = np.float32(math.cos(turn)), np.float32(math.sin(turn))
    u, v = cos * x + sin * y, cos * y - sin * x
    return u + np.float32(bend_u) * v * v + np.float32(start_u), v + np.float32(bend_v) * u * u + np.float32(start_v)
