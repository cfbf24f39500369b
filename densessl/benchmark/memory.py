"""The largest batch that fits, with and without micro-batches and checkpointing."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Any

import torch
from torch.multiprocessing import ProcessExitedException

from densessl.benchmark.clock import wait
from densessl.benchmark.made import views
from densessl.benchmark.parts import Parts
from densessl.benchmark.peak import Peak
from densessl.benchmark.processes import spawned
from densessl.benchmark.report import table
from densessl.benchmark.step import take_step
from densessl.config import load_config
from densessl.device import find_device, free_memory
from densessl.errors import UserError
from densessl.training.assembly import assemble
from densessl.training.engine import connect
from densessl.training.launch import setup
from densessl.training.optim import set_lr

CHECKPOINTING = "backbone.checkpointing=true"
VARIANTS = {
    "plain": (),
    "checkpointing": (CHECKPOINTING,),
    "micro": ("micro_batch={micro}",),
    "both": ("micro_batch={micro}", CHECKPOINTING),
}
SHARE = 0.9  # of what is free, that a batch may take in RAM


def measure(
    cfg: str,
    overrides: Sequence[str],
    device: str,
    *,
    variants: Sequence[str],
    batches: Sequence[int],
    micro: int,
    limit: float | None,
    most: int,
) -> dict[str, Any]:
    """Peaks of a step at ``batches``, each in a process of its own, and the largest batch, at most ``most``: on a GPU
    found by trying, in RAM on the line through the two largest batches, for ``limit`` GiB of the whole process.
    """
    place, found, notes = find_device(device), {}, []
    if place.type == "cpu":
        limit = limit or SHARE * free_memory(place)
    elif limit:
        raise UserError("--limit is for RAM; what fits on a GPU is found by trying")
    for name in variants:
        words = [*overrides, *(word.format(micro=micro) for word in VARIANTS[name])]

        def fits(batch: int, words: Sequence[str] = words) -> bool:
            return tried(cfg, words, batch) is not None

        try:
            for batch in batches:
                load_config(cfg, [*words, f"batch={batch}"])
            peaks = {batch: tried(cfg, words, batch) for batch in sorted(batches)}
            if limit is None:
                largest: int | None = by_trying(fits, min(batches), most)
            else:
                largest = by_line({b: each["peak_gib"] for b, each in peaks.items() if each}, limit, most)
        except UserError as error:
            notes.append(f"{name}: {error}")
            continue
        found[name] = {"batches": {str(batch): each for batch, each in peaks.items()}, "largest": largest}
    return {"device": str(place), "variants": found, "limit_gib": limit, "most": most, "micro": micro, "notes": notes}


def tried(cfg: str, overrides: Sequence[str], batch: int) -> dict[str, float] | None:
    """Of a step in a process of its own; None if it does not fit."""
    words = [*overrides, f"batch={batch}"]
    print(f"{' '.join(words)} ...", file=sys.stderr, flush=True)
    try:
        return spawned(of_a_step, cfg, words)[0]
    except (torch.OutOfMemoryError, ProcessExitedException):
        return None


def of_a_step(cfg_name: str, overrides: Sequence[str]) -> dict[str, float]:
    """GiB before and within the second step, and its seconds; the first one makes the optimiser's states."""
    cfg = load_config(cfg_name, list(overrides))
    device = setup(cfg.threads)
    connect()
    engine, made = assemble(cfg, device, pictures=cfg.batch)[0], views(cfg, device)
    set_lr(engine.optimizer, 1e-6, 1e-6)
    with Parts(engine.method, device) as parts:
        take_step(engine, made)
    for parameter in engine.method.parameters():
        parameter.grad = None
    with Peak(device) as memory:
        began = perf_counter()
        take_step(engine, made)
        wait(device)
        took = perf_counter() - began
    return {
        "rest_gib": memory.rest,
        "peak_gib": memory.most,
        "above_gib": memory.above,
        "collected_gib": parts.collected / 2**30,
        "seconds": took,
    }


def by_trying(fits: Callable[[int], bool], start: int, most: int) -> int:
    """The largest batch from 2 to ``most`` that ``fits``, to a sixteenth of it: doubled, then bisected. 0 if none."""
    good, bad = 1, most + 1
    batch = min(start, most)
    while batch < bad:
        if not fits(batch):
            bad = batch
        else:
            good, batch = batch, min(2 * batch, most) if batch < most else bad
    while bad - good > max(1, good // 16):
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good if good > 1 else 0


def by_line(peaks: Mapping[int, float], limit: float, most: int) -> int | None:
    """Where the line through the peaks (GiB) of the two largest batches meets ``limit``; None without two."""
    if len(peaks) < 2:
        return None
    (a, at_a), (b, at_b) = sorted(peaks.items())[-2:]
    if at_b <= at_a:
        return most if at_b <= limit else 0
    return max(0, min(most, math.floor(b + (limit - at_b) * (b - a) / (at_b - at_a))))


def tables(figures: dict[str, Any]) -> str:
    keys = {"rest_gib": "at rest, GiB", "peak_gib": "peak, GiB", "above_gib": "above rest, GiB"}
    keys |= {"collected_gib": "maps and embeddings, GiB", "seconds": "s of one step"}
    names = {"micro": f"micro-batches of {figures['micro']}", "both": f"both, of {figures['micro']}"}
    rows, largest = [], []
    for name, found in figures["variants"].items():
        for batch, each in found["batches"].items():
            rows.append([names.get(name, name), batch, *((each or {}).get(key) for key in keys)])
        reached = found["largest"] == figures["most"]
        largest.append([names.get(name, name), f"{figures['most']} or more" if reached else found["largest"]])
    limit = figures["limit_gib"]
    how = f"the line through the two largest at {limit:.3g} GiB" if limit else "tried, to a sixteenth"
    return (
        table(["", "batch", *keys.values()], rows)
        + "\nat rest: weights, states of the optimiser and pictures"
        + (", and all that the process has loaded\n\n" if limit else "\n\n")
        + table(["", f"largest batch ({how})"], largest)
    )
