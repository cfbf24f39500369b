"""A skipped step, computed again."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from densessl.data.to_device import ToDevice
from densessl.training import distributed, skipped
from densessl.training.assembly import assemble
from densessl.training.engine import connect
from densessl.training.launch import setup
from densessl.training.not_finite import explain, in_words
from densessl.training.seeding import seed_step

if TYPE_CHECKING:
    from densessl.config import Config


def replay(place: Path, facts: dict[str, Any], cfg: Config) -> tuple[dict[str, float], str]:
    """Terms, loss and norm of the gradient, means over processes; and what is not finite, in words, or "".

    ``facts`` are those of the folder ``place``. A call of all processes, as many as the run had.
    Raises UserError for another number of them and for files that don't fit.
    """
    device = setup(cfg.threads)
    connect()
    if distributed.world_size() != facts["processes"]:
        distributed.refuse(
            f"{place} is of {facts['processes']} processes, here are {distributed.world_size()}: "
            f"torchrun --nproc-per-node {facts['processes']} tools/replay.py {place}"
        )
    engine, _ = assemble(cfg, device, facts["pictures"], init=False)
    method = engine.method
    try:
        method.load_state_dict(skipped.read(place / skipped.WEIGHTS))
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        distributed.refuse(f"{place / skipped.WEIGHTS} does not fit {cfg.method.name} on {cfg.backbone.name}: {first}")
    method.step, method.progress = facts["step"], facts["progress"]
    views = ToDevice(device, cfg.data.mean, cfg.data.std)(skipped.views(place))
    with closing(engine):
        seed_step(cfg.seed, method.step)
        terms = engine(views)
        loss = torch.stack(list(terms.values())).sum()
        values = {**terms, "loss": loss, "gradient": engine.backward(loss)}
        engine.skip()
        seed_step(cfg.seed, method.step)
        causes = explain(method, engine.terms, views, "picture {}".format)
        return distributed.mean_over_processes(values), in_words(values, causes)
