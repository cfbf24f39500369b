"""Fine-tuning: a copy of the backbone and a linear layer on its pooled features are trained on few labels."""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from densessl.backbones import Backbone, pooled
from densessl.classification.crops import crop_loader
from densessl.classification.features import normalised
from densessl.classification.labelled import Labelled
from densessl.classification.protocols.base import FineTune
from densessl.classification.sweep import DEVIATION
from densessl.errors import UserError
from densessl.progress import progress


def fine_tune(
    backbone: Backbone,
    train: Labelled,
    rows: np.ndarray,
    protocol: FineTune,
    *,
    side: int,
    seed: int,
    workers: int,
) -> tuple[Backbone, nn.Linear, float]:
    """The trained copy, its linear layer, and the mean loss of the last epoch; ``backbone`` stays as it was.

    As in VICReg (https://arxiv.org/abs/2105.04906, evaluate.py): SGD with a rate for each of the two, BatchNorm in
    training mode, random crops of the pictures ``rows`` of ``train``. ``seed`` decides first weights, order and crops.
    Raises UserError for a loss that isn't finite, and for batches of a single picture.
    """
    device = next(backbone.parameters()).device
    tuned = copy.deepcopy(backbone).requires_grad_(True).train()
    layer = nn.utils.skip_init(nn.Linear, tuned.channels[-1], len(train.classes), device=device)
    with torch.no_grad():
        first = torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(seed))
        layer.weight.copy_(DEVIATION * first)
        layer.bias.zero_()
    optimizer = torch.optim.SGD(
        [
            {"params": layer.parameters(), "lr": protocol.lr_head},
            {"params": tuned.parameters(), "lr": protocol.lr_backbone},
        ],
        momentum=protocol.momentum,
        weight_decay=protocol.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, protocol.epochs)
    loader = crop_loader(train, rows, protocol, side=side, seed=seed, workers=workers, pin_memory=device.type == "cuda")
    steps = len(loader) // protocol.epochs
    if len(rows) < 2 * steps:
        raise UserError(f"fine-tuning needs two pictures a batch; there are {len(rows)}, batch={protocol.batch}")
    losses: list[float] = []
    for images, labels in progress(loader, "fine-tune", lambda n: f"loss {losses[n - 1]:.3f}"):
        logits = layer(pooled(tuned(normalised(tuned, images))[-1]))
        loss = cross_entropy(logits, labels.to(device, non_blocking=True))
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise UserError(
                f"the loss became {losses[-1]} in step {len(losses)} of {len(loader)}: lower lr_backbone="
                f"{protocol.lr_backbone} or lr_head={protocol.lr_head}, or the backbone's weights went wrong"
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if len(losses) % steps == 0:
            schedule.step()
    return tuned, layer, math.fsum(losses[-steps:]) / steps
