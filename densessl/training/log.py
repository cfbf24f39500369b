"""What a run says while it runs: figures to its sinks, RUN/log.txt, a console a person can follow."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, TypeVar

import torch
from tqdm import tqdm

from densessl.device import peak_memory
from densessl.health.words import short
from densessl.training import distributed
from densessl.training.sinks import METRICS, SINKS, JsonLines, Sink

if TYPE_CHECKING:
    from densessl.config import Config

T = TypeVar("T")
SAID = "log.txt"
ONCE = ("unreadable picture skipped: ", "odd name: ")  # what a run that is resumed would say again
WAITING = 0.05
APART = ("health/", "probe/")  # what has words of its own
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

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time that does not count."""
        before = perf_counter()
        yield
        self._since += perf_counter() - before

    def read(self, done: int, device: torch.device) -> dict[str, float]:
        """After ``done`` steps. Also the most memory so far: of this process's tensors on a GPU, else of all of it."""
        now = perf_counter()
        seconds, steps = now - self._since, done - self._done
        pace = {"pictures_per_s": steps * self._batch / seconds, "data_wait": self._waited / seconds}
        self._waited, self._since, self._done = 0.0, now, done
        pace["memory_gib"] = peak_memory(device)
        return pace


class _Warnings(logging.Handler):
    """Of unreadable pictures and dead workers, which the console has from elsewhere; each picture once a run."""

    def __init__(self, write: Callable[[str], None], file: Path) -> None:
        super().__init__(logging.WARNING)
        self._write, self._named = write, set[str]()
        with suppress(OSError), file.open(encoding="utf-8", errors="replace") as lines:
            texts = (line.rstrip("\n").partition(" ")[2] for line in lines)
            self._named = {text for text in texts if text.startswith(ONCE)}

    def emit(self, record: logging.LogRecord) -> None:
        if (text := record.getMessage()) not in self._named:
            self._write(text)


class Log:
    """The first process speaks, the others have a Log that keeps silent.

    ``done`` is the number of steps that were done before; what the files say about later ones is cut. ``advice`` is
    said once, when more than WAITING of an interval is spent waiting for data; the first has the workers' start in it.
    Without ``cfg`` figures go to TensorBoard beside RUN/metrics.jsonl.
    """

    def __init__(
        self, run: Path, done: int, steps: int, batch: int, advice: str = "", cfg: Config | None = None
    ) -> None:
        self._first = distributed.is_first()
        if not self._first:
            return
        self._run, self._cfg = run, cfg
        self._steps, self._batch = steps, batch
        self._advice, self._intervals = advice, 0
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=steps, initial=done, unit="step", dynamic_ncols=True)
            self._terms = tqdm(bar_format="{desc}", position=1, dynamic_ncols=True)
        self._open(done)
        self._warnings = _Warnings(self._write_down, self._run / SAID)
        logging.getLogger("densessl").addHandler(self._warnings)

    def _open(self, done: int) -> None:
        self._sinks: dict[str, Sink] = {METRICS: JsonLines(self._run, done)}
        for name in self._cfg.log_to if self._cfg else ("tensorboard",):
            try:
                self._sinks[name] = SINKS[name](self._run, done, self._cfg)
            except Exception as error:  # whatever it is, training doesn't need it
                self.say(f"{name} can't be reached, training goes on without: {type(error).__name__}: {error}")

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
        self._write_down(text)
        if self._bar is None:
            print(text, file=sys.stderr, flush=True)
        else:
            self._bar.write(text, file=sys.stderr)

    def _write_down(self, text: str) -> None:
        with suppress(OSError), (self._run / SAID).open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"{datetime.now().astimezone().isoformat(timespec='seconds')} {text}\n")

    def advance(self) -> None:
        if self._first and self._bar is not None:
            self._bar.update()

    def write(self, step: int, values: dict[str, float]) -> None:
        """``values`` after ``step`` steps, where figures go and to the console: loss, lr, what Pace reads, and more."""
        if not self._first:
            return
        self.figures(step, values)
        self._intervals += 1
        if self._advice and self._intervals > 1 and values["data_wait"] > WAITING:
            self.say(self._advice)
            self._advice = ""
        now = (
            f"loss {values['loss']:.4g}  lr {values['lr']:.3g}  {values['pictures_per_s']:.4g} pictures/s  "
            f"waiting for data {values['data_wait']:.0%}"
        )
        plain = {name: value for name, value in values.items() if name not in SHOWN and not name.startswith(APART)}
        terms = "  ".join(f"{name} {value:.3g}" for name, value in plain.items()) + short(values)
        if self._bar is not None:
            self._bar.set_postfix_str(now, refresh=False)
            self._terms.set_description_str(terms)
            return
        left = timedelta(seconds=round((self._steps - step) * self._batch / values["pictures_per_s"]))
        self.say(f"step {step}/{self._steps}  left {left}  {now}  {terms}")

    def figures(self, step: int, values: dict[str, float]) -> None:
        """Any ``values`` after ``step`` steps, without a word."""
        if not self._first:
            return
        known = {name: value if math.isfinite(value) else None for name, value in values.items()}
        for name, sink in list(self._sinks.items()):
            try:
                sink.write(step, known)
            except Exception as error:  # a full disk is no reason to stop before a state can't be saved
                more = ""
                if name != METRICS:  # which goes on when there is room again
                    del self._sinks[name]
                    more = ", and no more will be"
                self.say(f"the figures of step {step} were not written to {name}{more}: {error}")

    def close(self) -> None:
        if not self._first:
            return
        self._close()
        logging.getLogger("densessl").removeHandler(self._warnings)
        if self._bar is not None:
            self._bar.close()
            self._terms.close()

    def _close(self) -> None:
        for sink in self._sinks.values():
            with suppress(Exception):  # which must not hide why a run ends
                sink.close()
