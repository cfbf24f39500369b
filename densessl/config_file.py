"""Values of a YAML file or of key=value words, each with its key path and the place where it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from densessl.errors import UserError


class Value(NamedTuple):
    key: str  # path with dots
    value: Any
    source: str  # "file:line" or "command line"


class _Loader(yaml.SafeLoader):
    """YAML's safe subset, which also reads 5e-4 as a number: PyYAML takes it for text without a point."""


_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+[eE][-+]?\d+$"), list("-+0123456789"))


def read_values(path: Path) -> list[Value]:
    """All values of a file of nested sections. A key given twice is an error: YAML would keep the last one silently."""
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, _Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} can't be read as YAML: {error}") from None
    if not isinstance(root, yaml.MappingNode):
        raise UserError(f"{path} must hold keys and values, as the files in configs do")
    return _walk(root, "", path.name)


def parse_override(text: str) -> Value:
    """A word such as optim.base_lr=5e-4; the value is read as YAML."""
    key, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"\w+(\.\w+)*", key):
        raise UserError(f"{text!r}: an override is key=value, for example optim.base_lr=5e-4")
    try:
        return Value(key, _plain(yaml.load(value, _Loader)), "command line")
    except yaml.YAMLError as error:
        raise UserError(f"{text!r}: the value can't be read as YAML: {error}") from None


def _walk(node: yaml.MappingNode, prefix: str, file: str) -> list[Value]:
    values: list[Value] = []
    seen: dict[str, int] = {}
    for name_node, child in node.value:
        key, line = f"{prefix}{name_node.value}", name_node.start_mark.line + 1
        if key in seen:
            raise UserError(f"{key} ({file}:{line}): given twice, first in line {seen[key]}")
        seen[key] = line
        if isinstance(child, yaml.MappingNode):
            values += _walk(child, f"{key}.", file)
        else:
            constructor = _Loader("")
            values.append(Value(key, _plain(constructor.construct_object(child, deep=True)), f"{file}:{line}"))
    return values


def _plain(value: Any) -> Any:
    """Lists as tuples, which the schema wants, since a frozen configuration holds nothing that can change."""
    if isinstance(value, list):
        return tuple(_plain(v) for v in value)
    return {str(k): _plain(v) for k, v in value.items()} if isinstance(value, dict) else value


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as one dict of key paths."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found
