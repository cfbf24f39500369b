"""The evaluation: a detector on a copy of the backbone, trained and then scored; the backbone stays as it is."""

from __future__ import annotations

import copy
import time
from functools import partial

import numpy as np
import torch

from densessl.backbones import Backbone
from densessl.detection.datasets import DetectionDataset
from densessl.detection.detector import build, check_backbone, detect
from densessl.detection.protocols import FPN, Protocol, digest
from densessl.detection.result import Result
from densessl.detection.scoring import Detection, average_precision, detections
from densessl.detection.state import StateFile, fingerprint
from densessl.detection.training import train as train_detector
from densessl.device import find_device, peak_memory
from densessl.errors import UserError
from densessl.outcomes import Row, backbone_facts, data_facts
from densessl.training import distributed
from densessl.trees import refuse_other_classes

SHOWN = 4  # pictures whose detections are kept


def evaluate(
    backbone: Backbone,
    train: DetectionDataset,
    val: DetectionDataset,
    protocol: Protocol,
    *,
    seed: int = 0,
    device: str = "auto",
    workers: int = 0,
    state: StateFile | None = None,
) -> Result:
    """Trains the protocol's detector on a copy of ``backbone`` with ``train`` and scores it on ``val``.

    ``backbone`` should carry the mean and std of its pictures in ``metadata``; ImageNet's are taken otherwise. ``seed``
    decides the first weights of all that is new, the order of the pictures and every draw. A call of all processes:
    they share the pictures of each batch, and the gradient is that of the whole batch, to the last digits where its
    pictures are of one size. Nothing depends on ``workers``, nor on whether a training was resumed from its ``state``.
    Raises UserError for data or settings that don't fit together, before training.
    """
    check(backbone, train, val, protocol)
    place = find_device(device)
    cuda = [place] if place.type == "cuda" else []
    with torch.random.fork_rng(cuda):  # the caller's random numbers stay theirs
        torch.manual_seed(seed)
        started = time.perf_counter()
        if cuda:
            torch.cuda.reset_peak_memory_stats(place)
        detector = build(copy.deepcopy(backbone), len(train.classes), protocol).to(place)
        about = {
            "protocol": digest(protocol),
            "data": train.title,
            "pictures": len(train),
            "seed": seed,
            "weights": fingerprint(detector),
            "mean": list(detector.transform.image_mean),
            "std": list(detector.transform.image_std),
        }
        fitted = train_detector(
            detector, train, protocol, seed=seed, device=place, workers=workers, about=about, state=state
        )
        trained = time.perf_counter()
        found = detections(partial(detect, detector.eval()), val, device=place, workers=workers)
        scores = distributed.on_first(_scores, val, found, protocol)
        seconds = (trained - started, time.perf_counter() - trained)
    shown: dict[int, list[Detection]] = {
        int(index): [] for index in np.linspace(0, len(val) - 1, min(SHOWN, len(val))).round()
    }
    for row in found:
        if row["image_id"] in shown:
            shown[row["image_id"]].append(row)
    return Result(
        scores=scores,
        shown=shown,
        protocol=protocol,
        seed=seed,
        classes=train.classes,
        data=data_facts(train, val),
        backbone=backbone_facts(backbone),
        device=str(place),
        fitted=fitted,
        seconds=seconds,
        memory=peak_memory(place),
        processes=distributed.world_size(),
    )


def check(backbone: Backbone, train: DetectionDataset, val: DetectionDataset, protocol: Protocol) -> None:
    """Raises UserError for what doesn't fit together."""
    check_backbone(backbone, protocol)
    refuse_other_classes(train.title, train.classes, val.classes)
    for data in (train, val):
        if isinstance(protocol, FPN) and protocol.masks and not data.masks:
            raise UserError(
                f"{data.title} {data.split}: protocol {protocol.name} learns masks, but not every object has a "
                "segmentation; masks=false trains Faster R-CNN on the boxes alone"
            )


def _scores(val: DetectionDataset, found: list[Detection], protocol: Protocol) -> dict[Row, float]:
    scores: dict[Row, float] = {}
    masks = isinstance(protocol, FPN) and protocol.masks
    for kind in ("box", "mask") if masks else ("box",):
        groups = average_precision(val, found, kind)
        scores |= {(kind, key): value for key, value in groups["scores"].items()}
        scores |= {(f"class_{kind}", key): value for key, value in groups["class_ap"].items()}
    return scores
