"""How a backbone reads pictures: with the channels and values of its pretraining, less mean, by std."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from densessl.backbones import Backbone
from densessl.colours import colours
from densessl.data.pixels import Pixels

COLOUR = ("mean", "std")


def pixel_facts(pixels: Pixels) -> dict[str, Any]:
    """What a backbone's metadata say of them: nothing where pictures have 8 bits."""
    if not pixels.scaled:
        return {}
    facts: dict[str, Any] = {"range": pixels.range, "percentiles": pixels.percentiles}
    return {"pixels": facts | ({"nodata": pixels.nodata} if pixels.nodata else {})}


def pixels_of(backbone: Backbone) -> Pixels:
    """As in its pretraining, and upright. Equal to RGB where the backbone says nothing else."""
    told: Any = backbone.metadata.get("pixels") or {}
    bounds = tuple((low, high) for low, high in told.get("range") or ())
    percentiles = tuple(told.get("percentiles") or ())
    return Pixels(backbone.in_chans, bounds, percentiles or None, nodata=tuple(told.get("nodata") or ()))


def normalisation(backbone: Backbone) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std, per channel, of the pictures it was trained on, from 0 to 1; ImageNet's where it doesn't say."""
    facts: Any = {**colours(backbone.in_chans), **backbone.metadata}
    return facts["mean"], facts["std"]


def read_alike(backbone: Backbone, metadata: Mapping[str, object]) -> None:
    """Let random weights read pictures as the backbone with these metadata does."""
    backbone.metadata |= {key: metadata[key] for key in (*COLOUR, "pixels") if key in metadata}


def described(pixels: Pixels) -> str:
    """In a few words, as in "2 channels, values from 0 to 4095 and 10 to 900"."""
    what = "RGB" if pixels.channels == 3 else f"{pixels.channels} channel{'s' * (pixels.channels > 1)}"
    but = f" without {' and '.join(f'{number:g}' for number in pixels.nodata)}" if pixels.nodata else ""
    if pixels.percentiles:
        low, high = pixels.percentiles
        return f"{what}, values from percentile {low:g} to {high:g} of each picture's channel{but}"
    if pixels.range:
        return f"{what}, values from {' and '.join(f'{low:g} to {high:g}' for low, high in pixels.range)}{but}"
    return f"{what} of 8 bits"
