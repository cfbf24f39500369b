"""Which files of a collection are images, by their endings or by how they begin; and how many there are of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from densessl.data.header import NAMES, form_at
from densessl.files import printable

ENDINGS = frozenset(map(str.encode, NAMES))  # in any case
START = 32  # bytes that tell a form
DISTINCT = 200  # endings that are counted apart
# Not looked into, since collections have a million of them, or since they begin like TIFF and hold anything but a plain
# image: raw photographs, of which a thumbnail would be read, and slides.
OTHERS = frozenset(
    b"txt json jsonl csv tsv xml yaml yml md html htm pdf py ipynb log cls mat npz pkl h5 hdf5 parquet arrow db "
    b"zip gz bz2 xz zst 7z rar tar tgz mp4 avi mov mkv webm mp3 wav flac pt pth ckpt safetensors onnx "
    b"dng nef nrw cr2 cr3 arw sr2 srf srw pef raf raw rw2 rwl orf 3fr fff iiq erf kdc dcr mos mef x3f "
    b"svs ndpi scn vms czi lif".split()
)


def ending_of(name: bytes) -> bytes:
    """In lower case, without its dot. Empty where what follows the last dot is none, as in img.0001 and v1.2 final."""
    stem, _, ending = name.rpartition(b".")
    return ending.lower() if stem and len(ending) < 9 and ending.isalnum() and not ending.isdigit() else b""


def is_image(ending: bytes, start: bytes) -> bool:
    """Whether a file of this ending, which is none of `ENDINGS`, begins like an image."""
    return ending not in OTHERS and bool(form_at(start))


class Contents:
    """How many files of a collection are taken and left out, by ending or in words."""

    def __init__(self, taken: Mapping[str, int] | None = None, left: Mapping[str, int] | None = None) -> None:
        self.taken, self.left = Counter(taken), Counter(left)

    def take(self, ending: bytes) -> None:
        _count(self.taken, ending)

    def leave(self, ending: bytes) -> None:
        _count(self.left, ending)

    def add(self, other: Contents) -> None:
        self.taken += other.taken
        self.left += other.left

    def notes(self) -> dict[str, dict[str, int]]:
        """What `Contents` takes."""
        return {"taken": dict(self.taken), "left": dict(self.left)}

    def __str__(self) -> str:
        return _listed(self.taken) + (f"; left out: {self.left_out()}" if self.left else "")

    def left_out(self) -> str:
        return _listed(self.left) or "no files"


def _count(counter: Counter[str], ending: bytes) -> None:
    shown = f".{printable(ending)}" if ending else "without an ending"
    counter[shown if shown in counter or len(counter) < DISTINCT else "of other endings"] += 1


def _listed(counter: Counter[str]) -> str:
    most = sorted(counter.items(), key=lambda item: (-item[1], item[0]))[:8]
    rest = counter.total() - sum(n for _, n in most)
    return ", ".join([f"{n:,} {what}" for what, n in most] + ([f"{rest:,} others"] if rest else []))
