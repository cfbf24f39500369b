"""Worker processes that make what is asked for, in the order asked, and are replaced when they die."""

from __future__ import annotations

import mmap
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.util import Finalize, get_temp_dir
from queue import SimpleQueue
from threading import Thread
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor
from torch.multiprocessing import get_context
from torch.utils._pytree import tree_map_only
from torch.utils.data import Dataset

from densessl.data.deaths import Death
from densessl.data.worker import Raised, work
from densessl.errors import UserError

AHEAD = 2  # results a worker
PATIENCE = 5  # seconds in which a process that has closed its pipes, or was killed, ends


class Keys(Protocol):
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...


def by_workers(
    dataset: Dataset,
    keys: Keys,
    workers: int,
    pin: bool = False,
    died: Callable[[list[Death]], None] | None = None,
) -> Any:
    """An iterator with a length over ``dataset[key]`` of each key, None being none; deleting it ends the workers.

    Workers begin with the first key at once, and read two ahead each. They are forked, so that they share what the data
    set holds; without any this process does it. ``pin`` puts tensors where a GPU fetches them without a copy.

    When workers have died, ``died`` hears of it, and may change the data set or raise. Then all are forked again and
    make what was not yet given out: nothing is lost and nothing comes twice. Without ``died`` that is a UserError.
    What else a worker raises comes as RuntimeError, with its traceback.

    A DataLoader can't do this: one death ends it, by an error that is raised wherever the main thread is just then.
    """
    return _ByWorkers(dataset, keys, workers, pin, died or _refuse)


def _refuse(deaths: list[Death]) -> NoReturn:
    raise UserError("; ".join(map(str, deaths)))


class _ByWorkers:
    def __init__(
        self, dataset: Dataset, keys: Keys, workers: int, pin: bool, died: Callable[[list[Death]], None]
    ) -> None:
        self._dataset, self._workers, self._pin, self._died = dataset, workers, pin, died
        self._length, self._keys = len(keys), iter(keys)
        self._again: deque[Any] = deque()  # keys that dead workers leave
        self._due: deque[tuple[int, Any, Callable[[], Any]]] = deque()  # worker, key, what waits for the answer
        if workers:
            self._begin()

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if not self._workers:
            made = self._dataset[next(self._keys)]
            return _pinned(made) if self._pin else made
        while self._due:
            worker, _, answer = self._due[0]
            try:
                made = answer()
            except (EOFError, OSError):  # OSError: it died before what it shares was fetched
                if not (deaths := self._crew.deaths(worker)):
                    raise
                self._replace(deaths)
                continue
            self._due.popleft()
            self._ask(worker)
            if isinstance(made, Raised):
                raise made.error
            return made
        self._end()
        raise StopIteration

    def _begin(self) -> None:
        self._crew = _Crew(self._dataset, self._workers, self._pin)
        # Also at the exit of Python, before multiprocessing would send a signal, which workers leave to us.
        self._end = Finalize(self, self._crew.end, exitpriority=1)
        for _ in range(AHEAD):
            for worker in range(self._workers):
                self._ask(worker)

    def _ask(self, worker: int) -> None:
        key = self._again.popleft() if self._again else next(self._keys, None)
        answer = self._crew.ask(worker, key)
        if key is not None:
            self._due.append((worker, key, answer))

    def _replace(self, deaths: list[Death]) -> None:
        self._end()
        self._again.extendleft(key for _, key, _ in reversed(self._due))
        self._due.clear()
        self._died(deaths)
        self._begin()


class _Crew:
    """Workers that were forked together."""

    def __init__(self, dataset: Dataset, count: int, pin: bool) -> None:
        get_temp_dir()  # in which workers make sockets: of the main process, since one that is killed can't clean up
        context = get_context("fork")
        self._places = memoryview(mmap.mmap(-1, 8 * count)).cast("q")  # shared with them
        self._keys: list[Connection] = []
        self._made: list[Connection] = []
        self._processes: list[Any] = []
        try:
            for worker in range(count):
                self._fork(context, dataset, self._places[worker : worker + 1])
        except OSError as error:
            self.end()
            raise UserError(
                f"worker {worker + 1} of {count} can't be started: {error.strerror}; fewer data.workers may help"
            ) from None
        self._jobs: SimpleQueue[tuple[Connection, Future[Any]] | None] = SimpleQueue()
        self._pinning = (
            Thread(target=_pin, args=(self._jobs, torch.cuda.current_device()), daemon=True) if pin else None
        )
        if self._pinning:
            self._pinning.start()

    def _fork(self, context: Any, dataset: Dataset, place: memoryview) -> None:
        theirs, keys = context.Pipe(duplex=False)
        made, answers = context.Pipe(duplex=False)
        self._keys.append(keys)
        self._made.append(made)
        parents = [*self._keys, *self._made]
        process = context.Process(target=work, args=(dataset, theirs, answers, parents, place), daemon=True)
        with theirs, answers, warnings.catch_warnings():
            # Python 3.12 warns of any fork beside threads; the workers use none of the parent's threads or locks.
            warnings.filterwarnings("ignore", ".*multi-threaded.*fork", DeprecationWarning)
            process.start()
        self._processes.append(process)

    def ask(self, worker: int, key: Any) -> Callable[[], Any]:
        """Returns what waits for the answer."""
        with suppress(ConnectionError):  # it is dead, which is found out where its answer is waited for
            self._keys[worker].send(key)
        if not self._pinning or key is None:
            return self._made[worker].recv
        future: Future[Any] = Future()
        self._jobs.put((self._made[worker], future))
        return future.result

    def deaths(self, worker: int) -> list[Death]:
        """Those of all that are dead, if ``worker`` is."""
        self._processes[worker].join(PATIENCE)
        if self._processes[worker].is_alive():
            return []
        codes = [process.exitcode for process in self._processes]
        return [Death(n, code, self._places[n]) for n, code in enumerate(codes) if code is not None]

    def end(self) -> None:
        for process in self._processes:
            process.kill()  # whatever it is at is not needed any more
        for process in self._processes:
            process.join(PATIENCE)
        if self._pinning:
            self._jobs.put(None)
            self._pinning.join(PATIENCE)
        for end in (*self._keys, *self._made):
            end.close()


def _pin(jobs: SimpleQueue[tuple[Connection, Future[Any]] | None], device: int) -> None:
    torch.cuda.set_device(device)
    while job := jobs.get():
        made, future = job
        try:
            future.set_result(_pinned(made.recv()))
        except BaseException as error:  # whatever it is, it is for whom the answer is for
            future.set_exception(error)


def _pinned(made: Any) -> Any:
    return tree_map_only(Tensor, Tensor.pin_memory, made)
