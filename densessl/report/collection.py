"""The pictures that runs learnt from: what was unreadable while they trained, and what data check found."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from densessl.errors import UserError
from densessl.report.records import Run
from densessl.visual.page import escaped, table

FILE = "check.json"
SHOWN = 10  # unreadable pictures of a run, and forms of a collection
KINDS = {
    "corrupt": "corrupt",
    "misfits": "of another kind than most",
    "tiny": "tiny",
    "duplicates": "there before, with the same pixels",
}


class Check(NamedTuple):
    file: Path
    facts: dict[str, Any]  # as findings.write leaves them


def of_runs(runs: Sequence[Run], named: Sequence[Path], remarks: list[str]) -> list[Check]:
    """Those of ``named`` files, or folders with one, and those that lie in runs; of one there that can't be read a
    remark. Raises UserError for what is named."""
    found = {check.file.resolve(): check for check in map(read_check, named)}
    for run in runs:
        if (file := run.folder / FILE).is_file():
            try:
                found.setdefault(file.resolve(), read_check(file))
            except UserError as error:
                remarks.append(str(error))
    return list(found.values())


def read_check(path: Path) -> Check:
    """Raises UserError."""
    file = path / FILE if path.is_dir() else path
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
        list(_facts(facts))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"--check {path}: no {FILE} of `data check PICTURES --out FOLDER` ({type(error).__name__}: {error})"
        ) from None
    return Check(file, facts)


def shown(runs: dict[str, Run], checks: Sequence[Check]) -> str:
    """HTML; empty where there is nothing to be said."""
    parts = [_unreadable(label if len(runs) > 1 else "", run) for label, run in runs.items() if run.unreadable]
    for check in checks:
        of = str(check.facts.get("path") or check.file)
        parts.append(f"<h3>data check of {escaped(of)}</h3>")
        parts += [f"<p>{escaped(each)}.</p>" for each in _differing(runs, check.facts)]
        parts.append(table(["", ""], [list(row) for row in _facts(check.facts)], "facts"))
        if advice := check.facts.get("advice"):
            parts.append(
                table(["channel", "least", "0.1 %", "99.9 %", "most", "mean", "std"], _channels(advice), "numbers")
            )
    return "\n".join(parts)


def _unreadable(label: str, run: Run) -> str:
    count, all_of = len(run.unreadable), f" of {run.begun.pictures}" if run.begun else ""
    which = "1 picture was" if count == 1 else f"{count} pictures were"
    first = ", of those that the first process met" if run.begun and run.begun.processes > 1 else ""
    head = f"{label}: " if label else ""
    items = "".join(f"<li>{escaped(each)}</li>" for each in run.unreadable[:SHOWN])
    more = f"<p>and {count - SHOWN} more in its log.txt.</p>" if count > SHOWN else ""
    return (
        f"<p>{escaped(head)}{which} unreadable{all_of}{first}; others stood in for them.</p>"
        f'<ul class="said">{items}</ul>{more}'
    )


def _facts(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    total = facts["pictures"]
    yield "pictures", f"{total:,}, of which {total - facts['corrupt']:,} are readable"
    for kind, title in KINDS.items():
        yield title, f"{facts[kind]:,}, {facts[kind] / total:.2%}" if facts[kind] else "none"
    for side in ("width", "height"):
        if span := facts[side]:
            yield f"{side}, pixels", f"{span['least']} to {span['most']}, median {span['median']:g}"
    if facts["frequent"]:
        yield "most frequent sizes", ", ".join(f"{w} x {h} ({n:,})" for w, h, n in facts["frequent"])
    forms = sorted(facts["forms"].items(), key=lambda form: -form[1])
    yield "stored as", "; ".join(f"{form} ({n:,})" for form, n in forms[:SHOWN]) + ("; ..." * (len(forms) > SHOWN))
    if facts["advice"]:
        yield "read with", facts["advice"]["words"]


def _channels(advice: dict[str, Any]) -> list[list[str]]:
    keys = ("least", "low", "high", "most", "mean", "std")
    return [[str(n), *(f"{each[key]:.5g}" for key in keys)] for n, each in enumerate(advice["channels"], 1)]


def _differing(runs: dict[str, Run], facts: dict[str, Any]) -> Iterator[str]:
    """Where runs on these pictures saw something else than the check."""
    for label, run in runs.items():
        if facts.get("path") not in (None, run.values.get("data.path")):
            continue
        if run.begun and run.begun.pictures != facts["pictures"]:
            yield f"{label} saw {run.begun.pictures:,} pictures, the check {facts['pictures']:,}"
        for key in ("mean", "std"):
            used, measured = run.values.get(f"data.{key}"), (facts["advice"] or {}).get(key)
            if used and measured and (len(used) != len(measured) or _far(used, measured)):
                yield f"{label} took data.{key}={_numbers(used)}, the check measured {_numbers(measured)}"


def _far(used: Sequence[float], measured: Sequence[float]) -> bool:
    return any(abs(one - other) > 0.01 for one, other in zip(used, measured, strict=True))


def _numbers(values: Sequence[float]) -> str:
    return "[" + ",".join(f"{value:.3g}" for value in values) + "]"
