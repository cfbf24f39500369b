"""What the source of a method says that it takes: arguments, which stand there once, and crops. Nothing is run.

A method is one of this package, or of a file of one's own: PATH.py:CLASS.
"""

from __future__ import annotations

import ast
import difflib
from functools import cache
from pathlib import Path
from typing import Any, Literal

from densessl.config_file import shown
from densessl.errors import UserError

METHODS = Path(__file__).parent / "methods"
CROPS = ("two", "two and small", "large", "any")


def method_names() -> list[str]:
    return sorted(p.stem for p in METHODS.glob("*.py") if p.stem != "__init__")


def own_file(name: str) -> tuple[Path, str] | None:
    """File and class of PATH.py:CLASS; None for other names."""
    file, _, word = name.rpartition(":") if not name.endswith(".py") else (name, "", "")
    return (Path(file), word) if file.endswith(".py") else None


def method_arguments(name: str, types: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Type and default of the constructor's keyword-only arguments; ``types`` says what words of annotations mean.

    Raises UserError for a name that no method has, and for a file that doesn't say so, with its line.
    """
    given, found = _constructor(name).args, dict[str, tuple[Any, Any]]()
    for argument, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        place = f"{_file(name)}:{argument.lineno}: {argument.arg}"
        if argument.annotation is None or default is None or argument.arg == "name":
            raise UserError(f"{place}: an argument of a method has a type and a default, and another name than name")
        try:
            found[argument.arg] = _meaning(argument.annotation, types), ast.literal_eval(default)
        except (ValueError, TypeError):
            raise UserError(
                f"{place}: the type is made of {', '.join(types)}, and the default is a plain value, not "
                f"{ast.unparse(argument.annotation)} = {ast.unparse(default)}"
            ) from None
    return found


def argument_names(name: str) -> list[str]:
    return [argument.arg for argument in _constructor(name).args.kwonlyargs]


def method_crops(name: str) -> str:
    """Method.crops as the method's class has it, or as all have it."""
    for node in _class(name).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(node, ast.Assign | ast.AnnAssign) and target is not None and ast.unparse(target) == "crops":
            if not isinstance(node.value, ast.Constant) or node.value.value not in CROPS:
                raise UserError(f"{_file(name)}:{node.lineno}: crops is one of {', '.join(CROPS)}")
            return str(node.value.value)
    return CROPS[0]


def _meaning(node: ast.expr, types: dict[str, Any]) -> Any:
    """The type of an annotation. Raises ValueError or TypeError for what it isn't made of."""
    match node:
        case ast.Constant(value=None):
            return None
        case ast.Name(id=word) | ast.Attribute(attr=word) if word in types:
            return types[word]
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _meaning(left, types) | _meaning(right, types)
        case ast.Subscript(value=outer, slice=inner):
            kind, parts = _meaning(outer, types), inner.elts if isinstance(inner, ast.Tuple) else [inner]
            if kind is Literal:
                return Literal[tuple(ast.literal_eval(part) for part in parts)]
            dots = [isinstance(part, ast.Constant) and part.value is ... for part in parts]
            return kind[tuple(... if d else _meaning(part, types) for d, part in zip(dots, parts, strict=True))]
    raise ValueError(ast.unparse(node))


def _constructor(name: str) -> ast.FunctionDef:
    found = _class(name)
    for node in found.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            if len(node.args.posonlyargs + node.args.args) == 2 and not node.args.vararg and not node.args.kwarg:
                return node
            raise UserError(
                f"{_file(name)}:{node.lineno}: {found.name}.__init__ takes (self, backbone, *, ...), its own "
                "arguments after the star"
            )
    raise UserError(f"{_file(name)}:{found.lineno}: {found.name} needs an __init__(self, backbone, *, ...)")


def _file(name: str) -> Path:
    own = own_file(name)
    return own[0] if own else METHODS / f"{name}.py"


def _class(name: str) -> ast.ClassDef:
    if own := own_file(name):
        path, word = own
        classes = [node for node in _parse(path).body if isinstance(node, ast.ClassDef)]
        if found := next((node for node in classes if node.name == word), None):
            return found
        there = " or ".join(f"{path}:{node.name}" for node in classes) or f"{path}:CLASS; it has no class yet"
        raise UserError(f"{path} has no class {word}; name one of it: {there}" if word else f"name its class: {there}")
    if name not in method_names():
        near = difflib.get_close_matches(name, method_names(), n=1)
        hint = f"; did you mean {near[0]}?" if near else "."
        raise UserError(
            f"no method {shown(name)}{hint} Methods: {', '.join(method_names())}, or PATH.py:CLASS of a file of yours"
        )
    return _builtin(name)


@cache
def _builtin(name: str) -> ast.ClassDef:
    body = _parse(METHODS / f"{name}.py").body
    return next(n for n in body if isinstance(n, ast.ClassDef) and "Method" in map(ast.unparse, n.bases))


def _parse(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror}); the path is relative to {Path.cwd()}") from None
    except SyntaxError as error:
        raise UserError(f"{path}:{error.lineno}: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:  # no UTF-8, zero bytes, nested without end
        raise UserError(f"{path}: no Python: {error}") from None
