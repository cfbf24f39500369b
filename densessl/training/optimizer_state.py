"""An optimiser's state by the names of the weights: whole, whatever parts of it the processes hold.

So that any number of processes and any stage of ZeRO can go on with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from densessl.training import distributed


def collect(optimizer: Any, names: Mapping[Tensor, str]) -> dict[str, Tensor]:
    """WEIGHT/KEY: of the weight's shape, or a number. On the CPU of the first process; a call of all processes."""
    found: dict[str, Tensor] = {}
    for part, weights, base, _ in _parts(optimizer):
        for key, value in base.state.get(part, {}).items():
            value = torch.as_tensor(value)
            for weight in weights:
                whole = _whole(value, weight, part) if value.shape == part.shape else value.clone()
                if distributed.is_first():
                    found[f"{names[weight]}/{key}"] = whole.cpu().contiguous()
    return found


def spread(optimizer: Any, names: Mapping[Tensor, str], found: Mapping[str, Tensor]) -> None:
    """Give this process its parts of what `collect` returned."""
    of: dict[str, dict[str, Tensor]] = {}
    for path, value in found.items():
        name, _, key = path.rpartition("/")
        of.setdefault(name, {})[key] = value
    for part, weights, base, group in _parts(optimizer):
        for key, value in of.get(names[weights[0]], {}).items():
            if value.shape != weights[0].shape:  # steps, which must lie where the optimiser looks for them
                on_device = group.get("fused") or group.get("capturable")
                base.state[part][key] = value.to(part.device if on_device else "cpu")
                continue
            base.state[part][key] = room = torch.zeros_like(part)
            for weight in weights:
                value = of[names[weight]][key].to(part.device)
                if weight is part:
                    room.copy_(value)
                elif place := _place(weight):
                    room[place[0]] = value.flatten()[place[1]]


def _parts(optimizer: Any) -> Iterator[tuple[Tensor, list[Tensor], torch.optim.Optimizer, dict[str, Any]]]:
    """What the state is kept for, the weights of which it holds something, the optimiser that keeps it, its group.

    That is each weight itself or, with ZeRO, this process's part of all weights of a group, end to end.
    """
    if hasattr(optimizer, "single_partition_of_fp32_groups"):
        base = optimizer.optimizer
        parts = zip(optimizer.single_partition_of_fp32_groups, optimizer.bit16_groups, base.param_groups, strict=True)
        yield from ((part, list(weights), base, group) for part, weights, group in parts)
    else:
        yield from ((p, [p], optimizer, group) for group in optimizer.param_groups for p in group["params"])


def _whole(value: Tensor, weight: Tensor, part: Tensor) -> Tensor:
    if weight is part:
        return value
    whole = value.new_zeros(weight.numel())
    if place := _place(weight):
        whole[place[1]] = value[place[0]]
    return distributed.total(whole).view(weight.shape)  # of zeros but in one process, so exact


def _place(weight: Any) -> tuple[slice, slice] | None:
    """Where in this process's part a piece of ``weight`` lies, and where in the weight; None if there is none."""
    if weight._hp_mapping is None:
        return None
    there, here = weight._hp_mapping.hp_fragment_address, weight._hp_mapping.lp_fragment_address
    return slice(there.start, there.start + there.numel), slice(here.start, here.start + here.numel)
