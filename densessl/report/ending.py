"""How far a run has come: ended, stopped, still going, or broken off."""

from __future__ import annotations

import errno
import fcntl
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from densessl.report.records import Run
from densessl.training.run_folder import LOCK

STOPPED = re.compile(r" after (\d+) of (\d+) steps(?:$|, and its state\.)")
SILENT = 120.0  # seconds, and at least five intervals of the log, after which a run without an end is given up
INTERVALS = 5


class Ending(NamedTuple):
    word: str
    text: str


def ending(run: Run, now: float) -> Ending:
    """``now``: seconds since 1970."""
    done, steps = run.done, run.steps
    last = STOPPED.search(run.said[-1].text) if run.said else None
    if last:
        done, steps = max(done, int(last[1])), int(last[2])
    of = f"{done} of {steps} steps" if steps else f"{done} steps"
    if steps and done >= steps:
        return Ending("ended", f"ended: {of} were done")
    if last:
        return Ending("stopped", f"stopped after {of} by a signal, having saved; --resume goes on")
    if now - run.written < max(SILENT, INTERVALS * _interval(run)):
        return Ending("going", f"still going: {of} are logged, and it wrote a moment ago")
    if _held(run.folder / LOCK):  # by a probe or a save that takes long, or something that hangs
        return Ending("going", f"still going: {of} are logged, and its process is there")
    when = datetime.fromtimestamp(run.written, UTC).strftime("%Y-%m-%d %H:%M UTC")
    states = f"--resume goes on from step {run.states[-1]}" if run.states else "no state was saved to go on from"
    return Ending("broken off", f"broken off: {of} are logged, and nothing was written since {when}; {states}")


def _held(lock: Path) -> bool:
    """By the process that trains. Not known of another machine where the file system shares no locks."""
    try:
        with lock.open("rb") as file:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EACCES, errno.EAGAIN)
    return False


def _interval(run: Run) -> float:
    """Seconds between two lines of metrics."""
    pace = run.records[-1].get("pictures_per_s") if run.records else None
    batch, every = run.values.get("batch"), run.values.get("log_every")
    return every * batch / pace if pace and isinstance(batch, int) and isinstance(every, int) else 0.0
