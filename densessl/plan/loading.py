"""How fast this machine makes views, without training."""

from __future__ import annotations

from itertools import islice
from time import perf_counter

import psutil

from densessl.config import Config
from densessl.data.label_maps import find_label_maps
from densessl.data.loader import Loader
from densessl.data.pictures import open_pictures
from densessl.data.pixels import Pixels
from densessl.plan.found import Loading

SIZE = 16  # pictures of a batch, which are few, so that a short time tells


def measure(cfg: Config, seconds: float) -> Loading:
    """With the workers of ``cfg``, for about ``seconds`` once they run. Raises UserError as pretraining does."""
    images = open_pictures(cfg.data.path, Pixels.of(cfg))

    def loader(batch: int) -> Loader:
        return Loader(
            images,
            cfg.views,
            cfg.photometric,
            batch=batch,
            seed=cfg.seed,
            workers=cfg.data.workers,
            unreadable=cfg.data.unreadable,
        )

    beware = find_label_maps(images)
    loader(cfg.batch)  # refuses what pretraining would
    # In whole rounds of all workers, since their batches come in bursts; the first is their start.
    size, each, others = min(cfg.batch, SIZE), max(1, cfg.data.workers), set(psutil.Process().children())
    steps = loader(size).from_step(0, 10**9)
    next(islice(steps, each - 1, None))
    began, rounds = perf_counter(), 0
    while rounds == 0 or perf_counter() - began < seconds:
        next(islice(steps, each - 1, None))
        rounds += 1
    workers = set(psutil.Process().children()) - others
    rate = rounds * each * size / (perf_counter() - began)
    return Loading(len(images), rate, sum(worker.memory_full_info().uss for worker in workers), beware)
