"""The evaluation: a head from the training pictures, scored on the validation pictures; the backbone stays as it is."""

from __future__ import annotations

import copy
import time
from itertools import chain
from typing import Any

import torch

from densessl.backbones import Backbone
from densessl.data.decoding import RGB
from densessl.device import find_device, peak_memory
from densessl.errors import UserError
from densessl.outcomes import backbone_facts, data_facts
from densessl.reading import described, normalisation, pixels_of
from densessl.segmentation import clusters, fast, linear, retrieval
from densessl.segmentation.datasets import SegmentationDataset, read_as
from densessl.segmentation.inference import predict
from densessl.segmentation.protocols import Clusters, Fast, Linear, Protocol, Retrieval
from densessl.segmentation.result import Result
from densessl.segmentation.samples import InferenceSamples
from densessl.segmentation.scoring import ALONE, Processes, score
from densessl.trees import refuse_other_classes

FITS: dict[type[Protocol], Any] = {
    Linear: linear.fit,
    Fast: fast.fit,
    Retrieval: retrieval.fit,
    Clusters: clusters.fit,
}  # how each kind of protocol makes its head


def evaluate(
    backbone: Backbone,
    train: SegmentationDataset,
    val: SegmentationDataset,
    protocol: Protocol,
    *,
    seed: int = 0,
    device: str = "auto",
    workers: int = 0,
    processes: Processes = ALONE,
) -> Result:
    """Makes the protocol's head from ``train`` and scores it on ``val``; the backbone is left as it was, on ``device``.

    Where the protocol fine-tunes, a copy of the backbone is trained and scored.

    ``backbone`` must have the protocol's output stride (``load_backbone(..., output_stride=protocol.output_stride)``)
    and should carry the mean and std of its pictures in ``metadata``; ImageNet's are taken otherwise. Pictures are read
    with the channels and values of its pretraining. ``seed`` decides the head's first weights, the order of the
    pictures, crops and dropout. The result doesn't depend on ``workers``,
    nor on ``processes``: each trains the same head, which no more of them make faster, and they share the validation.
    Raises UserError for data or settings that don't fit together, before training.
    """
    train, val = check(backbone, train, val, protocol)
    for dataset in (train, val):
        dataset.check()

    place = find_device(device)
    was_training, backbone = backbone.training, backbone.to(place).eval()
    cuda = [place] if place.type == "cuda" else []
    try:
        with torch.random.fork_rng(cuda):  # the caller's random numbers stay theirs
            torch.manual_seed(seed)
            started = time.perf_counter()
            if cuda:
                torch.cuda.reset_peak_memory_stats(place)
            network = copy.deepcopy(backbone) if getattr(protocol, "backbone_lr", 0) else backbone
            head, fitted = FITS[type(protocol)](network, train, protocol, seed, place, workers)
            made = [head] if network is backbone else [head, network]
            for value in chain(*(module.eval().state_dict().values() for module in made)):
                processes.from_first(value)  # GPUs add in any order, so heads may differ in the last digits
            trained = time.perf_counter()
            samples = InferenceSamples(val, protocol, *normalisation(backbone))
            counts, shown = score(
                lambda image, size: predict(network, head, image, protocol, size),
                samples,
                device=place,
                workers=workers,
                processes=processes,
            )
            seconds = (trained - started, time.perf_counter() - trained)
    finally:
        backbone.train(was_training)
    return Result(
        counts=counts,
        shown=shown,
        head=head,
        protocol=protocol,
        seed=seed,
        classes=train.classes,
        data=data_facts(train, val),
        backbone=backbone_facts(backbone),
        device=str(place),
        fitted=fitted,
        seconds=seconds,
        memory=peak_memory(place),
        processes=processes.world_size,
    )


def check(
    backbone: Backbone, train: SegmentationDataset, val: SegmentationDataset, protocol: Protocol
) -> tuple[SegmentationDataset, SegmentationDataset]:
    """The data sets, their pictures read as the backbone's were. Raises UserError for what doesn't fit together."""
    if backbone.output_stride != protocol.output_stride:
        raise UserError(
            f"protocol {protocol.name} needs a backbone of output stride {protocol.output_stride}, this one has "
            f"{backbone.output_stride}: load it with output_stride={protocol.output_stride}"
        )
    refuse_other_classes(train.title, train.classes, val.classes)
    for data in (train, val):
        if not len(data):
            raise UserError(f"{data.title}: the split {data.split} is empty")
    pixels = pixels_of(backbone)
    train, val = read_as(train, pixels), read_as(val, pixels)
    if protocol.photometric and pixels != RGB:
        raise UserError(
            f"protocol {protocol.name} distorts the colours of RGB pictures of 8 bits, and this backbone takes "
            f"{described(pixels)}: photometric=false leaves them as they are"
        )
    return train, val
