"""What saving a state costs: seconds, bytes, and the share of an hour with as many saves as an hour has."""

from __future__ import annotations

import statistics
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING, Any

from densessl.benchmark.made import views
from densessl.benchmark.report import table
from densessl.benchmark.step import take_step
from densessl.errors import UserError
from densessl.training import checkpoint, distributed
from densessl.training.assembly import assemble
from densessl.training.engine import connect
from densessl.training.launch import setup
from densessl.training.optim import set_lr

if TYPE_CHECKING:
    from densessl.config import Config

SAVES = (4, 12, 60)  # an hour


def measure(cfg: Config, folder: Path, *, repeats: int) -> dict[str, Any]:
    """Saves of ``cfg``'s whole state in ``folder``, whose disk counts; nothing is left there. Raises UserError."""
    device = setup(cfg.threads)
    connect()
    engine, _ = assemble(cfg, device, pictures=max(cfg.batch, 10_000))
    set_lr(engine.optimizer, 1e-6)
    take_step(engine, views(cfg, device))  # the optimiser's state is as large as it will be
    collected, whole, size = [], [], 0
    try:
        with TemporaryDirectory(dir=folder) as run:
            for step in range(1, repeats + 1):
                began = perf_counter()
                state = engine.state()
                collected.append(perf_counter() - began)
                size = sum(tensor.nbytes for tensors in state.values() for tensor in tensors.values())
                del state
                began = perf_counter()
                if problem := checkpoint.save(engine, Path(run), step, {}, keep=1):
                    distributed.refuse(problem)
                whole.append(perf_counter() - began)
    except OSError as error:
        raise UserError(f"--folder {folder}: {error.strerror}") from None
    finally:
        engine.close()
    seconds = statistics.median(whole)
    return {
        "bytes": size,
        "seconds": seconds,
        "collecting": statistics.median(collected),
        "share_of_an_hour": {str(saves): saves * seconds / 3600 for saves in SAVES},
    }


def tables(figures: dict[str, Any]) -> str:
    rows = [
        ["bytes", f"{figures['bytes'] / 1e9:.2f} GB"],
        ["seconds: collecting, writing, flushing, hashing", figures["seconds"]],
        ["of them collecting", figures["collecting"]],
        *([f"share of an hour with {n} saves", f"{share:.2%}"] for n, share in figures["share_of_an_hour"].items()),
    ]
    return table(["a state", "cost"], rows)
