"""Workers that die: the run sees what it would have seen, and says where they were."""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_loader import Noise, collect, loader, same
from torch.utils.data import DataLoader, Dataset

from densessl.config import PhotometricConfig
from densessl.data import deaths
from densessl.data.worker import inside
from densessl.data.workers import by_workers
from densessl.errors import UserError
from densessl.progress import progress

COLOURS = PhotometricConfig()
SHARED = Path("/dev/shm")


class Deadly(Noise):
    """Pictures in memory; ``fate(i)`` befalls the worker that reads picture i."""

    def __init__(self, count: int, fate: Callable[[int], None]) -> None:
        super().__init__(count)
        self.fate = fate

    def read(self, i: int, reduction: object = None) -> np.ndarray:
        if inside():
            self.fate(i)
        return super().read(i)


def end_by(number: int) -> None:
    faulthandler.disable()  # which pytest enables
    os.kill(os.getpid(), number)


def once(folder: Path, fates: dict[int, int]) -> Callable[[int], None]:
    """Picture: signal."""

    def fate(i: int) -> None:
        if i in fates and not (folder / str(i)).exists():
            (folder / str(i)).touch()
            end_by(fates[i])

    return fate


@pytest.mark.parametrize("workers", [1, 3])
def test_views_are_as_if_no_worker_had_died(workers, tmp_path, caplog):
    truth = collect(loader(Noise(20), COLOURS), 0, 12)
    fates = {4: signal.SIGKILL, 11: signal.SIGSEGV, 17: signal.SIGBUS, 2: signal.SIGABRT}
    one = loader(Deadly(20, once(tmp_path, fates)), COLOURS, workers=workers)
    found = collect(one, 0, 12)
    assert list(found) == list(range(12))
    assert all(same(truth[step], found[step]) for step in truth)
    assert not one.failed
    said = "\n".join(record.getMessage() for record in caplog.records)
    named = re.findall(r"^worker \d was ended by (\w+), .*, at (\d+)\.jpg; the workers start again", said, re.M)
    assert len(named) == len(caplog.records) > 0
    assert set(named) <= {(number.name, str(i)) for i, number in fates.items()}
    if workers == 1:  # else one may still be dying when all are started again
        assert len(named) == 4
        assert "ended by SIGKILL, most often because memory ran out" in said
        assert "ended by SIGBUS, most often because shared memory, /dev/shm, is full: make it larger, as Docker" in said
        assert "ended by SIGSEGV, an error in a library such as a decoder" in said


def test_workers_killed_from_outside_whatever_they_are_at():
    """One or all; busy, or with answers that nobody has fetched from them yet."""
    truth = collect(loader(Noise(20), COLOURS), 0, 20)
    found = {}
    for step, views in loader(Noise(20), COLOURS, workers=2).from_step(0, 20):
        found[step] = [tensor.clone() for view in views.large + views.small for tensor in view]
        if step in (2, 9, 13):
            time.sleep(0.3 * (step == 9))
            victims = multiprocessing.active_children()
            assert len(victims) == 2
            for victim in victims[step % 2 :]:
                victim.kill()
    assert list(found) == list(range(20))
    assert all(same(truth[step], found[step]) for step in truth)


def test_nothing_is_left(tmp_path):
    def held() -> tuple[int, int, int]:
        shared = len(list(SHARED.glob(f"torch_{os.getpid()}*"))) if SHARED.exists() else 0
        return len(os.listdir("/proc/self/fd")), shared, threading.active_count()

    if not Path("/proc/self/fd").exists():
        pytest.skip("open files are told by Linux")
    fates = dict.fromkeys(range(0, 12, 4), signal.SIGKILL)
    collect(loader(Noise(12), workers=2), 0, 2)
    before = held()
    steps = loader(Deadly(12, once(tmp_path, fates)), workers=2).from_step(0, 9)
    for _ in range(7):
        next(steps)
    children = [child.pid for child in multiprocessing.active_children()]
    assert len(children) == 2
    steps.close()
    for child in children:
        with pytest.raises(ChildProcessError):
            os.waitpid(child, os.WNOHANG)
    assert not multiprocessing.active_children()
    assert held() == before


# --- a picture that is to blame ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
def test_a_picture_that_kills_each_time_is_unreadable(workers, caplog):
    killers = (4, 5, 19)
    truth = collect(loader(Noise(20, bad=killers), COLOURS), 0, 15)
    caplog.clear()
    one = loader(Deadly(20, lambda i: end_by(signal.SIGSEGV) if i in killers else None), COLOURS, workers=workers)
    found = collect(one, 0, 15)
    assert all(same(truth[step], found[step]) for step in truth)
    assert sorted(one.failed) == ["19.jpg", "4.jpg", "5.jpg"]
    named = [record.getMessage() for record in caplog.records if "unreadable" in record.getMessage()]
    assert sorted(line.partition(": worker")[0] for line in named) == [
        f"unreadable picture skipped: {name}" for name in ("19.jpg", "4.jpg", "5.jpg")
    ]
    assert all("SIGSEGV" in line and line.endswith("for the second time here") for line in named)


def test_pictures_that_kill_count_among_the_unreadable():
    one = loader(Deadly(20, lambda i: end_by(signal.SIGSEGV) if i % 3 == 0 else None), workers=1)
    with pytest.raises(UserError, match=r"4 of 20 pictures are unreadable, data\.unreadable allows 3"):
        collect(one, 0, 15)


def test_who_is_told_to_end_blames_no_picture(tmp_path, caplog):
    def fate(i: int) -> None:
        if i == 6 and len(list(tmp_path.iterdir())) < 2:
            (tmp_path / str(os.getpid())).touch()
            end_by(signal.SIGTERM), end_by(signal.SIGTERM)  # the first is left to the main process

    truth = collect(loader(Noise(8)), 0, 4)
    one = loader(Deadly(8, fate), workers=1)
    found = collect(one, 0, 4)
    assert all(same(truth[step], found[step]) for step in truth)
    assert not one.failed
    assert [re.sub(".*by ", "", record.getMessage()) for record in caplog.records] == [
        "SIGTERM, which another program sent, at 6.jpg; the workers start again, nothing is lost"
    ] * 2


# --- giving up --------------------------------------------------------------------------------------------------------


def ever_others(folder: Path) -> Callable[[int], None]:
    """Every third picture kills, the first time it is read."""
    return once(folder, dict.fromkeys(range(0, 400, 3), signal.SIGKILL))


def test_workers_that_die_again_and_again_end_the_run_a_step_later(tmp_path):
    truth = collect(loader(Noise(400), batch=1), 0, 60)
    one, found, known = loader(Deadly(400, ever_others(tmp_path)), batch=1, workers=1), {}, []

    def train() -> None:
        for step, views in one.from_step(0, 60):
            found[step] = [tensor for view in views.large + views.small for tensor in view]
            known.append(one.failure)

    message = r"died 5 times with fewer than 100 batches between; now worker 0 .*SIGKILL.*, at \d+\.jpg\. Fewer data\.w"
    with pytest.raises(UserError, match=message) as caught:
        train()
    assert known == [None] * (len(known) - 1) + [caught.value]
    fifth = [step for step, row in enumerate(one.order(0)[0:60].tolist()) if row % 3 == 0][4]
    assert list(found) == list(range(len(found)))
    assert fifth - 2 <= len(found) <= fifth  # what the worker had made before was lost with it
    assert all(same(truth[step], found[step]) for step in found)


def test_deaths_far_apart_never_do(tmp_path, monkeypatch):
    monkeypatch.setattr(deaths, "GOOD", 1)
    one = loader(Deadly(400, ever_others(tmp_path)), batch=1, workers=1)
    assert len(collect(one, 0, 60)) == 60
    assert len(list(tmp_path.iterdir())) > 2 * deaths.TIMES


@pytest.mark.parametrize("workers", [0, 1])
def test_an_exception_names_the_picture(workers, monkeypatch):
    images = Noise(8)
    read = images.read
    monkeypatch.setattr(images, "read", lambda i, reduction: read(i) if i != 5 else int("a fault"))
    with pytest.raises((ValueError, RuntimeError)) as caught:
        collect(loader(images, workers=workers), 0, 4)
    text = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert "The picture is 5.jpg" in text
    assert "a fault" in text


# --- other users ------------------------------------------------------------------------------------------------------


def in_little_shared_memory() -> torch.Tensor:
    """More than is there: 4 KiB, in the place of /dev/shm, for the process that calls this alone."""
    system, own_mounts, own_user, private = ctypes.CDLL(None), 0x20000, 0x10000000, 0x44000
    assert system.unshare(own_mounts | (own_user if os.geteuid() else 0)) == 0
    assert system.mount(b"none", b"/", None, private, None) == 0
    assert system.mount(b"tmpfs", str(SHARED).encode(), b"tmpfs", 0, b"size=4k") == 0
    return torch.zeros(1 << 20)


@pytest.fixture
def little_shared_memory() -> None:
    if os.name != "posix" or not SHARED.exists():
        pytest.skip("shared memory is elsewhere")
    if not (child := os.fork()):
        try:
            in_little_shared_memory()
            os._exit(0)
        finally:
            os._exit(1)
    if os.waitpid(child, 0)[1]:
        pytest.skip("this system lets nobody mount")


class Doubled(Dataset):
    """The key and an array, twice as long as asked for; or what befalls a worker."""

    def __getitem__(self, key: tuple[int, bytes]) -> tuple[int, torch.Tensor]:
        number, data = key
        if data == b"kill":
            end_by(signal.SIGKILL)
        if data == b"end":
            os._exit(3)
        if data == b"refuse":
            raise UserError("no such thing")
        if data == b"no room":
            return number, in_little_shared_memory()
        return number, torch.full((2 * len(data),), number)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"kill", "^worker 1 was ended by SIGKILL, most often because memory ran out$"),
        (b"end", "^worker 1 ended by itself with status 3$"),
        (b"refuse", "^no such thing$"),
    ],
)
def test_a_death_or_refusal_is_one_clear_error(data, message):
    made = by_workers(Doubled(), [(0, b""), (1, data), (2, b"")], 2)
    assert next(made)[0] == 0
    with pytest.raises(UserError, match=message):
        next(made)


ROOM = r"^shared memory is full: /dev/shm.* Docker does with --shm-size=8g.*data\.workers.*--workers"


@pytest.mark.usefixtures("little_shared_memory")
def test_too_little_shared_memory_is_one_clear_error():
    made = by_workers(Doubled(), [(0, b""), (1, b"no room"), (2, b"")], 1)
    assert next(made)[0] == 0
    with pytest.raises(UserError, match=ROOM):
        next(made)
    assert next(made)[0] == 2  # the worker lives

    one = loader(Deadly(20, lambda i: in_little_shared_memory() if i == 5 else None), workers=1)
    with pytest.raises(UserError, match=ROOM):
        for _ in one.from_step(0, 5):
            pass
    assert not one.failed  # no picture is to blame


class Large(Dataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, number: int) -> torch.Tensor:
        return in_little_shared_memory()


@pytest.mark.usefixtures("little_shared_memory")
@pytest.mark.parametrize("batch", [None, 1])  # found where it is sent, or where it is made
def test_too_little_shared_memory_ends_evaluations_in_one_clear_error(batch):
    faulthandler.disable()
    try:
        with pytest.raises(UserError, match=ROOM):
            list(progress(DataLoader(Large(), batch, num_workers=1), "evaluate"))
    finally:
        faulthandler.enable()
        gc.collect()  # of the error, which holds the workers


def test_neither_side_waits_for_the_other_however_large_keys_and_answers_are():
    keys: list[Any] = [(number, bytes(1 << 20)) for number in range(8)]
    made = by_workers(Doubled(), keys, 2)
    assert len(made) == 8
    assert [(number, len(x), x[-1].item()) for number, x in made] == [(n, 2 << 20, n) for n in range(8)]


def test_a_thread_pins_what_a_gpu_fetches(monkeypatch):
    """Without a GPU: what would pin is replaced."""
    pinned: list[Any] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(threading.current_thread().name)
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: pinned.append(device))
    before = threading.active_count()
    made = by_workers(Doubled(), [(n, bytes(n)) for n in range(40)], 2, pin=True, died=lambda deaths: None)
    found = []
    for number, x in made:
        found.append((number, x.tolist()))
        if number == 5:
            for child in multiprocessing.active_children():
                child.kill()
    assert found == [(n, [n] * 2 * n) for n in range(40)]
    assert pinned.count(3) == 2  # the thread of those that died too
    assert threading.main_thread().name not in pinned
    assert threading.active_count() == before


ALONE = """
import multiprocessing, sys, time
sys.path[:0] = {path!r}
from test_loader import Noise, loader

steps = loader(Noise(8), workers=2).from_step(0, 1000)
next(steps)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
{then}
"""


@pytest.mark.parametrize("then", ["raise SystemExit(7)", "time.sleep(100)"])
def test_workers_end_with_the_main_process_however_it_ends(then):
    code = ALONE.format(path=sys.path, then=then)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        workers = [int(pid) for pid in process.stdout.readline().split()]
        assert len(workers) == 2
        if "sleep" in then:
            process.kill()
        assert process.wait(20) == (-signal.SIGKILL if "sleep" in then else 7)
    end = time.monotonic() + 20
    while any(alive(pid) for pid in workers):
        assert time.monotonic() < end
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """A zombie is not: in a container nobody may ask for its status."""
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat")
        return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
