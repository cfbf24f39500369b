"""A run folder as a report reads it: whatever is whole in it, and a remark about whatever is not."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from densessl.config import Config, load_config
from densessl.config_file import read_values
from densessl.errors import UserError

CONFIG, METRICS, SAID = "config.yaml", "metrics.jsonl", "log.txt"
BACKBONE, BEST = "backbone.safetensors", "backbone_best.safetensors"
LINE = re.compile(r"(\d{4}-\d\d-\d\dT\S+) (.*)")
PROGRESS = re.compile(r"step \d+/\d+  left ")  # what metrics.jsonl says as well
UNREADABLE = "unreadable picture skipped: "
BEGUN = re.compile(r"from (.+); (\d+) steps of (\d+) of (\d+) pictures; (\d+) process\(es\) on (.+)$")
Record = Mapping[str, float | None]


class Begun(NamedTuple):
    """What the first line of a run, or of its last continuation, says."""

    start: str  # where the weights came from
    steps: int
    batch: int
    pictures: int
    processes: int
    device: str  # and the precision


class Said(NamedTuple):
    time: str  # ISO, with the zone; empty for lines before the first that has one
    text: str


class Run(NamedTuple):
    """``values`` are the configuration by key paths, ``config`` the same where this version accepts it."""

    folder: Path
    values: dict[str, Any]
    config: Config | None
    records: list[Record]  # a line of metrics each, by rising step; None: not finite
    late: dict[str, float]  # medians of the last quarter of the measures, by which a run is judged (health.verdict)
    said: list[Said]  # without progress and unreadable pictures
    unreadable: list[str]  # path and reason of each
    begun: Begun | None
    times: tuple[str, str] | None  # of the first and the last line that was said
    written: float  # seconds since 1970: the last change of metrics or log
    states: list[int]  # steps after which a state was saved and is still there
    facts: dict[str, Any]  # of the backbone file; empty without one
    best: dict[str, Any]  # of the best one by a probe
    remarks: list[str]  # what is missing or damaged

    @property
    def method(self) -> str:
        return str(self.values.get("method.name", ""))

    @property
    def done(self) -> int:
        return int(self.records[-1]["step"] or 0) if self.records else 0

    @property
    def steps(self) -> int | None:
        """Length of the whole run, where it is known."""
        return self.begun.steps if self.begun else self.values.get("steps")

    @property
    def skipped(self) -> int:
        """Steps that were not finite: those that were said, or, without a log, those among the logged ones."""
        said = sum(" was skipped in all processes" in each.text for each in self.said)
        return max(said, sum("loss" in record and record["loss"] is None for record in self.records))


def read_run(folder: Path) -> Run:
    """Raises UserError where ``folder`` holds no run."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; a RUN is what pretrain wrote to, such as checkpoints/mine")
    if not (folder / CONFIG).is_file():
        inside = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}"))
        hint = f"; the runs {', '.join(inside[:5])} lie in it" if inside else ""
        raise UserError(f"{folder}: no run folder, since there is no {CONFIG} in it{hint}")
    remarks: list[str] = []
    values = {value.key: value.value for value in read_values(folder / CONFIG)}
    config = None
    try:
        config = load_config(str(folder / CONFIG))
    except UserError as error:
        remarks.append(f"this version of densessl refuses the run's {CONFIG}: {error}")
    records = _records(folder / METRICS, remarks)
    lines = _said(folder / SAID, remarks)
    starts = [found for line in lines if (found := BEGUN.search(line.text))]
    begun = None
    if starts:
        steps, batch, pictures, processes = map(int, starts[-1].groups()[1:5])
        begun = Begun(starts[0][1], steps, batch, pictures, processes, starts[-1][6])
    times = [line.time for line in lines if line.time]
    files = [path for name in (CONFIG, METRICS, SAID) if (path := folder / name).is_file()]
    states = sorted(int(path.name[4:]) for path in (folder / "state").glob("step" + "[0-9]" * 7))
    return Run(
        folder,
        values,
        config,
        records,
        _late(records),
        [line for line in lines if not PROGRESS.match(line.text) and not line.text.startswith(UNREADABLE)],
        list(dict.fromkeys(each.text.removeprefix(UNREADABLE) for each in lines if each.text.startswith(UNREADABLE))),
        begun,
        (times[0], times[-1]) if times else None,
        max(path.stat().st_mtime for path in files),
        states,
        _facts(folder / BACKBONE, remarks),
        _facts(folder / BEST, remarks) if (folder / BEST).is_file() else {},
        remarks,
    )


def _text(path: Path, remarks: list[str], without: str) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        remarks.append(f"{path.name} can't be read ({error.strerror}): {without}")
        return ""


def _records(path: Path, remarks: list[str]) -> list[Record]:
    text = _text(path, remarks, "there are no curves")
    found: dict[float, Record] = {}
    damaged = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            given = json.loads(line)
            step = given["step"]
            if isinstance(step, bool) or not isinstance(step, int) or step < 0:
                raise ValueError
            found[step] = {name: _number(value) for name, value in given.items()}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
            damaged.append(number)
    if damaged:
        which = ", ".join(map(str, damaged[:8])) + (", ..." if len(damaged) > 8 else "")
        remarks.append(f"{path.name}: {len(damaged)} damaged line(s) were left out: {which}")
    if not found and path.is_file():
        remarks.append(f"{path.name} is empty: no step was logged, so there are no curves")
    return [found[step] for step in sorted(found)]


def _late(records: list[Record]) -> dict[str, float]:
    measured = [record for record in records if any(name.startswith("health/") for name in record)]
    late = measured[-max(1, len(measured) // 4) :]
    names = measured[-1] if measured else {}
    return {n: median(known) for n in names if (known := [v for record in late if (v := record.get(n)) is not None])}


def _number(value: Any) -> float | None:
    if value is None:
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def _said(path: Path, remarks: list[str]) -> list[Said]:
    lines: list[Said] = []
    for line in _text(path, remarks, "what the run said is not known").splitlines():
        if found := LINE.match(line):
            lines.append(Said(found[1], found[2]))
        elif lines:
            lines[-1] = Said(lines[-1].time, f"{lines[-1].text}\n{line}")
        elif line.strip():
            lines.append(Said("", line))
    return lines


def _facts(path: Path, remarks: list[str]) -> dict[str, Any]:
    if not path.is_file():
        remarks.append(f"there is no {path.name} yet: a run writes it with its first state")
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            texts = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        remarks.append(f"{path.name} is damaged: {error}")
        return {}
    facts: dict[str, Any] = {}
    for key in sorted(texts):
        try:
            facts[key] = json.loads(texts[key])
        except (ValueError, RecursionError):
            facts[key] = texts[key]
    return facts
