"""Where what is not finite began: looked for after a step that had to be skipped, by computing it again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from densessl.data.views import Views
from densessl.method import Method
from densessl.training import distributed

FEW = 3  # that are named


class Causes(NamedTuple):
    """In words, the first one first. ``own``: a weight or a picture of this process is among them."""

    own: bool
    words: list[str]


def broken_weights(method: nn.Module) -> list[str]:
    """The names of weights and buffers that are not finite."""
    return [name for name, value in method.state_dict().items() if not finite(value)]


def explain(
    method: Method, terms_of: Callable[[Views], dict[str, Tensor]], views: Views, name_of: Callable[[int], str]
) -> Causes:
    """What is not finite in a step; nothing if it is finite when it is computed again.

    Forward and backward run once more, so all processes call it alike, random numbers seeded as in the step. Running
    statistics move; nothing else changes. ``name_of`` names a picture by its number.
    """
    found = [f"{shown(names)} among the weights" for names in (broken_weights(method),) if names]
    pictures = _pictures(method, views)  # before the forward moves running statistics
    own = bool(found or pictures)
    maps, gradients = _First(), _First()
    with torch.compiler.set_stance("force_eager"), _watched(method, maps, gradients):
        terms = terms_of(views)
        weights = {name: p for name, p in method.named_parameters() if p.requires_grad}
        loss = torch.stack(list(terms.values())).sum()
        of_weights = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    if pictures:
        all_of_them = len(pictures) == len(views.large[0].image)
        whose = f"all {len(pictures)} pictures" if all_of_them else shown([name_of(i) for i in pictures])
        found.append(f"the feature map{'s' if len(pictures) > 1 else ''} of {whose}")
    if maps.name:
        found.append(f"in the forward first the output of {maps.name}")
    if broken := [name for name, value in terms.items() if not finite(value)]:
        found.append(f"the terms {', '.join(broken)}")
    else:
        if gradients.name:
            found.append(f"in the backward first the gradient that arrives at {gradients.name}")
        zipped = zip(weights, of_weights, strict=True)
        if names := [name for name, gradient in zipped if gradient is not None and not finite(gradient)]:
            found.append(f"the gradient of {shown(names)}")
    return Causes(own, found)


def in_words(values: dict[str, Tensor], causes: Causes) -> str:
    """Which of a step's ``values`` (terms, loss, gradient) are not finite, and why, in each process; "" if all are.

    ``causes`` are what `explain` found. Where a weight or a picture is the cause in some, the others' are left out. A
    call of all processes.
    """
    names = [name for name, value in values.items() if not finite(value)]
    names = [name for name in names if name not in ("loss", "gradient")] or names  # the cause, if a term is it
    again = "computed again it is finite: the hardware, or an operation that is not deterministic"
    text = f"{', '.join(names)}; the cause: {'; '.join(causes.words) or again}" if names else ""
    everyones = distributed.gather_objects((causes.own, text))
    owned = any(own for own, _ in everyones)
    found: dict[str, list[str]] = {}
    for rank, (own, each) in enumerate(everyones):
        if own or not owned:
            found.setdefault(each, []).append(str(rank))
    if [len(ranks) for ranks in found.values()] == [len(everyones)]:
        return next(iter(found))
    found.pop("", None)
    return ". ".join(f"in process {', '.join(r)} of {len(everyones)}: {each}" for each, r in found.items())


def finite(value: Tensor) -> bool:
    return bool(value.isfinite().all())


def shown(names: list[str]) -> str:
    return ", ".join(names[:FEW]) + (f" and {len(names) - FEW} more" if len(names) > FEW else "")


class _First:
    """The first module at which something was not finite."""

    name = ""

    def note(self, module: str, value: Tensor) -> None:
        if not self.name and not finite(value):
            self.name = module


@contextmanager
def _watched(method: nn.Module, outputs: _First, gradients: _First) -> Iterator[None]:
    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: Any, output: Any) -> None:
            for value in tree_leaves(output):
                if isinstance(value, Tensor) and value.is_floating_point():
                    outputs.note(name, value.detach())
                    if value.requires_grad:
                        value.register_hook(lambda gradient: gradients.note(name, gradient))

        return hook

    # Inner modules come first, so the first that is noted is an innermost one.
    handles = [
        module.register_forward_hook(watch(f"{name} ({type(module).__name__})"))
        for name, module in method.named_modules()
        if name
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _pictures(method: Method, views: Views) -> list[int]:
    """Those whose maps are not finite each by itself: batch statistics would spread one's over all.

    Numbers in the collection if the views tell them, else in the batch.
    """
    modes = {module: module.training for module in method.backbone.modules()}
    try:
        maps = method.backbone.eval().each(view.image for view in (*views.large, *views.small))
    finally:
        for module, mode in modes.items():
            module.training = mode
    broken = ~torch.stack([last.flatten(1).isfinite().all(1) for last in maps]).all(0)
    numbers = torch.arange(len(broken)) if views.pictures is None else views.pictures.cpu()
    return numbers[broken.cpu()].tolist()
