"""What a probe measures: each kind is one evaluation, with labels that are opened once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import densessl.protocol
from densessl.backbones import Backbone
from densessl.classification import evaluation as classification
from densessl.classification.features import read_picture
from densessl.classification.labelled import Labelled, held_out, open_labelled, read_as
from densessl.data.pixels import Pixels
from densessl.probes.few import Few
from densessl.probes.protocols import DENSE_KNN, KNN, LABELLED, LINEAR, TRAIN, VAL
from densessl.segmentation import evaluation as segmentation
from densessl.segmentation.datasets import open_dataset
from densessl.segmentation.protocols import Protocol

if TYPE_CHECKING:
    from densessl.config import ProbesConfig

NAMES = {"linear": "linear_miou", "dense_knn": "dense_knn_miou", "knn": "knn_accuracy"}  # of the scores
DENSE: dict[str, Protocol] = {"linear": LINEAR, "dense_knn": DENSE_KNN}
Score = Callable[[Backbone, str, int], float]  # of a backbone, on a device, with so many workers


def open_kinds(probes: ProbesConfig, pixels: Pixels) -> dict[str, Score]:
    """How each kind that is asked for scores a backbone that reads ``pixels``, from 0 to 1.

    Raises UserError for labels that are wrong.
    """
    found: dict[str, Score] = {}
    if probes.masks:
        train, val = (Few(open_dataset(probes.masks, split), most) for split, most in (("train", TRAIN), ("val", VAL)))
        for part in (train, val):
            part.read_as(pixels).read()
        found |= {kind: partial(_miou, train, val, protocol) for kind, protocol in DENSE.items()}
    if probes.classes:
        known, test = (open_labelled(probes.classes, split) for split in ("train", held_out(probes.classes)))
        for labelled in (known, test):
            read_picture(read_as(labelled, pixels).pictures, 0)
        found["knn"] = partial(_accuracy, known, test)
    return {kind: found[kind] for kind in probes.running}


def label(probes: ProbesConfig, kind: str) -> str:
    """What a score depends on beside the backbone: its kind, the labels and the protocol's hash."""
    path = probes.classes if kind == "knn" else probes.masks
    return f"{NAMES[kind]} of {path}, {densessl.protocol.label(DENSE.get(kind, KNN), [])}"


def _miou(train: Few, val: Few, protocol: Protocol, backbone: Backbone, device: str, workers: int) -> float:
    return segmentation.evaluate(backbone, train, val, protocol, device=device, workers=workers).miou


def _accuracy(train: Labelled, test: Labelled, backbone: Backbone, device: str, workers: int) -> float:
    result = classification.evaluate(backbone, train, test, KNN, device=device, workers=workers, most=LABELLED)
    return result.scores[f"knn{KNN.weighted[0]}"]
