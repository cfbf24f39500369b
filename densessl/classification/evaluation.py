"""The evaluation: every way that a protocol has to classify the test pictures, from features or by fine-tuning."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from densessl.backbones import Backbone
from densessl.classification.features import crop_size, features, read_picture, refuse_small
from densessl.classification.finetune import fine_tune
from densessl.classification.knn import nearest_knn, top, weighted_knn
from densessl.classification.labelled import Labelled, read_as
from densessl.classification.linear import probe
from densessl.classification.protocols import Augmented, FineTune, Neighbours, Probe, Protocol, Sweep
from densessl.classification.protocols.frozen import LINEAR_FEATURES
from densessl.classification.subset import balanced
from densessl.classification.sweep import hold_out, sweep, sweep_crops
from densessl.device import find_device
from densessl.errors import UserError
from densessl.outcomes import backbone_facts
from densessl.reading import pixels_of

MANY = 10  # classes, above which five guesses say something
Fitted = tuple[Tensor, dict[str, Any]]  # (M, classes) votes, and what training says of itself


@dataclass(frozen=True, kw_only=True)
class Result:
    """One backbone, one seed. Scores are fractions of the test pictures, named knn5, knn20, ..., linear, fine_tuned."""

    scores: dict[str, float]
    top5: dict[str, float]  # by the same names; empty for 10 classes and fewer
    fitted: dict[str, Any]  # the chosen learning rate and what each came to on held-out training pictures, or the loss
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
    rows: np.ndarray | None = None,
) -> Result:
    """Classifies ``test`` by what the backbone makes of ``train``; it stays as it is, but is left on ``device``.

    Pictures are read with the channels and values of its pretraining.
    Of each split the first ``most`` pictures of a shuffle by ``seed`` count, of those of training the protocol's
    ``fraction``; or, of training, the pictures ``rows``. ``seed`` also decides first weights, order and crops; the
    result doesn't depend on ``workers``. Raises UserError for data that don't fit together.
    """
    train, test = (read_as(split, pixels_of(backbone)) for split in (train, test))
    if test.labels.max() >= len(train.classes):
        raise UserError(f"a test picture has label {test.labels.max()}, training has {len(train.classes)} classes")
    place = find_device(device)
    backbone = backbone.to(place)
    if rows is None:
        rows = _first(train, most[0], seed)
        if protocol.fraction < 1:
            rows = rows[balanced(train.labels[rows], protocol.fraction, seed)]
    scored = _first(test, most[1], seed)
    size = protocol.size or crop_size(train.pictures)
    y, truth = (torch.from_numpy(s.labels[r]).to(place) for s, r in ((train, rows), (test, scored)))

    def read(split: Labelled, which: np.ndarray, title: str, network: Backbone = backbone) -> Tensor:
        found = features(network, split.pictures, which, size=size, workers=workers, title=f"{title} features")
        if not found.isfinite().all():
            raise UserError("the backbone's features aren't finite: its training went wrong")
        return found.to(place)

    started = time.perf_counter()
    ways: dict[str, Callable[[], Tensor | Fitted]] = {}
    seconds: dict[str, float] = {}
    crops: dict[str, Any] = {"seed": seed, "workers": workers}
    if isinstance(protocol, Neighbours):
        x, z = read(train, rows, "train"), read(test, scored, "test")
        ways[f"knn{protocol.nearest}"] = partial(nearest_knn, x, y, z, protocol.nearest)
        for k in protocol.weighted:
            ways[f"knn{k}"] = partial(weighted_knn, x, y, z, k, protocol.temperature)
        if isinstance(protocol, Probe):
            ways["linear"] = partial(probe, x, y, z, protocol, seed)
        if isinstance(protocol, Sweep):
            ways["linear"] = partial(sweep, x, y, z, len(train.classes), protocol, seed)
    else:
        crops["side"] = _side(backbone, train, size)
    if isinstance(protocol, Augmented):
        kept, held_out = hold_out(len(rows), protocol.held_out, seed)
        choosing = read(train, rows[held_out], "held-out"), y[torch.from_numpy(held_out).to(place)]
        z = read(test, scored, "test")
        ways["linear"] = partial(sweep_crops, backbone, train, rows[kept], choosing, z, protocol, **crops)
    if ways:
        seconds["features"] = time.perf_counter() - started

    def fine_tuned(protocol: FineTune, rows: np.ndarray) -> Fitted:
        tuned, layer, loss = fine_tune(backbone, train, rows, protocol, **crops)
        with torch.no_grad():
            return layer(read(test, scored, "test", tuned)), {"loss": loss}

    if isinstance(protocol, FineTune):
        ways["fine_tuned"] = partial(fine_tuned, protocol, rows)
    scores, top5 = {}, {}
    fitted: dict[str, Any] = {}
    for name, classify in ways.items():
        started = time.perf_counter()
        found = classify()
        votes, why = (found, {}) if isinstance(found, Tensor) else found
        fitted |= why
        scores[name] = top(votes, truth)
        if len(train.classes) > MANY:
            top5[name] = top(votes, truth, 5)
        seconds[name] = time.perf_counter() - started
    return Result(
        scores=scores,
        top5=top5,
        fitted=fitted,
        protocol=protocol,
        seed=seed,
        pictures=(len(rows), len(truth)),
        backbone=backbone_facts(backbone),
        device=str(place),
        seconds={name: round(value, 1) for name, value in seconds.items()},
    )


def _first(split: Labelled, most: int | None, seed: int) -> np.ndarray:
    """Indices, ascending, of the first pictures of a shuffle."""
    return np.sort(np.random.default_rng(seed).permutation(len(split.labels))[:most])


def _side(backbone: Backbone, train: Labelled, size: int | None) -> int:
    """Of training crops: the size of the test crops; of pictures taken as they are, the short side."""
    side = size or min(read_picture(train.pictures, 0).shape[:2])
    refuse_small(backbone, side, side)
    return side
