"""Where the figures of a run go: RUN/metrics.jsonl always, and what ``log_to`` names.

Each sink is opened at the start and after going back, for a run of which ``done`` steps are done. Packages are imported
only when they are asked for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from densessl.config_file import flat
from densessl.errors import UserError
from densessl.files import aside

if TYPE_CHECKING:
    from densessl.config import Config

METRICS = "metrics.jsonl"
PROJECT = "densessl"  # of W&B and MLflow, where the environment names none
IDS = {"wandb": "wandb.id", "mlflow": "mlflow.id"}  # files of the run folder by which a resumed run goes on there


class Sink(Protocol):
    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        """``values`` after ``step`` steps; None is what is not finite."""

    def close(self) -> None: ...


class JsonLines:
    """RUN/metrics.jsonl, a line for each step that is logged. What it says about later steps than ``done`` is cut."""

    def __init__(self, run: Path, done: int) -> None:
        cut(run / METRICS, done)
        self._file = (run / METRICS).open("a", buffering=1, encoding="utf-8")

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        self._file.write(json.dumps({"step": step, **values}) + "\n")

    def close(self) -> None:
        self._file.close()


class TensorBoard:
    """Events in RUN/tensorboard; those of steps after ``done`` are not shown any more."""

    def __init__(self, run: Path, done: int, cfg: Config | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(run / "tensorboard"), purge_step=done + 1)

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        for name, value in values.items():
            if value is not None:
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WandB:
    """A run of Weights & Biases. WANDB_PROJECT, WANDB_MODE=offline and the like say where, as everywhere.

    What was sent can't be taken back: the axis is a figure named step, on which a step that is done again stands twice.
    """

    def __init__(self, run: Path, done: int, cfg: Config | None) -> None:
        wandb: Any = import_module("wandb")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=os.environ.get("WANDB_NAME", run.name),
            dir=str(run),
            id=_kept(run / IDS["wandb"]),
            resume="allow",
            config=_settings(cfg),
            settings=wandb.Settings(console="off"),  # which would take hold of stderr and its bars
        )
        _keep(run / IDS["wandb"], self._run.id)
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        self._run.log({"step": step, **_finite(values)})

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of MLflow, at MLFLOW_TRACKING_URI or where MLflow keeps runs by itself; it tells nobody of its use."""

    def __init__(self, run: Path, done: int, cfg: Config | None) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it is sent unless this is set
        self._mlflow: Any = import_module("mlflow")
        known = _kept(run / IDS["mlflow"])
        if not known:
            self._mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
        started = self._mlflow.start_run(run_id=known) if known else self._mlflow.start_run(run_name=run.name)
        self._id = started.info.run_id
        if not known:
            self._mlflow.log_params(_settings(cfg))
        _keep(run / IDS["mlflow"], self._id)

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        self._mlflow.log_metrics(_finite(values), step=step, run_id=self._id)

    def close(self) -> None:
        self._mlflow.end_run()


SINKS: dict[str, Callable[[Path, int, Config | None], Sink]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
}


def require(names: tuple[str, ...]) -> None:
    """Raises UserError for a package that is not installed."""
    for name in names:
        if name in IDS and getattr(find_spec(name), "origin", None) is None:  # a folder of the name has a spec too
            raise UserError(f"log_to={list(names)}: {name} is not installed; pip install 'densessl[{name}]'")


def cut(path: Path, step: int) -> None:
    """Drop the lines after ``step`` from a metrics file, and one that a crash left unfinished."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            if json.loads(line)["step"] <= step and line.endswith("\n"):
                kept.append(line)
        except ValueError:
            continue
    with aside(path) as part:
        part.write_text("".join(kept), encoding="utf-8")


def _finite(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}


def _settings(cfg: Config | None) -> dict[str, Any]:
    return flat(cfg.model_dump(mode="json")) if cfg else {}


def _kept(file: Path) -> str | None:
    return file.read_text(encoding="utf-8").strip() if file.exists() else None


def _keep(file: Path, text: str) -> None:
    with aside(file) as part:
        part.write_text(text, encoding="utf-8")
