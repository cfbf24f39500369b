"""What a file of weights holds, read without running any code of it."""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from densessl.errors import UserError
from densessl.foreign.file_kind import Kind, describe_unknown, tell_kind
from densessl.foreign.program_file import read_exported, read_onnx

FOLDER_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # of Hugging Face, the first that is there
OBJECTS = (
    "holds Python objects{what}, which can run code when they are read; if you trust it, save the weights alone: "
    "torch.save(torch.load(FILE, weights_only=False)['state_dict'], NEW), or whatever entry the weights are, or "
    ".state_dict() of a whole network"
)


def read_state(path: Path) -> Any:
    """The content of what safetensors or torch.save wrote, or of a pickle of numpy arrays.

    Of ONNX and torch.export the weights. The content tells the kind, the file's ending only where it can't. Nothing but
    tensors, arrays, plain containers and argparse.Namespace is unpickled. Raises UserError for all else.
    """
    kind = tell_kind(path)
    if kind == "unknown":
        kind = OF_ENDINGS.get(path.suffix, kind)
    if kind == "unknown":
        raise UserError(describe_unknown(path))
    try:
        return READERS[kind](path)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise UserError(OBJECTS.format(what=f" ({found[1]})" if found else "")) from None


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"no whole safetensors file ({error})") from None


def _read_torch(path: Path) -> Any:
    try:
        with (
            path.open("rb") as file,  # of a path torch would take the ending's word
            warnings.catch_warnings(action="ignore"),
            torch.serialization.safe_globals([argparse.Namespace]),
        ):
            return torch.load(file, map_location="cpu", weights_only=True)
    except (EOFError, OSError, RuntimeError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"no whole file of torch.save ({(str(error) or repr(error)).splitlines()[0]})") from None


class _Dtype:
    """Stands for numpy.dtype: kept as its code, since the state of a real one is trusted by numpy without a check."""

    def __init__(self, code: str, *_: object) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


class _Array:
    """Stands for numpy.ndarray, which is built from its bytes only after the whole pickle was read."""

    def __init__(self, *_: object) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def tensor(self) -> torch.Tensor:
        _, shape, dtype, fortran, raw = self.state
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        flat = np.frombuffer(raw, np.dtype(dtype.code).newbyteorder(dtype.order))
        array = flat.reshape(shape, order="F" if fortran else "C")
        return torch.from_numpy(np.array(array, array.dtype.newbyteorder("="), order="C"))


def _from_buffer(raw: bytes, dtype: _Dtype, shape: tuple[int, ...], order: str) -> _Array:
    """As numpy pickles arrays since protocol 5."""
    array = _Array()
    array.state = (1, shape, dtype, order == "F", bytes(raw))
    return array


def _latin1(text: str, _: str) -> bytes:
    """As protocol 2 writes bytes."""
    return text.encode("latin1")


STANDS: dict[str, Any] = {"dtype": _Dtype, "ndarray": _Array, "_reconstruct": _Array, "_frombuffer": _from_buffer}


class _Arrays(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in STANDS:
            return STANDS[name]
        if (module, name) == ("_codecs", "encode"):
            return _latin1
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if name == "bytes" and module in ("builtins", "__builtin__"):  # as protocol 2 writes b""
            return bytes
        raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")


def _read_arrays(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return _tensors(_Arrays(file, encoding="latin1").load())
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error):
            raise
        raise UserError(f"no whole pickle ({error})") from None
    except Exception as error:  # a broken pickle may raise anything
        raise UserError(f"no whole pickle of numpy arrays ({error})") from None


def _tensors(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _tensors(inner) for key, inner in value.items()}
    return value.tensor() if isinstance(value, _Array) else value


READERS: dict[Kind, Callable[[Path], Any]] = {
    "safetensors": _read_safetensors,
    "torch": _read_torch,
    "program": read_exported,
    "onnx": read_onnx,
    "pickle": _read_arrays,
}
OF_ENDINGS: dict[str, Kind] = {  # of damaged files, and of pickles of protocol 0 and 1, which begin with any letter
    ".safetensors": "safetensors",
    ".pt2": "program",
    ".onnx": "onnx",
    ".pkl": "pickle",
}
