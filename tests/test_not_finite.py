"""Steps that are not finite: nothing of them stays, what is said is the cause, and the run goes on."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from spawned import spawn
from test_engine import batch, build, settings
from test_methods import CASES, random_views, views_for
from test_methods import build as build_method
from test_training import cfg_file, method_that, metrics, run  # noqa: F401
from torch import Tensor

from densessl.backbones import Backbone
from densessl.commands.replay import main as replay
from densessl.data.loader import Loader
from densessl.data.to_device import ToDevice
from densessl.data.views import Views
from densessl.errors import UserError
from densessl.methods.vicreg import VICReg
from densessl.training import launch
from densessl.training.batch_norm import running_statistics
from densessl.training.engine import Engine, connect
from densessl.training.launch import alone
from densessl.training.not_finite import broken_weights, explain
from densessl.training.optim import build_optimizer, set_lr
from densessl.training.recovery import LOWER

NAN = float("nan")


def vicreg() -> VICReg:
    torch.manual_seed(0)
    return VICReg(Backbone("test_resnet"), expander=(16, 16))


def causes(method: Any, views: Views) -> list[str]:
    return explain(method, method, views, "{}.png".format).words


# --- the cause --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_said_of_a_step_that_is_finite_and_nothing_moves_but_statistics(case: str) -> None:
    method, views = build_method(case, "test_resnet"), views_for(case)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    moved = {id(buffer) for buffer in running_statistics(method)}
    assert causes(method, views) == []
    for name, value in method.state_dict(keep_vars=True).items():
        assert value.grad is None
        assert id(value) in moved or torch.equal(value, before[name]), name
    assert not any(module._forward_hooks for module in method.modules())
    assert method.training


def test_a_picture_is_named_with_the_module_and_the_terms() -> None:
    views = random_views(small=0)
    views.large[1].image[2, 1, 5, 5] = NAN
    picture, module, terms = causes(vicreg(), views)
    assert picture == "the feature map of 2.png"
    assert module == "in the forward first the output of backbone.net.conv1.0 (Conv2d)"
    assert terms == "the terms invariance, variance, covariance"


def test_a_weight_is_named() -> None:
    method = vicreg()
    with torch.no_grad():
        method.get_parameter("backbone.net.layer3.0.conv2.weight")[0, 0] = float("inf")
    assert broken_weights(method) == ["backbone.net.layer3.0.conv2.weight"]
    weight, maps, module, _ = causes(method, random_views(small=0))
    assert weight == "backbone.net.layer3.0.conv2.weight among the weights"
    assert maps == "the feature maps of all 4 pictures"
    assert module == "in the forward first the output of backbone.net.layer3.0.conv2 (Conv2d)"


def test_a_term_alone_is_named() -> None:
    method = vicreg()
    forward = method.forward
    method.forward = lambda views: forward(views) | {"variance": forward(views)["variance"] * NAN}
    assert causes(method, random_views(small=0)) == ["the terms variance"]


def test_the_way_back_is_followed() -> None:
    """A square root at 0 is finite, its gradient is not."""
    method = vicreg()
    layer = method.get_submodule("backbone.net.layer4")
    layer.register_forward_hook(lambda module, given, out: out + (out.detach() - out).abs().sqrt())
    way, weights = causes(method, random_views(small=0))
    assert way == "in the backward first the gradient that arrives at backbone.net.layer4.0.act2 (ReLU)"
    assert weights.startswith("the gradient of backbone.net.conv1.0.weight, ")


# --- nothing stays ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "zero"), [("adamw", 0), ("adamw", 1), ("adamw", 2), ("sgd", 0), ("lars", 0)])
def test_a_skipped_step_leaves_no_trace(name: str, zero: int) -> None:
    """Of a gradient that is finite too: the cause may be another process's, or a term's."""
    ends = []
    for skipping in (False, True):
        launch.setup(threads=1)
        connect()
        cfg, method = settings(name, zero, clip=0.5), build()
        engine = Engine(method, build_optimizer(method, cfg.optim), cfg, torch.device("cpu"))
        for step in range(4):
            set_lr(engine.optimizer, 0.05)
            for spoil in (1.0, NAN) if skipping and step == 2 else ():
                norm = engine.backward(torch.stack(list(engine(batch(9)).values())).sum() * spoil)
                assert norm.isfinite() == (spoil == 1.0)
                engine.skip()
            engine.backward(torch.stack(list(engine(batch(step)).values())).sum())
            engine.step()
        ends.append(engine.state())
        size = sum(x.nbytes for tensors in ends[-1].values() for x in tensors.values())
        assert engine.state_size() == pytest.approx(size, rel=0.05)
        engine.close()
    for file, tensors in ends[0].items():
        assert tensors.keys() == ends[1][file].keys()
        for key, value in tensors.items():
            assert torch.equal(value, ends[1][file][key]), key


# --- runs -------------------------------------------------------------------------------------------------------------


@contextmanager
def spoiled(steps: dict[int, int], spoil: Callable[[Views], None]) -> Iterator[None]:
    """``spoil`` the views of steps (1 is the first), each so many times."""
    left, from_step = dict(steps), Loader.from_step

    def changed(self: Loader, step: int, end: int) -> Iterator[tuple[int, Views]]:
        for number, views in from_step(self, step, end):
            if left.get(number + 1, 0):
                left[number + 1] -= 1
                spoil(views)
            yield number, views

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loader, "from_step", changed)
        yield


MARK = torch.tensor([255, 0, 255, 255, 0, 0, 255, 0], dtype=torch.uint8)


@contextmanager
def floats() -> Iterator[None]:
    """A marked picture has a pixel that is NaN from here on: whole numbers can't be."""
    move = ToDevice.__call__

    def moved(self: ToDevice, views: Views) -> Views:
        made = move(self, views)
        for before, after in zip(views.large, made.large, strict=True):
            after.image[(before.image[:, :, 0, :8] == MARK).flatten(1).all(1), :, 0, 0] = NAN
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ToDevice, "__call__", moved)
        yield


def mark(views: Views) -> None:
    views.large[0].image[3, :, 0, :8] = MARK


def test_a_bad_picture_costs_its_step_alone_and_can_be_replayed(
    cfg_file: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with floats():
        with spoiled({5: 1}, mark):
            folder = run(cfg_file, tmp_path / "run", "data.workers=0")
        said = capsys.readouterr().err
        kept = folder / "skipped" / "step0000005"
        assert "step 5 was skipped in all processes, as it was not finite: invariance, variance, covariance; " in said
        assert "the cause: the feature map of " in said
        assert f"tools/replay.py {kept} computes it again" in said
        lines = metrics(folder)
        assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
        assert [line["step"] for line in lines if line["loss"] is None] == [5]
        manifest = json.loads((folder / "state" / "step0000006" / "manifest.json").read_text())
        assert (manifest["skipped"], manifest["lr_scale"]) == (1, 1.0)

        assert replay([str(kept)]) == 1
        shown = capsys.readouterr().out
        assert "now: invariance, variance, covariance; the cause: the feature map of picture " in shown
    assert replay([str(kept), "precision=bf16"]) == 0  # without the fault
    assert "now: all of it is finite" in capsys.readouterr().out
    assert "skipped in all processes" in (folder / "log.txt").read_text()


def test_replay_names_what_does_not_fit(cfg_file: Path, tmp_path: Path) -> None:  # noqa: F811
    with floats(), spoiled({1: 1}, mark):
        folder = run(cfg_file, tmp_path / "run", "steps=1", "data.workers=0")
    kept = folder / "skipped" / "step0000001"
    with pytest.raises(UserError, match=r"step0000009 holds no skipped step: facts.json"):
        replay([str(folder / "skipped" / "step0000009")])
    with pytest.raises(UserError, match=r"model.safetensors does not fit vicreg on test_resnet: .*expander"):
        replay([str(kept), "method.expander=[8,8]"])
    (kept / "views0.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match=r"views0.safetensors can't be read"):
        replay([str(kept)])
    facts = json.loads((kept / "facts.json").read_text())
    (kept / "facts.json").write_text(json.dumps(facts | {"processes": 2}))
    with pytest.raises(UserError, match=r"of 2 processes, here are 1: torchrun --nproc-per-node 2 tools/replay.py"):
        replay([str(kept)])


def test_after_too_many_in_a_row_the_run_goes_back_once_with_half_the_rate(
    cfg_file: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plain = run(cfg_file, tmp_path / "plain", "data.workers=0", "steps=9")
    with floats(), spoiled({5: 1, 6: 1}, mark):
        folder = run(cfg_file, tmp_path / "run", "data.workers=0", "steps=9", "max_skips=2")
    said = capsys.readouterr().err
    assert "step 6: 2 steps in a row were not finite (invariance, " in said
    assert "The run goes back to step 3, with 0.5 of the learning rate" in said
    lines, others = metrics(folder), metrics(plain)
    assert lines[:3] == others[:3]
    assert [line["step"] for line in lines] == list(range(1, 10))
    assert [line["lr"] for line in lines[3:]] == [line["lr"] * LOWER for line in others[3:]]
    assert lines[3]["loss"] == others[3]["loss"]  # the weights of the state, and its pictures
    assert lines[4]["loss"] != others[4]["loss"]
    state = json.loads((folder / "state" / "step0000009" / "manifest.json").read_text())
    assert (state["skipped"], state["lr_scale"]) == (2, LOWER)


def test_a_run_that_went_back_goes_on_alike_when_it_is_resumed(cfg_file: Path, tmp_path: Path) -> None:  # noqa: F811
    seen: list[float] = []

    def update(progress: float) -> None:
        seen.append(progress)
        if len(seen) == 9 + 5:  # two steps after it went back
            os.kill(os.getpid(), signal.SIGTERM)

    words = "data.workers=0", "steps=9", "max_skips=2"
    with floats(), method_that(update):
        with spoiled({4: 1, 5: 1}, mark):
            whole = run(cfg_file, tmp_path / "whole", *words)
        with spoiled({4: 1, 5: 1}, mark), pytest.raises(SystemExit):
            run(cfg_file, tmp_path / "run", *words)
        assert metrics(tmp_path / "run")[-1]["step"] == 6
        run(cfg_file, tmp_path / "run", *words, resume=True)
    assert metrics(tmp_path / "run") == metrics(whole)


def test_the_second_time_it_stops_with_a_verdict(cfg_file: Path, tmp_path: Path) -> None:  # noqa: F811
    message = (
        r"step 6: 2 steps in a row were not finite \(invariance.*again, with 0.5 of the learning rate\. The run stops"
    )
    with floats(), spoiled({5: 2, 6: 2}, mark), pytest.raises(UserError, match=message):
        run(cfg_file, tmp_path / "run", "data.workers=0", "max_skips=2")


def test_without_a_state_there_is_nowhere_to_go(cfg_file: Path, tmp_path: Path) -> None:  # noqa: F811
    message = r"step 1: 1 steps in a row were not finite .*The run stops; no state was saved yet\. A lower optim"
    with floats(), spoiled({1: 1}, mark), pytest.raises(UserError, match=message):
        run(cfg_file, tmp_path / "run", "data.workers=0", "max_skips=1")


# --- two processes ----------------------------------------------------------------------------------------------------


def process(rank: int, folder: Path) -> dict[str, Any]:
    """Runs of two processes, of which the second meets what is not finite in step 5; the weights at their ends."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"MASTER_PORT": (folder / "port").read_text()}
    cfg_file, here, ends = folder / "tiny.yaml", rank == 1, {}  # noqa: F811
    call, backward, close = Engine.__call__, Engine.backward, Engine.close

    def spoil_weight(self: Engine, views: Views) -> dict[str, Tensor]:
        if self.method.step == 4 and "weight" not in done:
            done.add("weight")
            next(self.method.parameters()).data[0] = NAN if here else 0
        return call(self, views)

    def spoil_gradient(self: Engine, loss: Tensor) -> Tensor:
        weight = self.method.get_parameter("expander.0.weight")
        handle = weight.register_hook(lambda gradient: gradient * NAN) if here and self.method.step == 4 else None
        norm = backward(self, loss)
        if handle:
            handle.remove()
        return norm

    done: set[str] = set()
    for name, zero in (("picture", 0), ("weight", 0), ("gradient", 0), ("gradient", 2)):
        key = f"{name}{zero}"
        with pytest.MonkeyPatch.context() as patch, floats():
            patch.setattr(Engine, "close", lambda self, key=key: [ends.update({key: self.weights()}), close(self)])
            if name == "weight":
                patch.setattr(Engine, "__call__", spoil_weight)
            if name == "gradient":
                patch.setattr(Engine, "backward", spoil_gradient)
            with spoiled({5: 1} if here and name == "picture" else {}, mark):
                run(cfg_file, folder / key, "data.workers=0", f"zero={zero}")
    return ends


@pytest.fixture(scope="module")
def two(cfg_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:  # noqa: F811
    folder = tmp_path_factory.mktemp("two")
    (folder / "port").write_text(alone()["MASTER_PORT"])
    (folder / "tiny.yaml").write_text(cfg_file.read_text())
    return folder, spawn(process, folder)


@pytest.mark.parametrize("run_name", ["picture0", "weight0", "gradient0", "gradient2"])
def test_two_processes_act_alike(two: tuple[Path, list[dict[str, Any]]], run_name: str) -> None:
    folder, (first, second) = two
    assert all(torch.equal(value, second[run_name][key]) for key, value in first[run_name].items())
    assert all(value.isfinite().all() for value in first[run_name].values())
    assert [line["step"] for line in metrics(folder / run_name)] == [1, 2, 3, 4, 5, 6]


def test_what_is_said_names_process_and_cause(two: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, _ = two
    said = {name: (folder / name / "log.txt").read_text() for name in ("picture0", "weight0", "gradient0", "gradient2")}
    assert "in process 1 of 2: invariance, variance, covariance; the cause: the feature map of " in said["picture0"]
    assert (
        "in process 1 of 2: invariance, variance, covariance; the cause: backbone.net.conv1.0.weight "
        in said["weight0"]
    )
    assert "process 0" not in said["picture0"] + said["weight0"]
    assert "step 5: weights are not finite" in said["weight0"]
    assert "The run goes back to step 3, with 0.5 of the learning rate" in said["weight0"]
    for name in ("gradient0", "gradient2"):
        assert (
            "step 5 was skipped in all processes, as it was not finite: gradient; the cause: computed again"
            in said[name]
        )
        assert "goes back" not in said[name]


def test_two_processes_skip_what_one_would(
    two: tuple[Path, list[dict[str, Any]]],
    cfg_file: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    def mark_last(views: Views) -> None:
        views.large[0].image[7, :, 0, :8] = MARK  # the second process's fourth

    with floats(), spoiled({5: 1}, mark_last):
        one = metrics(run(cfg_file, tmp_path / "one", "data.workers=0"))
    for ours, theirs in zip(metrics(two[0] / "picture0"), one, strict=True):
        for name, value in theirs.items():
            assert (ours[name] is None) == (value is None)
            assert value is None or ours[name] == pytest.approx(value, rel=1e-3)
