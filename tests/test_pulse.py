"""A process that hangs, dies or fails: the others end, and say which one it was."""

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from spawned import spawn

from densessl.training import distributed, pulse

HOST = socket.gethostname()
WAIT = 2.0  # seconds that a process waits for another
STEP = 2  # in which something happens


def program(rank: int, size: int, folder: Path, happens: Callable[[int], None]) -> None:
    os.dup2(os.open(folder / f"said{rank}", os.O_WRONLY | os.O_CREAT), 2)
    sys.stderr = os.fdopen(2, "w", closefd=False)
    try:
        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
        distributed.watch(WAIT / 60)
        for step in range(1, 5):
            distributed.at_step(step, step - 1)
            if step == STEP:
                happens(size - 1 - rank)
            distributed.total(torch.ones(1))
        distributed.unwatch()
    except Exception:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        sys.stderr.flush()
        os._exit(1)


def ends(
    size: int, folder: Path, happens: Callable[[int], None], stays: bool = False
) -> tuple[list[int | None], list[str]]:
    """Exit codes and what was said, when all processes have ended; or, if it ``stays``, all but the last."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["densessl.training.distributed", "pytest"])
    processes = [context.Process(target=program, args=(rank, size, folder, happens)) for rank in range(size)]
    for process in processes:
        process.start()
    try:
        for process in processes[: -1 if stays else None]:
            process.join(60)
        return [process.exitcode for process in processes], [
            (folder / f"said{rank}").read_text() for rank in range(size)
        ]
    finally:
        for process in processes:
            process.kill()


def stops(from_last: int) -> None:
    if from_last == 0:
        time.sleep(1.5 * pulse.BEAT)  # so that its last word is of this step
        os.kill(os.getpid(), signal.SIGSTOP)


def sleeps(from_last: int) -> None:
    if from_last == 0:
        time.sleep(1000)


def is_killed(from_last: int) -> None:
    if from_last == 0:
        os.kill(os.getpid(), signal.SIGKILL)


def fails(from_last: int) -> None:
    if from_last == 0:
        if os.fork() == 0:  # a worker that fails is not the process
            sys.excepthook(ValueError, ValueError("of a worker"), None)
            os._exit(0)
        time.sleep(1)
        raise OSError("the disk is gone")


@pytest.mark.parametrize(
    ("happens", "size", "code", "verdict"),
    [
        (stops, 2, None, "does not answer any more: last heard of at ??:??:?? in step 2"),
        (sleeps, 2, pulse.EXIT, "does not go on: it is in step 2"),
        (is_killed, 3, -signal.SIGKILL, "does not answer any more: last heard of at ??:??:??"),
        (fails, 2, 1, "ended by OSError: the disk is gone"),
    ],
)
def test_who_hangs_or_ends_is_named(
    happens: Callable[[int], None], size: int, code: int | None, verdict: str, tmp_path: Path
) -> None:
    codes, said = ends(size, tmp_path, happens, stays=code is None)
    assert codes == [pulse.EXIT] * (size - 1) + [code]
    for rank, text in enumerate(said[:-1]):
        assert text.startswith(f"densessl: process {rank} on {HOST} gives up in step {STEP}"), text
        start, _, end = verdict.partition("??:??:??")
        assert f": process {size - 1} on {HOST} {start}" in text, text
        assert end in text, text
        assert text.endswith("The state after 1 steps is whole, --resume goes on from there\n"), text
        assert "Traceback" not in text, text


def all_work_long(from_last: int) -> None:
    time.sleep(2 * WAIT + pulse.BETWEEN)


def test_work_of_all_is_no_hanging(tmp_path: Path) -> None:
    assert ends(2, tmp_path, all_work_long) == ([0, 0], ["", ""])


def in_two_processes(rank: int, folder: Path) -> dict[str, Any]:
    """Work long enough to be found behind in: what `on_first_slowly` gives, and how `on_first` fails."""
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=timedelta(seconds=4))
    distributed.watch(4 / 60)
    done = [distributed.on_first_slowly(work, 9) for work in (slow, as_if_ours())]
    distributed.unwatch()
    said = ""
    try:
        distributed.on_first(slow, 8)
    except Exception as error:
        said = str(error)
    dist.destroy_process_group()  # left to the end of Python, its threads sometimes abort it
    return {"done": done, "error": said}


def as_if_ours() -> Callable[[float], float]:
    """`slow`, but of a module whose place is told."""
    names: dict[str, Any] = {"__name__": "densessl.slow", "time": time}
    exec("def slow(seconds):\n    time.sleep(seconds)\n    return seconds", names)
    return names["slow"]  # type: ignore[no-any-return]


def slow(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def test_others_wait_for_long_work_of_the_first(tmp_path: Path) -> None:
    first, other = spawn(in_two_processes, tmp_path)
    assert first["done"] == other["done"] == [9, 9]
    assert "imed out" in other["error"]
