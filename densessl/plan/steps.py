"""Short trainings: what a step of a recipe takes at the batches that are quick enough to try."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import closing, contextmanager
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from densessl.backbones import Backbone
from densessl.config import Config
from densessl.data.crops import view_affine
from densessl.data.to_device import ToDevice
from densessl.data.views import View, Views
from densessl.device import peak_memory, reset_peak_memory
from densessl.plan.batches import sizes
from densessl.plan.cost import SLOW, Cost, Point
from densessl.plan.found import Steps
from densessl.plan.machine import look
from densessl.training.assembly import assemble
from densessl.training.engine import Engine, connect
from densessl.training.launch import setup

CALM = 0.6  # share of free main memory that a next batch may be expected to take: beyond it the machine would stall
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")  # as torch says it


def measure(cfg: Config, pictures: int, seconds: float) -> Steps:
    """Steps of ``cfg`` at growing batches, two or as many as ``seconds`` allow.

    The networks are the recipe's, the pictures noise, and the learning rate is 0. With micro_batch first those without
    the network, then with it. Raises UserError as pretraining does.
    """
    device = setup(cfg.threads)
    machine = look(device, cfg.precision)
    connect()
    cost = without = Cost.of([])
    backbone = heads = 0
    with _as_memory_permits():
        engine, _ = assemble(cfg, device, pictures)
        backbone, heads = _trained(engine.method.backbone), _trained(engine.method)
        heads -= backbone
        trial = _Trial(engine, cfg, device, pictures, machine.free)
        with closing(engine):
            if cfg.micro_batch:
                with _networks_left_out(engine.method):
                    without = trial.grow(max(2, min(16, cfg.batch // 2)), seconds / 4)
            cost = trial.grow(2 * (cfg.micro_batch or 1), seconds * 3 / 4)
    return Steps(machine, cost, backbone, heads, without)


class _Trial:
    def __init__(self, engine: Engine, cfg: Config, device: torch.device, pictures: int, free: float) -> None:
        self.engine, self.cfg, self.device, self.pictures, self.free = engine, cfg, device, pictures, free
        self.to_device = ToDevice(device, cfg.data.mean, cfg.data.std)

    def grow(self, first: int, seconds: float) -> Cost:
        """The cost by steps at batches from ``first`` on."""
        began = perf_counter()
        points: list[Point] = []
        for size in sizes(self.cfg, first):
            cost = Cost.of(points)
            if points and self.device.type == "cpu" and cost.memory(size) > CALM * self.free:
                break
            if len(points) > 1 and perf_counter() - began + cost.time(size) > seconds:
                break
            fits = False
            with _as_memory_permits():
                if not points:  # the optimiser's moments are made, and have to be there when memory is measured
                    self.point(size)
                points.append(self.point(size))
                fits = True
            if not fits:
                return Cost.of(points, failed=size)
        return Cost.of(points)

    def point(self, batch: int) -> Point:
        """The median step of up to five after the first, or the first itself where it is a slow one.

        Memory is that of the first, before which the process gives back what it keeps.
        """
        views = self.noise(batch)
        times, memory = list[float](), list[float]()
        reset_peak_memory(self.device)
        while len(times) < 6 and sum(times) < SLOW:
            began = perf_counter()
            forward = self.step(views)
            times.append(perf_counter() - began)
            memory = memory or [peak_memory(self.device) * 2**30, forward]
        return Point(batch, statistics.median(times[1:] or times), *memory)

    def step(self, views: Views) -> float:
        """Returns the peak of memory until the backward, in bytes."""
        self.engine.method.progress = 0.5
        terms = self.engine(self.to_device(views))
        forward = peak_memory(self.device) * 2**30
        self.engine.backward(torch.stack(list(terms.values())).sum())
        self.engine.step()
        self.engine.method.update()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return forward

    def noise(self, batch: int) -> Views:
        """Views as the loader makes them, of pictures of 480 x 640 pixels."""
        rng = np.random.default_rng(0)

        def view(size: int, scale: tuple[float, float]) -> View:
            pinned = self.device.type == "cuda"
            shape = batch, size, size, self.cfg.backbone.in_chans
            image = torch.randint(256, shape, dtype=torch.uint8, pin_memory=pinned)
            affines = np.stack([view_affine(rng, self.cfg.views, 480, 640, scale) for _ in range(batch)])
            return View(image.permute(0, 3, 1, 2), torch.from_numpy(affines))

        large, small = (
            [view(crops.size, crops.scale) for _ in range(crops.count)]
            for crops in (self.cfg.views.large, self.cfg.views.small)
        )
        return Views(large, small, torch.arange(batch) % self.pictures)


class _Nothing(nn.Module):
    """Instead of a network: noise for its last map, which asks the network's weights for a gradient of zero."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.channels, self.stride = backbone.channels[-1], backbone.strides[-1]
        self.weights = [p for p in backbone.parameters() if p.requires_grad]  # a list, so that they stay the network's

    def forward_intermediates(self, image: Tensor, **_: Any) -> list[Tensor]:
        sides = (max(1, side // self.stride) for side in image.shape[2:])
        noise = torch.randn(len(image), self.channels, *sides, device=image.device)
        return [noise + 0 * sum((weight.sum() for weight in self.weights), torch.zeros((), device=image.device))]


@contextmanager
def _networks_left_out(method: nn.Module) -> Iterator[None]:
    networks = {module: module.net for module in method.modules() if isinstance(module, Backbone)}
    nothing = {backbone: _Nothing(backbone) for backbone in networks}
    try:
        for backbone in networks:
            backbone.net = nothing[backbone]
        yield
    finally:
        for backbone, network in networks.items():
            backbone.net = network


@contextmanager
def _as_memory_permits() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if not any(words in str(error).lower() for words in OUT_OF_MEMORY):
            raise


def _trained(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
