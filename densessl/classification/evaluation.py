"""The evaluation: features of both splits once, then every way to classify them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from densessl.backbones import Backbone
from densessl.classification.features import crop_size, features
from densessl.classification.knn import nearest_knn, top, weighted_knn
from densessl.classification.labelled import Labelled
from densessl.classification.linear import probe
from densessl.classification.protocol import LINEAR_FEATURES, Protocol
from densessl.device import find_device
from densessl.errors import UserError

MANY = 10  # classes, above which five guesses say something


@dataclass(frozen=True, kw_only=True)
class Result:
    """One backbone, one seed. Scores are fractions of the test pictures, named knn5, knn20, knn200 and linear."""

    scores: dict[str, float]
    top5: dict[str, float]  # by the same names; empty for 10 classes and fewer
    protocol: Protocol
    seed: int
    pictures: tuple[int, int]  # of training and test
    backbone: dict[str, Any]
    device: str
    seconds: dict[str, float]  # of features, and by the same names


def evaluate(
    backbone: Backbone,
    train: Labelled,
    test: Labelled,
    protocol: Protocol = LINEAR_FEATURES,
    *,
    seed: int = 0,
    device: str = "auto",
    workers: int = 0,
    most: tuple[int | None, int | None] = (None, None),
) -> Result:
    """Classifies ``test`` by what the frozen backbone makes of ``train``; the backbone is left on ``device``.

    Of each split the first ``most`` pictures of a shuffle by ``seed`` count. ``seed`` also decides the probe's first
    weights and order; the result doesn't depend on ``workers``. Raises UserError for data that don't fit together.
    """
    if backbone.in_chans != 3:
        raise UserError(f"classification reads RGB pictures; this backbone takes {backbone.in_chans} channels")
    if test.labels.max() >= len(train.classes):
        raise UserError(f"a test picture has label {test.labels.max()}, training has {len(train.classes)} classes")
    place = find_device(device)
    backbone = backbone.to(place)
    size = protocol.size or crop_size(train.pictures)

    def read(split: Labelled, most: int | None, title: str) -> tuple[Tensor, Tensor]:
        rows = np.sort(np.random.default_rng(seed).permutation(len(split.labels))[:most])
        found = features(backbone, split.pictures, rows, size=size, workers=workers, title=f"{title} features")
        if not found.isfinite().all():
            raise UserError("the backbone's features aren't finite: its training went wrong")
        return found.to(place), torch.from_numpy(split.labels[rows]).to(place)

    started = time.perf_counter()
    (x, y), (z, truth) = read(train, most[0], "train"), read(test, most[1], "test")
    seconds = {"features": time.perf_counter() - started}
    ways = {
        f"knn{protocol.nearest}": partial(nearest_knn, x, y, z, protocol.nearest),
        **{f"knn{k}": partial(weighted_knn, x, y, z, k, protocol.temperature) for k in protocol.weighted},
        "linear": partial(probe, x, y, z, protocol, seed),
    }
    scores, top5 = {}, {}
    for name, classify in ways.items():
        started = time.perf_counter()
        votes = classify()
        scores[name] = top(votes, truth)
        if len(train.classes) > MANY:
            top5[name] = top(votes, truth, 5)
        seconds[name] = time.perf_counter() - started
    return Result(
        scores=scores,
        top5=top5,
        protocol=protocol,
        seed=seed,
        pictures=(len(y), len(truth)),
        backbone={
            "timm_name": backbone.name,
            "channels": backbone.channels,
            "strides": backbone.strides,
            **backbone.metadata,
        },
        device=str(place),
        seconds={name: round(value, 1) for name, value in seconds.items()},
    )
