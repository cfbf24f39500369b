"""Results of several seeds and backbones: what is done alike whatever was measured.

An outcome is a backbone's: its name, its results, one a seed, its rows, and ``minus`` another outcome, which gives
rows as well. A row is a Spread. A result has protocol, seed, data, backbone, device, seconds, memory and processes, as
segmentation's has.
"""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from scipy.special import stdtrit

import densessl.protocol
from densessl.backbones import Backbone
from densessl.errors import UserError
from densessl.files import aside, printable_lines
from densessl.versions import versions

Row = tuple[str, str]  # group and key: ("scores", "miou"), ("class_iou", "road"), ("box", "ap50")
LEVEL = 0.95  # of every interval
# What an interval over these says nothing about. The seeds of an evaluation are its head's and those of random weights.
NOT_COVERED = {"pictures": "another seed, another pretraining", "seeds": "other images, another pretraining"}
NO_INTERVAL = "one seed, so no interval: another seed or pretraining may differ by more"


class Spread(NamedTuple):
    """A number with its standard deviation over seeds and its interval; None where there is none."""

    mean: float | None
    std: float | None
    low: float | None
    high: float | None


def spread_over_seeds(values: Sequence[float]) -> Spread:
    """Of a number of each seed, NaN left out: mean, sample standard deviation, and Student's interval of the mean.

    Of differences seed by seed the interval is the paired one. With one seed there is neither.
    """
    have = [value for value in values if not math.isnan(value)]
    mean = statistics.fmean(have) if have else None
    if mean is None or len(have) < 2:
        return Spread(mean, None, None, None)
    std = statistics.stdev(have)
    half = float(stdtrit(len(have) - 1, (1 + LEVEL) / 2)) * std / math.sqrt(len(have))
    return Spread(mean, std, mean - half, mean + half)


def interval_facts(seeds: int, over: str | None = None, **more: Any) -> dict[str, Any]:
    """What the intervals of a table are, for JSON: over ``seeds``, or of a single one ``over`` what is given."""
    if seeds > 1:
        facts = {"over": "seeds", "method": "Student's t, paired in differences", "level": LEVEL}
    elif over is None:
        return {"over": None, "not_covered": NO_INTERVAL}
    else:
        facts = {"over": over, "level": LEVEL, **more}
    return {**facts, "not_covered": NOT_COVERED[str(facts["over"])]}


def interval_text(facts: Mapping[str, Any]) -> str:
    """The same in words, short."""
    if not facts["over"]:
        return NO_INTERVAL
    over = {"seeds": "seeds, Student's t", "pictures": "the validation images alone"}[facts["over"]]
    return f"[{facts['level']:.0%} interval over {over}; not covered: {NOT_COVERED[facts['over']]}]"


# --- facts for JSON ---


def data_facts(train: Any, val: Any) -> dict[str, Any]:
    parts = {"train": train, "val": val}
    splits = {key: {"split": part.split, "pictures": len(part)} for key, part in parts.items()}
    return {"name": train.title, **splits}


def backbone_facts(backbone: Backbone) -> dict[str, Any]:
    names = {"timm_name": backbone.name, "channels": backbone.channels, "strides": backbone.strides}
    return {**names, **backbone.metadata}


def protocol_facts(protocol: densessl.protocol.Protocol, deviations: Sequence[str]) -> dict[str, Any]:
    return {
        "name": protocol.name,
        "hash": densessl.protocol.digest(protocol),
        "deviations": deviations,
        "source": protocol.source,
        "settings": protocol.settings(),
    }


def record(outcome: Any, about: Mapping[str, Any], seed: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    """One backbone's results: ``about`` is what every number depends on, ``seed`` makes the record of one seed."""
    first = outcome.results[0]
    return {
        "name": outcome.name,
        **about,
        "backbone": first.backbone,
        **grouped(outcome.rows),
        "seeds": [{"seed": result.seed, **seed(result), **_costs(result)} for result in outcome.results],
        "device": first.device,
        "processes": first.processes,
        "versions": versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def comparison(outcomes: Sequence[Any], about: Mapping[str, Any]) -> dict[str, Any]:
    """The scores of all outcomes, and what they differ by from the first."""
    first = outcomes[0]
    return {
        **about,
        "seeds": [result.seed for result in first.results],
        "backbones": {o.name: grouped(o.rows) for o in outcomes},
        "minus": first.name,
        "differences": {o.name: grouped(o.minus(first)) for o in outcomes[1:]},
    }


def grouped(rows: Mapping[Row, Any]) -> dict[str, dict[str, Any]]:
    groups: dict[str, dict[str, Any]] = {}
    for (group, key), value in rows.items():
        groups.setdefault(group, {})[key] = value._asdict()
    return groups


def number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _costs(result: Any) -> dict[str, Any]:
    seconds = {"train": round(result.seconds[0], 1), "val": round(result.seconds[1], 1)}
    return {"seconds": seconds, "memory_gib": round(result.memory, 3)}


# --- tables ---


def markdown(
    outcomes: Sequence[Any],
    rows: Sequence[tuple[Row, str]],
    label: str,
    note: str,
    *,
    intervals: Callable[[Row], bool] = lambda row: False,
) -> str:
    """The protocol's ``label``, then a column a backbone and a line a row, in per cent, under its text.

    After the backbones a column each with the difference to the first. All outcomes are of one protocol, data set and
    seeds. ``intervals`` says which rows show theirs.
    """
    first = outcomes[0].results[0]
    seeds = [r.seed for r in outcomes[0].results]
    counts = ", ".join(f"{part['pictures']} {part['split']}" for part in (first.data["train"], first.data["val"]))
    over = f"seeds {', '.join(map(str, seeds))}: mean ± standard deviation" if len(seeds) > 1 else f"seed {seeds[0]}"
    titles = [o.name for o in outcomes] + [f"{o.name} minus {outcomes[0].name}" for o in outcomes[1:]]
    differences = [o.minus(outcomes[0]) for o in outcomes[1:]]
    lines = [
        f"{label} on {first.data['name']} ({counts} pictures), {over}; per cent, {note}",
        "",
        f"| | {' | '.join(titles)} |",
        f"|---|{'---:|' * len(titles)}",
    ]
    for row, text in rows:
        cells = [cell(o.rows[row], interval=intervals(row)) for o in outcomes]
        cells += [cell(difference[row], interval=True, sign="+") for difference in differences]
        lines.append(f"| {text.replace('|', chr(92) + '|')} | {' | '.join(cells)} |")
    costs: dict[str, Callable[[Any], float]] = {
        "training, s": lambda result: result.seconds[0],
        "validation, s": lambda result: result.seconds[1],
        "peak memory, GiB": lambda result: result.memory,
    }
    for text, cost in costs.items():
        means = [f"{statistics.fmean(map(cost, o.results)):.1f}" for o in outcomes] + [""] * len(differences)
        lines.append(f"| {text} | {' | '.join(means)} |")
    return "\n".join(lines) + "\n"


def csv_lines(outcomes: Sequence[Any], label: str, titles: Sequence[str], of: Callable[[Row], Sequence[str]]) -> str:
    """A line a number: of a backbone, or of its difference to the first, which then stands under ``minus``.

    ``of`` gives what a row has under ``titles``. Scores are fractions; what there is no value for is empty.
    """
    first = outcomes[0].results[0]
    found = [(o.name, "", o.rows) for o in outcomes]
    found += [(o.name, outcomes[0].name, o.minus(outcomes[0])) for o in outcomes[1:]]
    fields = next(iter(outcomes[0].rows.values()))._fields
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["data", "protocol", "seeds", "backbone", "minus", *titles, *fields])
    about = [first.data["name"], label, len(outcomes[0].results)]
    for name, minus, rows in found:
        for row, value in rows.items():
            numbers = ("" if v is None else f"{v:.6f}" for v in value)
            writer.writerow([*about, name, minus, *of(row), *numbers])
    return text.getvalue()


def cell(value: Spread, *, interval: bool, sign: str = "") -> str:
    """In per cent; ``sign`` is "+" for differences."""
    if value.mean is None:
        return "-"
    error = f" ± {100 * value.std:.1f}" if value.std is not None else ""
    ends = [f"{100 * end:{sign}z.1f}" for end in value[2:] if end is not None] if interval else []
    return f"{100 * value.mean:{sign}z.1f}{error}" + (f" [{', '.join(ends)}]" if ends else "")


# --- files ---


def write_files(folder: Path, files: Mapping[str, Any]) -> None:
    """PIL pictures, texts and, of anything else, JSON; each whole or not at all. Raises UserError."""
    try:
        for name, content in files.items():
            with aside(folder / name) as part:
                if isinstance(content, Image.Image):
                    content.save(part)
                elif isinstance(content, str):
                    part.write_text(printable_lines(content), encoding="utf-8")
                else:
                    part.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder}: the results can't be written there: {error}") from None
