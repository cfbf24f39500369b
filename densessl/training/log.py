"""What a run says while it runs: RUN/metrics.jsonl and log.txt, TensorBoard events, a console a person can follow."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import TypeVar

import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from densessl.device import peak_memory
from densessl.files import aside
from densessl.health.words import short
from densessl.training import distributed

T = TypeVar("T")
SAID = "log.txt"
WAITING = 0.05
SHOWN = ("loss", "lr", "pictures_per_s", "data_wait")  # by name and unit of their own


class Pace:
    """Pictures a second, and the share of time spent waiting for them, since it was last asked."""

    def __init__(self, batch: int, done: int) -> None:
        self._batch, self._done = batch, done
        self._waited, self._since = 0.0, perf_counter()

    def watch(self, batches: Iterator[T]) -> Iterator[T]:
        while True:
            before = perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self._waited += perf_counter() - before
            yield batch

    def read(self, done: int, device: torch.device) -> dict[str, float]:
        """After ``done`` steps. Also the most memory so far: of this process's tensors on a GPU, else of all of it."""
        now = perf_counter()
        seconds, steps = now - self._since, done - self._done
        pace = {"pictures_per_s": steps * self._batch / seconds, "data_wait": self._waited / seconds}
        self._waited, self._since, self._done = 0.0, now, done
        pace["memory_gib"] = peak_memory(device)
        return pace


class Log:
    """The first process speaks, the others have a Log that keeps silent.

    ``done`` is the number of steps that were done before; what the files say about later ones is cut. ``advice`` is
    said once, when more than WAITING of an interval is spent waiting for data; the first has the workers' start in it.
    """

    def __init__(self, run: Path, done: int, steps: int, batch: int, advice: str = "") -> None:
        self._first = distributed.is_first()
        if not self._first:
            return
        self._run = run
        self._open(done)
        self._steps, self._batch = steps, batch
        self._advice, self._intervals = advice, 0
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=steps, initial=done, unit="step", dynamic_ncols=True)
            self._terms = tqdm(bar_format="{desc}", position=1, dynamic_ncols=True)

    def _open(self, done: int) -> None:
        cut(self._run / "metrics.jsonl", done)
        self._metrics = (self._run / "metrics.jsonl").open("a", buffering=1)
        self._events: SummaryWriter | None = SummaryWriter(str(self._run / "tensorboard"), purge_step=done + 1)

    def go_back(self, done: int) -> None:
        """What the files say about the steps after ``done`` is cut."""
        if not self._first:
            return
        self._close()
        self._open(done)
        if self._bar is not None:
            self._bar.n = done
            self._bar.refresh()

    def say(self, text: str) -> None:
        """To the console and, with the time, to RUN/log.txt."""
        if not self._first:
            return
        with suppress(OSError), (self._run / SAID).open("a") as file:
            file.write(f"{datetime.now().astimezone().isoformat(timespec='seconds')} {text}\n")
        if self._bar is None:
            print(text, file=sys.stderr, flush=True)
        else:
            self._bar.write(text, file=sys.stderr)

    def advance(self) -> None:
        if self._first and self._bar is not None:
            self._bar.update()

    def write(self, step: int, values: dict[str, float]) -> None:
        """``values`` after ``step`` steps: loss, lr, what Pace reads, and anything else."""
        if not self._first:
            return
        try:
            known = {name: value if math.isfinite(value) else None for name, value in values.items()}
            self._metrics.write(json.dumps({"step": step, **known}) + "\n")
            for name, value in values.items():
                if self._events and known[name] is not None:
                    self._events.add_scalar(name, value, step)
        except OSError as error:  # a full disk is no reason to stop before a state can't be saved
            self._events = None  # whose writer has ended
            self.say(f"the figures of step {step} were not written, and no more TensorBoard events will be: {error}")
        now = (
            f"loss {values['loss']:.4g}  lr {values['lr']:.3g}  {values['pictures_per_s']:.4g} pictures/s  "
            f"waiting for data {values['data_wait']:.0%}"
        )
        self._intervals += 1
        if self._advice and self._intervals > 1 and values["data_wait"] > WAITING:
            self.say(self._advice)
            self._advice = ""
        plain = {name: value for name, value in values.items() if name not in SHOWN and not name.startswith("health/")}
        terms = "  ".join(f"{name} {value:.3g}" for name, value in plain.items()) + short(values)
        if self._bar is not None:
            self._bar.set_postfix_str(now, refresh=False)
            self._terms.set_description_str(terms)
            return
        left = timedelta(seconds=round((self._steps - step) * self._batch / values["pictures_per_s"]))
        self.say(f"step {step}/{self._steps}  left {left}  {now}  {terms}")

    def close(self) -> None:
        if not self._first:
            return
        self._close()
        if self._bar is not None:
            self._bar.close()
            self._terms.close()

    def _close(self) -> None:
        with suppress(OSError):  # which must not hide why a run ends
            self._metrics.close()
            if self._events:
                self._events.close()


def cut(path: Path, step: int) -> None:
    """Drop the lines after ``step`` from a metrics file, and one that a crash left unfinished."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines(keepends=True):
        try:
            if json.loads(line)["step"] <= step and line.endswith("\n"):
                kept.append(line)
        except ValueError:
            continue
    with aside(path) as part:
        part.write_text("".join(kept))
