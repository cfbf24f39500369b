"""One thread: the tensors of tests are small, and a second thread would only wait, and long on a busy machine."""

import os
from collections.abc import Iterator

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, and for the processes that tests start

import pytest

PROCESS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "DS_ACCELERATOR")


@pytest.fixture(autouse=True)
def _nobodys_place() -> Iterator[None]:
    """What a training names this process by is not for the processes that the next test starts: its port is taken."""
    yield
    for name in PROCESS:
        os.environ.pop(name, None)
