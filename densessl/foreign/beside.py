"""What lies beside weights in JSON: which network they are of, and how it reads images."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from densessl.errors import UserError
from densessl.foreign.state_file import FOLDER_WEIGHTS
from densessl.reading import COLOUR

ACTIVATIONS = {"resnet": "relu", "convnext": "gelu", "convnextv2": "gelu"}


class Beside(NamedTuple):
    """``name`` is timm's, or ""; ``facts`` are mean, std and the like, as the metadata of a backbone have them.

    One number of mean or std is that of all channels.
    """

    name: str
    facts: dict[str, Any]


def read_beside(path: Path) -> Beside:
    """What our manifest of an exported file, timm's or Hugging Face's config.json and preprocessor_config.json say.

    Raises UserError for a file that can't be read, and for a network that timm doesn't have though its tensors fit.
    """
    for stem in (path, path.parent) if path.name in FOLDER_WEIGHTS else (path,):
        manifest = stem.with_name(f"{stem.name}.json")
        if "densessl" in (said := _read(manifest)) and "sha256" in said:
            return _of_manifest(path, manifest, said)
    if path.name not in FOLDER_WEIGHTS:
        return Beside("", {})
    config, processor = (_read(path.with_name(name)) for name in ("config.json", "preprocessor_config.json"))
    _refuse_others(path, config)
    weights = config.get("pretrained_cfg") or {}
    name, wrong = config.get("architecture") or "", path.with_name("preprocessor_config.json")
    try:
        facts = _colours_of(processor)
        wrong = path.with_name("config.json")
        facts = facts or (
            _colours(weights["mean"], weights["std"]) if weights.get("mean") and weights.get("std") else {}
        )
    except (AttributeError, TypeError, ValueError, ZeroDivisionError):
        raise UserError(f"{wrong}: mean and std are no numbers, or a std is not above 0") from None
    if not isinstance(name, str):
        raise UserError(f"{wrong}: architecture is {json.dumps(name)}; the name of a network is right")
    return Beside(name, facts)


def _of_manifest(path: Path, manifest: Path, said: dict[str, Any]) -> Beside:
    with path.open("rb") as content:
        if hashlib.file_digest(content, "sha256").hexdigest() != said["sha256"]:
            raise UserError(f"{manifest}: was written for another file of this name (SHA-256); delete it if it is old")
    facts: dict[str, Any] = {key: tuple(said[key]) for key in COLOUR}
    bounds = said["range"] if said["range"] != [[0, 255]] else None
    if bounds or said["percentiles"]:
        facts["pixels"] = {"range": bounds, "percentiles": said["percentiles"]}
    return Beside(said["architecture"], facts)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: can't be read as JSON ({error})") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: holds a {type(found).__name__} instead of names and values")
    return found


def _refuse_others(path: Path, config: dict[str, Any]) -> None:
    """What changes the maps and no tensor's shape."""
    kind = config.get("model_type", "")
    strides = ("downsample_in_bottleneck", "downsample_in_first_stage") if kind == "resnet" else ()
    wrong = [key for key in strides if config.get(key)]
    wrong += (
        ["hidden_act"]
        if kind in ACTIVATIONS and config.get("hidden_act", ACTIVATIONS[kind]) != ACTIVATIONS[kind]
        else []
    )
    if wrong:
        said = " and ".join(f"{key} {json.dumps(config[key])}" for key in wrong)
        raise UserError(
            f"{path.with_name('config.json')}: says {said}: another network than timm's, though every tensor would fit"
        )


def _colours_of(processor: dict[str, Any]) -> dict[str, Any]:
    """Mean and std of values from 0 to 1, whatever the processor multiplies stored values by."""
    if not processor.get("do_normalize", True):
        mean, std = 0.0, 1.0
    elif processor.get("image_mean") is not None and processor.get("image_std") is not None:
        mean, std = processor["image_mean"], processor["image_std"]
    else:
        return {}
    factor = processor.get("rescale_factor", 1 / 255) if processor.get("do_rescale", True) else 1.0
    return _colours(mean, std, round(255 * factor, 9))


def _colours(mean: Any, std: Any, scale: float = 1.0) -> dict[str, Any]:
    """Each a number or a list of them, over ``scale``. Raises what Python does where they are none; ValueError."""
    found = {
        key: tuple(value / scale for value in (values if isinstance(values, list) else [values]))
        for key, values in zip(COLOUR, (mean, std), strict=True)
    }
    if not all(map(math.isfinite, found["mean"])) or not all(0 < value < math.inf for value in found["std"]):
        raise ValueError
    return found
