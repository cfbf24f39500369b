"""The run folder: what is in it, and engine states that are complete or absent.

RUN/config.yaml, metrics.jsonl, tensorboard/, backbone.safetensors, the best one by a probe, watched/ with
what the report draws of how features formed, and state/stepNNNNNNN/ with the engine's files and a manifest, with a
checksum of its own. A state is written aside, flushed, hashed and only then renamed to its name, so that a crash at any
moment leaves the one before. Random numbers and the loader's place are not in it: they follow from seed and step.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from densessl.backbone_file import FILE_NAME
from densessl.config import ProbesConfig, load_config, resolved_yaml
from densessl.config_file import flat
from densessl.errors import UserError
from densessl.files import aside
from densessl.probes.best import FILE_NAME as BEST
from densessl.probes.watched import FOLDER
from densessl.training import distributed
from densessl.training.sinks import IDS
from densessl.versions import versions

if TYPE_CHECKING:
    from densessl.config import Config
    from densessl.training.engine import Engine

CONTENTS = (
    "config.yaml",
    "metrics.jsonl",
    "log.txt",
    "tensorboard",
    FILE_NAME,
    BEST,
    FOLDER,
    "state",
    "skipped",
    "wandb",
    *IDS.values(),
)
SUM = "manifest.sha256"
LOCK = ".lock"  # of a run folder; held by the process that writes it
# Keys that may differ on resuming. Any other would make the run another one.
HARMLESS = {"name", "run", "threads", "log_every", "save_every", "keep", "keep_every", "max_skips", "timeout"}
HARMLESS |= {"health_every", "watched", "data.workers", "data.unreadable"}
HARMLESS |= {"log_to", *(f"probes.{key}" for key in ProbesConfig.model_fields)}
HARMLESS |= {"zero", "micro_batch", "compile", "backbone.checkpointing"}  # another rounding, at most

# --- run folder -------------------------------------------------------------------------------------------------------


_held: int | None = None  # open as long as this process writes to the run folder


def check_run_folder(run: Path, resume: bool, overwrite: bool) -> None:
    """Raises UserError if ``run`` can't be written, another process writes it, or it holds a run that is in the way or
    none to resume.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
        probe = run / f".{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as e:
        raise UserError(f"run={run} can't be written: {e.strerror}") from None
    _hold(run)
    if resume and not (run / "config.yaml").exists():
        raise UserError(f"--resume: run={run} holds no run (there is no config.yaml in it)")
    if any((run / name).exists() for name in CONTENTS) and not resume and not overwrite:
        raise UserError(
            f"run={run} holds a run already: --resume continues it, --overwrite deletes it, run=PATH spares it"
        )


def _hold(run: Path) -> None:
    """Until this process ends, however it does: launchers that are killed may leave the processes they started."""
    global _held
    if _held is not None:
        os.close(_held)
    _held = os.open(run / LOCK, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.lockf(_held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            return  # a file system without locks
        who = os.read(_held, 1000).decode(errors="replace")
        raise UserError(f"run={run} is being written by {who}; end it first, or give another run=PATH") from None
    os.ftruncate(_held, 0)
    with suppress(OSError):  # a full disk
        os.write(_held, f"process {os.getpid()} on {socket.gethostname()}".encode())


def begin_run(run: Path, cfg: Config) -> None:
    """Make ``run`` that of ``cfg`` and nothing else's. Other people's files in it stay."""
    for name in CONTENTS:
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    _write(run / "config.yaml", resolved_yaml(cfg))


def check_same(run: Path, cfg: Config) -> list[str]:
    """What is harmless and differs from the configuration that ``run`` began with, to be said.

    Raises UserError where ``cfg`` differs in something essential.
    """
    file = run / "config.yaml"
    try:
        before = flat(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"--resume: {file} can't be read as YAML: {error}") from None
    now = flat(yaml.safe_load(resolved_yaml(cfg)))
    with suppress(UserError):  # keys that came later have their defaults, which are what there was before
        defaults = flat(yaml.safe_load(resolved_yaml(load_config(str(file)))))
        before |= {key: defaults[key] for key in now.keys() - before.keys() if key in defaults}

    def difference(key: str) -> str:
        return f"{key}: {before.get(key)} in the run, {now.get(key)} now"

    if keys := essential_differences(before, now):
        differences = "".join(f"\n  {difference(key)}" for key in keys)
        raise UserError(f"--resume: run={run} began with another configuration:{differences}")
    return [difference(key) for key in sorted(HARMLESS & now.keys()) if before.get(key) != now[key]]


def essential_differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The keys, sorted, that make one flat configuration another run than the other."""
    return sorted(k for k in before.keys() | now.keys() if k not in HARMLESS and before.get(k) != now.get(k))


# --- states -----------------------------------------------------------------------------------------------------------


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
    _write(part / "manifest.json", json.dumps({**about, "files": files}, indent=1))
    _write(part / SUM, _sum(part))
    if place.exists():
        shutil.rmtree(place)
    part.rename(place)
    _flush(place.parent)
    _write(place.parent / "latest", place.name)


def has_state(run: Path) -> bool:
    return any((run / "state").glob("step???????"))


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
    """About the newest state that is whole, and what is to be said: each newer one, which is set aside as *.damaged,
    and other versions that it was saved with.

    Raises UserError if there is none.
    """
    said: list[str] = []
    for place in sorted((run / "state").glob("step???????"), reverse=True):
        damage = _damage(place)
        if damage is None:
            about = json.loads((place / "manifest.json").read_text(encoding="utf-8"))
            del about["files"]
            then, now = about.pop("versions", {}), versions()
            changed = [f"{name} {then[name]} then, {now[name]} now" for name in then if now.get(name) != then[name]]
            said += [f"{place} was saved with other versions: {', '.join(changed)}"] if changed else []
            return about, said
        said.append(f"passing over {place}: {damage}")
        damaged = place.with_suffix(".damaged")
        shutil.rmtree(damaged, ignore_errors=True)
        place.rename(damaged)
    found = "".join(f"\n  {line}" for line in said)
    raise UserError(f"--resume: run={run} holds no whole state; --overwrite starts it again{found}")


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


def _write(path: Path, text: str) -> None:
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
