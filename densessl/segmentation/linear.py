"""A head trained on crops by gradient descent, on a frozen backbone or together with it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate
from torch.utils.data import DataLoader

from densessl.backbones import Backbone
from densessl.errors import UserError
from densessl.progress import progress
from densessl.reading import normalisation
from densessl.segmentation.datasets import SegmentationDataset
from densessl.segmentation.datasets.files import IGNORE
from densessl.segmentation.decoders import DecoderHead
from densessl.segmentation.heads import LinearHead
from densessl.segmentation.inference import dense_logits
from densessl.segmentation.protocols import Linear
from densessl.segmentation.samples import TrainingSamples, batch_of


def learning_rate(protocol: Linear, iteration: int) -> float:
    """The schedule's rate from ``lr`` to ``min_lr``, times a linear warm-up, as in mmcv."""
    done = iteration / protocol.iterations
    left = {
        "poly": (1 - done) ** protocol.power,
        "cosine": (1 + math.cos(math.pi * done)) / 2,
        "step": 1.0 if done < 0.8 else 0.1,
    }[protocol.schedule]
    lr = (protocol.lr - protocol.min_lr) * left + protocol.min_lr
    return lr * min(1.0, (iteration + 1) / (protocol.warmup + 1))


def head_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy at the mask's resolution, (B, C, h, w) against (B, H, W); the mean over pixels not ignored."""
    if logits.shape[-2:] != mask.shape[-2:]:
        logits = interpolate(logits, mask.shape[-2:], mode="bilinear", align_corners=False)
    total = cross_entropy(logits, mask, ignore_index=IGNORE, reduction="sum")
    return total / (mask != IGNORE).sum().clamp(min=1)  # a batch of ignored pixels alone is 0, not NaN


def fit(
    backbone: Backbone, data: SegmentationDataset, protocol: Linear, seed: int, device: torch.device, workers: int
) -> tuple[nn.Module, dict[str, float]]:
    """The trained head, on ``device``, and its loss: the mean over the last tenth of the iterations.

    With a ``backbone_lr``, ``backbone`` itself is trained as well, and left in eval mode.
    """
    head = _head(backbone, len(data.classes), protocol).to(device)
    groups = [{"params": list(head.parameters()), "share": 1.0}]
    if protocol.backbone_lr:
        backbone.train()
        groups.append({"params": list(backbone.parameters()), "share": protocol.backbone_lr / protocol.lr})
    optimizer: torch.optim.Optimizer
    if protocol.optimizer == "adamw":
        optimizer = torch.optim.AdamW(groups, protocol.lr, weight_decay=protocol.weight_decay)
    else:
        optimizer = torch.optim.SGD(groups, protocol.lr, 0.9, weight_decay=protocol.weight_decay)
    samples = TrainingSamples(data, protocol, seed, *normalisation(backbone))
    loader = DataLoader(
        samples, protocol.batch, num_workers=workers, collate_fn=batch_of, pin_memory=device.type == "cuda"
    )
    losses = torch.zeros(protocol.iterations, device=device)
    for i, (image, mask) in enumerate(progress(loader, "train head", lambda n: f"loss {losses[n - 1]:.3f}")):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(protocol, i) * group["share"]
        image, mask = image.to(device, non_blocking=True), mask.to(device, non_blocking=True)
        loss = head_loss(dense_logits(backbone, head, image, final_norm=protocol.final_norm), mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses[i] = loss.detach()
    backbone.eval()
    last = float(losses[-max(1, protocol.iterations // 10) :].mean())
    if not math.isfinite(last):
        raise UserError(f"the head's loss became {last}: lr={protocol.lr} is too high, or the features aren't finite")
    return head, {"loss": last}


def _head(backbone: Backbone, classes: int, protocol: Linear) -> nn.Module:
    if protocol.decoder != "linear":
        return DecoderHead(protocol.decoder, backbone.channels, backbone.strides, classes, dropout=protocol.dropout)
    return LinearHead(
        backbone.channels, classes, features=protocol.features, norm=protocol.norm, dropout=protocol.dropout
    )
