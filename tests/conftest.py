"""One thread: the tensors of tests are small, and a second thread would only wait, and long on a busy machine."""

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, and for the processes that tests start

import pytest

PROCESS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "DS_ACCELERATOR")


@pytest.fixture(autouse=True)
def _nobodys_place() -> Iterator[None]:
    """What a training names this process by is not for the processes that a test starts: its port is taken."""
    _forget_place()  # of what a module's fixture trained
    yield
    _forget_place()


def _forget_place() -> None:
    for name in PROCESS:
        os.environ.pop(name, None)


@pytest.fixture(scope="session")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a run of each of `short_runs.KINDS`, trained once for all tests that read it."""
    from short_runs import KINDS, run, small_scenes  # which import torch

    @cache
    def trained(kind: str) -> Path:
        folder = tmp_path_factory.mktemp("short")
        (folder / "pictures").mkdir()
        return run(folder, small_scenes(folder / "pictures"), {}, KINDS[kind])

    return trained
