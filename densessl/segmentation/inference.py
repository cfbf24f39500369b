"""Class logits of a picture of any size: whole, or by a sliding window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

from densessl.backbones import Backbone
from densessl.segmentation.protocols import Protocol

WINDOWS_AT_ONCE = 8  # bounds memory, whatever the picture's size
CLASSES_AT_ONCE = 16  # and this whatever the number of classes


def dense_logits(backbone: Backbone, head: nn.Module, image: Tensor, *, final_norm: bool = False) -> Tensor:
    """(B, classes, H, W) at the size of the normalised pictures (B, C, H, W)."""
    height, width = image.shape[-2:]
    maps, size = padded_maps(backbone, image, final_norm=final_norm)
    return interpolate(head(maps), size, mode="bilinear", align_corners=False)[..., :height, :width]


def padded_maps(backbone: Backbone, image: Tensor, *, final_norm: bool) -> tuple[list[Tensor], tuple[int, int]]:
    """Stage maps of pictures (B, C, H, W) and the (height, width) that the maps span.

    Pictures are padded with the mean, right and below, to a multiple of the coarsest stride: else the cells of the
    coarse maps, fewer after rounding down, would be stretched over the picture. Only in training mode has the backbone
    gradients.
    """
    step = max(backbone.strides)
    padded = pad(image, (0, -image.shape[-1] % step, 0, -image.shape[-2] % step))
    with torch.set_grad_enabled(backbone.training and torch.is_grad_enabled()):
        maps = backbone(padded) if final_norm else backbone.stages(padded)
    return maps, (padded.shape[-2], padded.shape[-1])


@torch.inference_mode()
def predict(backbone: Backbone, head: nn.Module, image: Tensor, protocol: Protocol, size: Sequence[int]) -> Tensor:
    """(H, W) int64 labels at ``size``, from one picture (C, h, w) at the protocol's scale.

    Of several ratios, or mirrored pictures, the probabilities are averaged, as mmsegmentation does, and all classes are
    held at ``size``. Else memory is that of all classes at the protocol's scale, of CLASSES_AT_ONCE at ``size`` and,
    with a sliding window, of the maps of WINDOWS_AT_ONCE windows.
    """

    def logits(batch: Tensor) -> Tensor:
        return dense_logits(backbone, head, batch, final_norm=protocol.final_norm)

    def variant(ratio: float, mirrored: bool) -> Tensor:
        batch = image[None]
        if ratio != 1:
            batch = interpolate(batch, scale_factor=ratio, mode="bilinear", align_corners=False)
        if mirrored:
            batch = batch.flip(-1)
        if protocol.inference == "slide":
            assert protocol.window is not None
            assert protocol.stride is not None
            full = slide(logits, batch, protocol.window, protocol.stride)
        else:
            full = logits(batch)
        return full.flip(-1) if mirrored else full

    variants = list(product(protocol.test_ratios, (False, True) if protocol.test_flip else (False,)))
    if len(variants) == 1:
        return _labels(variant(*variants[0]), size)
    return torch.stack([_resized(variant(*each), size).softmax(1) for each in variants]).mean(0)[0].argmax(0)


def _labels(logits: Tensor, size: Sequence[int]) -> Tensor:
    """(H, W) argmax of logits (1, classes, h, w) enlarged to ``size``, some classes at a time."""
    best, labels = None, None
    for first in range(0, logits.shape[1], CLASSES_AT_ONCE):
        value, index = _resized(logits[:, first : first + CLASSES_AT_ONCE], size)[0].max(0)
        if best is None or labels is None:
            best, labels = value, index
        else:
            better = value > best
            best, labels = value.where(better, best), (index + first).where(better, labels)
    assert labels is not None
    return labels


def _resized(logits: Tensor, size: Sequence[int]) -> Tensor:
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return interpolate(logits, tuple(size), mode="bilinear", align_corners=False)


def slide(logits: Callable[[Tensor], Tensor], image: Tensor, window: int, stride: int) -> Tensor:
    """(1, classes, H, W): logits of square windows over (1, C, H, W), averaged where they overlap."""
    height, width = image.shape[-2:]
    places = windows(height, width, window, stride)
    total, count = None, image.new_zeros(height, width)
    for start in range(0, len(places), WINDOWS_AT_ONCE):
        group = places[start : start + WINDOWS_AT_ONCE]
        parts = logits(torch.cat([image[..., t : t + h, x : x + w] for t, x, h, w in group]))
        if total is None:
            total = parts.new_zeros(1, parts.shape[1], height, width)
        for part, (t, x, h, w) in zip(parts, group, strict=True):
            total[0, :, t : t + h, x : x + w] += part
            count[t : t + h, x : x + w] += 1
    assert total is not None
    return total / count


def windows(height: int, width: int, window: int, stride: int) -> list[tuple[int, int, int, int]]:
    """(top, left, height, width) of windows that cover the picture, all of one size.

    The last of a row or column is shifted in to end with the picture; a side shorter than the window is taken whole.
    """
    tops, lefts = ([*range(0, max(side - window, 0), stride), max(side - window, 0)] for side in (height, width))
    return [(t, x, min(window, height), min(window, width)) for t in tops for x in lefts]
