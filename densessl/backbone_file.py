"""The backbone file: safetensors with metadata, the only contract between pretraining and everything after it."""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from timm.models import split_model_name_tag
from timm.models.convnext import ConvNeXt
from torch import Tensor

from densessl import __version__
from densessl.backbone_spec import parse_spec
from densessl.backbones import Backbone
from densessl.colours import IMAGENET as IMAGENET
from densessl.colours import colours, colours_of_tag
from densessl.data.decoding import RGB
from densessl.data.pixels import Pixels
from densessl.errors import UserError
from densessl.files import aside
from densessl.foreign.architecture import in_chans, timm_name
from densessl.foreign.beside import read_beside
from densessl.foreign.file_kind import is_safetensors
from densessl.foreign.filling import fill, fill_foreign, read_foreign
from densessl.foreign.state_file import FOLDER_WEIGHTS
from densessl.key_report import key_report, require_finite
from densessl.reading import COLOUR, pixel_facts
from densessl.vit import network

log = logging.getLogger("densessl")

FORMAT = "densessl-backbone-1"
FILE_NAME = "backbone.safetensors"
FACTS = {"in_chans": int, "step": int, "channels": list, "strides": list, "mean": list, "std": list}  # written in JSON


def save_backbone(
    path: str | Path,
    backbone: Backbone,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    method: str,
    step: int,
    pixels: Pixels = RGB,
    extra: Mapping[str, str] | None = None,
) -> None:
    """Write ``backbone`` with what its use needs: ``mean`` and ``std`` (per channel, pixels 0 to 1) and its origin.

    ``pixels`` says which stored values were 0 and 1; nothing is written of 8 bits. The keys are timm's, the values
    float32. ``extra`` adds metadata of its own names. An older file is replaced at once, so that a reader sees the old
    one or the new one. Raises UserError where the file can't be written.
    """
    if not len(mean) == len(std) == backbone.in_chans:
        raise UserError(f"mean has {len(mean)} and std {len(std)} values, the backbone {backbone.in_chans} channels")
    if len(pixels.range) not in (0, 1, backbone.in_chans):
        raise UserError(f"range has {len(pixels.range)} pairs, the backbone {backbone.in_chans} channels")
    facts = {**_structure(backbone), **pixel_facts(pixels), "mean": tuple(mean), "std": tuple(std), "step": step}
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


def load_backbone(spec: str | Path, *, output_stride: int = 32, in_chans: int = 3, seed: int = 0) -> Backbone:
    """The backbone that ``spec`` means, as on the command line, in eval mode with its ``metadata`` filled.

    Args:
        spec: a run folder, a backbone file, or a checkpoint of another project, whose network its shapes show.
            NAME=FILE says which of timm's it is, FILE:KEY takes another part of it than is usual (see ``find_part``).
            NAME alone gives random weights, with metadata method "random".
        output_stride: 8 or 16 dilates the last stages instead of striding: finer maps with the same weights.
        in_chans: channels of the images, for random weights; files tell theirs.
        seed: of random weights.

    Returns:
        A module whose call gives four maps (B, C, H, W), finest first, of images (B, channels, height, width) with
        values from 0 to 1 less ``metadata["mean"]``, divided by ``metadata["std"]``. ``channels`` and ``strides`` are
        those of the maps.

    Raises:
        UserError: for what is none of these, with the nearest of timm's names; for a file that is missing or cut, and
            where a single tensor does not fit.
    """
    name, path, part = parse_spec(spec)
    if path is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                backbone = network(name, in_chans=in_chans, output_stride=output_stride)
            except UserError as error:
                raise UserError(
                    f"{spec!s}: no backbone file, no run folder and no network to build ({error})"
                ) from None
        backbone.metadata = _facts(backbone, "random")
        return backbone.eval()
    path = _find_file(path)
    if not _is_ours(path):
        return import_backbone(path, name, part, output_stride=output_stride)
    backbone = _load_file(path, output_stride)
    if part or name not in ("", backbone.name):
        raise UserError(f"{spec!s}: {path} is a backbone file, of a {backbone.name}; it needs neither NAME= nor :PART")
    return backbone


def _load_file(path: Path, output_stride: int) -> Backbone:
    tensors, metadata = _read(path)
    try:
        backbone = network(
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


def import_backbone(path: Path, name: str = "", part: str = "", *, output_stride: int = 32) -> Backbone:
    """The backbone of another project's checkpoint, in eval mode; what was matched, dropped and filled is logged.

    ``name`` is timm's; without it JSON beside the file decides, and then depths and widths. A tag in it, as in
    resnet50.a1_in1k, tells the mean and std of the pictures, and so does JSON (see ``read_beside``); ImageNet's are
    taken otherwise, with a red std of 0.228 where the file shows that it comes from SwAV, DeepCluster-v2 or VICRegL.
    Raises UserError, and nothing is returned, unless every tensor fits.
    """
    name, tag = split_model_name_tag(name)
    beside, found = read_beside(path), read_foreign(path, part)
    try:
        name, channels = (
            name or beside.name or timm_name(found.layout, found.tensors),
            in_chans(found.layout, found.tensors),
        )
        backbone = network(name, in_chans=channels, output_stride=output_stride)
        colour: dict[str, Any] = colours(channels, found.origin)
        if tag and channels == 3:
            colour = colours_of_tag(f"{name}.{tag}")
        elif all(len(beside.facts.get(key, ())) in (1, channels) for key in COLOUR):
            each = {key: beside.facts[key] * (channels if len(beside.facts[key]) == 1 else 1) for key in COLOUR}
            colour = {**beside.facts, **each}
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    report = fill_foreign(backbone, path, found)
    backbone.metadata = {**_facts(backbone, found.origin or "imported"), **colour, "file": str(path), "import": report}
    of = f" of {found.origin}" if found.origin else ""
    _say_once(f"{report}: {backbone.name}{of}, mean {colour['mean']}, std {colour['std']}")
    return backbone.eval()


def init_backbone(backbone: Backbone, spec: str | Path) -> str:
    """Fill ``backbone`` from a backbone file or a checkpoint of another project, PATH or PATH:PART.

    A ConvNeXt's layer scale is folded into ``mlp.fc2`` and heads dropped; all else has to fit exactly. Returns one line
    that says what was done. Raises UserError with the missing, unexpected and misshapen keys.
    """
    name, path, part = parse_spec(spec)
    if path is None or name not in ("", backbone.name):
        raise UserError(f"{spec!s}: names a network; the backbone to fill is a {backbone.name} and needs a file")
    path = _find_file(path)
    if not _is_ours(path):
        if (named := read_beside(path).name) not in ("", backbone.name):
            raise UserError(f"{path}: a {named}, as JSON beside it says; the backbone to fill is a {backbone.name}")
        return fill_foreign(backbone, path, read_foreign(path, part))
    tensors, facts = _read(path)
    if part:
        raise UserError(f"{spec!s}: a backbone file has no parts")
    if facts["timm_name"] != backbone.name:  # some differ without a key that shows it, as resnet50 and resnetblur50
        raise UserError(f"{path}: a {facts['timm_name']}; the backbone to fill is a {backbone.name}")
    return fill(backbone, path, tensors, f"backbone file, {facts['method']}, step {facts['step']}")


def _facts(backbone: Backbone, method: str) -> dict[str, object]:
    names = {"timm_name": backbone.name, "stem": backbone.stem, "method": method}
    return {**_structure(backbone), **colours(backbone.in_chans), **names, "step": 0}


@cache  # a backbone is found once a seed
def _say_once(line: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        log.warning(line)


def _find_file(path: Path) -> Path:
    """The file of weights that a file or a folder means. Raises UserError where there is none, or an empty one."""
    if path.is_dir():
        files = [path / name for name in (FILE_NAME, *FOLDER_WEIGHTS) if (path / name).is_file()]
        if not files:
            raise UserError(
                f"{path}: a folder without {FILE_NAME}, which a run has after its first save, and without "
                f"Hugging Face's {' or '.join(FOLDER_WEIGHTS)}"
            )
        path = files[0]
    if not path.is_file():
        raise UserError(f"{path}: no such file; a run keeps its backbone in RUN/{FILE_NAME}")
    if not path.stat().st_size:
        raise UserError(f"{path}: the file is empty")
    return path


def _is_ours(path: Path) -> bool:
    with path.open("rb") as file:
        ours = is_safetensors(file.read(9))
    return ours and _metadata(path).get("format", "").startswith("densessl")


def _structure(backbone: Backbone) -> dict[str, object]:
    return {"in_chans": backbone.in_chans, "channels": backbone.channels, "strides": backbone.strides}


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    metadata: dict[str, Any] = _metadata(path)
    if metadata.get("format") != FORMAT:
        raise UserError(f"{path}: a backbone file of format {metadata.get('format')!r}; this densessl reads {FORMAT!r}")
    for key, kind in (FACTS | ({"pixels": dict} if "pixels" in metadata else {})).items():
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
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (safe_open is no dict)
    try:
        require_finite(tensors)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return tensors, metadata


def _metadata(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise UserError(f"{path}: no whole safetensors file, so no backbone file ({error})") from None
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error})") from None
