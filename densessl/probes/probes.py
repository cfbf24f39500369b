"""What the loop drives: small evaluations of the backbone now and then, and the best one kept."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from densessl.probes.best import FILE_NAME, Best
from densessl.probes.frozen import frozen_copy
from densessl.probes.kinds import NAMES, Score, label, open_kinds
from densessl.progress import quietly
from densessl.reading import pixel_facts
from densessl.training import distributed

if TYPE_CHECKING:
    from densessl.backbones import Backbone
    from densessl.config import Config
    from densessl.data.pixels import Pixels
    from densessl.training.log import Log

WORKERS = 4  # at most, for seconds, beside those that read the pictures of training


class Probes:
    """Off without labels. The first process has them and does the work, on a frozen copy; the others wait for it.

    Random numbers, weights and modes of the training stay as they are. Raises UserError for labels that are wrong:
    here, before training. What fails later is said, and training goes on.
    """

    def __init__(self, cfg: Config, pictures: int, pixels: Pixels, device: torch.device) -> None:
        self._cfg, self._device, self._pixels = cfg, device, pixels
        self._steps = cfg.length(pictures)
        self._every = max(1, round(cfg.probes.every * (pictures // cfg.batch)))
        self._kinds: dict[str, Score] = {}
        self._best: Best | None = None
        if cfg.probes.running:
            distributed.on_first(self._open)

    def _open(self) -> None:
        probes = self._cfg.probes
        self._kinds = open_kinds(probes, self._pixels._replace(upright=True))
        self._best = Best(Path(self._cfg.run), label(probes, probes.deciding))

    def due(self, done: int) -> bool:
        """The start; of the steps that are logged the first after each ``every`` epochs; the last of the run."""
        return bool(self._cfg.probes.running) and (done % self._every < self._cfg.log_every or done == self._steps)

    def measure(self, backbone: Backbone, done: int, log: Log) -> dict[str, float]:
        """Scores for the log, after ``done`` steps; {} where none is due. A call of all processes."""
        return distributed.on_first_slowly(self._measured, backbone, done, log) if self.due(done) else {}

    def _measured(self, backbone: Backbone, done: int, log: Log) -> dict[str, float]:
        started = perf_counter()
        colours: dict[str, Any] = {"mean": self._cfg.data.mean, "std": self._cfg.data.std}
        scores: dict[str, float] = {}
        words = []
        for kind in self._kinds:
            # Whatever fails, labels that are gone or memory that is full, days of training must not end by it.
            try:
                scores[kind] = self._score(kind, backbone, {**pixel_facts(self._pixels), **colours})
                words.append(f"{NAMES[kind]} {scores[kind]:.1%}")
            except Exception as error:
                log.say(f"step {done}: the probe {kind} failed, training goes on without: {in_a_line(error)}")
            if self._device.type == "cuda":
                torch.cuda.empty_cache()  # blocks of sizes that training has no use for
        try:
            if self._keep(backbone, done, scores, colours):
                words.append(f"the best so far is kept as {FILE_NAME}")
        except Exception as error:
            log.say(f"step {done}: the best backbone was not kept, training goes on: {in_a_line(error)}")
        if words:
            log.say(f"step {done}: probes: {', '.join(words)}; {perf_counter() - started:.3g} s")
        return {f"probe/{NAMES[kind]}": value for kind, value in scores.items()}

    def _score(self, kind: str, backbone: Backbone, metadata: dict[str, Any]) -> float:
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices), quietly():
            copy = frozen_copy(backbone, metadata)
            return self._kinds[kind](copy, str(self._device), min(WORKERS, self._cfg.data.workers))

    def _keep(self, backbone: Backbone, done: int, scores: dict[str, float], colours: dict[str, Any]) -> bool:
        assert self._best is not None
        score = scores.get(self._cfg.probes.deciding)
        if score is None or not self._best.better(score):
            return False
        facts = {**colours, "pixels": self._pixels, "method": self._cfg.method.name, "step": done}
        self._best.keep(backbone, score, **facts)
        return True


def in_a_line(error: Exception) -> str:
    """What went wrong, for the log."""
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"
