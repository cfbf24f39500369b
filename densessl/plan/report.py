"""Figures and advice as a page of plain text."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Sequence

from densessl.plan.advice import GIB, Advice
from densessl.plan.cost import MOST
from densessl.plan.figures import LEFT_FREE, Figures, Way

WIDTH = 110
BUSY = 0.2  # share of the cores, above which times are not to be trusted
NOTE = (
    "Times beyond the measured batches lie on the line through the last two, and are rough where that is far; memory "
    f"rises as it does in the forward. {LEFT_FREE:.0%} of the free memory is kept in reserve. Nothing was trained or "
    "written."
)
UNITS = (("years", 365.25 * 86400), ("days", 86400), ("hours", 3600), ("minutes", 60))


def report(figures: Figures, advice: Advice, given: Sequence[str]) -> str:
    """``given``: the words of the command line, from which that with the advice is made."""
    cfg, machine, made = figures.cfg, figures.machine, figures.loading
    as_it_is = figures.ways[0]
    fits = as_it_is.cost.fits(cfg.batch, figures.limit)
    steps = figures.pictures_seen // cfg.batch
    length = f"{steps:,} steps of {cfg.batch}" + (f", {cfg.epochs:g} epochs" if cfg.epochs else "")
    need = f"{_size(as_it_is.cost.memory(cfg.batch))} at its batch of {cfg.batch}"
    head = [
        ("recipe", f"{cfg.name}: {cfg.method.name}, {cfg.backbone.name}; {made.pictures:,} pictures; {length}"),
        ("machine", _machine(figures)),
        (
            "memory",
            f"{machine.free / GIB:.1f} GiB free; the recipe needs {need}: {'it fits' if fits else 'it does not fit'}",
        ),
        (
            "parameters",
            f"{figures.backbone / 1e6:.1f} M of the backbone, {figures.heads / 1e6:.1f} M of the heads; these take "
            f"{_size(figures.head_bytes)} with gradients and optimiser",
        ),
        ("loading", f"{made.rate:.3g} pictures a second with {cfg.data.workers} workers, alone"),
    ]
    lines = [f"{name:12}{text}" for name, text in head]
    if made.beware:
        lines += _beware(made.beware)
    if machine.busy > BUSY:
        lines += _beware(
            f"other programs kept {machine.busy:.0%} of the cores busy: images a second and the time to the end were "
            "measured beside them, and are better on a quiet machine; memory does not change with them"
        )
    lines += ["", *_table(figures, advice), "", "time to the end, with loading"]
    lines += [f"  {text:36}{time}" for text, time in _times(figures, advice, fits)]
    lines += ["", "what to change"]
    for text in advice.lines:
        lines += textwrap.wrap(f"{text}.", WIDTH, initial_indent="  - ", subsequent_indent="    ")
    if advice.words:
        lines += ["", f"  {command(given, advice.words)}"]
    lines += ["", *textwrap.wrap(NOTE, WIDTH)]
    return "\n".join(lines)


def _beware(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"{'beware':12}", subsequent_indent=" " * 12)


def command(given: Sequence[str], words: Sequence[str]) -> str:
    """The command line of pretraining with ``words`` in the place of those given for the same keys."""
    new = {word.partition("=")[0] for word in words}
    kept = [word for word in given if word.partition("=")[0] not in new]
    return shlex.join(["densessl", "pretrain", *kept, *words])


def duration(seconds: float) -> str:
    for unit, length in UNITS:
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} seconds"


def _machine(figures: Figures) -> str:
    machine = figures.machine
    bf16 = "bf16" if machine.bf16 else "fp32"
    if machine.gpus:
        return f"{machine.device}, one of {machine.gpus}; {machine.cores} CPU cores; {bf16}"
    return f"{machine.device}, no GPU; {machine.cores} cores, {machine.threads} of them for training; {bf16}"


def _table(figures: Figures, advice: Advice) -> list[str]:
    """The recipe, and ways to run it; of micro-batches 16 or near it, and the advised one."""
    cut = [way for way in figures.ways if way.parts and way.words]
    usual = min(cut, key=lambda way: abs(int(way.words[0].partition("=")[2]) - 16), default=None)
    shown = [way for way in figures.ways if way not in cut or way in (usual, advice.way)]
    batch = figures.cfg.batch
    rows = [("", f"memory at {batch}", "largest batch", "pictures/s", "measured at batch")]
    for way in shown:
        most = way.cost.largest(figures.limit)
        at = min(batch, most)
        measured = ", ".join(map(str, way.cost.batches)) or "none: too large"
        rows.append(
            (
                _name(way),
                _size(way.cost.memory(batch)),
                f"over {MOST:,}" if most == MOST else f"{most:,}",
                f"{way.cost.rate(at):.3g}" + (f" (at {at})" if at < batch else "") if most else "-",
                measured + (f" in parts of {way.parts}" if way.parts else ""),
            )
        )
    wide = [max(len(row[i]) for row in rows) for i in range(5)]
    sides = "<>>><"
    aligned = ([f"{cell:{side}{n}}" for cell, side, n in zip(row, sides, wide, strict=True)] for row in rows)
    return ["  ".join(cells).rstrip() for cells in aligned]


def _times(figures: Figures, advice: Advice, fits: bool) -> list[tuple[str, str]]:
    batch, as_it_is = figures.cfg.batch, figures.ways[0]
    times = [("as it is", duration(figures.seconds(as_it_is, batch)) if fits else "does not fit")]
    if advice.way and advice.words:
        times.append((" ".join(advice.words), duration(advice.seconds)))
    gpus = figures.machine.gpus
    if gpus > 1 and batch % gpus == 0 and as_it_is.cost.fits(batch // gpus, figures.limit):
        seconds = figures.pictures_seen / (gpus * as_it_is.cost.rate(batch // gpus))
        times.append(
            (
                f"{gpus} GPUs, {batch // gpus} pictures each",
                f"{duration(seconds)}, what they load and exchange left out",
            )
        )
    return times


def _name(way: Way) -> str:
    return " ".join(way.words) or "as it is"


def _size(size: float) -> str:
    return f"{size / GIB:.1f} GiB" if size > GIB / 10 else f"{size / 2**20:.0f} MiB"
