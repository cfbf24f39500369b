"""What the loop drives: the features of a few pictures, kept at some steps, so that a report shows how they formed."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Dataset

from densessl.data.decoding import Unreadable
from densessl.data.workers import by_workers
from densessl.errors import UserError
from densessl.probes.frozen import frozen_copy
from densessl.probes.probes import in_a_line
from densessl.reading import pixel_facts
from densessl.training import distributed
from densessl.visual import watched

if TYPE_CHECKING:
    from densessl.backbones import Backbone
    from densessl.config import Config
    from densessl.data.pictures import Pictures
    from densessl.training.log import Log

FOLDER = "watched"
SHARES = (1 / 30, 1 / 10, 1 / 3)  # of the run, beside its beginning and its end: features form early


class Watching:
    """Off with ``cfg.watched=0``. The first process does the work, on a frozen copy; the others wait for it.

    Random numbers, weights and modes of the training stay as they are. What fails is said, and training goes on. What
    is there of steps after ``done`` goes away, since they are done again.
    """

    def __init__(self, cfg: Config, pictures: Pictures, steps: int, device: torch.device, done: int) -> None:
        self._cfg, self._pictures, self._device = cfg, pictures, device
        self._folder = Path(cfg.run) / FOLDER
        self._steps = times(steps, cfg.log_every) if cfg.watched else []
        self._inputs: watched.Inputs | None = None
        self.go_back(done)

    def go_back(self, done: int) -> None:
        if distributed.is_first():
            for step, file in watched.steps_of(self._folder).items():
                if step > done:
                    with suppress(OSError):
                        file.unlink()

    def look(self, backbone: Backbone, done: int, log: Log) -> None:
        """Keep what ``backbone`` sees after ``done`` steps, where that is due. A call of all processes."""
        if done in self._steps:
            distributed.on_first_slowly(self._kept, backbone, done, log)

    def _kept(self, backbone: Backbone, done: int, log: Log) -> None:
        if watched.step_file(self._folder, done).exists():  # of the state that a run goes on from
            return
        # Whatever fails, pictures that are gone or a disk that is full, days of training must not end by it.
        try:
            data = self._cfg.data
            copy = frozen_copy(backbone, {**pixel_facts(self._pictures.pixels), "mean": data.mean, "std": data.std})
            self._inputs = self._inputs or self._opened(max(backbone.strides))
            watched.write_maps(self._folder, done, watched.maps(copy, self._inputs))
        except Exception as error:
            log.say(f"step {done}: its features were not kept for the report, training goes on: {in_a_line(error)}")
        if self._device.type == "cuda":
            torch.cuda.empty_cache()  # blocks of sizes that training has no use for

    def _opened(self, stride: int) -> watched.Inputs:
        rows = watched.rows_of_inputs(self._folder)
        how = {"seed": self._cfg.seed, "step": stride, "rows": rows}
        # A worker reads them, where there are any, since a picture can end the process that decodes it.
        (inputs,) = by_workers(_Taken(self._pictures, self._cfg, how), [0], min(1, self._cfg.data.workers))
        if isinstance(inputs, UserError):
            raise inputs
        if not rows:
            watched.write_inputs(self._folder, inputs)
        return inputs


class _Taken(Dataset):
    def __init__(self, pictures: Pictures, cfg: Config, how: dict[str, Any]) -> None:
        self._pictures, self._cfg, self._how = pictures, cfg, how

    def __getitem__(self, number: int) -> watched.Inputs | UserError:
        try:
            return watched.take(self._pictures, self._cfg.views, self._cfg.watched, **self._how)
        except (UserError, Unreadable) as error:  # raised in a worker it would arrive as a traceback
            return UserError(str(error))


def times(steps: int, every: int) -> list[int]:
    """Steps that are logged, ``every`` so many: the beginning, some early, the end."""
    between = (min(steps, math.ceil(steps * share / every) * every) for share in SHARES)
    return sorted({0, *between, steps})
