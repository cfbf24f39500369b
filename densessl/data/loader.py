"""The loader: which pictures each step sees, made into views by worker processes."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from densessl.data.deaths import Death, Deaths
from densessl.data.decoding import Unreadable
from densessl.data.multi_crop import MultiCrop, Plan
from densessl.data.order import Order, order
from densessl.data.pictures import Pictures
from densessl.data.views import View, Views
from densessl.data.worker import at, inside, where
from densessl.data.workers import by_workers
from densessl.device import gpu_is_used
from densessl.errors import UserError

if TYPE_CHECKING:
    from densessl.config import PhotometricConfig, ViewsConfig

FEW = 3  # unreadable pictures that never stop a run, however small the collection
TRIES = 100  # neighbours tried in place of an unreadable picture
NAMED = 100  # odd names that are named: nothing is lost by them, and a collection may have millions
log = logging.getLogger("densessl")


class Batch(NamedTuple):
    views: Views | None  # None: nothing readable was found
    failed: list[tuple[str, str]]  # path and reason
    odd: list[tuple[str, str]]  # path and form of those that have another one than their names say


class Loader:
    """Views of every step of a run, from the step number alone: nothing to save, nothing to restore.

    The order of epoch e follows from (seed, e), the batch of a step from its place in that order, and of each batch
    process `rank` takes its rows, so that all processes together see what one would. Raises UserError.
    """

    def __init__(
        self,
        images: Pictures,
        views: ViewsConfig,
        photometric: PhotometricConfig,
        *,
        batch: int,
        seed: int,
        workers: int,
        rank: int = 0,
        world_size: int = 1,
        unreadable: float = 0.05,
    ) -> None:
        if len(images) < world_size:
            raise UserError(f"{world_size} processes but {len(images)} pictures: each process needs at least one")
        if batch > len(images):
            raise UserError(f"batch={batch} but there are {len(images)} pictures, and a batch holds none twice")
        if batch % world_size:
            raise UserError(f"batch={batch} cannot be shared equally by {world_size} processes")
        self.images = images
        self.batch, self.seed, self.workers = batch, seed, workers
        self.rank, self.world_size = rank, world_size
        self.allowed = max(FEW, int(unreadable * len(images)))
        self.failed: dict[str, str] = {}  # path: reason, of all unreadable pictures met by this process
        self.odd: set[str] = set()  # paths whose names mislead
        self.failure: Exception | None = None
        self.deaths = Deaths(images)
        crops = MultiCrop(views, photometric, seed, images.pixels)
        self.batches = _Batches(images, crops, views.large.count)

    @property
    def steps_per_epoch(self) -> int:
        """The last, incomplete batch of an epoch is dropped."""
        return len(self.images) // self.batch

    def from_step(self, step: int, steps: int) -> Iterator[tuple[int, Views]]:
        """Yield (number, views) of the steps from `step` until `steps`; the views are uint8, on the CPU.

        Images are channels-last in memory, as the crops are made. Where a worker dies the views are those that would
        have come; a picture at which two died is unreadable. Raises UserError when too many pictures are unreadable, or
        workers die at ever other pictures; it is in `failure` a step before, while all processes can still save.
        """
        # Asked once for the whole rest: workers start once, and read ahead over the ends of epochs.
        batches = by_workers(self.batches, _Rows(self, step, steps), self.workers, gpu_is_used(), self._died)
        before: tuple[int, Views] | None = None
        self.failure = None
        if self.rank == 0:
            folders = getattr(getattr(self.images, "source", None), "odd_folders", list)
            self._name([(path, "a folder, and searched like any other") for path in folders()])
        try:
            for number in range(step, steps):
                try:
                    views, failed, odd = next(batches)
                    self._name([(path, f"{form}, and read as that") for path, form in odd])
                    self._note(failed, stop=views is None)
                except Exception as error:
                    self.failure = error
                self.deaths.count_batch()
                if before is not None:
                    yield before
                if self.failure is not None:
                    raise self.failure
                before = number, views
            if before is not None:
                yield before
        finally:
            del batches  # ends the workers, also where a traceback keeps this frame

    def rows(self, step: int, order: Order) -> np.ndarray:
        """The pictures of this process in a step, given the order of the step's epoch."""
        size = self.batch // self.world_size
        start = step % self.steps_per_epoch * self.batch + self.rank * size
        return order[start : start + size]

    def order(self, epoch: int) -> Order:
        """The permutation of an epoch. Ten million pictures: under a second and 40 MB; a hundred million: nothing."""
        return order(len(self.images), self.seed, epoch)

    def _died(self, deaths: list[Death]) -> None:
        killers = self.deaths.judge(deaths)
        self.batches.killers |= killers
        self._note([(self.images.path(row), reason) for row, reason in killers.items()], stop=False)

    def _note(self, failed: list[tuple[str, str]], stop: bool) -> None:
        for path, reason in failed:
            if path not in self.failed:
                self.failed[path] = reason
                log.warning("unreadable picture skipped: %s: %s", path, reason)
        if stop or len(self.failed) > self.allowed:
            first = "".join(f"\n  {path}: {reason}" for path, reason in list(self.failed.items())[:5])
            limit = "nothing readable is left near them" if stop else f"data.unreadable allows {self.allowed}"
            raise UserError(
                f"{len(self.failed)} of {len(self.images)} pictures are unreadable, {limit}; the first:{first}"
            )

    def _name(self, odd: list[tuple[str, str]]) -> None:
        for path, what in odd:
            if path not in self.odd and len(self.odd) <= NAMED:
                self.odd.add(path)
                if len(self.odd) <= NAMED:
                    log.warning("odd name: %s: %s", path, what)
                else:
                    log.warning("more odd names than %d; tools/data.py check lists all", NAMED)


class _Rows:
    """What each step asks of the workers: (epoch, pictures)."""

    def __init__(self, loader: Loader, step: int, steps: int) -> None:
        self.loader, self.step, self.steps = loader, step, steps

    def __len__(self) -> int:
        return max(0, self.steps - self.step)

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        epoch = -1
        for step in range(self.step, self.steps):
            if step // self.loader.steps_per_epoch != epoch:
                epoch = step // self.loader.steps_per_epoch
                order = self.loader.order(epoch)
            yield epoch, self.loader.rows(step, order)


class _Batches(Dataset):
    """The views of (epoch, pictures): a whole batch, stacked where it is made, so that it crosses processes once."""

    def __init__(self, images: Pictures, crops: MultiCrop, large: int) -> None:
        self.images, self.crops, self.large = images, crops, large
        self.killers: dict[int, str] = {}  # row: reason, of pictures that end their worker

    def __getitem__(self, key: tuple[int, np.ndarray]) -> Batch:
        try:
            return self._made(*key)
        except Exception as error:
            error.add_note(f"The picture is {self.images.path(where())}")
            raise

    def _made(self, epoch: int, rows: np.ndarray) -> Batch:
        pixels = self.images.pixels
        shapes = [(len(rows), size, size, pixels.channels) for size, *_ in self.crops.crops]
        stacked = [_shared(shape, pixels.dtype).numpy() for shape in shapes]
        affines = np.empty((len(stacked), len(rows), 2, 3), np.float32)
        draws = [np.empty((len(rows), photometric.width), np.float32) for *_, photometric in self.crops.crops]
        failed, odd = list[tuple[str, str]](), list[tuple[str, str]]()
        for place, row in enumerate(rows.tolist()):
            # Numbered by the row even where a neighbour stands in: its own row has other crops of it.
            plan = self.crops.plan(epoch, row)
            picture = self._readable(row, plan, failed, odd)
            if picture is None:
                return Batch(None, failed, odd)
            for number, (image, draw, affine) in enumerate(plan.take(picture)):
                stacked[number][place], affines[number, place], draws[number][place] = image, affine, draw
        views = [
            View(torch.from_numpy(image).permute(0, 3, 1, 2), torch.from_numpy(affine))
            for image, affine in zip(stacked, affines, strict=True)
        ]
        pictures = torch.from_numpy(rows.astype(np.int64))
        photometric = [torch.from_numpy(draw) for draw in draws if draw.size]
        return Batch(Views(views[: self.large], views[self.large :], pictures, photometric), failed, odd)

    def _readable(
        self, row: int, plan: Plan, failed: list[tuple[str, str]], odd: list[tuple[str, str]]
    ) -> np.ndarray | None:
        for i in _stand_ins(row, len(self.images)):
            i %= len(self.images)
            at(i)
            try:
                if i in self.killers:
                    raise Unreadable(self.images.path(i), self.killers[i])
                picture = self.images.read(i, plan.reduction)
                if form := getattr(self.images, "odd", ""):
                    odd.append((self.images.path(i), form))
                return picture
            except Unreadable as error:
                failed.append((error.path, error.reason))
        return None


def _stand_ins(row: int, count: int) -> Iterator[int]:
    """The row, the next ones, and ever farther ones: of a shard that is gone all neighbours are unreadable."""
    yield from range(row, row + min(TRIES, count))
    step = 2 * TRIES
    while step < count:
        yield row + step
        step *= 2


def _shared(shape: tuple[int, ...], dtype: np.dtype) -> torch.Tensor:
    """Empty. In a worker it lies where the main process sees it, so that nothing is copied on the way there."""
    kind = torch.uint16 if dtype == np.uint16 else torch.uint8
    if not inside():
        return torch.empty(shape, dtype=kind)
    room = torch.UntypedStorage._new_shared(math.prod(shape) * dtype.itemsize, device="cpu")
    return torch.empty(0, dtype=kind).set_(room).view(shape)
