"""Weights in the layouts of other libraries, brought to ours."""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from densessl.errors import UserError
from densessl.key_report import first
from densessl.layouts import same, timm_convnext, torchvision_convnext


class Layout(NamedTuple):
    """How a library lays a family out: a key that only this layout has, its names, and the keys of its classifier."""

    sign: str
    name_of: Callable[[str], str]
    head: str


LAYOUTS = {
    "torchvision ConvNeXt": Layout("features.0.0.weight", torchvision_convnext, "classifier.2."),
    "timm ConvNeXt": Layout("head.norm.weight", timm_convnext, "head.fc."),
    "timm ConvNeXt, norm before the mean": Layout("norm_pre.weight", same, "head.fc."),
    "ResNet": Layout("layer1.0.conv1.weight", same, "fc."),
}


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file or of what torch.save wrote, floating ones in float32.

    They may lie under "state_dict" or "model" and their names begin with "module." or "_orig_mod.". Nothing but
    tensors, plain containers and argparse.Namespace is unpickled. Raises UserError for everything else.
    """
    if path.suffix == ".safetensors":
        try:
            content: Any = load_file(path)
        except SafetensorError as error:
            raise UserError(f"{path}: no whole safetensors file ({error})") from None
    else:
        content = _torch_load(path)
    while isinstance(content, Mapping) and (inner := content.get("state_dict", content.get("model"))) is not None:
        content = inner
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{path}: holds no state dict, neither at the top nor under 'state_dict' or 'model'")
    tensors: dict[str, Tensor] = {}
    for key, tensor in content.items():
        if not isinstance(tensor, Tensor):
            raise UserError(f"{path}: {key!r} is a {type(tensor).__name__}; a state dict holds tensors only")
        name = re.sub(r"^(module\.|_orig_mod\.)+", "", str(key))
        if name in tensors:
            raise UserError(f"{path}: two keys are called {name!r} once 'module.' and '_orig_mod.' are taken off")
        tensors[name] = tensor.float() if tensor.is_floating_point() else tensor
    return tensors


def to_ours(tensors: Mapping[str, Tensor], ours: Iterable[str]) -> tuple[dict[str, Tensor], str]:
    """``tensors`` of a known layout under our keys, layer scale folded in and the classifier dropped, with a remark.

    ``ours`` are the keys of the backbone to fill. Keys the layout does not know stay as they are, so that a key
    report shows them. Raises UserError for a layout that is not known.
    """
    title = next((title for title, layout in LAYOUTS.items() if layout.sign in tensors), None)
    if title is None:
        raise UserError(f"of no known layout ({', '.join(LAYOUTS)}); its keys begin {first(list(tensors), 4)}")
    layout = LAYOUTS[title]
    keys = list(ours)
    keys += [key.replace("mlp.fc2.weight", "gamma") for key in keys if key.endswith(".mlp.fc2.weight")]
    key_of = {layout.name_of(key): key for key in keys}
    dropped = [name for name in tensors if name.startswith(layout.head)]
    renamed = {key_of.get(name, name): tensor for name, tensor in tensors.items() if name not in dropped}
    remarks = [title]
    if folded := _fold_layer_scale(renamed):
        remarks.append(f"layer scale of {folded} blocks folded in")
    if dropped:
        remarks.append(f"dropped {', '.join(dropped)}")
    counters = [
        counter
        for key in renamed
        if key.endswith(".running_mean")
        and (counter := key.replace("running_mean", "num_batches_tracked")) not in renamed
    ]
    if counters:  # files from before torch 0.4.1 have none, and nothing but an average without momentum reads them
        renamed |= {key: torch.tensor(0) for key in counters}
        remarks.append(f"{len(counters)} num_batches_tracked set to 0")
    return renamed, "; ".join(remarks)


def _fold_layer_scale(tensors: dict[str, Tensor]) -> int:
    """Multiply each gamma into the convolution or linear before it, which computes the same; how many there were."""
    gammas = [key for key in tensors if key.endswith(".gamma")]
    for key in gammas:
        fc2 = key.replace("gamma", "mlp.fc2")
        weight, bias = tensors.get(f"{fc2}.weight"), tensors.get(f"{fc2}.bias")
        if weight is None or bias is None or tensors[key].numel() != len(weight):
            continue  # left for the key report
        gamma = tensors.pop(key).flatten()
        tensors[f"{fc2}.weight"] = weight * gamma.reshape(-1, *[1] * (weight.ndim - 1))
        tensors[f"{fc2}.bias"] = bias * gamma
    return len(gammas)


def _torch_load(path: Path) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path}: no file of torch.save, or it holds Python objects, which can run code when they are read; "
            "save the weights alone: torch.save(model.state_dict(), FILE)"
        ) from None
    except (EOFError, OSError, RuntimeError) as error:
        raise UserError(f"{path}: no whole file of torch.save ({str(error).splitlines()[0]})") from None
