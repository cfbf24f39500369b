"""What is missing in a folder: the tree that was expected, and the tree that is there."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from densessl.errors import UserError


def few(names: Iterable[str], most: int = 5) -> str:
    """The first few names and how many there are."""
    names = sorted(names)
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
        lines.append(entry.name if inside is None else f"{entry.name}/  {few(inside, 3) or 'empty'}")
    if len(entries) > most:
        lines.append(f"and {len(entries) - most} more")
    return "\n".join(lines) or "an empty folder"


def _indent(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.strip("\n").splitlines())
