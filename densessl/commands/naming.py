"""What a backbone of the command line is called in tables, and the folder where its results go."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from densessl.backbone_spec import parse_spec
from densessl.errors import UserError

BACKBONE, BEST = "backbone", "backbone_best"  # files of a run


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
            short[spec] += " (best)" if path.stem == BEST else f":{part}" if part else ""
    names = list(short.values())
    return {spec: name if names.count(name) == 1 else spec for spec, name in short.items()}


def result_folders(names: dict[str, str], out: Path | None, kind: str, setting: str) -> dict[str, Path]:
    """The folder of each: ``out``, or KIND/SETTING in its run folder, or below checkpoints/eval, called by its path."""
    return {spec: _folder(spec, name, out, len(names) > 1, kind, setting) for spec, name in names.items()}


def comparison_folders(folders: dict[str, Path], out: Path | None) -> list[Path]:
    """Where the comparison of several backbones goes: ``out``, or beside the results of each that is not random."""
    if out is not None:
        return [out]
    trained = [folder for spec, folder in folders.items() if not is_random(spec)]
    return trained or [next(iter(folders.values()))]


def is_random(spec: str) -> bool:
    """A mere name of timm's."""
    return parse_spec(spec).path is None


def _folder(spec: str, name: str, out: Path | None, several: bool, kind: str, setting: str) -> Path:
    if out is not None:
        return out / _plain(name) if several else out
    path, part = parse_spec(spec)[1:]
    if path is None:
        return Path("checkpoints") / "eval" / _plain(name) / setting
    if _of_run(path):
        return (path if path.is_dir() else path.parent) / kind / (f"{setting}-best" if path.stem == BEST else setting)
    path, here = path.resolve(), Path.cwd()
    parts = [*(path.relative_to(here) if path.is_relative_to(here) else path).with_suffix("").parts, part]
    return (
        Path("checkpoints") / "eval" / _plain("-".join(filter(None, parts))) / setting
    )  # each of many model.pth its own


def _plain(name: str) -> str:
    return re.sub(r"[ /:()]+", "-", name).strip("-")


def _of_run(path: Path) -> bool:
    """A run folder or one of its backbone files; other files may share their folder, and it may not be ours to write
    in.
    """
    return path.is_dir() or path.stem in (BACKBONE, BEST)


def make_folder(folder: Path) -> None:
    """Raises UserError where nothing can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".writable").touch()
        (folder / ".writable").unlink()
    except OSError as error:
        raise UserError(f"{folder}: the results can't be written there: {error}") from None
