"""A worker process: it makes what it is asked for, notes where it is, and ends with whoever asks."""

from __future__ import annotations

import gc
import signal
import traceback
from array import array
from collections.abc import Iterable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import torch
from torch.utils.data import Dataset

from densessl.errors import UserError, shared_memory_error
from densessl.signals import SIGNALS

GRACE = 60  # seconds
NOWHERE = -1
FIRST = "500"  # of 1000; the kernel adds it to the share of memory that it goes by

_inside = False
_place = memoryview(array("q", [NOWHERE]))


class Raised(NamedTuple):
    """What a worker sends where it has nothing else to send."""

    error: Exception


def at(number: int) -> None:
    """Note where this process is, as a number from 0 on. Of a worker the main process sees it, and when it died too."""
    _place[0] = number


def where() -> int:
    return _place[0]


def inside() -> bool:
    """Whether this process is a worker."""
    return _inside


def work(
    dataset: Dataset, keys: Connection, made: Connection, parents: Iterable[Connection], place: memoryview
) -> None:
    """``dataset[key]`` of each of ``keys`` until there is None. ``parents`` are the ends of the main process."""
    global _inside, _place
    _inside, _place = True, place
    at(NOWHERE)
    _leave_signals()
    with suppress(OSError):  # where memory runs out, rather a worker, which is replaced, than the main process
        Path("/proc/self/oom_score_adj").write_text(FIRST, encoding="utf-8")
    prepare()
    for end in parents:  # which the fork copied: as long as any is open, no worker sees the main process end
        end.close()
    with suppress(EOFError, ConnectionError):  # the main process has ended, or asks no more
        key = keys.recv()
        while key is not None:
            answer = _answer(dataset, key)
            # Before the answer is sent: so neither side waits to be read by the other, however large both are.
            key = keys.recv()
            try:
                made.send(answer)
            except RuntimeError as error:  # its tensors can't be shared; nothing of it was sent yet
                made.send(_raised(error))
            del answer
        while True:  # the main process fetches shared tensors from here
            keys.recv()


def _answer(dataset: Dataset, key: Any) -> Any:
    try:
        return dataset[key]
    except Exception as error:
        return _raised(error)
    finally:
        at(NOWHERE)


def _raised(error: Exception) -> Raised:
    """Whatever it is, its traceback is known here alone, in the ``except`` that calls this."""
    if isinstance(error, UserError):
        return Raised(error)
    return Raised(shared_memory_error(error) or RuntimeError(f"in a worker process:\n{traceback.format_exc()}"))


def prepare() -> None:
    """One core alone, and no garbage collector that walks through all that was imported: a tenth of the time."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)  # its pool does not survive the fork, and the cores are taken by the other workers
    gc.freeze()  # it would also write to pages that forked workers share


def _leave_signals() -> None:
    """A signal to the whole process group is the main process's to answer: it may want to save first."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _stay)


def _stay(*_: Any) -> None:
    """For GRACE, or until a second SIGTERM: two may come as one."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.alarm(GRACE)
