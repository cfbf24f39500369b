"""What the runs' backbones see: main components and matches, random weights of the same networks beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from densessl.backbone_file import load_backbone
from densessl.backbones import Backbone
from densessl.config import load_config
from densessl.errors import UserError
from densessl.report.records import BACKBONE, Run
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
        size = wanted.size or max(224, 2 * cfg.views.large.size)
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
