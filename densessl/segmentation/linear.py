"""The evaluation: a linear head trained on frozen features, then scored on the validation pictures."""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate
from torch.utils.data import DataLoader

from densessl.backbones import Backbone
from densessl.errors import UserError
from densessl.peak_memory import peak_memory
from densessl.segmentation.datasets import SegmentationDataset
from densessl.segmentation.datasets.files import IGNORE
from densessl.segmentation.heads import LinearHead
from densessl.segmentation.inference import dense_logits, predict
from densessl.segmentation.progress import progress
from densessl.segmentation.protocols import Protocol
from densessl.segmentation.result import Result
from densessl.segmentation.samples import InferenceSamples, TrainingSamples, batch_of, normalisation
from densessl.segmentation.scoring import ALONE, Processes, score


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
    """Trains a linear head on ``train`` and scores it on ``val``; the backbone is left as it was, on ``device``.

    ``backbone`` must have the protocol's output stride (``find_backbone(..., output_stride=protocol.output_stride)``)
    and should carry the mean and std of its pictures in ``metadata``; ImageNet's are taken otherwise. ``seed`` decides
    the head's first weights, the order of the pictures, crops and dropout. The result doesn't depend on ``workers``,
    nor on ``processes``: each trains the same head, which no more of them make faster, and they share the validation.
    Raises UserError for data or settings that don't fit together, before training.
    """
    if backbone.output_stride != protocol.output_stride:
        raise UserError(
            f"protocol {protocol.name} needs a backbone of output stride {protocol.output_stride}, this one has "
            f"{backbone.output_stride}: load it with output_stride={protocol.output_stride}"
        )
    if backbone.in_chans != 3:
        raise UserError(f"segmentation reads RGB pictures; this backbone takes {backbone.in_chans} channels")
    if train.classes != val.classes:
        raise UserError(f"{train.title}: the classes of training and validation differ")
    for dataset in (train, val):
        if not len(dataset):
            raise UserError(f"{dataset.title}: the split {dataset.split} is empty")
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
            head, loss = _train(backbone, train, protocol, seed, place, workers)
            for value in head.eval().state_dict().values():
                processes.from_first(value)  # GPUs add in any order, so heads may differ in the last digits
            trained = time.perf_counter()
            samples = InferenceSamples(val, protocol, *normalisation(backbone))
            counts, shown = score(
                lambda image, size: predict(backbone, head, image, protocol, size),
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
        data={
            "name": train.title,
            "train": {"split": train.split, "pictures": len(train)},
            "val": {"split": val.split, "pictures": len(val)},
        },
        backbone={
            "timm_name": backbone.name,
            "channels": backbone.channels,
            "strides": backbone.strides,
            **backbone.metadata,
        },
        device=str(place),
        loss=loss,
        seconds=seconds,
        memory=peak_memory(place),
        processes=processes.world_size,
    )


def find_device(device: str) -> torch.device:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=device).device  # a bare cuda gets its number
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {device}: {str(error).splitlines()[0]}") from None


def learning_rate(protocol: Protocol, iteration: int) -> float:
    """Polynomial decay from ``lr`` to ``min_lr``, times a linear warm-up, as in mmcv."""
    left = (1 - iteration / protocol.iterations) ** protocol.power
    lr = (protocol.lr - protocol.min_lr) * left + protocol.min_lr
    return lr * min(1.0, (iteration + 1) / (protocol.warmup + 1))


def head_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy at the mask's resolution, (B, C, h, w) against (B, H, W); the mean over pixels not ignored."""
    if logits.shape[-2:] != mask.shape[-2:]:
        logits = interpolate(logits, mask.shape[-2:], mode="bilinear", align_corners=False)
    total = cross_entropy(logits, mask, ignore_index=IGNORE, reduction="sum")
    return total / (mask != IGNORE).sum().clamp(min=1)  # a batch of ignored pixels alone is 0, not NaN


def _train(
    backbone: Backbone, data: SegmentationDataset, protocol: Protocol, seed: int, device: torch.device, workers: int
) -> tuple[LinearHead, float]:
    head = LinearHead(backbone.channels, len(data.classes), features=protocol.features, dropout=protocol.dropout).to(
        device
    )
    optimizer: torch.optim.Optimizer
    if protocol.optimizer == "adamw":
        optimizer = torch.optim.AdamW(head.parameters(), protocol.lr, weight_decay=protocol.weight_decay)
    else:
        optimizer = torch.optim.SGD(head.parameters(), protocol.lr, 0.9, weight_decay=protocol.weight_decay)
    samples = TrainingSamples(data, protocol, seed, *normalisation(backbone))
    loader = DataLoader(
        samples, protocol.batch, num_workers=workers, collate_fn=batch_of, pin_memory=device.type == "cuda"
    )
    losses = torch.zeros(protocol.iterations, device=device)
    for i, (image, mask) in enumerate(progress(loader, "train head", lambda n: f"loss {losses[n - 1]:.3f}")):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(protocol, i)
        image, mask = image.to(device, non_blocking=True), mask.to(device, non_blocking=True)
        loss = head_loss(dense_logits(backbone, head, image), mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses[i] = loss.detach()
    last = float(losses[-max(1, protocol.iterations // 10) :].mean())
    if not math.isfinite(last):
        raise UserError(f"the head's loss became {last}: lr={protocol.lr} is too high, or the features aren't finite")
    return head, last
