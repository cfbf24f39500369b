"""What the loop drives: it measures now and then, and says once what has left its range."""

from __future__ import annotations

from typing import TYPE_CHECKING

from densessl.data.views import Views
from densessl.health.ranges import ills, ranges
from densessl.health.values import values
from densessl.health.words import NOUNS, sentence

if TYPE_CHECKING:
    from densessl.config import Config
    from densessl.method import Method
    from densessl.training.log import Log

WORSE = 2.0  # times further outside than when it was said: it is said again
BACK = 0.9  # of a bound: a measure that dwells near one is not said to come and go


class Health:
    """After the first step, every ``health_every`` and the last: numbers for the log, and what is ill, in words.

    A kind of embeddings that is ill for the second time running gets a sentence; another one when it is twice as far
    outside its range, or something worse is, and when it is back. In the warm-up and for a while after it nothing is
    said: no range holds yet.
    """

    def __init__(self, cfg: Config, steps: int, log: Log) -> None:
        self._every, self._steps, self._method, self._log = cfg.health_every, steps, cfg.method.name, log
        self._quiet = min(cfg.optim.warmup * steps, 2000) + min(500, steps / 5)
        self._outside: set[str] = set()  # kinds, the last time
        self._said: dict[str, float] = {}  # measures, and how far outside they were
        self._new: dict[str, float] = {}

    def watch(self, method: Method, done: int) -> None:
        """Before the step after which ``done`` steps are done: does the method show its embeddings?"""
        due = bool(self._every) and (done % self._every == 0 or done in (1, self._steps))
        method.shown = {} if due else None

    def measure(self, method: Method, views: Views, done: int) -> None:
        """After that step, of which ``views`` are the pictures; a call of all processes."""
        if method.shown:
            self._new = values(method.shown, views)
            method.shown = None
            if done > self._quiet:
                self._say(done)

    def read(self) -> dict[str, float]:
        """What was measured since this was last asked, for the log."""
        new, self._new = self._new, {}
        return new

    def _say(self, done: int) -> None:
        found = ills(self._new, self._method)
        for kind, (name, range_) in found.items():
            if kind in self._outside and range_.excess > WORSE * self._said.get(name, 0.0):
                self._said[name] = range_.excess
                self._log.say(f"step {done}: {sentence(name, range_, self._new, self._method)}")
        most: dict[str, float] = {}
        for name, range_ in ranges(self._new, self._method).items():
            kind = name.split("_")[0]
            most[kind] = max(most.get(kind, 0.0), range_.excess)
        for kind in dict.fromkeys(name.split("_")[0] for name in self._said):
            if most.get(kind, 1.0) < BACK:
                self._said = {name: excess for name, excess in self._said.items() if not name.startswith(kind)}
                self._log.say(f"step {done}: {NOUNS.get(kind, kind)} are back in their healthy ranges")
        self._outside = set(found)
