"""What to change when training waits for pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from densessl.data.device_photometric import on_device
from densessl.device import cores

if TYPE_CHECKING:
    from densessl.config import Config


def advice(cfg: Config, on_gpu: bool, processes: int) -> str:
    """One line, for ``processes`` on this machine; empty for scenes, which are drawn once."""
    if cfg.data.path == "scenes":
        return ""
    workers, room = cfg.data.workers, cores() // processes - 1  # one core for training itself
    side = 2 * max(cfg.views.large.size, cfg.views.small.size)
    if on_gpu and workers < room:
        change = f"data.workers={room}, of {workers}: there are {cores()} cores for {processes} process(es)"
    elif on_gpu and not on_device(cfg.photometric):
        change = "photometric.where=device takes most of the work off the workers"
    else:
        change = f"`tools/data.py pack {cfg.data.path} SHARDS --size {side}` makes pictures small, which decode faster"
    return f"training waits for pictures; {change}"
