"""What a run keeps to show how its features formed: a few pictures once, and their maps at some steps.

FOLDER/pictures.safetensors has the pictures as they are shown and two views of some, which training takes of them;
FOLDER/stepNNNNNNN.safetensors the last maps of all of these after so many steps, in 16 bits. Nothing else is needed to
draw them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from densessl.backbones import Backbone
from densessl.config import ViewsConfig
from densessl.data.contact import as_rgb, fitted
from densessl.data.multi_crop import Crop
from densessl.data.pictures import Pictures
from densessl.errors import UserError
from densessl.files import aside
from densessl.visual.features import chosen, map_of, name_of, resized
from densessl.visual.figure import as_shown
from densessl.visual.matches import PLAIN, SIDE, outlines, two_views

PICTURES = "pictures.safetensors"
MATCHED = 2  # pictures with views
CELLS = 4  # a side that a view's map has at least, so that there is something to choose from


class Inputs(NamedTuple):
    """Pictures as a network reads them, of 8 or 16 bits; ``crops`` are the two views of the first MATCHED."""

    rows: list[int]  # in the collection
    names: list[str]
    shown: list[np.ndarray]  # (h, w, 3) uint8
    whole: list[np.ndarray]  # (H, W, C)
    crops: list[list[Crop]]
    outlined: list[np.ndarray]  # (h, w, 3) uint8: where the views lie


class Maps(NamedTuple):
    """After one step: float32, (C, h, w) of each picture, (2, C, h, w) of each pair of views."""

    whole: list[Tensor]
    views: list[Tensor]


class Watched(NamedTuple):
    """What is read again."""

    rows: list[int]
    names: list[str]
    shown: list[np.ndarray]
    outlined: list[np.ndarray]
    views: list[np.ndarray]  # (2, side, side, 3) uint8
    affines: list[Tensor]  # (2, 2, 3) float32
    steps: dict[int, Maps]  # rising


def usual_size(views: ViewsConfig) -> int:
    """Pixels of the short side of pictures that are drawn: twice those of large views, and at least 224."""
    return max(224, 2 * views.large.size)


def take(
    pictures: Pictures, views: ViewsConfig, count: int, *, seed: int, step: int, rows: Sequence[int] = ()
) -> Inputs:
    """``count`` pictures spread evenly, or those of ``rows``; sides become multiples of ``step`` pixels.

    Views are those of the first epoch, without changes of colour, at least CELLS times ``step`` pixels large. Raises
    Unreadable, UserError.
    """
    size, side = usual_size(views), max(views.large.size, CELLS * step)
    views = views.model_copy(update={"large": views.large.model_copy(update={"size": side})})
    rows = list(rows) or chosen([pictures], count)[0]
    read = [pictures.read(row) for row in rows]
    names = [name_of(pictures, row) for row in rows]
    few = list(zip(rows, read, strict=True))[:MATCHED]
    crops = [two_views(views, each, row, seed=seed, pixels=pictures.pixels, photometric=PLAIN) for row, each in few]
    return Inputs(
        rows,
        names,
        [as_shown(each) for each in read],
        [resized(each, size, step) for each in read],
        crops,
        [outlines(each, two) for (_, each), two in zip(few, crops, strict=True)],
    )


def maps(backbone: Backbone, inputs: Inputs) -> Maps:
    """What ``backbone`` makes of them."""
    return Maps(
        [map_of(backbone, each)["last"] for each in inputs.whole],
        [torch.stack([map_of(backbone, crop.image)["last"] for crop in two]) for two in inputs.crops],
    )


# --- files ------------------------------------------------------------------------------------------------------------


def write_inputs(folder: Path, inputs: Inputs) -> None:
    """Raises OSError, SafetensorError."""
    tensors = {f"picture{i}": torch.from_numpy(each) for i, each in enumerate(inputs.shown)}
    for i, (two, outlined) in enumerate(zip(inputs.crops, inputs.outlined, strict=True)):
        views = np.stack([fitted(as_rgb(crop.image), SIDE, SIDE) for crop in two])
        affines = np.stack([crop.affine for crop in two])
        more = {"outlined": outlined, "views": views, "affines": affines}
        tensors |= {f"{name}{i}": torch.from_numpy(np.ascontiguousarray(each)) for name, each in more.items()}
    facts = {"rows": inputs.rows, "names": inputs.names}
    _write(folder / PICTURES, tensors, {key: json.dumps(value) for key, value in facts.items()})


def write_maps(folder: Path, step: int, found: Maps) -> None:
    """Raises OSError, SafetensorError."""
    tensors = {f"{kind}{i}": each.half() for kind, of in found._asdict().items() for i, each in enumerate(of)}
    _write(step_file(folder, step), tensors, {"step": str(step)})


def step_file(folder: Path, step: int) -> Path:
    return folder / f"step{step:07d}.safetensors"


def steps_of(folder: Path) -> dict[int, Path]:
    """The files by their steps, rising."""
    files = sorted(folder.glob("step" + "[0-9]" * 7 + ".safetensors"))
    return {int(file.stem[4:]): file for file in files}


def rows_of_inputs(folder: Path) -> list[int]:
    """Of the pictures that are there; none where there are none, or what there is can't be read."""
    try:
        with safe_open(folder / PICTURES, framework="pt") as file:
            return [int(row) for row in json.loads(file.metadata()["rows"])]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return []


def read(folder: Path, remarks: list[str]) -> Watched | None:
    """None where nothing was kept; what can't be read, or holds numbers that are not finite, is a remark."""
    files = steps_of(folder)
    if not files:
        return None
    steps: dict[int, Maps] = {}
    try:
        facts, tensors = _read(folder / PICTURES)
        rows, names = (list(json.loads(facts[key])) for key in ("rows", "names"))
        shown, outlined, views = (
            [each.numpy() for each in _listed(tensors, kind)] for kind in ("picture", "outlined", "views")
        )
        for step, file in files.items():
            _, given = _read(file)
            whole, pairs = ([each.float() for each in _listed(given, kind)] for kind in Maps._fields)
            if not all(bool(each.isfinite().all()) for each in (*whole, *pairs)):
                remarks.append(f"{file}: the features after step {step} are not finite")
            elif len(whole) == len(names):
                steps[step] = Maps(whole, pairs)
            else:
                remarks.append(f"{file}: maps of {len(whole)} pictures, not of {len(names)}")
        return Watched(rows, names, shown, outlined, views, _listed(tensors, "affines"), steps) if steps else None
    except (UserError, ValueError, KeyError, TypeError) as error:
        remarks.append(f"how features formed can't be shown: {error}")
        return None


def _listed(tensors: dict[str, Tensor], kind: str) -> list[Tensor]:
    """KIND0, KIND1, ..."""
    return [tensors[f"{kind}{i}"] for i in range(sum(name.rstrip("0123456789") == kind for name in tensors))]


def _write(file: Path, tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
    with aside(file) as part:
        part.write_bytes(
            save({name: each.contiguous() for name, each in tensors.items()}, facts)
        )  # save_file lets only the owner read


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata()
        return facts, load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} can't be read: {error}") from None
