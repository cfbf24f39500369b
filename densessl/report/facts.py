"""What was run and on what: a line a fact, a column a run; and the configuration."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import yaml

from densessl.report.ending import ending
from densessl.report.records import Run

NAMES = ("name", "run")  # keys that differ between any two runs


def rows(runs: dict[str, Run], now: float) -> list[list[str]]:
    """Those that are known of any run."""
    found = [[title, *(fact(run, now) for run in runs.values())] for title, fact in FACTS.items()]
    return [row for row in found if any(row[1:])]


def differences(runs: dict[str, Run]) -> list[list[str]]:
    """A row a key of the configuration that differs, with each run's value."""
    keys = list(dict.fromkeys(key for run in runs.values() for key in run.values if key not in NAMES))
    found = [[key, *(shown(run.values[key]) if key in run.values else "-" for run in runs.values())] for key in keys]
    return [row for row in found if len(set(row[1:])) > 1]


def shown(value: Any) -> str:
    """As it is given on the command line."""
    return str(yaml.safe_dump(_lists(value), default_flow_style=True, width=10**6)).removesuffix("...\n").strip()


def _lists(value: Any) -> Any:
    return [_lists(each) for each in value] if isinstance(value, list | tuple) else value


def _time(text: str) -> str:
    try:
        return datetime.fromisoformat(text).strftime("%Y-%m-%d %H:%M:%S %Z")
    except ValueError:
        return text


def _times(run: Run, now: float) -> str:
    if not run.times:
        return ""
    first, last = map(_time, run.times)
    try:
        length = f" ({datetime.fromisoformat(run.times[1]) - datetime.fromisoformat(run.times[0])})"
    except (ValueError, TypeError):
        length = ""
    return f"{first} to {last}{length}"


def _method(run: Run, now: float) -> str:
    given = [
        f"{key.removeprefix('method.')}={shown(value)}"
        for key, value in run.values.items()
        if key.startswith("method.") and key != "method.name"
    ]
    return f"{run.method}" + (f" ({', '.join(given)})" if given else "")


def _network(run: Run, now: float) -> str:
    channels = run.values.get("backbone.in_chans", 3)
    return f"{run.values.get('backbone.name', '')}, {channels} channel{'s' * (channels != 1)}"


def _start(run: Run, now: float) -> str:
    return run.begun.start if run.begun else str(run.values.get("backbone.init") or "")


def _pictures(run: Run, now: float) -> str:
    count = f"{run.begun.pictures} of " if run.begun else ""
    return f"{count}{run.values.get('data.path', '')}"


def _views(run: Run, now: float) -> str:
    crops = []
    for kind in ("large", "small"):
        count, size, scale = (run.values.get(f"views.{kind}.{key}") for key in ("count", "size", "scale"))
        if count:
            crops.append(f"{count} {kind} of {size} px" + (f", {shown(scale)} of the picture" if scale else ""))
    return "; ".join(crops)


def _length(run: Run, now: float) -> str:
    batch = run.values.get("batch")
    epochs = f", {run.values['epochs']:g} epochs" if isinstance(run.values.get("epochs"), int | float) else ""
    return f"{run.steps} steps of {batch} pictures{epochs}" if run.steps else f"batches of {batch} pictures{epochs}"


def _optimiser(run: Run, now: float) -> str:
    rate, batch = run.values.get("optim.base_lr"), run.values.get("batch")
    peak = f", peak rate {rate * batch / 256:.3g}" if isinstance(rate, float) and isinstance(batch, int) else ""
    return f"{run.values.get('optim.name', '')}, base_lr {shown(rate)}{peak}"


def _machine(run: Run, now: float) -> str:
    if not run.begun:
        return ""
    return f"{run.begun.processes} process{'es' * (run.begun.processes > 1)} on {run.begun.device}"


def _last_loss(run: Run, now: float) -> str:
    known = [value for record in run.records if (value := record.get("loss")) is not None]
    return f"{known[0]:.4g} to {known[-1]:.4g}" if known else ""


def _skipped(run: Run, now: float) -> str:
    return f"{run.skipped} that were not finite" if run.skipped else "none"


def best(run: Run) -> str:
    """Which backbone was the best by a probe: as in "after step 90, linear_miou of my/masks 41.3%"."""
    try:
        probe, score = str(run.best["probe"]).split(", probe_")[0], float(run.best["score"])
    except (KeyError, TypeError, ValueError):
        return ""
    return f"after step {run.best.get('step')}, {probe} {score:.1%}"


FACTS: dict[str, Callable[[Run, float], str]] = {
    "state": lambda run, now: ending(run, now).text,
    "method": _method,
    "network": _network,
    "weights at the start": _start,
    "pictures": _pictures,
    "views": _views,
    "length": _length,
    "optimiser": _optimiser,
    "seed": lambda run, now: shown(run.values.get("seed", 0)),
    "machine": _machine,
    "time": _times,
    "loss": _last_loss,
    "skipped steps": _skipped,
    "unreadable pictures": lambda run, now: str(len(run.unreadable) or ""),
    "best by a probe": lambda run, now: best(run),
    "folder": lambda run, now: str(run.folder),
}
