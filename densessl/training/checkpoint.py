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
import math
import os
import shutil
import socket
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from safetensors import SafetensorError, safe_open
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
from densessl.training.optim import lr_at
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
LATER = {"data.path", "steps", "epochs"}  # judged by check_images, where the pictures are known

# --- run folder -------------------------------------------------------------------------------------------------------


_held: int | None = None  # open as long as this process writes to the run folder


def check_run_folder(run: Path, resume: bool | Literal["auto"], overwrite: bool, save_every: int = 0) -> bool:
    """Whether the run goes on from a state; with "auto" that is where there is one. Nothing is written.

    Raises UserError if ``run`` can't be written, another process writes it, or it holds a run that is in the way or
    none to resume; with "auto" a run is in the way that has a backbone after more than ``save_every`` steps, and no
    state: it was not killed before its first save, but somebody deleted its states.
    """
    try:
        place = run
        while not place.exists():
            place = place.parent
        with tempfile.TemporaryFile(dir=place):  # which has no name
            pass
        if (run / LOCK).exists():
            os.close(_lock(run, os.O_RDWR))
    except OSError as e:
        raise UserError(f"run={run} can't be written: {e.strerror}") from None
    return goes_on(run, resume, overwrite, save_every)


def goes_on(run: Path, resume: bool | Literal["auto"], overwrite: bool, save_every: int) -> bool:
    """As `check_run_folder`, which looks at more."""
    if resume == "auto":
        resume = has_state(run)
        if not resume and (steps := _trained(run)) > save_every:
            raise UserError(
                f"--resume auto: run={run} holds a backbone after {steps} steps and no state to go on from: "
                "--overwrite starts it again, run=PATH spares it"
            )
        return resume
    if resume and not (run / "config.yaml").exists():
        raise UserError(f"--resume: run={run} holds no run (there is no config.yaml in it)")
    if any((run / name).exists() for name in CONTENTS) and not resume and not overwrite:
        raise UserError(
            f"run={run} holds a run already: --resume continues it, --overwrite deletes it, run=PATH spares it"
        )
    return resume


def hold(run: Path) -> None:
    """Make the folder, and keep it from other processes until `release` or the end of this one, however it ends:
    launchers that are killed may leave the processes they started. Raises UserError where another process has it.
    """
    global _held
    release()
    try:
        run.mkdir(parents=True, exist_ok=True)
        _held = _lock(run, os.O_RDWR | os.O_CREAT)
        os.ftruncate(_held, 0)
    except OSError as e:
        raise UserError(f"run={run} can't be written: {e.strerror}") from None
    with suppress(OSError):  # a full disk
        os.write(_held, f"process {os.getpid()} on {socket.gethostname()}".encode())


def release() -> None:
    """What this process holds, if any."""
    global _held
    if _held is not None:
        os.close(_held)
    _held = None


def _lock(run: Path, flags: int) -> int:
    file = os.open(run / LOCK, flags)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):  # others are of a file system without locks
            who = os.read(file, 1000).decode(errors="replace")
            os.close(file)
            raise UserError(f"run={run} is being written by {who}; end it first, or give another run=PATH") from None
    return file


def _trained(run: Path) -> float:
    """Steps of the backbone in ``run``."""
    try:
        with safe_open(run / FILE_NAME, framework="pt") as file:
            return int((file.metadata() or {})["step"])
    except FileNotFoundError:
        return 0
    except (SafetensorError, OSError, KeyError, ValueError):
        return math.inf  # whatever it is, nobody asked to delete it


def begin_run(run: Path, cfg: Config) -> None:
    """Make ``run`` that of ``cfg`` and nothing else's. Other people's files in it stay."""
    for name in CONTENTS:
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    _write(run / "config.yaml", resolved_yaml(cfg))


def go_on(run: Path, cfg: Config, step: int) -> None:
    """Make ``run`` one that goes on after ``step`` steps as ``cfg`` says."""
    set_aside(run, step)
    if (run / "config.yaml").read_text(encoding="utf-8") != (text := resolved_yaml(cfg)):
        _write(run / "config.yaml", text)


def check_same(run: Path, cfg: Config) -> list[str]:
    """What is harmless and differs from the configuration that ``run`` began with, to be said.

    Raises UserError where ``cfg`` differs in something essential.
    """
    before, now = _before(run), flat(yaml.safe_load(resolved_yaml(cfg)))
    with suppress(UserError):  # keys that came later have their defaults, which are what there was before
        defaults = flat(yaml.safe_load(resolved_yaml(load_config(str(run / "config.yaml")))))
        before |= {key: defaults[key] for key in now.keys() - before.keys() if key in defaults}
    if keys := [key for key in essential_differences(before, now) if key not in LATER]:
        raise _another(run, *(_difference(key, before, now) for key in keys))
    return [_difference(key, before, now) for key in sorted(HARMLESS & now.keys()) if before.get(key) != now[key]]


def check_images(run: Path, cfg: Config, about: dict[str, Any], images: int, list_hash: str) -> list[str]:
    """What is to be said of images that lie elsewhere now, and of a run that is made longer.

    ``about`` is what the state says that the run goes on from. Raises UserError where the images are other ones, and
    for a run that is made shorter.
    """
    before, now = _before(run), flat(yaml.safe_load(resolved_yaml(cfg)))
    if about.get("pictures", images) != images:
        raise UserError(f"--resume: data.path={cfg.data.path} had {about['pictures']} pictures, now {images}")
    if about.get("list_hash", list_hash) != list_hash:
        raise UserError(
            f"--resume: data.path={cfg.data.path} has {images} pictures, as many as run={run} began with, but they are "
            "other ones or in another order"
        )
    said = []
    if before.get("data.path") != now["data.path"]:
        said.append(_difference("data.path", before, now))
        if "list_hash" not in about:  # of before there was one
            raise _another(run, *said)
        said[0] += "; the list of pictures is the same"
    old = cfg.model_copy(update={key: before.get(key) for key in ("steps", "epochs")})
    steps, longer, done = old.length(images), cfg.length(images), about["step"]
    if longer < steps:
        raise _another(run, f"{steps} steps in the run, {longer} now; it can be made longer, not shorter")
    if longer > steps:
        was, will = (
            lr_at(step, config, length) * about.get("lr_scale", 1.0)
            for step, config, length in ((max(0, done - 1), old, steps), (done, cfg, longer))
        )
        said.append(
            f"the run is made longer, from {steps} to {longer} steps: what follows from the share of the run that is "
            f"done now follows from that of {longer} steps. The learning rate jumps from {was:.3g} to {will:.3g} after "
            f"step {done}, and the run will not be what {longer} steps from the start would have given"
        )
    return said


def _before(run: Path) -> dict[str, Any]:
    """The configuration that ``run`` has, flat. Raises UserError."""
    file = run / "config.yaml"
    try:
        return flat(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"--resume: {file} can't be read as YAML: {error}") from None


def _difference(key: str, before: dict[str, Any], now: dict[str, Any]) -> str:
    return f"{key}: {before.get(key)} in the run, {now.get(key)} now"


def _another(run: Path, *differences: str) -> UserError:
    return UserError(
        "".join([f"--resume: run={run} began with another configuration:", *(f"\n  {d}" for d in differences)])
    )


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
