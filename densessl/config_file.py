"""Values of a YAML file or of key=value words, each with its key path and the place where it stands."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from densessl.errors import UserError

UNREAD = (yaml.YAMLError, ValueError, RecursionError)  # what YAML of no use raises: no number, too deep a nest
LARGEST = 1 << 16  # characters of a file or a value: PyYAML takes a second for that many
DEEPEST = 16  # sections and lists in each other


class Value(NamedTuple):
    key: str  # path with dots
    value: Any
    source: str  # "file:line" or "command line"


class _Loader(yaml.SafeLoader):
    """YAML's plain part: no tags, and no aliases, which can hold themselves or grow without end.

    It also reads 5e-4 as a number, which PyYAML takes for text without a point, and dates as text.
    """

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            problem = f"*{event.anchor} is an alias; write the value itself"
        elif event.tag is not None:
            problem = f"could not determine a value by the tag {event.tag}; write it without"
        elif self.depth == DEEPEST:
            problem = "too many sections and lists in each other"
        else:
            self.depth += 1
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node
        raise yaml.composer.ComposerError(None, None, problem[:200], event.start_mark)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in forms if tag != "tag:yaml.org,2002:timestamp"]
    for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_FLOAT = ("tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+[eE][-+]?\d+$"), list("-+0123456789"))
_Loader.add_implicit_resolver(*_FLOAT)


def read_values(path: Path, texts: Mapping[str, bool] | None = None) -> list[Value]:
    """All values of a file of nested sections. A key given twice is an error: YAML would keep the last one silently.

    Those of ``texts`` are what is written, also where YAML would see a number, a date or a yes.
    """
    try:
        with path.open(encoding="utf-8") as file:
            root = _compose(file.read(LARGEST + 1))
        if isinstance(root, yaml.MappingNode):
            return _walk(root, "", path.name, {}, texts or {})
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} can't be read as YAML: {_reason(error)}") from None
    raise UserError(f"{path} must hold keys and values, as the files in configs do")


def parse_override(text: str, texts: Mapping[str, bool] | None = None) -> Value:
    """A word such as optim.base_lr=5e-4; the value is read as YAML.

    Without quotes that of a key of ``texts`` is what is written, whatever it would be in YAML: a name such as 2024, no
    or {a,b}. Where ``texts`` says that it may be missing, null is None.
    """
    key, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"\w+(\.\w+)*", key):
        raise UserError(f"{shown(text)}: an override is key=value, for example optim.base_lr=5e-4")
    if texts and key in texts and value[:1] not in ("'", '"'):
        return Value(key, None if texts[key] and value in ("", "null") else value, "command line")
    try:
        return Value(key, _value(_compose(value)), "command line")
    except yaml.YAMLError as error:
        raise UserError(f"{key[:80]}={shown(value)}: the value can't be read as YAML: {_reason(error)}") from None


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def shown(value: Any) -> str:
    """Python's form of what a user gave, no longer than a line."""
    return _SHORT.repr(value)


def _compose(text: str) -> Any:
    if len(text) > LARGEST:
        raise yaml.YAMLError(f"longer than {LARGEST:,} characters")
    return yaml.compose(text, _Loader)


def _value(node: Any) -> Any:
    try:
        return None if node is None else _plain(_Loader("").construct_object(node, deep=True))
    except ValueError:  # of thousands of digits, or of none, as 0x_
        raise yaml.constructor.ConstructorError(None, None, "no number that can be read", node.start_mark) from None


def _reason(error: Exception) -> str:
    """One line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"{error.problem}, line {mark.line + 1}, column {mark.column + 1}"
    return " ".join(str(error).split())


def _walk(
    node: yaml.MappingNode, prefix: str, file: str, seen: dict[str, int], texts: Mapping[str, bool]
) -> list[Value]:
    values: list[Value] = []
    for name_node, child in node.value:
        key, line = f"{prefix}{name_node.value}", name_node.start_mark.line + 1
        if not isinstance(name_node, yaml.ScalarNode) or not name_node.value:
            raise yaml.composer.ComposerError(None, None, "a key must be a word", name_node.start_mark)
        if key in seen:
            raise UserError(f"{key} ({file}:{line}): given twice, first in line {seen[key]}")
        seen[key] = line
        if isinstance(child, yaml.MappingNode):
            values += _walk(child, f"{key}.", file, seen, texts)
        else:
            written = key in texts and isinstance(child, yaml.ScalarNode) and child.tag != "tag:yaml.org,2002:null"
            values.append(Value(key, child.value if written else _value(child), f"{file}:{line}"))
    return values


def _plain(value: Any) -> Any:
    """Lists as tuples, which the schema wants, since a frozen configuration holds nothing that can change."""
    if isinstance(value, list):
        return tuple(_plain(v) for v in value)
    return {str(k): _plain(v) for k, v in value.items()} if isinstance(value, dict) else value


class _Dumper(yaml.SafeDumper):
    """Quotes text that a loader would take for something else, and writes a list twice where it stands twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_implicit_resolver(*_FLOAT)


def write_values(values: dict[str, Any], sources: dict[str, str] | None = None) -> str:
    """Nested sections as YAML with a line for each value, and behind it the place that it is from, if asked for."""
    rows = list(_rows(values, ""))
    if sources is None:
        return "".join(f"{line}\n" for _, line in rows)
    wide = min(max(len(line) for _, line in rows), 60)
    places = [sources.get(key, "default") for key, _ in rows]
    comments = [f"  # {place if place.isprintable() else shown(place)}" for place in places]
    return "".join(
        f"{line:{wide}}{comment}\n" if key else f"{line}\n" for (key, line), comment in zip(rows, comments, strict=True)
    )


def _rows(values: dict[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    """Key, "" of a section, and line."""
    for name, value in values.items():
        line = "  " * prefix.count(".") + f"{name}:"
        if isinstance(value, dict):
            yield "", line
            yield from _rows(value, f"{prefix}{name}.")
        else:
            yield prefix + name, f"{line} {yaml_line(value)}"


def yaml_line(value: Any) -> str:
    """YAML of one value in one line, as key=value takes it."""
    style = '"' if isinstance(value, str) and not value.isprintable() else None
    text = yaml.dump(
        value, Dumper=_Dumper, default_style=style, default_flow_style=True, width=math.inf, allow_unicode=True
    )
    return text.removesuffix("...\n").rstrip()


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as one dict of key paths."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found
