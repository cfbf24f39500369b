"""The parts of a step: how long each takes, and what the networks hand over."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from densessl.backbones import Backbone
from densessl.benchmark.clock import wait


class Parts:
    """A clock that hooks turn from part to part, within a with-block: ``seconds`` of each since the first `begin`.

    Forward, what runs within a backbone or a head is theirs, and the rest the criterion's; backward, all is the
    criterion's until the gradient of a head's output is known, then the head's until that of a map is, and then the
    backbone's, to which the averaging of gradients over processes counts too. The device is waited for at each turn,
    so that the parts are exact and their sum is more than an undisturbed step. ``collected`` are the bytes that maps
    and embeddings of the last forward took.
    """

    def __init__(self, method: nn.Module, device: torch.device) -> None:
        self.method, self.device = method, device
        self.seconds: dict[str, float] = defaultdict(float)
        self.collected = 0
        self._part, self._since = "", 0.0
        self._handles: list[Any] = []
        self._backbones: list[Backbone] = []

    def begin(self, part: str) -> None:
        """The time until the next one is this part's; "" is nobody's."""
        wait(self.device)
        now = perf_counter()
        if self._part:
            self.seconds[self._part] += now - self._since
        self._part, self._since = part, now

    def __enter__(self) -> Parts:
        for module in _networks(self.method):
            if isinstance(module, Backbone):
                self._backbones.append(module)
                setattr(module, "each", self._timed(module.each))  # noqa: B010
                continue
            # Layer by layer, as methods call them; what the last one gives is collected.
            layers = list(module) if isinstance(module, nn.Sequential) else [module]
            for layer in layers:
                self._handles.append(layer.register_forward_pre_hook(lambda *_: self.begin("heads")))
            for layer in layers[:-1]:
                self._handles.append(layer.register_forward_hook(lambda _, __, z: self._leave("heads", [z], 0)))
            self._handles.append(layers[-1].register_forward_hook(lambda _, __, z: self._leave("heads", [z])))
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()
        for backbone in self._backbones:
            del backbone.each

    def _timed(self, each: Callable[[Iterable[Tensor]], list[Tensor]]) -> Callable[[Iterable[Tensor]], list[Tensor]]:
        def timed(images: Iterable[Tensor]) -> list[Tensor]:
            self.begin("backbone")
            maps = each(images)
            self._leave("backbone", maps)
            return maps

        return timed

    def _leave(self, part: str, outputs: list[Tensor], counted: int = 1) -> None:
        self.begin("criterion")
        self.collected += counted * sum(output.nbytes for output in outputs)
        for output in outputs:
            if output.requires_grad:
                output.register_hook(lambda _: self.begin(part))


def _networks(module: nn.Module) -> Iterator[nn.Module]:
    """Backbones, and what stands beside them."""
    for child in module.children():
        if isinstance(child, Backbone) or not any(isinstance(each, Backbone) for each in child.modules()):
            yield child
        else:
            yield from _networks(child)
