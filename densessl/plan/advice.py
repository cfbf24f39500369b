"""What to change, so that a recipe runs on this machine."""

from __future__ import annotations

import math
from typing import NamedTuple

from densessl.plan.batches import nearest, sizes, words_for
from densessl.plan.figures import Figures, Way

STATISTICS = ("barlow_twins", "vicreg", "vicregl", "wmse")  # their losses are variances and covariances of the batch
FEW = 64  # pictures, of which such statistics are noisy
WORTH = 1.05  # times as fast: for less nobody should change a setting
GIB = 2**30


class Advice(NamedTuple):
    way: Way | None  # None: nothing fits
    batch: int
    words: tuple[str, ...]  # to add to the command line
    lines: tuple[str, ...]  # why, a sentence or two each
    seconds: float  # to the end of the recipe


def advise(figures: Figures) -> Advice:
    cfg = figures.cfg
    way, batch = choose(figures)
    words: list[str] = []
    lines: list[str] = []
    seconds = math.inf
    if way is None:
        smallest = next(sizes(cfg, 2))
        least = min(way.cost.memory(smallest) for way in figures.ways)
        need = f"about {least / GIB:.1f} GiB" if math.isfinite(least) else "more"
        room = f"{figures.limit / GIB:.1f} GiB can be had"
        lines.append(
            f"Not even the smallest batch, {smallest}, fits: it needs {need}, {room}. A smaller backbone.name, smaller "
            "views or narrower heads are needed"
        )
    else:
        words += [*way.words, *words_for(cfg, batch)]
        lines += _of_way(figures, way, batch)
        workers, why = _workers(figures, way, batch)
        words += [f"data.workers={workers}"] if workers != cfg.data.workers else []
        lines += why
        seconds = figures.seconds(way, batch, workers)
    lines += _heads(figures, way, batch)
    if figures.machine.bf16_possible and not figures.machine.bf16:
        lines.append("precision=auto: bf16, which this hardware has, is faster and takes less memory than fp32")
    return Advice(way, batch, tuple(words), tuple(lines), seconds)


def choose(figures: Figures) -> tuple[Way | None, int]:
    """The fastest way that holds the recipe's batch, or that which holds the largest; and the batch."""
    cfg, limit = figures.cfg, figures.limit
    as_it_is = figures.ways[0]
    fitting = [way for way in figures.ways if way.cost.fits(cfg.batch, limit)]
    if as_it_is in fitting:  # what computes activations twice can only be slower, whatever noise says
        fitting = [way for way in fitting if way is as_it_is or not _recomputes(way.words)]
    if fitting:
        pace = {way: figures.pace(way.cost.rate(cfg.batch)) for way in fitting}
        best = max(fitting, key=pace.__getitem__)
        return (as_it_is if pace.get(as_it_is, 0) * WORTH >= pace[best] else best), cfg.batch
    most = {way: nearest(cfg, min(way.cost.largest(limit), cfg.batch)) for way in figures.ways}
    # The first of those that are about as good: the smaller the parts, the slower.
    best = next(way for way in most if most[way] >= 0.9 * max(most.values()))
    return (best, most[best]) if most[best] else (None, 0)


def _of_way(figures: Figures, way: Way, batch: int) -> list[str]:
    cfg, lines = figures.cfg, []
    changes = " ".join(way.words)
    if not way.words and batch == cfg.batch:
        lines.append("The recipe fits as it is")
    elif _recomputes(way.words):
        lines.append(f"{changes}: computes activations twice, with the same loss and gradient")
    elif way.words:
        slow = figures.ways[0].cost
        gain = f", {way.cost.rate(batch) / slow.rate(batch):.1f} times as fast" if slow.batches else ""
        lines.append(f"{changes}: computes activations once{gain}")
    if batch != cfg.batch:
        peak, now = (cfg.optim.base_lr * n / 256 for n in (batch, cfg.batch))
        lines.append(
            f"batch={batch}: another recipe than with {cfg.batch}. The learning rate follows by itself, as "
            f"optim.base_lr x batch / 256: {peak:.3g} instead of {now:.3g}"
        )
    if batch < FEW and cfg.method.name in STATISTICS:
        lines.append(
            f"A batch of {batch} makes the statistics in {cfg.method.name}'s loss noisy: expect lower scores than with "
            f"{FEW} or more"
        )
    return lines


def _recomputes(words: tuple[str, ...]) -> bool:
    return any(word.startswith("micro_batch=") and word != "micro_batch=null" for word in words) or (
        "backbone.checkpointing=true" in words
    )


def _workers(figures: Figures, way: Way, batch: int) -> tuple[int, list[str]]:
    """How many workers, more where training waits for pictures and cores are left, and what is to be said of it."""
    machine, rate, workers = figures.machine, way.cost.rate(batch), figures.cfg.data.workers
    needed = math.ceil(rate / figures.worker_rate)
    more, lines = min(needed, machine.cores), []
    if more > workers and figures.pace(rate, more) >= WORTH * figures.pace(rate):
        lines.append(f"data.workers={more}: training waits for pictures, which {workers} don't load fast enough")
        workers = more
    if (pace := figures.pace(rate, workers)) * WORTH < rate:
        missing = f"training could take {rate:.3g} pictures a second, the work of {needed} workers, a core each"
        shared = f"training shares them with loading: {pace:.3g} pictures a second instead of {rate:.3g}"
        lines.append(
            f"{machine.cores} cores are few: {missing if machine.gpus else shared}. Pictures load faster when they are "
            "stored hardly larger than the views"
        )
    return workers, lines


def _heads(figures: Figures, way: Way | None, batch: int) -> list[str]:
    """Narrower heads where they take most of the memory."""
    need = way.cost.memory(batch) if way else figures.ways[0].cost.memory(2)
    arguments = figures.cfg.method.arguments
    tuples = {key: widths for key in ("expander", "projector") if len(widths := tuple(arguments.get(key, ()))) > 1}
    if not tuples or figures.head_bytes * 2 <= (need if math.isfinite(need) else figures.machine.free):
        return []
    key = max(tuples, key=lambda key: math.prod(tuples[key][-2:]))
    halves = ",".join(str(max(1, n // 2)) for n in tuples[key])
    return [
        f"Heads take {figures.head_bytes / GIB:.1f} GiB, most of the memory: 'method.{key}=[{halves}]' would take "
        "less than half of that, but is another recipe"
    ]
