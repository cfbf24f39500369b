"""Figures go where log_to says, go on there after a resume, and whoever fails costs nothing but its own figures."""

import json
import math
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from densessl.config import Config, load_config
from densessl.errors import UserError
from densessl.training import sinks
from densessl.training.log import Log

VALUES = {"loss": 2.0, "lr": 0.1, "pictures_per_s": 5.0, "data_wait": 0.0, "health/rank": 3.0, "bad": math.nan}
FINITE = {name: value for name, value in VALUES.items() if math.isfinite(value)}
Calls = list[tuple[str, Any]]


class FakeWandB(ModuleType):
    """Records what it is asked for; its run has the id that it is given, or r1."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.__spec__ = ModuleSpec("wandb", None, origin="here")
        self.calls: Calls = []
        self.Settings = SimpleNamespace

    def init(self, **how: Any) -> Any:
        self.calls.append(("init", how))
        return SimpleNamespace(
            id=how["id"] or "r1",
            define_metric=lambda name, **of: self.calls.append(("metric", (name, of))),
            log=lambda values: self.calls.append(("log", values)),
            finish=lambda: self.calls.append(("finish", None)),
        )


class FakeMLflow(ModuleType):
    def __init__(self) -> None:
        super().__init__("mlflow")
        self.__spec__ = ModuleSpec("mlflow", None, origin="here")
        self.calls: Calls = []

    def start_run(self, **how: Any) -> Any:
        self.calls.append(("start_run", how))
        return SimpleNamespace(info=SimpleNamespace(run_id=how.get("run_id") or "m1"))

    def __getattr__(self, name: str) -> Any:
        return lambda *given, **how: self.calls.append((name, given or how))

    def log_metrics(self, values: dict[str, float], step: int, run_id: str) -> None:
        self.calls.append(("log", (run_id, step, values)))


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FakeWandB, FakeMLflow]]:
    found = FakeWandB(), FakeMLflow()
    for module in found:
        monkeypatch.setitem(sys.modules, module.__name__, module)
    for name in ("WANDB_PROJECT", "WANDB_NAME", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "")  # is put back at the end
    return found


def config(*names: str) -> Config:
    return load_config("demo", [f"log_to=[{', '.join(names)}]"])


def steps(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_tensorboard_holds_what_metrics_hold(tmp_path: Path) -> None:
    log = Log(tmp_path, 0, 100, 4, cfg=config("tensorboard"))
    for step in (10, 20):
        log.write(step, VALUES)
    log.go_back(10)
    log.write(20, VALUES | {"loss": 7.0})
    log.close()
    assert steps(tmp_path) == [10, 20]
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert sorted(events.Tags()["scalars"]) == sorted(FINITE)
    assert [(each.step, each.value) for each in events.Scalars("loss")] == [(10, 2.0), (20, 7.0)]


def test_wandb_goes_on_with_its_run(tmp_path: Path, fakes: tuple[FakeWandB, FakeMLflow]) -> None:
    wandb, _ = fakes
    log = Log(tmp_path, 0, 100, 4, cfg=config("wandb"))
    log.write(10, VALUES)
    log.close()
    first, *rest = wandb.calls
    how = first[1]
    assert (how["project"], how["name"], how["dir"], how["id"]) == ("densessl", tmp_path.name, str(tmp_path), None)
    assert how["config"]["optim.name"] == "adamw"
    assert rest == [
        ("metric", ("step", {})),
        ("metric", ("*", {"step_metric": "step"})),
        ("log", {"step": 10, **FINITE}),
        ("finish", None),
    ]
    assert not (tmp_path / "tensorboard").exists()
    wandb.calls.clear()
    log = Log(tmp_path, 10, 100, 4, cfg=config("wandb"))  # resumed
    log.go_back(10)
    log.close()
    assert [how["id"] for name, how in wandb.calls if name == "init"] == ["r1", "r1"]


def test_mlflow_goes_on_with_its_run(tmp_path: Path, fakes: tuple[FakeWandB, FakeMLflow]) -> None:
    _, mlflow = fakes
    for done in (0, 10):
        log = Log(tmp_path, done, 100, 4, cfg=config("mlflow"))
        log.write(done + 10, VALUES)
        log.close()
    names = [name for name, _ in mlflow.calls]
    assert names == ["set_experiment", "start_run", "log_params", "log", "end_run", "start_run", "log", "end_run"]
    assert [given for name, given in mlflow.calls if name == "start_run"] == [
        {"run_name": tmp_path.name},
        {"run_id": "m1"},
    ]
    assert [given for name, given in mlflow.calls if name == "log"] == [("m1", 10, FINITE), ("m1", 20, FINITE)]


def test_who_fails_is_left_out(
    tmp_path: Path, fakes: tuple[FakeWandB, FakeMLflow], capfd: pytest.CaptureFixture[str]
) -> None:
    wandb, mlflow = fakes

    def fails(*_: Any, **__: Any) -> None:
        raise ConnectionError("nobody answers")

    wandb.init = fails  # type: ignore[method-assign]
    mlflow.log_metrics = fails  # type: ignore[method-assign]
    log = Log(tmp_path, 0, 100, 4, cfg=config("wandb", "mlflow"))
    for step in (10, 20, 30):
        log.write(step, VALUES)
    log.close()
    said = capfd.readouterr().err
    assert said.count("wandb can't be reached, training goes on without: ConnectionError: nobody answers") == 1
    assert said.count("the figures of step 10 were not written to mlflow, and no more will be: nobody answers") == 1
    assert said.count("nobody answers") == 2
    assert steps(tmp_path) == [10, 20, 30]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_what_is_not_installed_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"{name} is not installed; pip install 'densessl\[{name}\]'"):
        sinks.require((name,))
    monkeypatch.setattr(sinks, "find_spec", lambda name: ModuleSpec(name, None))  # a folder that has its name
    with pytest.raises(UserError, match=rf"{name} is not installed"):
        sinks.require(("tensorboard", name))


def test_nothing_is_imported_that_was_not_asked_for(fakes: tuple[FakeWandB, FakeMLflow], tmp_path: Path) -> None:
    sinks.require(("tensorboard",))
    Log(tmp_path, 0, 100, 4).close()
    assert not any(fake.calls for fake in fakes)
    with pytest.raises(UserError, match=r"log_to.*'tensorboard', 'wandb' or 'mlflow'"):
        config("wndb")
