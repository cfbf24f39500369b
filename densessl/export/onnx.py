"""To ONNX: any batch and size, stage maps and vectors as outputs."""

from __future__ import annotations

from pathlib import Path

import torch

from densessl.backbones import Backbone
from densessl.export.exporter import Stages, installed
from densessl.export.program import NAMES, exported

SUFFIX = ".onnx"
NEEDS = ("onnx", "onnxscript", "onnxruntime")


def write(backbone: Backbone, file: Path) -> None:
    """Without the optimiser of constants, which would fold batch normalisation and so change the weights."""
    program = torch.onnx.export(
        exported(backbone),
        (),
        input_names=["image"],
        output_names=NAMES,
        dynamic_shapes={"image": {0: "batch", 2: "height", 3: "width"}},
        dynamo=True,
        optimize=False,
        verbose=False,
    )
    assert program is not None
    program.save(file, external_data=False)


def open(backbone: Backbone, file: Path) -> Stages:
    session = installed("onnxruntime").InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda image: [torch.from_numpy(found) for found in session.run(NAMES[:4], {"image": image.numpy()})]


def snippet(backbone: Backbone, file: Path) -> str:
    return f"""\
import onnxruntime

session = onnxruntime.InferenceSession({str(file)!r})
*maps, vectors = session.run(None, {{"image": image.numpy()}})
"""
