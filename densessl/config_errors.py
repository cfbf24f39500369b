"""What is wrong in a configuration, in a line for each of pydantic's errors."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from densessl.config_file import shown


def explain(error: Any, sources: dict[str, str], keys: list[str], prefix: str) -> str:
    """One line for one of pydantic's errors: key, where it stands, what is wrong, what would be right."""
    names = [part for part in error["loc"] if isinstance(part, str)]
    key = prefix + ".".join(names)
    key = key if len(key) < 100 else f"{key[:100]}..."
    where = next((sources[k] for k in _upwards(key) if k in sources), None)
    place = f"{key} ({where})" if where else key
    if error["type"] == "extra_forbidden" and "accum" in key:
        return (
            f"{place}: no such key; the losses are statistics of the batch, and accumulating those of its parts would "
            "be another loss; micro_batch=N cuts the batch for the network alone, with loss and gradient of the whole"
        )
    if error["type"] == "extra_forbidden":
        near = nearest(key, keys)
        hint = f"did you mean {' or '.join(near)}?" if near else "--print shows all keys"
        return f"{place}: no such key; {hint}"
    if error["type"] == "missing":
        few = isinstance(error["loc"][-1], int)
        return f"{place}: too few values, got {shown(error['input'])}" if few else f"{key} is missing"
    if error["type"] == "value_error":
        return f"{place}: {error['ctx']['error']}" if names else str(error["ctx"]["error"])
    if error["type"] in ("model_type", "model_attributes_type"):
        return f"{place}: a section of keys and values is needed, got {shown(error['input'])}"
    said = error["msg"].replace("a valid tuple", "a list").replace("Tuple", "List").replace(" after validation", "")
    return f"{place}: {said}, got {shown(error['input'])}"


def nearest(key: str, keys: Iterable[str]) -> list[str]:
    """The one of ``keys`` that ``key`` is most like, if any is, or those of its last word."""
    keys = list(keys)
    last = key.split(".")[-1]
    return [k for k in keys if k.split(".")[-1] == last] or difflib.get_close_matches(key, keys, n=1)


def _upwards(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
