"""Which batches a method takes, and what another batch brings with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from densessl.checks import CHECKS

if TYPE_CHECKING:
    from densessl.config import Config


def allowed(cfg: Config, batch: int, *, any_queue: bool = False) -> bool:
    """Whether the method takes it; with ``any_queue``, whether it would beside a queue that suits it."""
    arguments = cfg.method.arguments
    if any_queue and "queue" in arguments:
        arguments["queue"] = batch * arguments.get("prototypes", 1)
    with suppress(ValueError):
        CHECKS.get(cfg.method.name, lambda **_: None)(batch=batch, **arguments)
        return True
    return False


def sizes(cfg: Config, first: int) -> Iterator[int]:
    """Batches to measure: the smallest from ``first`` on, each twice the one before, the recipe's own at the end."""
    while first < cfg.batch:
        size = next(n for n in range(first, cfg.batch + 1) if n == cfg.batch or allowed(cfg, n, any_queue=True))
        if size < cfg.batch:
            yield size
        first = 2 * size
    yield cfg.batch


def nearest(cfg: Config, most: int) -> int:
    """The largest batch up to ``most`` that the method takes; 0 if there is none.

    Above 16 a multiple of 8 to begin with, and one that suits the method's queue if that costs no more than half of it.
    """
    most -= most % 8 if most > 16 else 0
    for any_queue, least in ((False, max(1, most // 2 - 1)), (True, 1)):
        for batch in range(most, least, -1):
            if allowed(cfg, batch, any_queue=any_queue):
                return batch
    return 0


def words_for(cfg: Config, batch: int) -> list[str]:
    """Of the command line: the batch, a queue that suits it, and as many steps as see the same number of pictures."""
    if batch == cfg.batch:
        return []
    words, arguments = [f"batch={batch}"], cfg.method.arguments
    if not allowed(cfg, batch):
        rows = max(arguments["queue"], arguments.get("prototypes", 0) - batch)
        words.append(f"method.queue={-(-rows // batch) * batch}")
    if cfg.steps:
        words.append(f"steps={round(cfg.steps * cfg.batch / batch)}")
    return words
