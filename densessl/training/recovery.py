"""Steps that are not finite: skipped in all processes alike, explained, kept for skipped. After too many in a row the
run goes back to its newest state and goes on with a lower learning rate, once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from densessl.data.views import Views
from densessl.training import checkpoint, distributed, skipped
from densessl.training.not_finite import broken_weights, explain, in_words
from densessl.training.seeding import seed_step

if TYPE_CHECKING:
    from densessl.config import Config
    from densessl.data.pictures import Pictures
    from densessl.training.engine import Engine

LOWER = 0.5  # of the learning rate, after going back
HELP = "A lower optim.base_lr, a longer optim.warmup, optim.clip=1 or precision=fp32 may help"


class Recovery:
    """What is to be done about steps that are not finite. ``before`` is what the state said that a run goes on from.

    ``lr_scale`` multiplies the learning rate: 1 until the run goes back.
    """

    def __init__(self, cfg: Config, pictures: Pictures, before: dict[str, Any]) -> None:
        self.cfg, self.run, self.pictures = cfg, Path(cfg.run), pictures
        self.skipped: int = before.get("skipped", 0)
        self.lr_scale: float = before.get("lr_scale", 1.0)
        self.in_a_row = 0
        self.hopeless = False  # weights are not finite, so that no later step will be
        self._why = ""

    def state(self) -> dict[str, float]:
        """What a state has to say, for ``before``."""
        return {"skipped": self.skipped, "lr_scale": self.lr_scale}

    def skip(self, engine: Engine, step: int, given: Views, views: Views, values: dict[str, Tensor]) -> list[str]:
        """Skip the step at hand and explain it: what is to be said. A call of all processes.

        ``given`` are the views as the loader made them, ``views`` on the device, ``values`` terms, loss and gradient.
        """
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        engine.skip()
        seed_step(self.cfg.seed, step)
        causes = explain(engine.method, engine.terms, views, self.pictures.path)
        engine.restore_statistics()
        self.look_at_weights(engine)
        self._why = in_words(values, causes)
        said = [f"step {step + 1} was skipped in all processes, as it was not finite: {self._why}"]
        if self.skipped <= skipped.KEPT:
            place = skipped.place(self.run, step)
            facts = {"step": step, "progress": engine.method.progress, "pictures": len(self.pictures), "why": self._why}
            weights = engine.weights() if distributed.is_first() else {}
            problem = skipped.keep(place, given, weights, facts)
            said.append(f"it was not kept: {problem}" if problem else f"tools/replay.py {place} computes it again")
        return said

    def look_at_weights(self, engine: Engine) -> None:
        """Those of any process: a call of all."""
        (self.hopeless,) = distributed.any_process(bool(broken_weights(engine.method)))

    @property
    def too_many(self) -> bool:
        return self.hopeless or self.in_a_row >= self.cfg.max_skips

    def go_back(self, engine: Engine, step: int) -> tuple[int, list[str]]:
        """Load the newest whole state: after how many steps, and what is to be said. Stops the run the second time."""
        reason = "weights are not finite" if self.hopeless else f"{self.in_a_row} steps in a row were not finite"
        verdict = f"step {step + 1}: {reason}" + (f" ({self._why})" if self.in_a_row else "")
        if self.lr_scale < 1:
            distributed.refuse(
                f"{verdict}, again, with {self.lr_scale:g} of the learning rate. The run stops; its states are whole. "
                f"{HELP}"
            )
        if not distributed.on_first(checkpoint.has_state, self.run):
            distributed.refuse(f"{verdict}. The run stops; no state was saved yet. {HELP}")
        about, damaged = distributed.on_first(checkpoint.newest_state, self.run)
        checkpoint.load(engine, self.run, about["step"])
        distributed.on_first(checkpoint.set_aside, self.run, about["step"])
        self.lr_scale, self.in_a_row, self.hopeless = LOWER, 0, False
        back = f"{verdict}. The run goes back to step {about['step']}, with {LOWER:g} of the learning rate"
        return about["step"], [*damaged, back]
