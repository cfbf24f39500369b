"""States of an engine, complete or absent: RUN/state/stepNNNNNNN/ with its files and a manifest, with a checksum of its
own.

A state is written aside, flushed, hashed and only then renamed to its name, so that a crash at any moment leaves the
one before. Random numbers and the loader's place are not in it: they follow from seed and step.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from densessl.errors import UserError
from densessl.files import aside
from densessl.training import distributed
from densessl.versions import versions

if TYPE_CHECKING:
    from densessl.training.engine import Engine

SUM = "manifest.sha256"


def save(engine: Engine, run: Path, step: int, about: dict[str, Any], keep: int, every: int | None = None) -> str:
    """Write the state after ``step`` steps; a call of all processes. Returns why it can't be written, if it can't.

    Then nothing of it is left and those before are as they were. The last ``keep`` states stay, and those whose step is
    a multiple of ``every``. ``about`` is what newest_state gives back, with the step and the number of processes.
    """
    place = run / "state" / f"step{step:07d}"
    about = {"step": step, "processes": distributed.world_size(), **about, "versions": versions()}
    return distributed.on_first(_written, engine.state(), place, about, keep, every)


def _written(
    state: dict[str, dict[str, Tensor]], place: Path, about: dict[str, Any], keep: int, every: int | None
) -> str:
    part = place.with_name(f".{place.name}.tmp")
    try:
        for stale in place.parent.glob(".step*.tmp"):  # of a run that was killed
            shutil.rmtree(stale)
        part.mkdir(parents=True)
        needed = sum(tensor.nbytes for tensors in state.values() for tensor in tensors.values())
        if (free := shutil.disk_usage(part).free) < needed:
            raise OSError(errno.ENOSPC, f"{needed / 1e9:.2f} GB are needed, {free / 1e9:.2f} GB free")
        for name, tensors in state.items():
            save_file(tensors, part / name)
        _complete(part, place, about)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(part, ignore_errors=True)
        return f"{place}: {getattr(error, 'strerror', None) or error}"
    states = sorted(place.parent.glob("step???????"))
    for old in states[:-keep]:
        if not every or int(old.name[4:]) % every:
            shutil.rmtree(old, ignore_errors=True)
    return ""


def _complete(part: Path, place: Path, about: dict[str, Any]) -> None:
    files = {}
    for path in sorted(p for p in part.rglob("*") if p.is_file()):
        _flush(path)
        files[str(path.relative_to(part))] = {"size": path.stat().st_size, "sha256": _sha256(path)}
    write(part / "manifest.json", json.dumps({**about, "files": files}, indent=1))
    write(part / SUM, _sum(part))
    if place.exists():
        shutil.rmtree(place)
    part.rename(place)
    _flush(place.parent)
    write(place.parent / "latest", place.name)


def _states(run: Path) -> list[Path]:
    """Oldest first."""
    return sorted((run / "state").glob("step???????"))


def has_state(run: Path) -> bool:
    return bool(_states(run))


def want_of_room(run: Path, size: int, keep: int) -> str:
    """What is to be said at the start where states of ``size`` bytes will not fit; "" where they will."""
    needed, free = (keep + 1) * size, shutil.disk_usage(run).free  # one is written beside those that are kept
    if free >= needed:
        return ""
    return (
        f"the disk of {run} may fill: {keep + 1} states of {size / 1e9:.2f} GB (keep={keep}, and one that is being "
        f"written) need {needed / 1e9:.2f} GB, {free / 1e9:.2f} GB are free"
    )


def newest_state(run: Path) -> tuple[dict[str, Any], list[str]]:
    """About the newest state that is whole, and what is to be said: each newer one, which is damaged and passed over,
    and other versions that it was saved with. Nothing is written: see `set_aside`.

    Raises UserError if there is none.
    """
    said: list[str] = []
    for place in reversed(_states(run)):
        damage = _damage(place)
        if damage is None:
            about = json.loads((place / "manifest.json").read_text(encoding="utf-8"))
            del about["files"]
            then, now = about.pop("versions", {}), versions()
            changed = [f"{name} {then[name]} then, {now[name]} now" for name in then if now.get(name) != then[name]]
            said += [f"{place} was saved with other versions: {', '.join(changed)}"] if changed else []
            return about, said
        said.append(f"passing over {place}: {damage}")
    found = "".join(f"\n  {line}" for line in said)
    raise UserError(f"--resume: run={run} holds no whole state; --overwrite starts it again{found}")


def set_aside(run: Path, step: int) -> None:
    """Call the states of later steps, which are damaged, *.damaged."""
    for place in _states(run):
        if int(place.name[4:]) > step:
            damaged = place.with_suffix(".damaged")
            shutil.rmtree(damaged, ignore_errors=True)
            place.rename(damaged)


def _damage(place: Path) -> str | None:
    """What is wrong with a state, if anything."""
    try:
        manifest = json.loads((place / "manifest.json").read_text(encoding="utf-8"))
        if (place / SUM).exists() and (place / SUM).read_text(encoding="utf-8") != _sum(
            place
        ):  # older states have none
            return f"manifest.json or {SUM} has changed since it was written"
        for name, file in manifest["files"].items():
            if not (place / name).is_file():
                return f"{name} is missing"
            if (size := (place / name).stat().st_size) != file["size"]:
                return f"{name} has {size} bytes instead of {file['size']}"
            if _sha256(place / name) != file["sha256"]:
                return f"{name} has changed since it was written"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        return f"manifest.json can't be read ({type(e).__name__})"
    return None


def _sum(place: Path) -> str:
    """The manifest's, as sha256sum writes it."""
    return f"{_sha256(place / 'manifest.json')}  manifest.json\n"


def load(engine: Engine, run: Path, step: int) -> None:
    """Continue from the state after ``step`` steps; a call of all processes."""
    engine.load(run / "state" / f"step{step:07d}")


# --- files ------------------------------------------------------------------------------------------------------------


def write(path: Path, text: str) -> None:
    with aside(path) as part:
        part.write_text(text, encoding="utf-8")
    _flush(path.parent)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
