"""Measuring changes nothing, says each thing once, and tells a healthy run, a collapsing and a wild one apart."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from short_runs import run, small_scenes
from spawned import spawn
from test_methods import CASES, build, views_for

from densessl.backbone_file import FILE_NAME
from densessl.config import load_config
from densessl.data.views import View, Views
from densessl.health.health import Health
from densessl.health.values import values
from densessl.health.verdict import verdict
from densessl.method import Method
from densessl.methods import METHODS
from densessl.training.batch_norm import synchronise_batch_norm
from densessl.training.pretrain import pretrain


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_scenes(tmp_path_factory.mktemp("pictures"))


def records(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", METHODS)
def test_measuring_changes_nothing(name: str, pictures: Path, tmp_path: Path) -> None:
    small = METHODS[name].crops in ("two and small", "any")
    change = {
        "method": {"name": name, **{k: list(v) if isinstance(v, tuple) else v for k, v in CASES[name][1].items()}},
        "views": {
            "large": {"count": 2, "size": 64, "scale": [0.3, 1.0]},
            "small": {"count": int(small), "size": 32, "scale": [0.1, 0.3]},
        },
        "backbone": {"name": "test_resnet", "drop_path": 0.2},
        "batch": 12,
        "steps": 2,
        "log_every": 1,
    }
    off, on = (run(tmp_path, pictures, change, f"health_every={every}") for every in (0, 1))
    without, with_them = records(off), records(on)
    assert not any(name.startswith("health/") for line in without for name in line)
    assert "health/backbone_rank" in with_them[0]
    assert "health/local_rank" in with_them[0]
    for a, b in zip(without, with_them, strict=True):
        assert {k: b[k] for k in a if k not in ("pictures_per_s", "data_wait", "memory_gib")} == {
            k: v for k, v in a.items() if k not in ("pictures_per_s", "data_wait", "memory_gib")
        }
    for key, weight in load_file(off / FILE_NAME).items():
        assert torch.equal(weight, load_file(on / FILE_NAME)[key])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("healthy", "healthy"),
        ("collapsing", "collapsing: embeddings lose what tells pictures apart, while the loss fell"),
        ("ten times too high", "the learning rate is too high"),
    ],
)
def test_runs_are_told_apart(kind: str, expected: str, short_run: Callable[[str], Path]) -> None:
    """As it should be, without the variance term, and at ten times the learning rate."""
    folder = short_run(kind)
    lines = records(folder)
    assert verdict(lines, "vicreg")[0].startswith(expected), verdict(lines, "vicreg")
    said = (folder / "log.txt").read_text()
    times = said.count("global embeddings are all nearly alike")
    assert 1 <= times <= 3 if kind == "collapsing" else times == 0  # of eleven measures after the quiet beginning
    assert ("the run is collapsing" in said) == (kind == "collapsing")
    assert "rank" in said
    assert "health/" not in said


def test_a_run_that_is_resumed_may_be_measured_otherwise(pictures: Path, tmp_path: Path) -> None:
    folder = run(tmp_path, pictures, {"steps": 4, "save_every": 2})
    file = folder / "config.yaml"
    pretrain(load_config(str(file), ["health_every=1"]), resume=True)


class Ears:
    """A log that keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def test_what_is_said_is_not_said_again() -> None:
    """Healthy; ill once, twice, as ill, much worse, a little better, well; in 8 of 200 steps, the first in warm-up."""
    random = torch.Generator().manual_seed(0)
    views = Views([View(torch.empty(32), torch.eye(3)[None, :2].repeat(32, 1, 1))] * 2, [])
    cfg = load_config("vicreg_cifar", ["steps=200", "health_every=10", "optim.warmup=0.1", "data.path=scenes"])
    log, method = Ears(), build("vicreg", "test_resnet")
    health = Health(cfg, 200, log)  # type: ignore[arg-type]
    stds = {1: 0.05, 10: 0.05, 70: 1, 80: 0.05, 90: 0.05, 100: 0.04, 110: 0.02, 120: 0.099, 130: 0.5, 140: 0.05}
    heard = {}
    for done in range(1, 141):
        health.watch(method, done)
        assert (method.shown is not None) == (done == 1 or done % 10 == 0)
        z = stds.get(done, 1.0) * torch.randn(32, 16, generator=random)
        method.show("maps", torch.randn(32, 8, 2, 2, generator=random))
        method.show("global", z, z)
        health.measure(method, views, done)
        assert method.shown is None
        if log.said:
            heard[done] = log.said
            log.said = []
    assert {step: len(lines) for step, lines in heard.items()} == {90: 1, 110: 1, 130: 1}
    assert heard[90][0].startswith("step 90: global embeddings have a standard deviation of 0.0")
    assert heard[130] == ["step 130: global embeddings are back in their healthy ranges"]
    assert health.read()["health/global_std"] == pytest.approx(0.05, rel=0.1)
    assert health.read() == {}


# --- processes --------------------------------------------------------------------------------------------------------

TOGETHER = ["vicregl", "dino", "moco_v2", "pixpro"]


def many() -> tuple[dict[str, list[torch.Tensor]], Views]:
    """More rows than are measured: which are chosen must not depend on the processes."""
    random = torch.Generator().manual_seed(1)
    maps = [torch.randn(300, 4, 3, 3, generator=random) for _ in range(2)]
    affine = torch.tensor([[50.0, 0, 0], [0, 50, 0]]) + 9 * torch.rand(2, 300, 2, 3, generator=random)
    return {"maps": maps}, Views([View(m, a) for m, a in zip(maps, affine, strict=True)], [])


def half(x: torch.Tensor, rank: int) -> torch.Tensor:
    return x.chunk(2)[rank]


def of_process(rank: int, folder: Path) -> dict[str, Any]:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    found = {}
    for case in TOGETHER:
        views = views_for(case)
        found[case] = of_method(case, Views(*([part(v, rank) for v in kind] for kind in views[:2]), views.pictures))
    shown, views = many()
    shown = {name: [half(x, rank) for x in tensors] for name, tensors in shown.items()}
    found["many"] = values(shown, Views([part(view, rank) for view in views.large], []))
    dist.destroy_process_group()
    return found


def part(view: View, rank: int) -> View:
    return View(half(view.image, rank), half(view.affine, rank))


def of_method(case: str, views: Views) -> dict[str, float]:
    method = synchronise_batch_norm(build(case, "test_convnext"))
    assert isinstance(method, Method)
    method.shown = {}
    method(views)
    return values(method.shown, views)


def test_two_processes_measure_what_one_does(tmp_path: Path) -> None:
    first, second = spawn(of_process, tmp_path)
    assert first == second
    for case in TOGETHER:
        assert first[case] == pytest.approx(of_method(case, views_for(case)), rel=1e-4, abs=1e-6)
    assert first["many"] == pytest.approx(values(*many()), rel=1e-6)
