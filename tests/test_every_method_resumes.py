"""Every method: 10 steps and, from their state in a loop started anew, 10 more equal 20 steps, bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from test_methods import CASES
from test_training import TINY, metrics
from torch import Tensor

from densessl.config import load_config
from densessl.methods import METHODS
from densessl.training.pretrain import pretrain

STOP, STEPS = 10, 20
PICTURES, BATCH = 20, 6  # three steps an epoch: step 10 is the first of the fourth
MORE = ["swav, queue"]  # arguments with which more is remembered


def configuration(case: str, pictures: Path) -> dict[str, Any]:
    name, arguments = CASES[case]
    crops = METHODS[name].crops
    views = {"large": {"count": 2 + (crops == "large"), "size": 40, "scale": [0.3, 1.0]}}
    if crops in ("two and small", "any"):
        views["small"] = {"count": 1, "size": 32, "scale": [0.05, 0.3]}
    changes = {"views": views, "batch": BATCH, "steps": STEPS, "save_every": STOP}
    changes |= {"method": {"name": name, **arguments}, "backbone": {"name": "test_resnet", "drop_path": 0.2}}
    return TINY | changes | {"data": {"path": str(pictures), "workers": 0}}


def state(run: Path, step: int) -> dict[str, Tensor]:
    """Weights, buffers and what the optimiser remembers."""
    place = run / "state" / f"step{step:07d}"
    return {f"{file.name}: {key}": x for file in place.glob("*.safetensors") for key, x in load_file(file).items()}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(PICTURES):
        noise = np.random.default_rng(i).integers(0, 255, (6, 8, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{i}.png"), cv2.resize(noise, (48, 40)))
    return folder


@pytest.mark.parametrize("case", [*METHODS, *MORE])
def test_resumed_equals_uninterrupted(case: str, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "cfg.yaml").write_text(yaml.safe_dump(configuration(case, pictures)))
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    pretrain(load_config(str(tmp_path / "cfg.yaml"), [f"run={whole}"]))
    shutil.copytree(whole, stopped)
    shutil.rmtree(stopped / "state" / f"step{STEPS:07d}")
    pretrain(load_config(str(tmp_path / "cfg.yaml"), [f"run={stopped}"]), resume=True)

    truth, ours, before = state(whole, STEPS), state(stopped, STEPS), state(whole, STOP)
    assert ours.keys() == truth.keys() == before.keys()
    for key, value in truth.items():
        assert torch.equal(ours[key], value), key
    assert [line["step"] for line in metrics(whole)] == list(range(1, STEPS + 1))
    assert metrics(stopped) == metrics(whole)
    moved = [key for key, value in truth.items() if not torch.equal(before[key], value)]
    assert len(moved) > len(truth) / 2  # there was something to go wrong
    for buffer in ("queue", "center", "clusters", "target."):
        if any(buffer in key for key in truth):
            assert any(buffer in key for key in moved), buffer
