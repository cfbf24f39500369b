"""One job a number, done by worker processes, the results in the order of the numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import Dataset

from densessl.data.workers import by_workers
from densessl.progress import progress


def in_order(
    job: Callable[[int], Any], count: int, workers: int, title: str, status: Callable[[int], str] = lambda _: ""
) -> Iterator[Any]:
    """``job(0)``, ``job(1)``, ... ``job(count - 1)``, with progress on stderr; two results a worker are held at most.

    Without workers this process does it. Workers are forked, so that they share what the job holds.
    """
    return progress(by_workers(_Jobs(job), range(count), workers), title, status)


class _Jobs(Dataset):
    def __init__(self, job: Callable[[int], Any]) -> None:
        self.job = job

    def __getitem__(self, number: int) -> Any:
        return self.job(number)
