"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """A path beside ``path`` and with its suffix to write to; it takes the place of ``path`` when the block ends well.

    A file may be written there, or a folder made. If the block raises, nothing of it is left and ``path`` is as before.
    Missing folders are made. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield part
        for written in part.iterdir() if part.is_dir() else (part,):
            with written.open("rb+") as file:
                os.fsync(file.fileno())
        if part.is_dir() and path.is_dir():  # a folder takes the place of an empty one only
            old = part.with_suffix(".old")
            path.rename(old)
            part.rename(path)
            shutil.rmtree(old)
        else:
            part.replace(path)
    finally:
        shutil.rmtree(part, ignore_errors=True) if part.is_dir() else part.unlink(missing_ok=True)
