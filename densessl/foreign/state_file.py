"""What a file of weights holds, read without running any code of it."""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from densessl.errors import UserError
from densessl.foreign.program_file import read_exported, read_onnx

FOLDER_WEIGHTS = "model.safetensors"  # of Hugging Face
OBJECTS = (
    "holds Python objects{what}, which can run code when they are read; if you trust it, save the weights alone: "
    "torch.save(torch.load(FILE, weights_only=False)['state_dict'], NEW), or whatever entry the weights are"
)


def read_state(path: Path) -> Any:
    """The content of a .safetensors file, of what torch.save wrote, or of a pickle of numpy arrays (.pkl).

    Of a Hugging Face folder that of its model.safetensors; of .onnx and .pt2 files (torch.export) the weights. Nothing
    but tensors, arrays, plain containers and argparse.Namespace is unpickled. Raises UserError for all else.
    """
    if path.is_dir():
        path /= FOLDER_WEIGHTS
    if path.suffix == ".onnx":
        return read_onnx(path)
    if path.suffix == ".pt2":
        return read_exported(path)
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise UserError(f"no whole safetensors file ({error})") from None
    try:
        with path.open("rb") as file:
            if path.suffix == ".pkl" and file.read(2) != b"PK":  # torch.save writes a zip archive
                file.seek(0)
                return _read_arrays(file)
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise UserError(
            "no file of torch.save, or it " + OBJECTS.format(what=f" ({found[1]})" if found else "")
        ) from None
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


def _read_arrays(file: Any) -> Any:
    try:
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
