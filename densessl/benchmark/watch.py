"""What a run's looks at itself cost beside its steps: measures of health, probes, features kept for the report."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from densessl.benchmark.clock import in_turns
from densessl.benchmark.made import views
from densessl.benchmark.report import table
from densessl.benchmark.step import take_step
from densessl.data.pixels import Pixels
from densessl.errors import UserError
from densessl.health.values import values
from densessl.probes.probes import Probes
from densessl.training.assembly import assemble
from densessl.training.engine import connect
from densessl.training.launch import setup
from densessl.training.log import Log
from densessl.training.optim import set_lr

if TYPE_CHECKING:
    from densessl.config import Config


def measure(cfg: Config, pictures: int, *, repeats: int) -> dict[str, Any]:
    """Seconds of a step on made-up views and of each look, and its share at ``cfg``'s intervals.

    ``pictures`` are those of an epoch. Raises UserError for labels that are wrong and for probes that fail.
    """
    device = setup(cfg.threads)
    connect()
    steps = cfg.length(pictures)
    epoch = pictures // cfg.batch
    engine, _ = assemble(cfg, device, pictures)
    method, made = engine.method, views(cfg, device)
    set_lr(engine.optimizer, 1e-6)
    with TemporaryDirectory() as run:
        cfg = cfg.model_copy(update={"run": run})
        log = Log(Path(run), 0, steps, cfg.batch, cfg=cfg)
        probes = Probes(cfg, pictures, Pixels(channels=cfg.backbone.in_chans), device)
        try:
            method.shown = {}
            take_step(engine, made)
            shown, method.shown = method.shown, None
            calls: dict[str, Callable[[], Any]] = {
                "step": partial(take_step, engine, made),
                "health": partial(values, shown, made),
            }
            taken = in_turns(calls, dict.fromkeys(calls, repeats), device)
            if cfg.probes.running:
                scores: dict[str, float] = {}
                look = {"probes": lambda: scores.update(probes.measure(method.backbone, steps, log))}
                taken |= in_turns(look, {"probes": repeats}, device)
                if len(scores) < len(cfg.probes.running):
                    raise UserError("probes failed: see above")
        finally:
            log.close()
            engine.close()
    seconds = {name: statistics.median(each) for name, each in taken.items()}
    between = {"health": cfg.health_every, "probes": max(1, round(cfg.probes.every * epoch))}
    return {
        "seconds": seconds,
        "steps_between": {name: between[name] for name in seconds if name in between},
        "share": {
            name: each / (between[name] * seconds["step"]) for name, each in seconds.items() if between.get(name)
        },
    }


def tables(figures: dict[str, Any]) -> str:
    seconds, between = figures["seconds"], figures["steps_between"]
    rows: list[list[Any]] = [["a step", seconds["step"], None, None]]
    for name, title in (("health", "measures of health"), ("probes", "probes")):
        if name in seconds:
            share = figures["share"].get(name)
            rows.append([title, seconds[name], between[name] or None, None if share is None else f"{share:.3%}"])
    return table(["", "seconds", "every so many steps", "of the time"], rows)
