"""A linear head from cached features: the backbone sees each crop once, and many learning rates are tried at once."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, grid_sample
from torch.utils.data import DataLoader

from densessl.backbones import Backbone
from densessl.errors import UserError
from densessl.progress import progress
from densessl.reading import normalisation
from densessl.segmentation.datasets import SegmentationDataset
from densessl.segmentation.datasets.files import IGNORE
from densessl.segmentation.heads import LinearHead
from densessl.segmentation.inference import padded_maps
from densessl.segmentation.metrics import mean_iou
from densessl.segmentation.protocols import Fast
from densessl.segmentation.samples import TrainingSamples, batch_of

IN_MEMORY = 2 * 2**30  # bytes of cached features; more of them lie in a temporary file
ROWS = 2**16  # of features that are held twice, or in float64


class Places(NamedTuple):
    """Features (N, C) float16 of places in random order, their classes (N,), and which pictures they are of (N,)."""

    features: Tensor
    classes: Tensor
    pictures: Tensor


def fit(
    backbone: Backbone, data: SegmentationDataset, protocol: Fast, seed: int, device: torch.device, workers: int
) -> tuple[LinearHead, dict[str, float]]:
    """The head, on ``device``, and the mIoU of each learning rate on the sampled places of held-out pictures."""
    channels = list(backbone.channels) if protocol.features == "stages" else [backbone.channels[-1]]
    with tempfile.TemporaryDirectory(prefix="densessl-features-") as folder:
        places = sample(backbone, data, protocol, sum(channels), seed, device, workers, folder)
        seen = places.pictures.unique()
        order = torch.from_numpy(np.random.default_rng(seed).permutation(len(seen)))
        held_out = torch.isin(places.pictures, seen[order[: max(1, round(protocol.held_out * len(seen)))]])
        if held_out.all():
            raise UserError(
                f"{data.title}: held_out={protocol.held_out} of {len(seen)} pictures leaves none to train on"
            )
        mean, variance = moments(places.features)
        if not variance.isfinite().all():
            raise UserError(f"protocol {protocol.name}: features are cached as float16, and some are beyond its range")
        layers = _Layers(sum(channels), len(data.classes), protocol, mean, variance, device)
        layers.train(places, (~held_out).nonzero()[:, 0])
        scores = layers.scores(places, held_out.nonzero()[:, 0])
    best = int(np.argmax(scores))
    head = LinearHead(backbone.channels, len(data.classes), features=protocol.features).to(device)
    assert head.norm.running_mean is not None
    assert head.norm.running_var is not None
    head.norm.running_mean.copy_(mean)
    head.norm.running_var.copy_(variance)
    head.classify.weight.data.copy_(layers.weights[best].detach().T[:, :, None, None])
    head.bias.data.copy_(layers.biases[best].detach())
    return head, {f"lr {lr:g}": score for lr, score in zip(protocol.lrs, scores, strict=True)}


def sample(
    backbone: Backbone,
    data: SegmentationDataset,
    protocol: Fast,
    width: int,
    seed: int,
    device: torch.device,
    workers: int,
    folder: str,
) -> Places:
    """``places`` labelled pixels of each of the protocol's crops. Up to IN_MEMORY in memory, else in ``folder``."""
    total = protocol.crops * protocol.places
    random = torch.Generator().manual_seed(seed)
    if 2 * total * width <= IN_MEMORY:
        features = torch.empty(total, width, dtype=torch.float16)
    else:
        features = torch.from_numpy(np.memmap(f"{folder}/features", np.float16, "w+", shape=(total, width)))
    classes, pictures = torch.zeros(2, total, dtype=torch.long)
    to, done = torch.randperm(total, generator=random), 0  # training then reads rows in a row
    samples = TrainingSamples(data, protocol, seed, *normalisation(backbone))
    loader = DataLoader(samples, protocol.batch, num_workers=workers, collate_fn=batch_of)
    for number, (images, masks) in enumerate(progress(loader, "features")):
        chosen = [_choose(mask, protocol.places, random) for mask in masks]
        maps, size = padded_maps(backbone, images.to(device), final_norm=protocol.final_norm)
        maps = maps if protocol.features == "stages" else maps[-1:]
        for i, where in enumerate(chosen):
            rows = to[done : done + len(where)]
            done += len(where)
            found = at([m[i] for m in maps], where.to(device), masks.shape[2], size)
            features[rows] = found.to("cpu", torch.float16)
            classes[rows] = masks[i].flatten()[where]
            pictures[rows] = samples.index(number * protocol.batch + i)[1]
    # Crops with few labelled pixels leave rows empty: the last rows move there, a part at a time.
    holes, last = to[done:], to[:done]
    holes, last = holes[holes < done], last[last >= done]
    for into, out_of in zip(holes.split(ROWS), last.split(ROWS), strict=True):
        for column in (features, classes, pictures):
            column[into] = column[out_of]
    return Places(features[:done], classes[:done], pictures[:done])


def _choose(mask: Tensor, count: int, random: torch.Generator) -> Tensor:
    """At most ``count`` labelled pixels of a mask, as indices into it."""
    labelled = (mask.flatten() != IGNORE).nonzero()[:, 0]
    return labelled[torch.randperm(len(labelled), generator=random)[:count]]


def at(maps: list[Tensor], where: Tensor, row: int, size: tuple[int, int]) -> Tensor:
    """(places, C): maps (c, h, w) that span ``size``, bilinear, at pixels ``where``, counted in rows of ``row``."""
    height, width = size
    y, x = where // row, where % row
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)[None, None]
    found = [grid_sample(m[None], grid, padding_mode="border", align_corners=False)[0, :, 0] for m in maps]
    return torch.cat(found).T


def moments(features: Tensor, chunk: int = ROWS) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel (C,), in float64 over parts of the rows (N, C)."""
    total, squares = torch.zeros(2, features.shape[1], dtype=torch.float64)
    for part in features.split(chunk):
        total += part.double().sum(0)
    mean = total / len(features)
    for part in features.split(chunk):
        squares += (part.double() - mean).square().sum(0)
    return mean.float(), (squares / len(features)).float()


class _Layers:
    """A linear layer on standardised features for each learning rate, all trained on the same rows."""

    def __init__(
        self, width: int, classes: int, protocol: Fast, mean: Tensor, variance: Tensor, device: torch.device
    ) -> None:
        self.protocol, self.classes, self.device = protocol, classes, device
        self.mean, self.scale = mean.to(device), (variance + nn.BatchNorm2d(1).eps).rsqrt().to(device)
        self.weights = [torch.zeros(width, classes, device=device, requires_grad=True) for _ in protocol.lrs]
        self.biases = [torch.zeros(classes, device=device, requires_grad=True) for _ in protocol.lrs]

    def logits(self, features: Tensor) -> Tensor:
        """(rows, learning rates, classes)."""
        x = (features.to(self.device).float() - self.mean) * self.scale
        return (x @ torch.cat(self.weights, 1) + torch.cat(self.biases)).unflatten(1, (-1, self.classes))

    def train(self, places: Places, rows: Tensor) -> None:
        optimizer = torch.optim.AdamW(
            [
                {"params": pair, "lr": lr}
                for *pair, lr in zip(self.weights, self.biases, self.protocol.lrs, strict=True)
            ],
            weight_decay=self.protocol.weight_decay,
        )
        falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, self.protocol.iterations)
        for part in _parts(rows, self.protocol):
            logits, classes = self.logits(places.features[part]), places.classes[part].to(self.device)
            # Each layer's loss reaches its own weights alone.
            repeated = classes[:, None].expand(-1, logits.shape[1]).flatten()
            loss = cross_entropy(logits.flatten(0, 1), repeated, reduction="sum") / len(part)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            falling.step()

    @torch.no_grad()
    def scores(self, places: Places, rows: Tensor) -> list[float]:
        """mIoU of each layer."""
        counts = torch.zeros(len(self.weights), self.classes * self.classes, dtype=torch.long)
        for part in rows.split(self.protocol.rows):
            guesses, truth = self.logits(places.features[part]).argmax(2).cpu(), places.classes[part]
            for count, guess in zip(counts, guesses.T, strict=True):
                count += torch.bincount(truth * self.classes + guess, minlength=self.classes**2)
        return [mean_iou(count.unflatten(0, (self.classes, self.classes))) for count in counts]


def _parts(rows: Tensor, protocol: Fast) -> Iterator[Tensor]:
    """The rows of each iteration, in turn: they lie in random order already."""
    count = torch.arange(min(protocol.rows, len(rows)))
    for iteration in range(protocol.iterations):
        yield rows[(iteration * len(count) + count) % len(rows)]
