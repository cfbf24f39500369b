"""Data sets recognised by their folders, and what is missing where none is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from densessl.errors import UserError
from densessl.files import printable


def open_layout(layouts: Mapping[str, Any], path_or_name: str | Path, split: str, kind: str) -> Any:
    """The first of ``layouts`` (name -> class(path, split)) that ``recognises`` the path or the name.

    One that has ``words`` takes one of them as a third argument, from ``PATH:WORD``: which of its lists or labels.
    Raises UserError with the expected trees (``layout``) and the one found where none does.
    """
    path, colon, word = str(path_or_name).rpartition(":")
    if not colon or Path(path_or_name).exists():
        path, word = str(path_or_name), ""
    for name, dataset in layouts.items():
        if dataset.recognises(path):
            words = getattr(dataset, "words", ())
            if word and word not in words:
                choice = f"may be one of {', '.join(words)}" if words else "has no meaning"
                raise UserError(f"{path_or_name}: what stands behind the colon {choice} for {name}")
            return dataset(path, split, word) if word else dataset(path, split)
    expected = "\nor\n".join(d.layout.strip("\n") for d in layouts.values())
    raise incomplete(Path(path_or_name), f"no {kind} data set that densessl reads", expected)


def refuse_other_classes(title: str, train: Sequence[str], val: Sequence[str]) -> None:
    """Raises UserError, saying which classes train or val has alone, or where their orders part."""
    if train == val:
        return
    alone = [
        f"{split} alone has {few(set(own) - set(other))}"
        for split, own, other in (("train", train, val), ("val", val, train))
        if set(own) - set(other)
    ]
    if not alone:
        place = next(i for i, pair in enumerate(zip(train, val, strict=False)) if pair[0] != pair[1])
        alone = [f"their ids order the names otherwise: {train[place]} in train stands where val has {val[place]}"]
    raise UserError(f"{title}: the classes of train and val differ: {'; '.join(alone)}")


def few(names: Iterable[str], most: int = 5) -> str:
    """The first few names and how many there are."""
    names = sorted(map(printable, names))
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def incomplete(path: Path, wrong: str, layout: str) -> UserError:
    """The error of a missing or half-unpacked data set: what is wrong, the tree it should be, what there is."""
    return UserError(f"{path}: {wrong}\nexpected:\n{_indent(layout)}\nfound:\n{_indent(tree(path))}")


def tree(path: Path, most: int = 8) -> str:
    """Two levels of a folder, a few entries each."""
    if not path.is_dir():
        return f"a file {path.name}" if path.exists() else "nothing: there is no such folder"
    lines = []
    entries = sorted(path.iterdir())
    for entry in entries[:most]:
        inside = sorted(child.name for child in entry.iterdir()) if entry.is_dir() else None
        name = printable(entry.name)
        lines.append(name if inside is None else f"{name}/  {few(inside, 3) or 'empty'}")
    if len(entries) > most:
        lines.append(f"and {len(entries) - most} more")
    return "\n".join(lines) or "an empty folder"


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.strip("\n").splitlines())
