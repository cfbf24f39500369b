"""Linear layers at many learning rates, trained side by side; held-out training pictures choose one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from densessl.backbones import Backbone, pooled
from densessl.classification.crops import crop_loader
from densessl.classification.features import frozen, normalised
from densessl.classification.labelled import Labelled
from densessl.classification.linear import standardised
from densessl.classification.protocols.base import Augmented, Rates, Sweep
from densessl.errors import UserError
from densessl.progress import progress

AT_ONCE = 2**26  # logits: 256 MB
DEVIATION = 0.01  # of the first weights, as in VICReg


class Layers:
    """A linear layer for each learning rate, all with the same first weights and trained on the same rows.

    SGD, whose rates fall by epochs to 0 as a cosine. One product serves all layers, and the loss of each reaches its
    own weights alone: one that diverges leaves the others as they are.
    """

    def __init__(self, width: int, classes: int, protocol: Rates, seed: int, device: torch.device) -> None:
        self.lrs, self.classes = protocol.lrs, classes
        first = DEVIATION * torch.randn(width, classes, generator=torch.Generator().manual_seed(seed))
        self.weights = [first.to(device, copy=True).requires_grad_() for _ in self.lrs]
        self.biases = [torch.zeros(classes, device=device, requires_grad=True) for _ in self.lrs]
        layers = zip(self.weights, self.biases, self.lrs, strict=True)
        self.optimizer = torch.optim.SGD(
            [{"params": pair, "lr": lr} for *pair, lr in layers],
            momentum=protocol.momentum,
            weight_decay=protocol.weight_decay,
        )
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, protocol.epochs)

    def logits(self, features: Tensor) -> Tensor:
        """(B, learning rates, classes)."""
        return (features @ torch.cat(self.weights, 1) + torch.cat(self.biases)).unflatten(1, (-1, self.classes))

    def step(self, features: Tensor, labels: Tensor) -> None:
        """One of SGD on the mean cross-entropy of ``features`` (B, C) and ``labels`` (B,)."""
        logits = self.logits(features)
        repeated = labels[:, None].expand(-1, len(self.lrs)).flatten()
        loss = cross_entropy(logits.flatten(0, 1), repeated, reduction="sum") / len(labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    @torch.no_grad()
    def accuracies(self, features: Tensor, labels: Tensor) -> list[float]:
        """Of each layer; 0 for one that diverged."""
        right = torch.zeros(len(self.lrs), dtype=torch.long, device=features.device)
        size = max(1, AT_ONCE // (self.classes * len(self.lrs)))
        for x, y in zip(features.split(size), labels.split(size), strict=True):
            right += (self.logits(x).argmax(2) == y[:, None]).sum(0)
        whole = [bool(weights.isfinite().all()) for weights in self.weights]
        return [n / len(labels) * finite for n, finite in zip(right.tolist(), whole, strict=True)]

    @torch.no_grad()
    def choose(self, features: Tensor, labels: Tensor, test: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """(M, classes) logits of ``test`` (M, C) by the layer that is best on ``features`` with ``labels``, and why."""
        scores = self.accuracies(features, labels)
        best = int(np.argmax(scores))  # the first of equal ones
        if not self.weights[best].isfinite().all():
            raise UserError(f"the linear layer diverged at every learning rate, {', '.join(map(str, self.lrs))}")
        why = {
            "lr": self.lrs[best],
            "held_out": {str(lr): score for lr, score in zip(self.lrs, scores, strict=True)},
            "held_out_pictures": len(labels),
        }
        return test @ self.weights[best] + self.biases[best], why


def hold_out(count: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices, ascending, of those that train and of those that choose. Raises UserError where none would train."""
    order = np.random.default_rng(seed).permutation(count)
    held_out = max(1, round(share * count))
    if held_out == count:
        raise UserError(f"held_out={share} of {count} training pictures leaves none to train on")
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def sweep(
    train: Tensor, labels: Tensor, test: Tensor, classes: int, protocol: Sweep, seed: int
) -> tuple[Tensor, dict[str, Any]]:
    """(M, classes) logits of ``test`` (M, C), from layers on ``train`` (N, C) with ``labels`` (N,), and what chose.

    Both are standardised with the mean and standard deviation of ``train``.
    """
    kept, held_out = (torch.from_numpy(rows).to(train.device) for rows in hold_out(len(train), protocol.held_out, seed))
    train, test = standardised(train, test)
    layers = Layers(train.shape[1], classes, protocol, seed, train.device)
    random = torch.Generator().manual_seed(seed)
    for _ in range(protocol.epochs):
        order = kept[torch.randperm(len(kept), generator=random).to(train.device)]
        for rows in order.tensor_split(-(-len(kept) // protocol.batch)):  # of nearly equal size
            layers.step(train[rows], labels[rows])
        layers.schedule.step()
    return layers.choose(train[held_out], labels[held_out], test)


def sweep_crops(
    backbone: Backbone,
    train: Labelled,
    kept: np.ndarray,
    held_out: tuple[Tensor, Tensor],
    test: Tensor,
    protocol: Augmented,
    *,
    side: int,
    seed: int,
    workers: int,
) -> tuple[Tensor, dict[str, Any]]:
    """The same from features of random crops of the pictures ``kept`` of ``train``, computed anew in each epoch.

    ``held_out`` has the features and labels that choose. Features are taken as they are, as in the papers.
    """
    layers = Layers(test.shape[1], len(train.classes), protocol, seed, test.device)
    loader = crop_loader(train, kept, protocol, side=side, seed=seed, workers=workers, pin_memory=test.is_cuda)
    steps = len(loader) // protocol.epochs
    for step, (images, labels) in enumerate(progress(loader, "train layers"), 1):
        with frozen(backbone):
            features = pooled(backbone(normalised(backbone, images))[-1])
        layers.step(features, labels.to(test.device, non_blocking=True))
        if step % steps == 0:
            layers.schedule.step()
    return layers.choose(*held_out, test)
