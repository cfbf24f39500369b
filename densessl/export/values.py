"""What becomes of the values of a picture's file before an exported network sees them."""

from __future__ import annotations

from densessl.backbones import Backbone
from densessl.reading import normalisation, pixels_of


def zero_to_one(backbone: Backbone) -> str:
    """How stored values become 0 to 1."""
    pixels = pixels_of(backbone)
    if not pixels.scaled:
        return "value / 255"
    if pixels.percentiles:
        low, high = pixels.percentiles
        what = f"black and white are percentiles {low:g} and {high:g} of each picture's channel"
    else:
        black, white = (", ".join(f"{value:g}" for value in values) for values in zip(*pixels.range, strict=True))
        what = f"black is {black}, white {white}"
    if pixels.nodata:
        what += f"; NaN and {' and '.join(f'{number:.9g}' for number in pixels.nodata)} are 0"
    return f"(value - black) / (white - black) clipped to 0 and 1, where {what}"


def of_stored(backbone: Backbone) -> tuple[list[float], list[float], str]:
    """Mean and std of stored values, per channel, and what has to be said of them: nothing of 8 bits.

    With percentiles, which are those of each picture, of values from 0 to 1.
    """
    pixels = pixels_of(backbone)
    bounds, remark = pixels.range or ((0.0, 255.0),), ""
    if pixels.percentiles:
        bounds, remark = ((0.0, 1.0),), f"of {zero_to_one(backbone)}"
    elif pixels.range:
        ends = " and ".join(f"{low:g} to {high:g}" for low, high in pixels.range)
        remark = f"of stored values, clipped to {ends}"
    bounds *= pixels.channels if len(bounds) == 1 else 1
    rows = zip(*normalisation(backbone), bounds, strict=True)
    mean, std = zip(*((low + m * (high - low), s * (high - low)) for m, s, (low, high) in rows), strict=True)
    return [_short(value) for value in mean], [_short(value) for value in std], remark


def _short(value: float) -> float:
    return float(f"{value:.6g}")
