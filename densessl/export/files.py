"""Containers whose bytes depend on their content alone."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch


def torch_save(content: Any, file: Path) -> None:
    """As torch.save, which would write the file's name into the file."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    file.write_bytes(buffer.getbuffer())
