"""Braces in names: {000..099} and {a,b}, as a shell has them."""

from __future__ import annotations

import re
from itertools import chain

from densessl.errors import UserError


def expanded(name: str) -> list[str]:
    """The names that one with braces stands for, in their order; it alone where it has none. Raises UserError."""
    found = re.search(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}", name)
    if not found:
        return [name]
    before = name[: found.start()]
    if before.count("{") > before.count("}"):
        raise UserError(f"data.path={name}: braces can't stand within braces")
    first, last, words = found.groups()
    if words is not None:
        parts = words.split(",")
    else:
        step = 1 if int(first) <= int(last) else -1
        width = max(len(first), len(last)) if "0" in (first[0], last[0]) else 0
        parts = [f"{n:0{width}d}" for n in range(int(first), int(last) + step, step)]
    return list(chain(*(expanded(before + part + name[found.end() :]) for part in parts)))
