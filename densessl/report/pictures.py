"""What the runs' backbones see: main components and matches, at some steps, or random weights beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from densessl.backbone_file import load_backbone
from densessl.backbones import Backbone
from densessl.config import load_config
from densessl.errors import UserError
from densessl.probes.watched import FOLDER
from densessl.report.records import BACKBONE, Run
from densessl.visual import over_time, watched
from densessl.visual.figure import Figure
from densessl.visual.gallery import Wishes, gallery
from densessl.vit import network

RECIPE = "vicregl_cnx_s"  # whose views are matched where no run's configuration can be read
MATCHED = 2  # pictures


class Wanted(NamedTuple):
    data: str | None  # None: the data.path of the first run, if it is here
    size: int | None  # pixels of the short side; None: twice those of the large views, and at least 224
    pictures: int  # 0: none
    device: torch.device


def figures(runs: dict[str, Run], wanted: Wanted, remarks: list[str]) -> Sequence[Figure]:
    """What can't be drawn is a remark. Raises UserError where ``wanted.data`` was given and can't be used."""
    if not wanted.pictures:
        return []
    formed = _formed(runs, wanted.pictures, remarks)
    if formed and len(runs) == 1 and wanted.data is None:  # the first and the last step are in it
        return formed
    return [*formed, *_beside(runs, wanted, remarks)]


def _formed(runs: dict[str, Run], most: int, remarks: list[str]) -> list[Figure]:
    found: list[Figure] = []
    for number, (label, run) in enumerate(runs.items(), 1):
        if kept := watched.read(run.folder / FOLDER, remarks):
            several: dict[str, str] = {"of": f", {label}", "mark": f"-{number}"} if len(runs) > 1 else {}
            found += over_time.figures(kept, start=run.begun.start if run.begun else "", most=most, **several)
    return found


def _beside(runs: dict[str, Run], wanted: Wanted, remarks: list[str]) -> Sequence[Figure]:
    first = next(iter(runs.values()))
    path = wanted.data or str(first.values.get("data.path", ""))
    if wanted.data is None and "://" in path:
        remarks.append(f"no pictures: {path} is not on this machine; --data PICTURES draws with others")
        return []
    try:
        backbones = _backbones(runs, wanted.device, remarks)
        if not backbones:
            return []
        cfg = first.config or load_config(RECIPE)
        size = wanted.size or watched.usual_size(cfg.views)
        wishes = Wishes(cfg.views, ("pca", "matches"), (size,), pictures=wanted.pictures, matched=MATCHED)
        found = gallery(backbones, path, wishes)
    except UserError as error:
        if wanted.data is not None:
            raise
        remarks.append(f"no pictures: {error}; --data PICTURES draws with others")
        return []
    remarks += found.remarks
    return found.figures


def _backbones(runs: dict[str, Run], device: torch.device, remarks: list[str]) -> dict[str, Backbone]:
    found: dict[str, Backbone] = {}
    untrained: dict[str, Backbone] = {}
    for label, run in runs.items():
        if not run.facts:
            remarks.append(f"no pictures of {label}: it has no backbone file that can be read")
            continue
        try:
            found[label] = load_backbone(run.folder / Path(BACKBONE)).to(device)
        except UserError as error:
            remarks.append(f"no pictures of {label}: {error}")
            continue
        untrained.setdefault(f"{found[label].name}, random weights", _untrained(found[label]).to(device))
    return found | untrained


def _untrained(trained: Backbone) -> Backbone:
    """The same network, that reads pictures alike."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = network(trained.name, in_chans=trained.in_chans, stem=trained.stem)
    backbone.metadata = {**trained.metadata, "method": "random", "step": 0}
    return backbone.eval()
