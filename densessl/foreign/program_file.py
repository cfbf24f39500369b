"""The weights in files of computations, ONNX and torch.export, read without running any of it."""

from __future__ import annotations

import json
import math
import zipfile
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from densessl.errors import UserError

DTYPES = {5: torch.int64, 6: torch.float16, 7: torch.float32, 8: torch.float64, 13: torch.bfloat16}
CONFIG = "data/weights/model_weights_config.json"


def read_onnx(path: Path) -> dict[str, Tensor]:
    """What the graph starts with, under its names. Raises UserError."""
    if find_spec("onnx") is None:
        raise UserError("an ONNX file is read by the package onnx: pip install 'densessl[export]'")
    import onnx

    try:
        graph = onnx.load(path, load_external_data=False).graph
        outside = [one.name for one in graph.initializer if onnx.external_data_helper.uses_external_data(one)]
        if outside:
            raise UserError(f"its weights lie in another file ({outside[0]}); densessl writes them into the ONNX file")
        return {one.name: torch.from_numpy(onnx.numpy_helper.to_array(one).copy()) for one in graph.initializer}
    except UserError:
        raise
    except Exception as error:  # protobuf and onnx raise anything
        raise UserError(f"no whole ONNX file ({str(error).splitlines()[0] if str(error) else error})") from None


def read_exported(path: Path) -> dict[str, Tensor]:
    """Weights of torch.export.save, which torch reads with pickles. Raises UserError where only they would do."""
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            config = next(name for name in archive.namelist() if name.endswith(f"/{CONFIG}"))
            for key, facts in json.loads(archive.read(config))["config"].items():
                meta = facts["tensor_meta"]
                if facts["use_pickle"] or meta is None:
                    raise UserError(f"{key} is pickled, which can run code when it is read")
                sizes, strides = ([side["as_int"] for side in meta[part]] for part in ("sizes", "strides"))
                raw = bytearray(archive.read(config.replace("model_weights_config.json", facts["path_name"])))
                flat = torch.frombuffer(raw, dtype=DTYPES[meta["dtype"]])
                if math.prod(sizes) != flat.numel():
                    raise ValueError(f"{key} has {flat.numel()} values instead of {math.prod(sizes)}")
                found[key] = flat.as_strided(sizes, strides, meta["storage_offset"]["as_int"]).contiguous()
    except (OSError, zipfile.BadZipFile, StopIteration, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"no whole file of torch.export ({type(error).__name__}: {error})") from None
    return found
