"""Every method learns: on 64 scenes its loss falls, and its embeddings keep telling the pictures apart."""

from typing import Any

import numpy as np
import pytest
import torch

from densessl.backbones import Backbone, pooled
from densessl.config import CropsConfig, PhotometricConfig, ViewsConfig
from densessl.data.loader import Loader
from densessl.data.pixels import Pixels
from densessl.data.scenes import Scenes
from densessl.data.to_device import ToDevice
from densessl.data.views import Views
from densessl.methods import METHODS

HEADS = {"projector": (64, 32)}
RECIPES: dict[str, dict[str, Any]] = {
    "barlow_twins": HEADS,
    "byol": HEADS | {"predictor": (64, 32), "tau": 0.9},
    "deepcluster_v2": HEADS | {"prototypes": (8, 8)},
    "densecl": HEADS | {"queue": 32, "groups": 2, "momentum": 0.9},
    "dino": HEADS | {"prototypes": 64, "momentum": 0.9, "freeze": 0.0, "norm": "batch"},
    "moco_v2": HEADS | {"queue": 32, "groups": 2, "momentum": 0.9},
    "moco_v3": HEADS | {"predictor": (64, 32), "momentum": 0.9},
    "pixpro": HEADS | {"momentum": 0.9},
    "simclr": HEADS,
    "simsiam": {"projector": (64, 64, 64), "predictor": 16},
    "swav": HEADS | {"prototypes": 16},
    "vicreg": {"expander": (64, 64)},
    "vicregl": {"expander": (64, 64), "projector": (64, 32), "num_matches": (4, 1)},
    "wmse": {"projector": (64, 4), "w_size": 8},
}
STEPS = 32


class Few:
    """The first scenes, drawn once."""

    pixels = Pixels()

    def __init__(self, count: int) -> None:
        scenes = Scenes()
        self.pictures = [scenes.read(i) for i in range(count)]

    def __len__(self) -> int:
        return len(self.pictures)

    def read(self, i: int, reduction: object = None) -> np.ndarray:
        return self.pictures[i]


@pytest.fixture(scope="module")
def epoch() -> list[Views]:
    """Four batches of 16, seen again and again."""
    crops = ViewsConfig(large=CropsConfig(count=2, size=32, scale=(0.2, 0.6)))
    loader = Loader(Few(64), crops, PhotometricConfig(), batch=16, seed=0, workers=0)
    return [ToDevice("cpu", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))(views) for _, views in loader.from_step(0, 4)]


def train(name: str, backbone: str, arguments: dict[str, Any], epoch: list[Views]) -> tuple[list[float], float]:
    """The losses, and the share of the embeddings' length in which the pictures differ at the end, 0 to 1."""
    torch.manual_seed(0)
    method = METHODS[name](Backbone(backbone), **arguments)
    method.begin(pictures=64, batch=16)
    optimizer = torch.optim.AdamW(method.parameters(), lr=5e-4)
    losses = []
    for step in range(STEPS):
        method.step, method.progress = step, step / STEPS
        loss = torch.stack(list(method(epoch[step % 4]).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.update()
        losses.append(loss.item())
    head = method.expander if "expander" in arguments else method.projector
    with torch.no_grad():
        z = torch.cat([head(pooled(method.backbone(views.large[0].image)[-1])) for views in epoch])
    return losses, ((z - z.mean(0)).norm() / z.norm()).item()


@pytest.mark.parametrize("backbone", ["test_convnext", "test_resnet"])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_learns(name: str, backbone: str, epoch: list[Views]) -> None:
    losses, spread = train(name, backbone, RECIPES[name], epoch)
    # From the third epoch on: before, queues hold random rows and pictures have no cluster.
    assert np.mean(losses[-8:]) < np.mean(losses[8:16])
    assert spread > 0.3


def test_without_what_guards_it_a_method_collapses(epoch: list[Views]) -> None:
    """And that is seen: VICReg's invariance alone makes all pictures alike, soonest without batch statistics."""
    _, spread = train("vicreg", "test_convnext", {"expander": (64, 64), "mu": 0.0, "nu": 0.0}, epoch)
    assert spread < 0.1
