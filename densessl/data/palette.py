"""Colours of labels, as Pascal VOC has them."""

from __future__ import annotations

Color = tuple[int, int, int]


def palette(index: int) -> Color:
    """Pascal VOC's colour of a label: the bits of the index dealt out to red, green and blue, highest first."""
    color = [0, 0, 0]
    for bit in range(8):
        color[bit % 3] |= (index >> bit & 1) << (7 - bit // 3)
    return color[0], color[1], color[2]
