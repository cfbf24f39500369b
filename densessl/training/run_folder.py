"""The run folder: what is in it, who may write it, and what a run that goes on must have in common with what it was.

RUN/config.yaml, metrics.jsonl, tensorboard/, backbone.safetensors, the best one by a probe, watched/ with what the
report draws of how features formed, and state/ with what `checkpoint` writes. Nothing is written before all is known to
be right: who is refused finds everything as it was.
"""

from __future__ import annotations

import errno
import fcntl
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

from densessl.backbone_file import FILE_NAME
from densessl.config import ProbesConfig, load_config, resolved_yaml
from densessl.config_file import flat
from densessl.errors import UserError
from densessl.probes.best import FILE_NAME as BEST
from densessl.probes.watched import FOLDER
from densessl.training import checkpoint
from densessl.training.optim import lr_at
from densessl.training.sinks import IDS

if TYPE_CHECKING:
    from densessl.config import Config

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
LOCK = ".lock"  # of a run folder; held by the process that writes it
# Keys that may differ on resuming. Any other would make the run another one.
HARMLESS = {"name", "run", "threads", "log_every", "save_every", "keep", "keep_every", "max_skips", "timeout"}
HARMLESS |= {"health_every", "watched", "data.workers", "data.unreadable"}
HARMLESS |= {"log_to", *(f"probes.{key}" for key in ProbesConfig.model_fields)}
HARMLESS |= {"zero", "micro_batch", "compile", "backbone.checkpointing"}  # another rounding, at most
LATER = {"data.path", "steps", "epochs"}  # judged by check_images, where the pictures are known

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
        resume = checkpoint.has_state(run)
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


def open_run(cfg: Config, asked: bool | Literal["auto"], overwrite: bool, resume: bool, step: int) -> None:
    """Hold the folder and make it that of a run which begins or, with ``resume``, goes on after ``step`` steps.

    ``asked`` and ``overwrite`` were `check_run_folder`'s, which gave ``resume``. Raises UserError where another process
    has written the folder since.
    """
    run = Path(cfg.run)
    hold(run)
    if goes_on(run, asked, overwrite, cfg.save_every) != resume:
        raise UserError(f"run={run} was written by another process while this one started")
    if resume:
        go_on(run, cfg, step)
    else:
        begin_run(run, cfg)


def begin_run(run: Path, cfg: Config) -> None:
    """Make ``run`` that of ``cfg`` and nothing else's. Other people's files in it stay."""
    for name in CONTENTS:
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    checkpoint.write(run / "config.yaml", resolved_yaml(cfg))


def go_on(run: Path, cfg: Config, step: int) -> None:
    """Make ``run`` one that goes on after ``step`` steps as ``cfg`` says."""
    checkpoint.set_aside(run, step)
    if (run / "config.yaml").read_text(encoding="utf-8") != (text := resolved_yaml(cfg)):
        checkpoint.write(run / "config.yaml", text)


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
