"""Probes: they change nothing, score what they say they score, keep the best, and end no run."""

import dataclasses
import json
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

from densessl.backbone_file import load_backbone
from densessl.backbones import Backbone
from densessl.classification.evaluation import evaluate as classify
from densessl.classification.labelled import open_labelled
from densessl.compare.rows import Row
from densessl.compare.runs import Run as CompareRun
from densessl.config import load_config
from densessl.data.pixels import Pixels
from densessl.data.scenes import Scenes
from densessl.errors import UserError
from densessl.health.verdict import verdict
from densessl.probes import kinds
from densessl.probes.few import Few
from densessl.probes.frozen import frozen_copy
from densessl.probes.probes import Probes
from densessl.report.health import words
from densessl.report.records import read_run
from densessl.segmentation.datasets import open_dataset
from densessl.segmentation.datasets.scenes import SceneMasks
from densessl.segmentation.evaluation import evaluate as segment
from densessl.training.pretrain import pretrain

VARYING = ("pictures_per_s", "data_wait", "memory_gib")
BEST = "backbone_best.safetensors"


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second instead of ten."""
    small: dict[str, Any] = {"scale": (64, 64), "crop": (64, 64), "crops": 8, "places": 64}
    more: dict[str, Any] = {"linear": {"iterations": 8}, "dense_knn": {"k": 3}}
    for kind, protocol in kinds.DENSE.items():
        monkeypatch.setitem(kinds.DENSE, kind, dataclasses.replace(protocol, **small, **more[kind]))


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """masks/ and classes/, of scenes; the pictures of both can be trained on."""
    folder, scenes = tmp_path_factory.mktemp("labels"), Scenes()
    (folder / "masks").mkdir()
    (folder / "masks" / "classes.txt").write_text("\n".join(scenes.classes))
    for i in range(12):
        split = "train" if i < 8 else "val"
        picture = np.ascontiguousarray(scenes.read(i)[:64, :64, ::-1])
        for path, values in (
            (folder / "masks" / "images" / split / f"{i}.png", picture),
            (folder / "masks" / "masks" / split / f"{i}.png", scenes.mask(i)[:64, :64]),
            (folder / "classes" / split / "ab"[i % 2] / f"{i}.png", picture),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), values)
    return folder


def run(folder: Path, labels: Path, *overrides: str, method: str = "vicreg", on: bool = True, **how: bool) -> Path:
    arguments = {k: list(v) if isinstance(v, tuple) else v for k, v in CASES[method][1].items()}
    file = folder / "tiny.yaml"
    values = {
        "method": {"name": method, **arguments},
        "backbone": {"name": "test_resnet", "drop_path": 0.2},
        "data": {"path": str(labels / "classes" / "train"), "workers": 0},
        "views": {"large": {"count": 2, "size": 32, "scale": [0.3, 1.0]}},
        "optim": {"name": "adamw", "base_lr": 0.03, "weight_decay": 0.05, "warmup": 0.2},
        "batch": 8,
        "steps": 3,
        "log_every": 1,
        "health_every": 0,
        "threads": 1,
        "precision": "fp32",
    }
    values |= {"probes": {"masks": str(labels / "masks"), "classes": str(labels / "classes")}} if on else {}
    file.write_text(yaml.safe_dump(values))
    name = f"run-{'on' if on else 'off'}"
    return pretrain(load_config(str(file), [f"run={folder / name}", *overrides]), **how)


def metrics(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in VARYING} for line in lines]


@pytest.mark.parametrize(
    ("method", "overrides"),
    [
        ("vicregl", ["backbone.name=test_convnext", "views.large.size=64"]),
        ("vicregl", ["backbone.name=test_convnext", "views.large.size=64", "zero=1"]),
        ("simsiam", []),
        ("dino", ["optim.clip=1.0"]),
    ],
)
def test_probing_changes_nothing(method: str, overrides: list[str], labels: Path, tmp_path: Path) -> None:
    on, off = (run(tmp_path, labels, *overrides, method=method, on=on) for on in (True, False))
    (first, *with_them), without = metrics(on), metrics(off)
    assert first.keys() == {"step", "probe/linear_miou", "probe/dense_knn_miou", "probe/knn_accuracy"}
    assert all({"probe/linear_miou", "probe/dense_knn_miou", "probe/knn_accuracy"} < line.keys() for line in with_them)
    assert [{k: v for k, v in line.items() if not k.startswith("probe/")} for line in with_them] == without
    for file in ("model.safetensors", "optimizer.safetensors"):  # statistics, heads and slow targets too
        ours, truth = (load_file(folder / "state" / "step0000003" / file) for folder in (on, off))
        assert ours.keys() == truth.keys()
        assert all(torch.equal(ours[key], value) for key, value in truth.items())


def test_a_healthy_run_with_probes_is_called_healthy(labels: Path, tmp_path: Path) -> None:
    """What was measured before the first step stands in a line without a loss."""
    cfg = load_config("demo", ["backbone.name=test_resnet", "batch=8"])
    alone = CompareRun(Row("mine", cfg, "demo"), 0, tmp_path)
    folder = run(tmp_path, labels, "health_every=1", f"run={alone.folder}")
    assert len(metrics(folder)) == 4
    found = read_run(folder)
    assert words(found) == ["healthy: every measure is within its range for vicreg at the end"]
    assert found.skipped == 0
    # a loss that was not finite is still counted, and among the steps alone
    lines = [record | ({"loss": None} if record["step"] == 2 else {}) for record in found.records]
    assert "the loss was not finite in 1 of 3 logged steps" in verdict(lines, "vicreg")[1]
    # without any loss nothing is said of one
    assert verdict([{k: v for k, v in line.items() if k != "loss"} for line in lines], "vicreg") == words(found)
    alone.close()
    cost = json.loads((alone.folder / "cost.json").read_text())
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()[1:]]
    assert cost["seconds"] == pytest.approx(sum(8 / line["pictures_per_s"] for line in logged))


def test_scores_are_those_of_the_backbone_file(labels: Path, tmp_path: Path) -> None:
    folder = run(tmp_path, labels)
    backbone, last = load_backbone(folder), metrics(folder)[-1]
    train, val = (open_dataset(labels / "masks", split) for split in ("train", "val"))
    for kind, protocol in kinds.DENSE.items():
        assert last[f"probe/{kind}_miou"] == segment(backbone, train, val, protocol, device="cpu").miou
    split = [open_labelled(labels / "classes", split) for split in ("train", "val")]
    assert last["probe/knn_accuracy"] == classify(backbone, *split, kinds.KNN, device="cpu").scores["knn20"]


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_a_frozen_copy_is_another_network_with_the_same_maps(name: str) -> None:
    torch.manual_seed(0)
    backbone = Backbone(name, drop_path=0.3).to(memory_format=torch.channels_last)
    backbone(torch.randn(4, 3, 64, 64))  # statistics of their own
    random, stored = torch.get_rng_state(), {key: value.clone() for key, value in backbone.state_dict().items()}
    copy = frozen_copy(backbone, {"mean": (0.1, 0.2, 0.3)})
    assert torch.equal(torch.get_rng_state(), random)
    assert not copy.training
    assert copy.metadata == {"mean": (0.1, 0.2, 0.3)}
    assert not any(p.requires_grad for p in copy.parameters())
    image = torch.randn(2, 3, 64, 64)
    assert all(m.training for m in backbone.modules())
    for ours, truth in zip(copy(image), backbone.eval()(image), strict=True):
        torch.testing.assert_close(ours, truth)
    for value in copy.state_dict().values():
        value.zero_()
    assert all(torch.equal(stored[key], value) for key, value in backbone.state_dict().items())


def scripted(monkeypatch: pytest.MonkeyPatch, *scores: float) -> None:
    given = iter(scores)
    monkeypatch.setattr(Probes, "_score", lambda self, kind, *_: next(given))


def kept(folder: Path) -> tuple[object, object, float]:
    metadata = load_backbone(folder / BEST).metadata
    return metadata["step"], metadata["method"], float(str(metadata["score"]))


def test_the_best_is_kept_and_remembered(labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only = ["probes.kinds=[linear]", "probes.classes=null", "save_every=2", "steps=4"]
    scripted(monkeypatch, 0.2, 0.3, 0.5, 0.4, 0.5)
    folder = run(tmp_path, labels, *only)
    assert kept(folder) == (2, "vicreg", 0.5)
    assert [line["probe/linear_miou"] for line in metrics(folder)] == [0.2, 0.3, 0.5, 0.4, 0.5]
    for score, best in ((0.45, 2), (0.75, 3)):  # of step 3, done again
        shutil.rmtree(folder / "state" / "step0000004")
        scripted(monkeypatch, score, 0.1)
        run(tmp_path, labels, *only, resume=True)
        assert kept(folder)[0] == best
    shutil.rmtree(folder / "state" / "step0000004")
    scripted(monkeypatch, 0.2, 0.1)
    run(tmp_path, labels, "probes.kinds=[dense_knn]", *only[1:], resume=True)  # whose scores are others
    assert kept(folder) == (3, "vicreg", 0.2)
    scripted(monkeypatch, 0.15, 0.1, 0.1, 0.1, 0.1)
    run(tmp_path, labels, *only, overwrite=True)
    assert kept(folder) == (0, "vicreg", 0.15)


def test_the_best_is_that_of_its_step(labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, *[0.1] * 3, *[0.9] * 3, *[0.1] * 6)
    long = run(tmp_path, labels, "save_every=1", "keep=9")
    state = load_file(long / "state" / "step0000001" / "model.safetensors")
    for key, value in load_file(long / BEST).items():
        assert torch.equal(value, state[f"backbone.net.{key}"])


def test_a_probe_that_fails_ends_no_run(labels: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    mine = shutil.copytree(labels, tmp_path / "mine")
    folder = run(tmp_path, mine, "steps=1")
    capfd.readouterr()
    shutil.rmtree(mine / "masks" / "masks" / "train")
    (mine / "masks" / "masks" / "train").mkdir()
    with pytest.raises(UserError, match=r"8 pictures without mask"):  # before the old run is deleted
        run(tmp_path, mine, overwrite=True)
    assert len(metrics(folder)) == 2
    shutil.rmtree(mine / "masks")
    shutil.copytree(labels / "masks", mine / "masks")

    def gone(self: Probes, done: int) -> bool:
        shutil.rmtree(mine / "masks", ignore_errors=True)
        return True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Probes, "due", gone)
        run(tmp_path, mine, overwrite=True)
    said = capfd.readouterr().err
    assert said.count("the probe linear failed, training goes on without: ") == 4
    assert "training goes on without: " + str(mine / "masks") in said
    assert [("probe/linear_miou" in line, "probe/knn_accuracy" in line) for line in metrics(folder)] == [(0, 1)] * 4


def test_probes_are_due_by_epochs_on_logged_steps(labels: Path, tmp_path: Path) -> None:
    change = ["probes.masks=scenes", "probes.every=2.5", "steps=64", "batch=8", "log_every=4"]
    cfg = load_config("demo", [f"run={tmp_path}", *change])
    probes = Probes(cfg, 80, Pixels(), torch.device("cpu"))  # 10 steps an epoch
    assert [done for done in range(4, 65, 4) if probes.due(done)] == [28, 52, 64]
    assert not Probes(load_config("demo"), 80, Pixels(), torch.device("cpu")).due(640)


def test_few_are_spread_over_all() -> None:
    data = SceneMasks(count=21, size=64)
    few = Few(data, 5)
    assert [few.name(i) for i in range(len(few))] == [data.name(i) for i in (0, 5, 10, 15, 20)]
    assert np.array_equal(few[3][1], data[15][1])
    assert len(Few(data, 50)) == 21


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["probes.keep=knn", "probes.masks=scenes"], r"keep=knn must be among kinds, and needs classes=FOLDER"),
        (["probes.kinds=[knn]", "probes.masks=scenes"], r"masks=scenes is for dense_knn and linear, of which kinds"),
        (["probes.kinds=[liner]"], r"probes.kinds.*'linear', 'dense_knn' or 'knn'"),
        (["probes.every=0"], r"probes.every .*greater than 0"),
    ],
)
def test_wrong_settings_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config("demo", overrides)
