"""What made a result."""

from __future__ import annotations

import platform

import timm
import torch

import densessl


def versions() -> dict[str, str]:
    return {
        "densessl": densessl.__version__,
        "torch": torch.__version__,
        "timm": timm.__version__,
        "python": platform.python_version(),
    }
