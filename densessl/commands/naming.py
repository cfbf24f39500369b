"""What a backbone of the command line is called in tables, and the folder where its results go."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from densessl.backbone_spec import parse_spec
from densessl.errors import UserError


def short_names(specs: Sequence[str]) -> dict[str, str]:
    """A short name for each backbone: its run folder's, its file's, or timm's; the whole path where two are alike."""
    short = {}
    for spec in specs:
        name, path, part = parse_spec(spec)
        if path is None:
            short[spec] = f"{name} (random)"
        else:
            path = path.resolve()
            short[spec] = (path if path.is_dir() else path.parent).name if _of_run(path) else path.stem
            short[spec] += f":{part}" if part else ""
    names = list(short.values())
    return {spec: name if names.count(name) == 1 else spec for spec, name in short.items()}


def result_folders(names: dict[str, str], out: Path | None, kind: str, setting: str) -> dict[str, Path]:
    """The folder of each backbone: ``out``, or KIND/SETTING in its run folder, or below checkpoints/eval."""
    return {spec: _folder(spec, name, out, len(names) > 1, kind, setting) for spec, name in names.items()}


def _folder(spec: str, name: str, out: Path | None, several: bool, kind: str, setting: str) -> Path:
    plain = name.replace(" (random)", "-random").replace(os.sep, "-").replace(":", "-")
    if out is not None:
        return out / plain if several else out
    path = parse_spec(spec).path
    if path is not None and _of_run(path):
        return (path if path.is_dir() else path.parent) / kind / setting
    return Path("checkpoints") / "eval" / plain / setting


def _of_run(path: Path) -> bool:
    """A run folder or its backbone file; other files may share their folder, and it may not be ours to write in."""
    return path.is_dir() or path.stem == "backbone"


def make_folder(folder: Path) -> None:
    """Raises UserError where nothing can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError as error:
        raise UserError(f"{folder}: the results can't be written there: {error}") from None
