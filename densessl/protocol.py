"""A protocol: every setting of an evaluation under a name, frozen, with a hash that stands beside each number.

A named protocol never changes; a better one gets another name.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic.dataclasses import dataclass

from densessl.config_errors import nearest
from densessl.config_file import parse_override
from densessl.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """``source`` says where the settings come from. Raises pydantic's ValidationError.

    A setting with a default came later than the hashes of the first protocols: it counts in a hash only where it
    differs.
    """

    name: str
    source: str

    def settings(self) -> dict[str, Any]:
        """All that decides the score: everything but name and source."""
        return {key: value for key, value in dataclasses.asdict(self).items() if key not in ("name", "source")}

    def hashed(self) -> dict[str, Any]:
        """The settings without those at their default."""
        defaults = {f.name: f.default for f in dataclasses.fields(self)}
        return {key: value for key, value in self.settings().items() if value != defaults[key]}


P = TypeVar("P", bound=Protocol)


def digest(protocol: Protocol) -> str:
    """Eight hexadecimal digits of the SHA-256 of all settings; name and source don't count."""
    return hashlib.sha256(json.dumps(protocol.hashed(), sort_keys=True).encode()).hexdigest()[:8]


def deviations(protocol: Protocol, named: Mapping[str, Any]) -> list[str]:
    """``key=value`` of every setting that differs from ``named``, the settings that the name stands for."""
    return [f"{key}={value}" for key, value in protocol.settings().items() if named.get(key, value) != value]


def label(protocol: Protocol, changed: Sequence[str]) -> str:
    """Name and hash, and the settings that deviate from the name."""
    return " ".join([protocol.name, *([f"with {', '.join(changed)}"] if changed else []), f"[{digest(protocol)}]"])


def named(protocols: Mapping[str, P], name: str) -> P:
    """Raises UserError with the names there are."""
    if name not in protocols:
        raise UserError(f"protocol {name!r} doesn't exist; there are {', '.join(protocols)}")
    return protocols[name]


def changed(protocol: P, changes: Sequence[str], **others: Any) -> P:
    """``protocol`` with ``others`` and then with ``key=value`` settings, read as those of a configuration are.

    Raises UserError for a key that is no setting, naming the nearest, and for a value that doesn't fit.
    """
    now = protocol.settings()
    values = {}
    unknown = []
    for key, value, _ in map(parse_override, changes):
        if key in now:
            values[key] = value
        else:
            near = nearest(key, now)
            hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(now)}"
            unknown.append(f"{key}: {protocol.name} has no such setting; {hint}")
    if unknown:
        raise UserError("\n".join(unknown))
    try:
        return dataclasses.replace(protocol, **(others | values))
    except ValidationError as error:
        wrong = (
            f"{'.'.join(map(str, e['loc'])) or protocol.name}: {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors()
        )
        raise UserError(f"{protocol.name} with {' '.join(changes)}: {'; '.join(wrong)}") from None
