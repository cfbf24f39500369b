"""COCO's run lengths of a mask: down each column, 0 and 1 in turns, beginning with 0."""

from __future__ import annotations


def counts(text: bytes) -> list[int]:
    """Of COCO's compression: 5 bits a character, the sixth says that more follow; from the fourth on, differences."""
    runs: list[int] = []
    value, shift = 0, 0
    for character in text:
        bits = character - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value, shift = 0, 0
    return runs or [0]
