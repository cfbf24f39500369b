"""What measurements find, and how they are made: in processes of their own, which alone import what is heavy."""

from __future__ import annotations

import importlib
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from densessl.errors import UserError
from densessl.plan.cost import Cost


@dataclass(frozen=True)
class Machine:
    device: str  # its name
    gpus: int  # 0: training is on the CPU
    cores: int
    busy: float  # share of them that other programs kept busy
    threads: int  # of a training process
    free: float  # bytes that training can have
    bf16: bool  # is used
    bf16_possible: bool


@dataclass(frozen=True)
class Loading:
    """Making views, without training."""

    pictures: int  # of the collection
    rate: float  # of pictures a second
    bytes: float  # that the workers hold, beside the batches that wait
    beware: str = ""  # what the images seem to be, where they seem to be no images


@dataclass(frozen=True)
class Steps:
    machine: Machine
    cost: Cost
    backbone: int  # parameters that are trained
    heads: int
    without_network: Cost  # of heads, criterion and optimiser alone; infinite where it was not asked for


def apart(module: str, function: str, *arguments: Any) -> Any:
    """``function(*arguments)`` of that module of this package, in a fresh process, whose memory is its own.

    Raises what it raises, and UserError where the system ends it.
    """
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(_call, f"{__package__}.{module}", function, arguments).result()
    except BrokenProcessPool:
        raise UserError(
            "the system ended the measurement, as it does when memory runs out: end other programs, or take a smaller "
            "backbone.name or narrower heads"
        ) from None


def _call(module: str, function: str, arguments: tuple[Any, ...]) -> Any:
    return getattr(importlib.import_module(module), function)(*arguments)
