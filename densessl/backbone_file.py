"""The backbone file: safetensors with metadata, the only contract between pretraining and everything after it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from timm.models.convnext import ConvNeXt
from torch import Tensor

from densessl import __version__
from densessl.backbones import Backbone
from densessl.errors import UserError
from densessl.files import aside
from densessl.foreign import read_state_dict, to_ours
from densessl.key_report import key_report

FORMAT = "densessl-backbone-1"
FILE_NAME = "backbone.safetensors"
FACTS = {"in_chans": int, "step": int, "channels": list, "strides": list, "mean": list, "std": list}  # written in JSON
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
GREY = {"mean": 0.449, "std": 0.226}  # their means over the colours, for any other number of channels


def save_backbone(
    path: str | Path,
    backbone: Backbone,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    method: str,
    step: int,
    extra: Mapping[str, str] | None = None,
) -> None:
    """Write ``backbone`` with what its use needs: ``mean`` and ``std`` (per channel, pixels 0 to 1) and its origin.

    The keys are timm's, the values float32. ``extra`` adds metadata of its own names. An older file is replaced at
    once, so that a reader sees the old one or the new one. Raises UserError where the file can't be written.
    """
    if not len(mean) == len(std) == backbone.in_chans:
        raise UserError(f"mean has {len(mean)} and std {len(std)} values, the backbone {backbone.in_chans} channels")
    facts = {**_structure(backbone), "mean": tuple(mean), "std": tuple(std), "step": step}
    texts = {
        "format": FORMAT,
        "densessl": __version__,
        "timm_name": backbone.name,
        "stem": backbone.stem,
        "method": method,
        "layer_scale": "none",
        "final_norm": "last map, at every location" if isinstance(backbone.net, ConvNeXt) else "none",
    }
    metadata = {**(extra or {}), **{key: json.dumps(value) for key, value in facts.items()}, **texts}
    tensors = {
        key: tensor.detach().to("cpu", torch.float32 if tensor.is_floating_point() else None).contiguous()
        for key, tensor in backbone.net.state_dict().items()
    }
    path = Path(path)
    try:
        with aside(path) as part:
            part.write_bytes(save(tensors, metadata))  # save_file lets only the owner read
    except OSError as error:
        raise UserError(f"{path}: the backbone can't be written there ({error})") from None


def load_backbone(path: str | Path, *, output_stride: int = 32) -> Backbone:
    """The backbone of a file, in eval mode, its ``metadata`` filled: mean and std, channels, method, step and more.

    Raises UserError for a file that is missing, cut, foreign, or whose tensors are not those its metadata promise.
    """
    path = Path(path)
    tensors, metadata = _read(path)
    try:
        backbone = Backbone(
            str(metadata["timm_name"]),
            in_chans=metadata["in_chans"],
            output_stride=output_stride,
            stem=metadata["stem"],
        )
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if report := key_report(backbone.net.state_dict(), tensors):
        raise UserError(f"{path}: its tensors are not those of {backbone.name}, which its metadata name: {report}")
    if metadata["channels"] != backbone.channels:
        raise UserError(
            f"{path}: metadata 'channels' are {metadata['channels']}, {backbone.name}'s {backbone.channels}"
        )
    backbone.net.load_state_dict(tensors)
    backbone.metadata = metadata
    return backbone.eval()


def find_backbone(spec: str | Path, *, output_stride: int = 32, in_chans: int = 3, seed: int = 0) -> Backbone:
    """The backbone that ``spec`` means, in eval mode: a backbone file, a run folder or a timm name.

    A timm name gives random weights from ``seed`` for ``in_chans`` channels, with metadata method "random". Raises
    UserError for what is none of the three, naming the nearest timm names.
    """
    path = Path(spec)
    if path.is_dir():
        if not (path / FILE_NAME).is_file():
            raise UserError(f"{path}: a folder without {FILE_NAME}; a run folder has one after its first save")
        return load_backbone(path / FILE_NAME, output_stride=output_stride)
    if path.exists() or len(path.parts) > 1 or path.suffix in (".safetensors", ".pth", ".pt"):
        return load_backbone(path, output_stride=output_stride)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            backbone = Backbone(str(spec), in_chans=in_chans, output_stride=output_stride)
        except UserError as error:
            raise UserError(f"{spec!s}: no backbone file, no run folder and no network to build ({error})") from None
    colour = IMAGENET if in_chans == 3 else {key: (value,) * in_chans for key, value in GREY.items()}
    names = {"timm_name": backbone.name, "stem": backbone.stem, "method": "random"}
    backbone.metadata = {**_structure(backbone), **colour, **names, "step": 0}
    return backbone.eval()


def init_backbone(backbone: Backbone, path: str | Path) -> str:
    """Fill ``backbone`` from a backbone file, or from a state dict of timm or torchvision (.safetensors or torch.save).

    A ConvNeXt's layer scale is folded into ``mlp.fc2`` and a classifier dropped; all else has to fit exactly. Returns
    one line that says what was done. Raises UserError with the missing, unexpected and misshapen keys.
    """
    path = Path(path)
    _require_content(path)
    if path.suffix == ".safetensors" and _metadata(path).get("format") == FORMAT:
        tensors, facts = _read(path)
        remark = f"backbone file, {facts['method']}, step {facts['step']}"
        if facts["timm_name"] != backbone.name:  # some differ without a key that shows it, as resnet50 and resnetblur50
            raise UserError(f"{path}: a {facts['timm_name']}; the backbone to fill is a {backbone.name}")
    else:
        tensors = read_state_dict(path)
        try:
            tensors, remark = to_ours(tensors, backbone.net.state_dict())
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
    if report := key_report(backbone.net.state_dict(), tensors):
        raise UserError(f"{path} ({remark}) does not fit {backbone.name}: {report}")
    backbone.net.load_state_dict(tensors)
    return f"{len(tensors)} tensors of {path} ({remark})"


def _structure(backbone: Backbone) -> dict[str, object]:
    return {"in_chans": backbone.in_chans, "channels": backbone.channels, "strides": backbone.strides}


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    metadata: dict[str, Any] = _metadata(path)
    if metadata.get("format") != FORMAT:
        raise UserError(
            f"{path}: a safetensors file without densessl's metadata (format {metadata.get('format')!r} instead of "
            f"{FORMAT!r}); weights of another project come in by backbone.init={path} of pretrain"
        )
    for key, kind in FACTS.items():
        try:
            value = json.loads(metadata[key])
        except (KeyError, json.JSONDecodeError):
            raise UserError(f"{path}: metadata {key!r} is {metadata.get(key)!r}, not a value in JSON") from None
        if not isinstance(value, kind):
            raise UserError(f"{path}: metadata {key!r} is {metadata[key]!r}, not of type {kind.__name__}")
        metadata[key] = tuple(value) if isinstance(value, list) else value
    metadata.setdefault("stem", "imagenet")  # files from before there were others
    for key in ("timm_name", "method"):
        if key not in metadata:
            raise UserError(f"{path}: metadata {key!r} is missing")
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, metadata  # noqa: SIM118 (safe_open is no dict)


def _require_content(path: Path) -> None:
    if not path.is_file():
        what = "a folder, not a file" if path.is_dir() else "no such file"
        raise UserError(f"{path}: {what}; a run keeps its backbone in RUN/{FILE_NAME}")
    if not path.stat().st_size:
        raise UserError(f"{path}: the file is empty")


def _metadata(path: Path) -> dict[str, str]:
    _require_content(path)
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise UserError(f"{path}: no whole safetensors file, so no backbone file ({error})") from None
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error})") from None
