"""The filters of the first layer."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from densessl.backbones import Backbone
from densessl.data.contact import as_rgb
from densessl.visual.figure import Figure, Tile

MOST = 144  # filters shown
WIDE = 480  # pixels of the grid, about


def first_filters(backbone: Backbone) -> Tensor:
    """(filters, channels, height, width) of the first convolution."""
    return next(m.weight.detach().float().cpu() for m in backbone.net.modules() if isinstance(m, nn.Conv2d))


def grid(filters: Tensor) -> np.ndarray:
    """(h, w, 3) uint8 of filters (F, C, h, w), in order: zero is middle grey, one scale for all.

    The largest 0.5 % of the weights are cut. One channel is grey, two are red and green, of more the first three shown.
    """
    reach = max(float(np.quantile(filters.abs().numpy(), 0.995)), 1e-12)
    shades = ((filters / reach).clamp(-1, 1) * 127 + 128).round().byte().permute(0, 2, 3, 1).numpy()
    shown = [as_rgb(each) for each in shades]
    if filters.shape[1] == 2:
        shown = [np.dstack([each[..., :2], np.full_like(each[..., :1], 128)]) for each in shown]
    columns = int(np.ceil(len(shown) ** 0.5))
    zoom = max(1, WIDE // (columns * (filters.shape[3] + 1)))
    high, wide = (side * zoom + max(1, zoom // 3) for side in filters.shape[2:])
    page = np.full((-(-len(shown) // columns) * high, columns * wide, 3), 255, np.uint8)
    for n, each in enumerate(shown):
        large = np.kron(each, np.ones((zoom, zoom, 1), np.uint8))
        top, left = n // columns * high, n % columns * wide
        page[top : top + large.shape[0], left : left + large.shape[1]] = large
    return page[: -max(1, zoom // 3), : -max(1, zoom // 3)]


CAPTION = (
    "The weights of the first convolution, a small square a filter, in their colours: grey is 0, and one scale holds "
    "for all filters of a network.",
    "In a trained ResNet, whose filters have 7 x 7 pixels, edges and spots of colour are seen; weights that were drawn "
    "at random look like noise. Filters that stay flat grey do nothing.",
    "Not to be concluded: much about a ConvNeXt, whose first filters have 4 x 4 pixels; and nothing of deeper layers.",
)


def figure(backbones: Mapping[str, Backbone], *, title: str, name: str = "filters") -> Figure:
    """One tile a backbone."""
    row, facts = [], []
    for column, backbone in backbones.items():
        weights = first_filters(backbone)
        count, channels, high, wide = weights.shape
        size = f"{count} filters of {high} x {wide} pixels and {channels} channel{'s' * (channels > 1)}"
        first = f", the first {MOST} shown" if count > MOST else ""
        row.append(Tile(grid(weights[:MOST]), f"filters of the first layer of {column}: {size}", column))
        deviation = torch.std(weights, correction=0)
        facts.append(f"{column}: {size}{first}; standard deviation of the weights {deviation:.3g}")
    return Figure(name, title, CAPTION, [row], facts, side=WIDE)
