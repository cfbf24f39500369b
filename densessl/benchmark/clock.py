"""Seconds of calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

import torch


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(call: Callable[[], Any], device: torch.device, times: int = 1) -> float:
    """Of one call, the mean of ``times`` in a row, between which nobody waits for the device."""
    wait(device)
    began = perf_counter()
    for _ in range(times):
        call()
    wait(device)
    return (perf_counter() - began) / times


def in_turns(
    calls: Mapping[str, Callable[[], Any]], repeats: Mapping[str, int], device: torch.device, times: int = 1
) -> dict[str, list[float]]:
    """Each call as often as ``repeats`` says, in turns, so that what else the machine does disturbs all alike."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(max(repeats.values())):
        for name, call in calls.items():
            if turn < repeats[name]:
                found[name].append(seconds(call, device, times))
    return found
