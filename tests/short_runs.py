"""Runs of seconds on small pictures, really trained."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from densessl.config import load_config
from densessl.data.scenes import Scenes
from densessl.training.pretrain import pretrain

TINY: dict[str, Any] = {
    "method": {"name": "vicreg", "expander": [64, 64]},
    "backbone": {"name": "test_convnext"},
    "data": {"workers": 0},
    "views": {"large": {"count": 2, "size": 32, "scale": [0.3, 1.0]}},
    "photometric": {"jitter": [0.4, 0.4, 0.1, 0.0], "grey_p": 0.1, "blur_p": [0.0, 0.0], "solarize_p": [0.0, 0.0]},
    "optim": {"name": "adamw", "base_lr": 0.016, "weight_decay": 0.05, "warmup": 0.1},
    "batch": 16,
    "steps": 60,
    "log_every": 2,
    "health_every": 4,
    "threads": 1,
    "precision": "fp32",
}
KINDS = {  # what makes it so; it takes ten seconds to train
    "healthy": "seed=0",
    "collapsing": "method.mu=0",  # without the variance term
    "ten times too high": "optim.base_lr=0.16",
}


def small_scenes(folder: Path, count: int = 32) -> Path:
    scenes = Scenes()
    for i in range(count):
        picture = np.ascontiguousarray(scenes.read(i)[:, :, ::-1])
        cv2.imwrite(str(folder / f"{i}.png"), cv2.resize(picture, (48, 48), interpolation=cv2.INTER_AREA))
    return folder


def run(folder: Path, pictures: Path, change: dict[str, Any], *overrides: str, **how: bool) -> Path:
    """TINY with other sections, and keys: in a folder of the overrides' name."""
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(TINY | {"data": {"path": str(pictures), **TINY["data"]}} | change))
    name = "-".join(["run", *overrides]).replace("/", "")
    return pretrain(load_config(str(file), [f"run={folder / name}", *overrides]), **how)
