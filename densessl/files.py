"""Files that are there whole or not at all, the text in them, and their names in messages."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from densessl.errors import UserError

SPACES = "\xa0\u3000"  # that file names have, though Python takes them for unprintable


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


def printable(name: str | bytes) -> str:
    """A name of a file as it can be shown and written anywhere: one line of UTF-8, whatever the locale.

    Bytes that are no UTF-8 and control characters are escaped, so that it may not open the file any more.
    """
    try:
        raw = os.fsencode(name)
    except UnicodeEncodeError:  # of no file, or of one in another locale
        raw = str(name).encode("utf-8", "surrogatepass")
    text = raw.decode("utf-8", "backslashreplace")
    if text.isprintable():
        return text
    kept = (char if char.isprintable() or char in SPACES else char.encode("unicode_escape").decode() for char in text)
    return "".join(kept)


def printable_lines(text: str) -> str:
    """A message of several lines, each `printable`."""
    return "\n".join(map(printable, text.split("\n")))


def read_utf8(file: Path) -> str:
    """The text of a file, without the mark that some programs put first. Raises OSError, and UserError for no UTF-8."""
    data = file.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{file}, line {line}: the byte 0x{data[error.start]:02x} is no UTF-8; save the file in that encoding"
        ) from None
