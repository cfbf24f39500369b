"""A folder that appears when all of it is written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from densessl.errors import UserError


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` to write to, which becomes ``out`` when the block ends well; else nothing of it is left.

    Raises UserError, before anything is written, where ``out`` is a file or holds anything.
    """
    if out.exists() and (held := sorted(os.listdir(out)) if out.is_dir() else ["a file"]):
        raise UserError(f"{out} holds {held[0]} already: name an empty folder, or one that is not there yet")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{out.name}.", suffix=".part", dir=out.parent) as aside:
            part = Path(aside) / "whole"
            part.mkdir()
            yield part
            part.replace(out)
    except OSError as error:
        raise UserError(f"{out}: can't be written ({error.strerror or error})") from error
