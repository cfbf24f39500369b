"""What the source of a method says that it takes: arguments, which stand there once, and crops. Nothing is imported."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Any

METHODS = Path(__file__).parent / "methods"


def method_names() -> list[str]:
    return sorted(p.stem for p in METHODS.glob("*.py") if p.stem != "__init__")


def method_arguments(name: str, types: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Type and default of the constructor's keyword-only arguments; ``types`` says what words of annotations mean."""
    given, found = _constructor(name).args, {}
    for argument, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        assert argument.annotation is not None, f"{name}: {argument.arg} has no type"
        assert default is not None, f"{name}: {argument.arg} has no default"
        found[argument.arg] = (eval(ast.unparse(argument.annotation), types), ast.literal_eval(default))
    return found


def argument_names(name: str) -> list[str]:
    return [argument.arg for argument in _constructor(name).args.kwonlyargs]


def method_crops(name: str) -> str:
    """Method.crops as the method's class has it, or as all have it."""
    given = [n for n in _class(name).body if isinstance(n, ast.Assign)]
    own = [n.value for n in given if ast.unparse(n.targets[0]) == "crops"]
    return ast.literal_eval(own[0]) if own else "two"


def _constructor(name: str) -> ast.FunctionDef:
    return next(n for n in _class(name).body if isinstance(n, ast.FunctionDef) and n.name == "__init__")


@cache
def _class(name: str) -> ast.ClassDef:
    tree = ast.parse((METHODS / f"{name}.py").read_text(encoding="utf-8"))
    return next(n for n in tree.body if isinstance(n, ast.ClassDef) and "Method" in map(ast.unparse, n.bases))
