"""What the masks of a split hold: which classes, how much that is ignored, how many pixels that stand alone."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from densessl.errors import UserError
from densessl.segmentation.datasets.files import IGNORE
from densessl.trees import few

log = logging.getLogger("densessl")


def tell_classes(data: Any, counts: np.ndarray, again: bool = False) -> None:
    """Say which classes no mask holds and what share is ignored.

    Args:
        data: a `SegmentationDataset`.
        counts: (256,) pixels of each label of the split.
        again: say nothing, since it was said.

    Raises:
        UserError: Where one class or none is labelled, so that every score would be perfect.
    """
    there = np.flatnonzero(counts[:IGNORE])
    ignored = counts[IGNORE] / counts.sum()
    if not len(there):
        raise UserError(
            f"{data.title}: every pixel of every mask of the split {data.split} is ignored; there is nothing to learn "
            "or to score"
        )
    if len(there) == 1:
        name = data.classes[there[0]]
        wrong = (
            f"{data.title}: the masks of the split {data.split} hold one class alone, {name}, and {ignored:.0%} of "
            f"their pixels are ignored, so that {name} everywhere would be a perfect prediction"
        )
        if ignored and not there[0]:
            wrong += (
                f". If these are masks of 0 and {IGNORE}, as drawing programs save them: {IGNORE} is ignored, and 1 "
                "has to take its place"
            )
        raise UserError(wrong)
    absent = [name for label, name in enumerate(data.classes) if not counts[label]]
    said = []
    if absent:
        said.append(f"no mask holds {few(absent)}, of {len(data.classes)} classes")
    if ignored:
        said.append(f"{ignored:.1%} of the pixels are ignored")
    if said and not again:
        log.warning("%s %s: %s", data.title, data.split, "; ".join(said))


def single_share(mask: np.ndarray) -> float:
    """The share of the pixels of a mask (H, W) that differ from those above, below, left and right; not at its edge."""
    inside = mask[1:-1, 1:-1]
    if not inside.size:
        return 0.0
    single = (inside != mask[:-2, 1:-1]) & (inside != mask[2:, 1:-1])
    single &= (inside != mask[1:-1, :-2]) & (inside != mask[1:-1, 2:])
    return float(single.mean())
