"""What a run keeps of its features changes nothing, is what the backbone sees, and shows how it formed."""

import errno
import itertools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from short_runs import run, small_scenes
from test_methods import CASES
from torch import Tensor

from densessl.backbone_file import load_backbone
from densessl.backbones import Backbone
from densessl.config import load_config
from densessl.data.decoding import Unreadable
from densessl.data.pictures import open_pictures
from densessl.data.pixels import Pixels
from densessl.probes.watched import times
from densessl.training import run_folder
from densessl.training.pretrain import pretrain
from densessl.visual import over_time, pca, watched
from densessl.visual.features import map_of, resized, rows_of

VARYING = ("pictures_per_s", "data_wait", "memory_gib")
SHORT: dict[str, Any] = {"steps": 4, "log_every": 1, "save_every": 2, "health_every": 0, "batch": 8}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_scenes(tmp_path_factory.mktemp("pictures"), 12)


def metrics(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in VARYING} for line in lines]


def kept(folder: Path) -> list[int]:
    return list(watched.steps_of(folder / "watched"))


# --- while it trains --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "more"), [("vicregl", ["zero=1", "views.large.size=64"]), ("simsiam", [])])
def test_keeping_changes_nothing(method: str, more: list[str], pictures: Path, tmp_path: Path) -> None:
    arguments = {k: list(v) if isinstance(v, tuple) else v for k, v in CASES[method][1].items()}
    network = "test_convnext" if method == "vicregl" else "test_resnet"
    change = SHORT | {
        "method": {"name": method, **arguments},
        "backbone": {"name": network, "drop_path": 0.2},
    }
    on, off = (run(tmp_path, pictures, change, f"watched={count}", *more) for count in (4, 0))
    assert kept(on) == [0, 1, 2, 4]
    assert not (off / "watched").exists()
    assert metrics(on) == metrics(off)
    for file in ("model.safetensors", "optimizer.safetensors"):  # statistics, heads and slow targets too
        ours, truth = (load_file(folder / "state" / "step0000004" / file) for folder in (on, off))
        assert ours.keys() == truth.keys()
        assert all(torch.equal(ours[key], value) for key, value in truth.items())


def test_what_is_kept_is_what_the_backbone_sees(pictures: Path, tmp_path: Path) -> None:
    folder = run(tmp_path, pictures, SHORT | {"keep": 9}, "watched=3")
    found = watched.read(folder / "watched", [])
    assert found is not None
    assert list(found.steps) == [0, 1, 2, 4]
    assert found.rows == [0, 6, 11]  # 5.5 is even
    collection, backbone = open_pictures(str(pictures)), load_backbone(folder)
    assert found.names == [Path(collection.path(row)).name for row in found.rows]
    for step in (2, 4):
        state = load_file(folder / "state" / f"step{step:07d}" / "model.safetensors")
        weights = {key.removeprefix("backbone.net."): v for key, v in state.items() if key.startswith("backbone.net.")}
        backbone.net.load_state_dict(weights)
        for row, ours in zip(found.rows, found.steps[step].whole, strict=True):
            truth = map_of(backbone, resized(collection.read(row), 224, 32))["last"]
            assert ours.shape == truth.shape == (truth.shape[0], 7, 7)
            torch.testing.assert_close(ours, truth, rtol=1e-3, atol=1e-4)
    assert [tuple(each.shape[-2:]) for each in found.steps[0].views] == [(4, 4)] * watched.MATCHED  # of 32 pixels
    assert torch.equal(found.steps[0].whole[0], found.steps[1].whole[0])  # the first step has a learning rate of 0
    assert not torch.equal(found.steps[0].whole[0], found.steps[2].whole[0])


def test_a_run_that_is_resumed_goes_on_with_the_same_pictures(pictures: Path, tmp_path: Path) -> None:
    folder = run(tmp_path, pictures, SHORT | {"keep": 9})
    place = folder / "watched"
    before = {file.name: file.read_bytes() for file in place.iterdir()}
    for change, steps in (("watched=2", [0, 1, 2, 4]), ("watched=0", [0, 1, 2])):
        shutil.rmtree(folder / "state" / "step0000004")
        (place / "step0000004.safetensors").write_bytes(b"old")
        if change == "watched=2":
            (place / "step0000002.safetensors").unlink()  # as after a full disk
        pretrain(load_config(str(folder / "config.yaml"), [change]), resume=True)
        assert kept(folder) == steps  # of what is done again there is nothing old
        assert {file.name: file.read_bytes() for file in place.iterdir()}.items() <= before.items()
    run_folder.begin_run(folder, load_config(str(folder / "config.yaml")))  # as --overwrite does
    assert not place.exists()


def test_what_fails_is_said_and_ends_nothing(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Path(shutil.copytree(pictures, tmp_path / "mine"))
    (mine / "0.png").write_bytes(b"none")
    folder = run(tmp_path, mine, SHORT, "data.workers=1", "watched=2")
    found = watched.read(folder / "watched", [])
    assert found is not None
    assert found.names == ["1.png", "9.png"]  # the next, for the one that can't be read

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(watched, "write_maps", full)
    folder = run(tmp_path, pictures, SHORT, "seed=1")
    said = (folder / "log.txt").read_text()
    for step in (0, 1, 2, 4):
        assert f"step {step}: its features were not kept for the report, training goes on: OSError: " in said
    assert "after 4 of 4 steps" in said
    monkeypatch.setattr(watched, "chosen", lambda *_: ([99], []))
    folder = run(tmp_path, pictures, SHORT, "seed=2", "steps=1")
    assert (
        "step 0: its features were not kept for the report, training goes on: IndexError"
        in (folder / "log.txt").read_text()
    )
    assert kept(folder) == []


def test_steps_are_spread_logarithmically_over_those_that_are_logged() -> None:
    assert times(640, 10) == [0, 30, 70, 220, 640]
    assert times(60, 2) == [0, 2, 6, 20, 60]
    assert times(125, 50) == [0, 50, 125]
    assert times(1, 10) == [0, 1]


# --- other pictures ---------------------------------------------------------------------------------------------------


class Deep:
    """Pictures of five channels and 16 bits, the second of which can't be read."""

    pixels = Pixels(5, ((0.0, 4095.0),))

    def __len__(self) -> int:
        return 3

    def path(self, i: int) -> str:
        return f"/some/{i}.tif"

    def read(self, i: int, reduction: object = None) -> np.ndarray:
        if i == 1:
            raise Unreadable(self.path(i), "broken")
        return np.random.default_rng(i).integers(0, 65_536, (70, 90, 5), np.uint16)


def test_pictures_of_other_channels_and_bits_are_kept(tmp_path: Path) -> None:
    cfg = load_config("vicregl_cnx_s")
    inputs = watched.take(Deep(), cfg.views, 3, seed=0, step=32)
    backbone = Backbone("test_convnext", in_chans=5)
    watched.write_inputs(tmp_path, inputs)
    watched.write_maps(tmp_path, 7, watched.maps(backbone, inputs))
    found = watched.read(tmp_path, [])
    assert found is not None
    assert found.rows == [0, 2]
    assert all(each.shape[2] == 3 and each.dtype == np.uint8 for each in (*found.shown, *found.outlined))
    assert [each.shape[0] for each in found.views] == [2, 2]
    assert [tuple(each.shape[1:]) for each in found.steps[7].whole] == [(14, 18)] * 2
    names = [figure.name for figure in over_time.figures(found)]
    assert names == ["formed", "matched"]


def test_what_is_damaged_is_a_remark(tmp_path: Path) -> None:
    assert watched.read(tmp_path, []) is None
    maps = watched.Maps([torch.ones(4, 2, 2)], [])
    shown = np.zeros((8, 8, 3), np.uint8)
    watched.write_inputs(tmp_path, watched.Inputs([3], ["a"], [shown], [], [], []))
    watched.write_maps(tmp_path, 1, maps)
    watched.write_maps(tmp_path, 2, watched.Maps([torch.full((4, 2, 2), 1e9)], []))  # more than 16 bits hold
    watched.write_maps(tmp_path, 3, watched.Maps(maps.whole * 2, []))
    remarks: list[str] = []
    found = watched.read(tmp_path, remarks)
    assert found is not None
    assert list(found.steps) == [1]
    assert ["after step 2 are not finite" in remarks[0], "maps of 2 pictures, not of 1" in remarks[1]] == [True] * 2
    assert [figure.name for figure in over_time.figures(found)] == ["formed"]
    watched.step_file(tmp_path, 3).write_bytes(b"none")
    assert watched.read(tmp_path, remarks) is None
    assert "how features formed can't be shown: " in remarks[-1]


# --- colours ----------------------------------------------------------------------------------------------------------


def maps_like(values: Tensor, random: torch.Generator) -> list[Tensor]:
    """Two maps (9, 5, 6), float64, whose 3 main directions hold ``values`` (60, 3), which are not correlated."""
    turn = torch.linalg.qr(torch.randn(9, 9, generator=random, dtype=torch.float64)).Q
    rows = values @ turn[:3] + torch.randn(9, generator=random, dtype=torch.float64)
    return [part.mT.reshape(9, 5, 6) for part in rows.split(30)]


def white(random: torch.Generator) -> Tensor:
    """(60, 3) without mean, correlation or different spread."""
    values = torch.randn(60, 3, generator=random, dtype=torch.float64)
    return torch.linalg.qr(values - values.mean(0)).Q


def joined(maps: Sequence[Tensor]) -> Tensor:
    return rows_of([each.double() for each in maps])


def test_colours_stay_where_only_the_basis_changes() -> None:
    random = torch.Generator().manual_seed(0)
    values = white(random)
    last = maps_like(values * torch.tensor([3.0, 2, 1]), random)
    turned = maps_like(values[:, [2, 0, 1]] * torch.tensor([-3.0, 2, -1]), random)  # other axes, order, signs, spreads
    found = over_time.coloured({"a": turned, "b": maps_like(values * torch.tensor([5.0, 4.9, 0.5]), random), "c": last})
    assert list(found) == ["a", "b", "c"]
    for ours, truth in zip(found["c"].maps, pca.coloured(last).maps, strict=True):
        torch.testing.assert_close(ours, truth)
    for column in ("a", "b"):
        torch.testing.assert_close(joined(found[column].maps), joined(found["c"].maps))


def test_the_turn_is_better_than_any_order_and_signs_of_the_components() -> None:
    random = torch.Generator().manual_seed(1)
    before, after = white(random), white(random)
    before = torch.linalg.qr(before + 2 * after @ torch.tensor([[0.6, 0.8, 0], [0.8, -0.6, 0], [0, 0, 1]]).double()).Q
    spread = torch.tensor([3.0, 2, 1])
    found = over_time.coloured({"a": maps_like(before * spread, random), "b": maps_like(after * spread, random)})
    ours, target = (joined(found[name].maps) for name in "ab")

    def alike(one: Tensor, other: Tensor) -> float:
        return float(torch.corrcoef(torch.cat([one, other], 1).mT)[:3, 3:].diagonal().sum())

    plain = joined(pca.coloured(maps_like(before * spread, random)).maps)
    others = [
        alike(plain[:, list(order)] * torch.tensor(signs), target)
        for order in itertools.permutations(range(3))
        for signs in itertools.product((-1.0, 1.0), repeat=3)
    ]
    assert alike(ours, target) > max(others) + 0.1


def test_features_that_are_all_equal_are_grey() -> None:
    random = torch.Generator().manual_seed(0)
    some = maps_like(white(random), random)
    found = over_time.coloured({"a": some, "b": [torch.ones(9, 5, 6)] * 2, "c": some})
    assert found["b"].flat
    assert all(bool((each == 0.5).all()) for each in found["b"].maps)
    torch.testing.assert_close(joined(found["a"].maps), joined(found["c"].maps))
