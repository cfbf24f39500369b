"""Weights of other projects, brought to our keys."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from densessl.backbones import Backbone
from densessl.errors import UserError
from densessl.foreign.layouts import dense, detectron2_resnet
from densessl.foreign.sources import DROPPED, Part, drop_double, find_part
from densessl.foreign.state_file import read_state
from densessl.key_report import key_report, require_finite
from densessl.vit import ViT

COUNTER = "num_batches_tracked"
NORM = {"norm_pre.weight": 1.0, "norm_pre.bias": 0.0}


def read_foreign(path: Path, part: str = "") -> Part:
    """The backbone in a checkpoint; ``part`` as in ``find_part``. Raises UserError."""
    try:
        return find_part(read_state(path), part)
    except UserError as error:
        raise UserError(f"{path}: {error}".replace("FILE:", f"{path}:")) from None


def fill_foreign(backbone: Backbone, path: Path, part: Part) -> str:
    """Fill ``backbone`` from ``part`` of a checkpoint; what was done. Raises UserError unless every tensor fits."""
    try:
        tensors, remark, _ = to_ours(part, backbone.net.state_dict())
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if isinstance(backbone, ViT):
        tensors, resampled = backbone.fitted(tensors)
        remark += resampled
    return fill(backbone, path, tensors, remark)


def fill(backbone: Backbone, path: Path, tensors: Mapping[str, Tensor], remark: str) -> str:
    """As ``fill_foreign``, from tensors under our keys."""
    if report := key_report(backbone.net.state_dict(), tensors):
        raise UserError(f"{path} ({remark}) does not fit {backbone.name}: {report}")
    backbone.net.load_state_dict(tensors)
    return f"{len(tensors)} tensors of {path} ({remark})"


class Translation(NamedTuple):
    """Tensors under our keys, a remark on all that was done, and what became of each key of the file."""

    tensors: dict[str, Tensor]
    remark: str
    fates: dict[str, str]


def to_ours(part: Part, wanted: Mapping[str, Tensor]) -> Translation:
    """The part's tensors under our keys, layer scale folded in and heads dropped.

    ``wanted`` is the state dict of the backbone to fill. Keys that no rule knows stay as they are, so that a key report
    shows them. Raises UserError where what should lie in the file twice differs and for values that are not finite.
    """
    layout, theirs, dropped = part.layout, dict(part.tensors), list(part.dropped)
    if layout.signs[0].endswith(".kernel"):
        theirs = dense(theirs)
    if doubles := drop_double(theirs, "norms.3.", "norm."):  # DINOv3's
        theirs = {name: tensor for name, tensor in theirs.items() if name not in doubles}
    keys = [*wanted, *(key.replace("mlp.fc2.weight", "gamma") for key in wanted if key.endswith(".mlp.fc2.weight"))]
    key_of = {layout.name_of(key): key for key in keys}
    heads = [name for name in theirs if name not in key_of and re.match(rf"({DROPPED})(\.|$)", name)]
    kept = {name: tensor for name, tensor in theirs.items() if name not in heads}
    require_finite(kept)
    found = {key_of.get(name, name): tensor for name, tensor in kept.items()}
    found = {key: _shaped(key, tensor, wanted) for key, tensor in found.items()}
    dropped += [*doubles, *heads]
    fates = {name: key_of.get(name, "unknown") for name in theirs} | dict.fromkeys(dropped, "dropped")
    remarks = [f"{layout.title} in {part.place}" if part.place else layout.title]
    if layout.name_of is detectron2_resnet:
        remarks.append("taken to read RGB and to stride in the 3x3, as INPUT.FORMAT and STRIDE_IN_1X1 say there")
    if folded := _fold_layer_scale(found, wanted):
        remarks.append(f"layer scale of {folded} blocks folded in")
        fates = {name: key.replace("gamma", "mlp.fc2, folded in") for name, key in fates.items()}
    if dropped:
        remarks.append(f"dropped {_counted(dropped)}")
    counters = [
        counter
        for key in found
        if key.endswith(".running_mean") and (counter := key.replace("running_mean", COUNTER)) not in found
    ]
    if counters:  # files from before torch 0.4.1 and frozen norms have none; only averages without momentum read them
        found |= {key: torch.tensor(0) for key in counters}
        remarks.append(f"{len(counters)} {COUNTER} set to 0")
    classified = any(name.startswith(("head", "classifier")) for name in heads)
    if layout.bare and not classified and NORM.keys() <= wanted.keys() and not NORM.keys() & found.keys():
        found |= {key: torch.full_like(wanted[key], value) for key, value in NORM.items()}
        remarks.append("no final norm there: its weight set to 1, its bias to 0")
    return Translation(found, "; ".join(remarks), fates)


def _shaped(key: str, tensor: Tensor, wanted: Mapping[str, Tensor]) -> Tensor:
    """Linear layers for 1 x 1 convolutions, and GRN with axes of 1: only axes of length 1 come or go."""
    target = wanted.get(key)
    if target is None or not re.search(r"\.mlp\.", key) or _long(tensor) != _long(target):
        return tensor
    return tensor.reshape(target.shape)


def _long(tensor: Tensor) -> list[int]:
    return [side for side in tensor.shape if side != 1]


def _fold_layer_scale(tensors: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> int:
    """Multiply each gamma into the convolution or linear before it, which computes the same; how many there were."""
    gammas = [key for key in tensors if key.endswith(".gamma") and key not in wanted]
    for key in gammas:
        fc2 = key.replace("gamma", "mlp.fc2")
        weight, bias = tensors.get(f"{fc2}.weight"), tensors.get(f"{fc2}.bias")
        if weight is None or bias is None or tensors[key].numel() != len(weight):
            continue  # left for the key report
        gamma = tensors.pop(key).flatten()
        tensors[f"{fc2}.weight"] = weight * gamma.reshape(-1, *[1] * (weight.ndim - 1))
        tensors[f"{fc2}.bias"] = bias * gamma
    return len(gammas)


def _counted(names: Sequence[str]) -> str:
    """The names by what they begin with: projector.* (6), queue."""
    counts = Counter(name.partition(".")[0] + (".*" if "." in name else "") for name in names)
    return ", ".join(f"{begin} ({count})" if begin.endswith("*") else begin for begin, count in counts.items())
