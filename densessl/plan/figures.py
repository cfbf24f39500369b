"""All that is measured of a recipe on this machine, and what follows without an opinion."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import psutil

from densessl.plan.cost import Cost, in_parts
from densessl.plan.found import Loading, Machine, Steps, apart

if TYPE_CHECKING:
    from densessl.config import Config

LEFT_FREE = 0.1  # share of the free memory: for what fragments, and for what other programs come to need
AHEAD = 2  # batches that wait for each worker, as DataLoader has it
PARTS = (64, 32, 16, 8, 4, 2, 1)  # pictures that go through the network at a time
AGAIN = 1.4  # about what computing activations twice costs


@dataclass(frozen=True)
class Way:
    """A way to run the recipe: words of the command line, none for the recipe as it is, and what a step takes then."""

    words: tuple[str, ...]
    cost: Cost
    parts: int | None = None  # the micro_batch with which it was timed


@dataclass(frozen=True)
class Figures:
    cfg: Config
    machine: Machine
    loading: Loading
    ways: tuple[Way, ...]  # the recipe as it is comes first
    backbone: int  # parameters
    heads: int

    @property
    def limit(self) -> float:
        """Bytes that a run may need."""
        return (1 - LEFT_FREE) * self.machine.free

    @cached_property
    def pictures_seen(self) -> int:
        """By the whole run, counting each time."""
        return self.cfg.batch * self.cfg.length(self.loading.pictures)

    @property
    def head_bytes(self) -> int:
        """Weights and gradients of the heads, and the optimiser's one or two moments."""
        return self.heads * (16 if self.cfg.optim.name.startswith("adam") else 12)

    def pace(self, rate: float, workers: int | None = None) -> float:
        """Pictures a second of training at ``rate`` while the loader works beside it.

        Both need cores: a training process on a GPU one, on the CPU its threads. Without workers they take turns.
        """
        machine, loading = self.machine, self.loading
        workers = self.cfg.data.workers if workers is None else workers
        if not workers:
            return 1 / (1 / rate + 1 / loading.rate)
        cores_a_picture = 1 / self.worker_rate + (1 if machine.gpus else machine.threads) / rate
        return min(rate, workers * self.worker_rate, machine.cores / cores_a_picture)

    @property
    def worker_rate(self) -> float:
        """Pictures a second that a core makes into views."""
        return self.loading.rate / min(max(1, self.cfg.data.workers), self.machine.cores)

    def seconds(self, way: Way, batch: int, workers: int | None = None) -> float:
        """To the recipe's end. With another batch it sees as many pictures."""
        return self.pictures_seen / self.pace(way.cost.rate(batch), workers)


def measure(cfg: Config, seconds: float) -> Figures:
    """About ``seconds``, and the starts of four processes. Raises UserError as pretraining does."""

    def steps(share: float, checkpointing: bool = cfg.backbone.checkpointing, parts: int | None = None) -> Steps:
        what = [f"backbone.checkpointing={str(checkpointing).lower()}"] + ([f"micro_batch={parts}"] if parts else [])
        _say(f"training steps with {' '.join(what)}")
        backbone = cfg.backbone.model_copy(update={"checkpointing": checkpointing})
        changed = cfg.model_copy(update={"backbone": backbone, "micro_batch": parts})
        return apart("steps", "measure", changed, made.pictures, share * seconds)

    busy = _busy()
    _say("loading")
    made: Loading = apart("loading", "measure", cfg, 0.15 * seconds)
    plain = steps(0.35)
    other = not cfg.backbone.checkpointing
    micro = cfg.micro_batch if cfg.micro_batch and cfg.micro_batch < cfg.batch else None
    whole = ("micro_batch=null",) if micro else ()
    ways = [
        Way(whole, plain.cost),
        Way((*whole, f"backbone.checkpointing={str(other).lower()}"), steps(0.2, checkpointing=other).cost),
    ]
    if "resnet" not in cfg.backbone.name:
        parts = _affordable(cfg, plain, 0.2 * seconds)
        cut = steps(0.3, parts=parts)
        sizes = {*PARTS, micro or 1} if cut.cost.batches and cut.without_network.batches else ()
        for n in sorted((n for n in sizes if n < cfg.batch), reverse=True):
            cost = in_parts(plain.cost, cut.cost, cut.without_network.memory.slope, n)
            ways.append(Way(() if n == micro else (f"micro_batch={n}",), cost, parts))
    if micro and not any(way.words == () for way in ways):
        ways.append(Way((), Cost.of([])))  # not even a part fitted
    if not plain.machine.gpus:  # what loads takes of the same memory
        views = sum(3 * crops.count * crops.size**2 for crops in (cfg.views.large, cfg.views.small))
        waiting = AHEAD * cfg.data.workers * views
        ways = [replace(way, cost=way.cost.plus(each=waiting, once=made.bytes)) for way in ways]
    ways.sort(key=lambda way: way.words != ())
    machine = replace(plain.machine, busy=max(plain.machine.busy, busy()))
    return Figures(cfg, machine, made, tuple(ways), plain.backbone, plain.heads)


def _busy() -> Callable[[], float]:
    """A call of what this gives tells which share of the cores' time other programs than our own took since."""

    def now() -> tuple[float, float]:
        times, own = psutil.cpu_times(), resource.getrusage(resource.RUSAGE_CHILDREN)
        total = sum(times[:8])  # in those of guests, which follow, it is counted twice
        return total, total - times.idle - getattr(times, "iowait", 0.0) - own.ru_utime - own.ru_stime

    before = now()

    def since() -> float:
        total, others = (b - a for a, b in zip(before, now(), strict=True))
        return max(0.0, others) / max(1e-9, total)

    return since


def _say(what: str) -> None:
    print(f"measuring: {what}", file=sys.stderr, flush=True)


def _affordable(cfg: Config, plain: Steps, seconds: float) -> int:
    """With how many pictures at a time ``seconds`` and memory allow steps of twice and four times as many."""
    time = plain.cost.time
    for n in (16, 8, 4, 2):
        quick = AGAIN * (2 * time(2 * n) + time(4 * n)) <= seconds
        if quick and 4 * n <= cfg.batch and plain.cost.fits(n, plain.machine.free / 2):
            return n
    return 1
