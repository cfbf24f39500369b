"""What an evaluation leaves behind: a table and results.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from densessl.classification.evaluation import Result
from densessl.errors import UserError
from densessl.files import aside
from densessl.versions import versions


def table(results: Mapping[str, Result], data: Mapping[str, str]) -> str:
    """Markdown: the protocol with its hash, then a row a backbone and a column a score, in per cent.

    ``results`` are of one protocol and data set; ``data`` has its name and those of its splits, train and test.
    """
    first = next(iter(results.values()))
    names = [_title(name, first) for name in first.scores] + [f"{_title(name, first)}, top-5" for name in first.top5]
    lines = [
        f"{first.protocol.label} on {data['name']} ({first.pictures[0]} {data['train']}, {first.pictures[1]} "
        f"{data['test']} pictures), seed {first.seed}; per cent",
        "",
        f"| | {' | '.join(names)} |",
        f"|---|{'---:|' * len(names)}",
    ]
    for name, result in results.items():
        cells = (f"{100 * score:.1f}" for score in (*result.scores.values(), *result.top5.values()))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def record(name: str, result: Result, data: Mapping[str, str]) -> dict[str, Any]:
    """One backbone's results as JSON has them: scores are fractions."""
    return {
        "name": name,
        "protocol": {
            "name": result.protocol.name,
            "hash": result.protocol.digest,
            "source": result.protocol.source,
            "settings": result.protocol.settings(),
        },
        "data": {
            "name": data["name"],
            "train": {"split": data["train"], "pictures": result.pictures[0]},
            "test": {"split": data["test"], "pictures": result.pictures[1]},
        },
        "backbone": result.backbone,
        "scores": result.scores,
        "top5": result.top5,
        "seed": result.seed,
        "seconds": result.seconds,
        "device": result.device,
        "versions": versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def write(folder: Path, name: str, result: Result, data: Mapping[str, str]) -> None:
    """results.json. Raises UserError."""
    try:
        with aside(folder / "results.json") as part:
            part.write_text(json.dumps(record(name, result, data), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder}: the results can't be written there: {error}") from None


def _title(name: str, result: Result) -> str:
    if not name.startswith("knn"):
        return name
    k = int(name.removeprefix("knn"))
    return f"{k}-NN" if k == result.protocol.nearest else f"k-NN {k}"
