"""How a command line names a backbone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".pkl", ".tar", ".pt2", ".onnx")


class BackboneSpec(NamedTuple):
    """``name`` is timm's, if given; without ``path`` random weights are meant; ``part`` chooses inside the file."""

    name: str
    path: Path | None
    part: str


def parse_spec(spec: str | Path) -> BackboneSpec:
    """NAME, PATH, NAME=PATH, or either with :PART, as in dino.pth:student. What exists is a path before all else."""
    text = str(spec)
    name, equals, rest = text.partition("=")
    if Path(text).exists() or not equals or os.sep in name:
        name, rest = "", text
    rest = os.path.expanduser(rest)
    path, part = Path(rest), ""
    file, colon, word = rest.rpartition(":")
    if colon and not path.exists() and Path(file).exists():
        path, part = Path(file), word
    if name or path.exists() or len(path.parts) > 1 or path.suffix in SUFFIXES:
        return BackboneSpec(name, path, part)
    return BackboneSpec(text, None, "")
