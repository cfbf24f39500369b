"""Signals by which users, terminals and schedulers say that a process is to end soon."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

SIGNALS = (
    signal.SIGTERM,
    signal.SIGINT,  # Ctrl-C
    signal.SIGHUP,  # the terminal or the connection to it is gone
    signal.SIGUSR1,  # SLURM, as it is asked to; Grid Engine, before it suspends
    signal.SIGUSR2,  # LSF; Grid Engine, before it kills
    signal.SIGXCPU,  # the limit of CPU time
)


def answer(handler: Callable[[int, Any], Any]) -> dict[signal.Signals, Any]:
    """Let ``handler`` answer SIGNALS, except a SIGHUP that nohup has switched off; returns the handlers before."""
    nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return {each: signal.signal(each, handler) for each in SIGNALS if not (nohup and each == signal.SIGHUP)}
