"""One row and one seed: its folder, the steps that fill it, and what they left there."""

from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from densessl.backbone_file import FILE_NAME, save_backbone
from densessl.backbones import Backbone
from densessl.compare.rows import RANDOM, Row
from densessl.config import BackboneConfig, load_config, resolved_yaml
from densessl.config_file import flat
from densessl.data.pixels import Pixels
from densessl.errors import UserError
from densessl.files import aside
from densessl.training.run_folder import essential_differences

PRETRAIN = "pretrain"


class Evaluation(NamedTuple):
    """``densessl COMMAND RUN WORDS --seed S --out RUN/KIND/SETTING``."""

    kind: str
    command: str
    words: list[str]
    setting: str  # names all that the score depends on


class Step(NamedTuple):
    kind: str
    words: list[str]  # of densessl
    done: Callable[[], bool]


@dataclass(frozen=True)
class Run:
    row: Row
    seed: int
    out: Path  # of the comparison

    @property
    def folder(self) -> Path:
        return self.out / self.row.name / f"seed{self.seed}"

    @property
    def trained(self) -> bool:
        """Pretraining has come to its end."""
        done = (self.folder / "cost.json").exists() or self.row.name == RANDOM
        return done and (self.folder / FILE_NAME).exists()

    def missing(self, evaluations: Sequence[Evaluation]) -> list[Step]:
        """The steps that are still to be done, in their order. A run goes on from its newest state if it has one."""
        how = "--resume" if any((self.folder / "state").glob("step???????")) else "--overwrite"
        cfg = str(self.out / self.row.name / "config.yaml")
        words = [PRETRAIN, "--cfg", cfg, f"seed={self.seed}", f"run={json.dumps(str(self.folder))}", how]
        steps = [Step(PRETRAIN, words, lambda: self.trained)]
        for kind, command, given, setting in evaluations:
            folder = self.folder / kind / setting
            words = [command, str(self.folder), *given, "--seed", str(self.seed), "--out", str(folder)]
            steps.append(Step(kind, words, (folder / "results.json").exists))
        return [step for step in steps if not step.done()]

    def results(self, evaluation: Evaluation) -> dict | None:
        """What the evaluation wrote, if it has come to its end."""
        file = self.folder / evaluation.kind / evaluation.setting / "results.json"
        return json.loads(file.read_text(encoding="utf-8")) if self.trained and file.exists() else None

    def cost(self) -> dict[str, float | None]:
        """What ``close`` wrote; nothing for random weights."""
        file = self.folder / "cost.json"
        return json.loads(file.read_text(encoding="utf-8")) if self.trained and self.row.name != RANDOM else {}

    def close(self) -> None:
        """Write cost.json, once pretraining has ended, from files that may be deleted later.

        Seconds of training, without start and end; pictures_per_s and data_wait, medians over the log without its first
        entry, in which everything warms up; memory_gib; parameters.
        """
        lines = map(json.loads, (self.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
        log = [line for line in lines if "pictures_per_s" in line]  # what probes saw before the first step has no pace
        steps = [line["step"] for line in log]
        pace = zip(steps, [0, *steps], log, strict=False)
        state = json.loads(
            (self.folder / "state" / f"step{steps[-1]:07d}" / "manifest.json").read_text(encoding="utf-8")
        )
        cost = {
            "seconds": sum((step - last) * self.row.config.batch / line["pictures_per_s"] for step, last, line in pace),
            **{key: statistics.median(line[key] for line in log[1:] or log) for key in ("pictures_per_s", "data_wait")},
            "memory_gib": max(line["memory_gib"] for line in log),
            "parameters": state.get("parameters"),
        }
        with aside(self.folder / "cost.json") as part:
            part.write_text(json.dumps(cost), encoding="utf-8")


def network(config: BackboneConfig, output_stride: int = 32) -> Backbone:
    """With random weights. Raises UserError."""
    return Backbone(**config.model_dump(exclude={"init"}), output_stride=output_stride)


def begin(runs: Sequence[Run], overwrite: bool) -> None:
    """Write OUT/NAME/config.yaml of each row, and the backbone files of random weights.

    Raises UserError with the differences where an earlier configuration would make the runs that are there other ones,
    unless these are to be deleted, and where nothing can be written.
    """
    rows = {run.out / run.row.name: run.row for run in runs}
    changes = {folder: changed for folder, row in rows.items() if (changed := _changes(folder / "config.yaml", row))}
    if changes and not overwrite:
        lines = [f"{folder} holds runs of another configuration:{changed}" for folder, changed in changes.items()]
        raise UserError("\n".join([*lines, "--overwrite deletes the runs of such rows, --out=OTHER spares them"]))
    try:
        for folder, row in rows.items():
            for run in folder.glob("seed*") if folder in changes else ():
                shutil.rmtree(run)
            with aside(folder / "config.yaml") as part:
                part.write_text(resolved_yaml(row.config.model_copy(update={"run": str(folder)})), encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out: it can't be written: {error}") from None
    for random in (run for run in runs if run.row.name == RANDOM and not run.trained):
        torch.manual_seed(random.seed)
        config, backbone = random.row.config, network(random.row.config.backbone)
        facts: dict[str, Any] = {"mean": config.data.mean, "std": config.data.std, "pixels": Pixels.of(config)}
        save_backbone(random.folder / FILE_NAME, backbone, **facts, method=RANDOM, step=0)


def _changes(file: Path, row: Row) -> str:
    """A line for each key that makes ``row`` another than that of the file, if there is a file."""
    if not file.exists():
        return ""
    before, now = (flat(config.model_dump(mode="json")) for config in (load_config(str(file)), row.config))
    keys = essential_differences(before, now)
    if row.name == RANDOM:
        read = ("backbone.", "data.mean", "data.std", "data.range", "data.percentiles", "data.nodata")
        keys = [key for key in keys if key.startswith(read)]
    return "".join(f"\n  {k}: {before.get(k)} there, {now.get(k)} now" for k in keys)
