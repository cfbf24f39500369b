"""What kind of file holds weights, told by its content: names lie."""

from __future__ import annotations

import re
import tarfile
import zipfile
from pathlib import Path
from typing import Literal

from densessl.errors import UserError
from densessl.key_report import first

Kind = Literal["safetensors", "torch", "program", "onnx", "pickle", "unknown"]
LONGEST_HEADER = 100_000_000  # of safetensors
OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save before 1.6
PACKED = {
    b"\x1f\x8b": "gzip -dc",
    b"BZh": "bzip2 -dc",
    b"\xfd7zXZ\0": "xz -dc",
    b"\x28\xb5\x2f\xfd": "zstd -dc",
}
OTHERS = {b"\x89HDF": "HDF5, as Keras writes it", b"\x93NUMPY": "one array of numpy"}


def tell_kind(path: Path) -> Kind:
    """The kind of a file; "unknown" where its first bytes say nothing.

    Raises UserError for what is known and holds no weights that can be read: a pointer of Git LFS, a web page, what is
    packed, TorchScript.
    """
    with path.open("rb") as file:
        head = file.read(1000)
    if is_safetensors(head):
        return "safetensors"
    if head.startswith(b"PK\x03\x04"):
        return _of_zip(path)
    if head.startswith(b"\x80"):
        return "torch" if head.startswith(OLD_TORCH) else "pickle"
    if re.match(rb"\x08[\x01-\x1f][\x12\x3a]", head):  # the version of its format, then who wrote it or the graph
        return "onnx"
    if head.startswith(b"version https://git-lfs"):
        raise UserError(
            f"holds a pointer of Git LFS instead of the weights{_size(head)}: git lfs pull, in the clone's folder, "
            "fetches them"
        )
    if re.match(rb"\s*<(!doctype|html|\?xml|head|body)", head, re.IGNORECASE):
        title = re.search(rb"<title[^>]*>\s*(.*?)\s*</title", head, re.IGNORECASE | re.DOTALL)
        said = f" ({_text(title[1])!r})" if title else ""
        raise UserError(f"holds a web page{said} instead of weights: a download was answered with it; fetch it again")
    for begin, command in PACKED.items():
        if head.startswith(begin):
            name = command.partition(" ")[0]
            raise UserError(f"holds what {name} has packed; {command} {path} > NEW unpacks it")
    for begin, what in OTHERS.items():
        if head.startswith(begin):
            raise UserError(f"holds {what}, and no weights of torch")
    if head[257:262] == b"ustar":
        with tarfile.open(path) as archive:
            raise UserError(f"holds a tar archive of {first(archive.getnames())}; unpack it and name the file in it")
    return "unknown"


def is_safetensors(head: bytes) -> bool:
    """Whether a file that begins so is one: the length of its header, and JSON."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= LONGEST_HEADER


def describe_unknown(path: Path) -> str:
    """In words, what stands in a file of no known kind."""
    with path.open("rb") as file:
        head = file.read(60)
    words = (
        f"holds text, {_text(head)!r}, and" if head.isascii() and b"\0" not in head else f"begins with {head[:8]!r} and"
    )
    return f"{words} is no file of torch.save, safetensors, torch.export or ONNX"


def _of_zip(path: Path) -> Kind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.partition("/")[2] or name for name in archive.namelist()]
    except zipfile.BadZipFile:
        raise UserError("no whole file of torch.save: its end is missing, as of a download that broke off") from None
    if "constants.pkl" in names and any(name.startswith("code/") for name in names):
        raise UserError(
            "holds TorchScript, whose weights can't be read without its code; if you trust it, save the weights alone: "
            "torch.save(torch.jit.load(FILE).state_dict(), NEW)"
        )
    if "archive_format" in names or any(name.startswith("data/weights/") for name in names):
        return "program"
    if "data.pkl" in names:
        return "torch"
    if any(name.endswith(".npy") for name in names):
        raise UserError(f"holds arrays of numpy ({first(names)}), and no weights of torch")
    raise UserError(f"holds a zip archive of {first(names)}; unpack it and name the file in it")


def _size(pointer: bytes) -> str:
    found = re.search(rb"^size (\d+)$", pointer, re.MULTILINE)
    return f" ({int(found[1]):,} bytes)" if found else ""


def _text(raw: bytes) -> str:
    return " ".join(raw.decode(errors="replace").split())[:60]
