"""What a benchmark leaves: a table, and a line of the log that says what made its figures."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import densessl
from densessl.device import cores, processor
from densessl.errors import UserError
from densessl.versions import versions

CHECKOUT = Path(densessl.__file__).parents[1]
LOG = CHECKOUT / "tools" / "benchmarks.jsonl"


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Markdown; numbers with three digits, a dash for None."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines) + "\n"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


def entry(kind: str, arguments: dict[str, Any], figures: dict[str, Any]) -> dict[str, Any]:
    return {
        "benchmark": kind,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "hardware": hardware(),
        "versions": versions(),
        "arguments": arguments,
        "figures": _rounded(figures),
    }


def append(log: Path, line: dict[str, Any]) -> None:
    """Raises UserError where nothing can be written."""
    try:
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    except OSError as error:
        raise UserError(f"--log {log}: {error.strerror}; --no-log writes none") from None


def commit() -> str | None:
    """Of the checkout that runs, "+changes" if anything but the log differs from it; None where there is no git."""
    try:
        if _git("rev-parse", "--show-toplevel") != str(CHECKOUT.resolve()):
            return None
        changed = _git("status", "--porcelain", "--", ".", f":!{LOG.relative_to(CHECKOUT)}")
        return _git("rev-parse", "--short=12", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout.strip()


def hardware() -> dict[str, Any]:
    return {
        "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def _rounded(value: Any) -> Any:
    """Four digits are more than a clock knows."""
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
