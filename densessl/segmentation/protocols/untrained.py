"""Protocols that train nothing."""

from typing import Any

from densessl.segmentation.protocols.base import Clusters, Retrieval
from densessl.segmentation.protocols.mmseg import PICTURES, SLIDE

_READ: dict[str, Any] = (
    PICTURES
    | SLIDE
    | {
        "features": "last",
        "output_stride": 32,
        "final_norm": True,
        "photometric": False,
        "batch": 16,
        "crops": 4000,
        "places": 400_000,
    }
)

HUMMINGBIRD = Retrieval(
    name="hummingbird",
    source="Hummingbird (https://arxiv.org/abs/2306.01667): 30 neighbours, temperature 0.02, of places of the last "
    "map; theirs remembers up to 10 million places of a ViT, ours 400,000",
    k=30,
    temperature=0.02,
    **_READ,
)

OVERCLUSTERING = Clusters(
    name="overclustering",
    source="densessl, after Leopart (https://arxiv.org/abs/2204.13101): 500 clusters, here found and named on training "
    "pictures, there on the validation pictures themselves, which is easier",
    clusters=500,
    iterations=20,
    **_READ,
)
