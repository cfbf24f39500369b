"""The linear head: what stands between frozen stage maps and class logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm, conv2d, interpolate

MOMENTUM = 0.1


class LinearHead(nn.Module):
    """BatchNorm (unless ``norm`` is false), channel dropout and a 1x1 convolution on stage maps, as VICRegL (https://arxiv.org/abs/2210.01571).

    ``features`` is "stages": all maps, brought bilinearly to the finest one's size and concatenated, or "last": the
    last map. forward: maps, fine to coarse, each (B, C, H, W) -> logits (B, classes, H, W) at the finest size read.

    Every step is linear in each channel and bilinear weights add up to 1, so each map is normalised and classified at
    its own size and only the logits grow: the same numbers for a fraction of the work.
    """

    def __init__(
        self,
        channels: Sequence[int],
        classes: int,
        *,
        features: str = "stages",
        norm: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.first = 0 if features == "stages" else len(channels) - 1
        self.channels = list(channels[self.first :])
        self.norm = nn.BatchNorm2d(sum(self.channels), momentum=MOMENTUM)
        self.normalises = norm
        if not norm:  # stays at mean 0, variance 1
            self.norm.requires_grad_(False)
            self.norm.eps = 0.0
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(sum(self.channels), classes, 1, bias=False)
        nn.init.normal_(self.classify.weight, std=0.01)
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, maps: list[Tensor]) -> Tensor:
        maps = maps[self.first :]
        height, width = maps[0].shape[-2:]
        mean, variance = self._statistics(maps, height, width)
        own = zip(
            maps,
            *(t.split(self.channels) for t in (mean, variance, self.norm.weight, self.norm.bias)),
            self.classify.weight.split(self.channels, dim=1),
            strict=True,
        )
        total = self.bias.view(1, -1, 1, 1)
        for m, mu, var, gamma, beta, weight in own:
            part = conv2d(self.dropout(_normalised(m, mu, var, gamma, beta, self.norm.eps)), weight)
            if part.shape[-2:] != (height, width):
                part = interpolate(part, (height, width), mode="bilinear", align_corners=False)
            total = total + part
        return total

    def _statistics(self, maps: list[Tensor], height: int, width: int) -> tuple[Tensor, Tensor]:
        """Mean and variance per channel: the batch's in training, which the running ones follow, else those."""
        norm = self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        if not (self.training and self.normalises):
            return norm.running_mean, norm.running_var
        mean, variance = (torch.cat(s) for s in zip(*(resized_moments(m, height, width) for m in maps), strict=True))
        count = len(maps[0]) * height * width
        norm.running_mean.lerp_(mean.detach(), MOMENTUM)
        norm.running_var.lerp_(variance.detach() * count / max(count - 1, 1), MOMENTUM)
        return mean, variance


def _normalised(m: Tensor, mean: Tensor, variance: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    if not mean.requires_grad:  # the backbone is frozen
        return batch_norm(m, mean, variance, weight, bias, eps=eps)
    mean, scale, bias = (t.view(-1, 1, 1) for t in (mean, weight * (variance + eps).rsqrt(), bias))
    return (m - mean) * scale + bias


def resized_moments(m: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Mean and (biased) variance per channel, each (C,), that (B, C, h, w) would have after bilinear resizing.

    Resizing is U m Vᵀ, so the sum is uᵀ m v with the column sums u, v, and the sum of squares of the centred map c is
    the inner product of c and (UᵀU) c (VᵀV): no large map is made.
    """
    rows, columns = (_resizing(a, b, like=m) for a, b in ((m.shape[-2], height), (m.shape[-1], width)))
    mean = torch.einsum("bchw,h,w->c", m, rows.mean(0), columns.mean(0)) / len(m)
    centred = m - mean.view(1, -1, 1, 1)
    spread = (rows.T @ rows / height) @ centred @ (columns.T @ columns / width)
    return mean, (centred * spread).sum((0, 2, 3)) / len(m)


def _resizing(size: int, target: int, like: Tensor) -> Tensor:
    """(target, size): the matrix of bilinear resizing along one side."""
    one = torch.eye(size, device=like.device, dtype=like.dtype)[None]
    return interpolate(one, target, mode="linear", align_corners=False)[0].T
