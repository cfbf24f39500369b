"""The whole training step against forward and backward of the bare timm backbone."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.profiler import profile
from torch.utils.flop_counter import FlopCounterMode

from densessl.backbones import Backbone
from densessl.benchmark.clock import in_turns, seconds, wait
from densessl.benchmark.made import views
from densessl.benchmark.parts import Parts
from densessl.benchmark.peak import Peak
from densessl.benchmark.report import table
from densessl.config import Config
from densessl.data.views import Views
from densessl.health.values import values as health_values
from densessl.training import distributed
from densessl.training.assembly import assemble
from densessl.training.engine import Engine, connect
from densessl.training.launch import setup
from densessl.training.optim import set_lr

IN_A_ROW = {"cpu": 1, "cuda": 5}  # steps between which nobody waits for the device, as in training


def measure(cfg: Config, *, repeats: int, compile_bare: bool = False) -> dict[str, Any]:
    """Both on the same made-up views, at the same precision, in turns; the seconds are medians."""
    device = setup(cfg.threads)
    connect()
    engine, made = assemble(cfg, device, pictures=cfg.batch)[0], views(cfg, device)
    set_lr(engine.optimizer, 1e-6, 1e-6)
    bare = Bare(cfg, made, engine.dtype, device, compiled=compile_bare or cfg.compile)
    calls: dict[str, Callable[[], None]] = {"bare": bare, "step": lambda: take_step(engine, made)}
    for call in (*calls.values(), *calls.values()):  # buffers, states of the optimiser, programs that are compiled
        call()
    shown = engine.method.shown = {}
    take_step(engine, made)
    engine.method.shown = None
    all_calls: dict[str, Callable[[], object]] = {**calls, "health": lambda: health_values(shown, made)}
    times = in_turns(all_calls, dict.fromkeys(all_calls, repeats), device, IN_A_ROW[device.type])
    took = {name: median(values) for name, values in times.items()}
    shown.clear()  # which is memory that a step has to itself
    health = took.pop("health")
    peaks = {name: _peak(call, device) for name, call in calls.items()}
    parts = Parts(engine.method, device)
    with parts:
        for _ in range(max(1, repeats // 2)):
            parts.collected = 0
            take_step(engine, made, parts.begin)
    speed = matrix_product(engine.dtype or torch.float32, device)
    figures = {
        "device": str(device),
        "precision": "bf16 autocast" if engine.dtype else "fp32",
        "processes": distributed.world_size(),
        "batch": cfg.batch,
        "bare_compiled": bare.compiled,
        "seconds": took,
        "all_seconds": times,
        "pictures_per_s": {name: cfg.batch / value for name, value in took.items()},
        "of_bare": took["bare"] / took["step"],
        "flop_of_a_picture": bare.flop,
        "flop_per_s": {name: cfg.batch / distributed.world_size() * bare.flop / value for name, value in took.items()},
        "matrix_product_flop_per_s": speed,
        "peak_gib": peaks,
        "shares": {part: value / sum(parts.seconds.values()) for part, value in parts.seconds.items()},
        "collected_gib": parts.collected / 2**30,
        "health": {"seconds": health, "every": cfg.health_every},
        "communication": _communication(calls["step"], device) / took["step"] if distributed.world_size() > 1 else 0.0,
    }
    engine.close()
    return figures


def take_step(engine: Engine, made: Views, begin: Callable[[str], None] = lambda part: None) -> None:
    """As pretraining takes it; ``begin`` is told which part begins, "" where none does."""
    begin("criterion")
    loss = torch.stack(list(engine(made).values())).sum()
    distributed.any_process(~engine.backward(loss).isfinite())
    begin("optimiser")
    engine.step()
    engine.method.update()
    begin("")


class Bare:
    """Forward and backward of the timm network alone, without layer scale as ours, channels last: views of one size at
    once unless there are batch statistics, and its maps' mean for a loss. ``flop`` of a picture's views.
    """

    def __init__(
        self, cfg: Config, made: Views, dtype: torch.dtype | None, device: torch.device, *, compiled: bool
    ) -> None:
        b = cfg.backbone
        backbone = Backbone(b.name, in_chans=b.in_chans, stem=b.stem, drop_path=b.drop_path)
        self.net = backbone.net.to(device, memory_format=torch.channels_last).train()
        self.dtype, self.device, self.compiled = dtype, device, compiled
        kinds = [[view.image for view in kind] for kind in (made.large, made.small) if kind]
        batches = [images if backbone.batch_norm else [torch.cat(images)] for images in kinds]
        self.batches: list[Tensor] = [batch for kind in batches for batch in kind]
        self.flop = sum(len(images) * self._flop(images[0][:2]) for images in kinds)
        self.forward = (
            torch.compile(self.net.forward_features, dynamic=False) if compiled else self.net.forward_features
        )

    def _flop(self, image: Tensor) -> float:
        """Three times the forward's: torch counts it rightly, but not the backward of convolutions in groups."""
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            self.net.forward_features(image)
        return 3 * counter.get_total_flops() / len(image)

    def __call__(self) -> None:
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):  # weights are rounded once
            loss = torch.stack([self.forward(batch).mean() for batch in self.batches]).sum()
        loss.backward()
        self.net.zero_grad()


def matrix_product(dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s of a large one: what the hardware is capable of."""
    n, times = (8192, 10) if device.type == "cuda" else (2048, 1)
    a = torch.randn(n, n, device=device).to(dtype)
    a @ a
    return 2 * n**3 / median(seconds(lambda: a @ a, device, times) for _ in range(5))


def _peak(call: Callable[[], None], device: torch.device) -> float | None:
    """GiB of tensors on a GPU, with weights and states of both. In RAM the memory benchmark tells."""
    if device.type != "cuda":
        return None
    with Peak(device) as memory:
        call()
    return memory.most


def _communication(call: Callable[[], None], device: torch.device) -> float:
    """Seconds that collectives take within one step, by torch's profiler."""
    with profile() as trace:
        call()
        wait(device)
    kernels = "nccldev" if device.type == "cuda" else "gloo:"
    return sum(e.time_range.elapsed_us() for e in trace.events() or [] if e.name.lower().startswith(kernels)) / 1e6


def tables(figures: dict[str, Any]) -> str:
    f, peak = figures, figures["matrix_product_flop_per_s"]
    titles = {"bare": f"bare backbone{', compiled' if f['bare_compiled'] else ''}", "step": "whole step"}
    header = [f"batch {f['batch']}, {f['precision']}", "s", "pictures/s", "of bare", "TFLOP/s", "of peak", "GiB"]
    rows = [
        [
            title,
            f["seconds"][name],
            f["pictures_per_s"][name],
            f["seconds"]["bare"] / f["seconds"][name],
            f["flop_per_s"][name] / 1e12,
            f["flop_per_s"][name] / peak,
            f["peak_gib"][name],
        ]
        for name, title in titles.items()
    ]
    parts = [[part, 100 * share] for part, share in sorted(f["shares"].items(), key=lambda each: -each[1])]
    if every := f["health"]["every"]:
        parts.append([f"health, every {every} steps", 100 * f["health"]["seconds"] / every / f["seconds"]["step"]])
    parts.append(["communication, within these", 100 * f["communication"]])
    return (
        table(header, rows)
        + f"\nFLOP/s: the backbone's alone, three times its forward's; peak: {peak / 1e12:.3g} TFLOP/s of a large "
        "matrix product at this precision; both of one process\n\n"
        + table(["part of the step, each waited for", "%"], parts)
    )
