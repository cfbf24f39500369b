"""The protocols of probes: seconds on a GPU, comparable only with themselves."""

from typing import Any

from densessl.classification.protocols import Neighbours
from densessl.segmentation.protocols import Fast, Retrieval

TRAIN, VAL = 200, 100  # most pictures with masks that a probe reads
LABELLED = (2000, 1000)  # and with classes

_OURS = "densessl: for the same run at other times, not for other people's scores"
_READ: dict[str, Any] = {
    "output_stride": 32,
    "scale": (512, 256),
    "ratio": (1.0, 1.0),
    "crop": (256, 256),
    "max_share": 1.0,
    "flip": 0.5,
    "photometric": False,
    "batch": 8,
    "crops": TRAIN,
    "inference": "whole",
    "window": None,
    "stride": None,
}

LINEAR = Fast(
    name="probe_linear",
    source=_OURS,
    features="stages",
    places=200,
    lrs=(3e-3, 1e-2, 3e-2, 1e-1),
    weight_decay=1e-3,
    iterations=500,
    rows=1024,
    held_out=0.1,
    **_READ,
)

DENSE_KNN = Retrieval(
    name="probe_dense_knn",
    source=_OURS,
    features="last",
    final_norm=True,
    places=12_800,
    k=30,
    temperature=0.02,
    **_READ,
)

KNN = Neighbours(name="probe_knn", source=_OURS, size=None, nearest=5, weighted=(20,), temperature=0.07)
