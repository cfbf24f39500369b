"""Targets: networks that are not trained but follow those that are."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from densessl.backbones import Backbone, pooled
from densessl.errors import UserError
from densessl.heads import each
from densessl.training.distributed import gather, own, permutation, world_size


class Target(nn.ModuleList):
    """Copies of ``parts`` (a backbone, then its heads) that `follow` moves towards them.

    Nothing in it needs a gradient, its batch statistics are its own, those of the pictures it sees, and drop path is
    off. ``groups`` is for `shuffled`; raises UserError where processes can't share them.
    """

    def __init__(self, *parts: nn.Module, groups: int | None = None) -> None:
        super().__init__(copy.deepcopy(part) for part in parts)
        self.groups = groups
        self.shuffles = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.modules())
        if groups and self.shuffles and groups % world_size():
            raise UserError(
                f"method.groups={groups} can't be shared out equally among {world_size()} processes: set a multiple"
            )
        self.own_statistics = groups is not None  # synchronise_batch_norm spares them
        self.requires_grad_(False)
        for module in self.modules():
            if isinstance(module, DropPath):
                module.drop_prob = 0.0

    @torch.no_grad()
    def forward(self, images: Iterable[Tensor]) -> list[Tensor]:
        """The projections of the pooled vectors of several batches, without gradient."""
        return each(self[1], map(pooled, self.maps(images)))

    @torch.no_grad()
    def maps(self, images: Iterable[Tensor]) -> list[Tensor]:
        """The last maps of several batches, as Backbone.each gives them."""
        backbone = self[0]
        assert isinstance(backbone, Backbone)
        return backbone.each(images)

    @torch.no_grad()
    def follow(self, *parts: nn.Module, momentum: float) -> None:
        """Keep the share ``momentum`` of each parameter and take the rest from ``parts``, those it was copied from."""
        ours: list[Tensor] = list(self.parameters())
        theirs: list[Tensor] = [p for part in parts for p in part.parameters()]
        torch._foreach_lerp_(ours, theirs, 1 - momentum)

    @torch.no_grad()
    def shuffled(self, function: Callable[[Tensor], tuple[Tensor, ...]], image: Tensor) -> tuple[Tensor, ...]:
        """``function`` of everyone's pictures in ``groups`` random parts with batch statistics of their own.

        Returns this process's rows. MoCo shuffles pictures between its GPUs, 32 on each of 8, so that a query can't
        tell its key by the statistics they share (He et al. 2020 §3.3, https://arxiv.org/abs/1911.05722). Here the
        parts are the same with any number of processes that divides ``groups``.
        """
        assert self.groups is not None
        if not self.shuffles:
            return function(image)  # a picture's features are its own: nothing to hide, and nothing to send
        everyone = gather(image)
        order = permutation(len(everyone), image.device)
        parts = [function(everyone[rows]) for rows in own(order).chunk(self.groups // world_size())]
        back = order.argsort()
        return tuple(own(gather(torch.cat(part))[back]) for part in zip(*parts, strict=True))


def rising(momentum: float, progress: float) -> float:
    """From ``momentum`` to 1 along half a cosine of the run. BYOL §3.2, https://arxiv.org/abs/2006.07733."""
    return 1 - (1 - momentum) * (math.cos(math.pi * progress) + 1) / 2
