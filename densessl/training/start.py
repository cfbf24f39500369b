"""How a run is started: its configuration, from a name or from the folder in which it goes on, and `densessl.pretrain`.

torch is imported only when all that can be told without it is right.
"""

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from densessl.config import Config, load_with_sources
from densessl.config_file import Value, flat, parse_override
from densessl.errors import UserError

AUTO: Final = "auto"
CHIEF = {"backbone": "name", "data": "path", "method": "name", "optim": "name"}  # what a section alone stands for
PLACE = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # how launchers name a process


def configure(cfg: str | None, changes: Sequence[str | Value], resume: bool | str) -> tuple[Config, dict[str, str]]:
    """The configuration of a run, and where its values are from, as `load_with_sources` gives them.

    ``resume`` may be the run folder, which ``changes`` may name as well; without ``cfg`` the configuration is the one
    that the run has. Raises UserError.
    """
    values = list(changes)
    given = (value if isinstance(value, Value) else parse_override(value, {"run": False}) for value in values)
    runs = [str(value.value) for value in given if value.key == "run"]
    if isinstance(resume, str) and resume != AUTO:
        if runs and Path(runs[-1]) != Path(resume):
            raise UserError(f"--resume {resume} with run={runs[-1]}: these are two folders; give one of them")
        values.append(Value("run", str(Path(resume)), "--resume"))
        runs.append(resume)
    if cfg is None:
        if not resume:
            raise UserError(
                "--cfg NAME is needed: a name of configs or the path of a file; --resume RUN goes on without"
            )
        if not runs:
            raise UserError("--resume: which run? --resume RUN or run=RUN names its folder, or --cfg its configuration")
        file = Path(runs[-1]).expanduser() / "config.yaml"
        if not file.is_file():
            more = "; to start one there it needs --cfg NAME" if resume == AUTO else ""
            raise UserError(f"--resume: run={runs[-1]} holds no run (there is no config.yaml in it){more}")
        cfg = str(file)
    return load_with_sources(cfg, values)


def start(config: Config, resume: bool | str, overwrite: bool) -> Path:
    """Train, or go on; ``resume`` as in `configure`. Returns the run folder. Raises UserError."""
    if config.data.path != "scenes" and "RANK" not in os.environ and "SLURM_STEP_NODELIST" not in os.environ:
        from densessl.data.sources import require

        require(config.data.path)  # of several processes one may miss it, which the others have to hear
    from densessl.training.pretrain import pretrain

    return pretrain(config, resume=AUTO if resume == AUTO else bool(resume), overwrite=overwrite)


def pretrain(
    cfg: str | Path | None = None,
    *changes: str | Mapping[str, Any],
    resume: bool | str | Path = False,
    overwrite: bool = False,
    **values: Any,
) -> Path:
    """Pretrain a backbone on images without labels, in a notebook or a script, as the command `pretrain` does.

    densessl.pretrain("vicregl_cnx_s_1gpu", data="my/images", run="checkpoints/mine", epochs=50)
    densessl.pretrain("vicregl_cnx_s_1gpu", {"data.path": "my/images", "optim.base_lr": 3e-4})
    densessl.pretrain(resume="checkpoints/mine")

    Args:
        cfg: a name of configs/, or the path of a YAML file. May be left out on resuming.
        changes: values in the place of the configuration's: dicts of keys, or words as "optim.base_lr=3e-4".
        resume: True goes on with the run in its folder, "auto" does so where there is one and else starts it, a path
            names the run folder.
        overwrite: delete the run that is in the folder.
        values: more values, by the configuration's keys: run="checkpoints/mine", epochs=50, views={"flip": 0.0}. For
            backbone, method and optim a text is the name, for data the path.

    Returns:
        The run folder, which `load_backbone` takes.

    Raises:
        UserError: for what can't work, before training begins, with all files as they were; and where training can't
            go on.
        KeyboardInterrupt: after Ctrl-C (the stop button of a notebook), once the step at hand is saved.
    """
    if resume and overwrite:
        raise UserError("resume goes on with a run and overwrite deletes it: give one of them")
    resume = resume if isinstance(resume, bool) else os.fspath(resume)
    given = [value for change in (*changes, values) for value in _values(change)]
    config, _ = configure(None if cfg is None else os.fspath(cfg), given, resume)
    unnamed = [name for name in PLACE if name not in os.environ]
    try:
        return start(config, resume, overwrite)
    except SystemExit as stop:
        if stop.code == 128 + signal.SIGINT:
            raise KeyboardInterrupt(f"stopped and saved; densessl.pretrain(resume={config.run!r}) goes on") from None
        raise
    finally:
        for name in unnamed:  # programs that this one starts are other processes
            os.environ.pop(name, None)


def _values(change: str | Mapping[str, Any]) -> Sequence[str | Value]:
    if isinstance(change, str):
        return [change]
    named = {
        f"{key}.{CHIEF[key]}" if key in CHIEF and not isinstance(value, Mapping) else key: value
        for key, value in change.items()
    }
    return [Value(key, _plain(value), "argument") for key, value in flat(named).items()]


def _plain(value: Any) -> Any:
    """As YAML would give it: text for paths, tuples for lists."""
    if isinstance(value, (list, tuple)):
        return tuple(map(_plain, value))
    return os.fspath(value) if isinstance(value, os.PathLike) else value
