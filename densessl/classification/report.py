"""What an evaluation leaves behind: a table, results.json, and of several backbones comparison.json."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from densessl.classification.evaluation import Result
from densessl.classification.protocols import Neighbours, deviations, label
from densessl.outcomes import NO_INTERVAL, Spread, cell, interval_facts, protocol_facts, write_files
from densessl.versions import versions


def table(results: Mapping[str, Result], data: Mapping[str, str]) -> str:
    """Markdown: the protocol with its hash, then a row a backbone and a column a score, in per cent; below them a row
    for each difference to the first.

    ``results`` are of one protocol and data set; ``data`` has its name and those of its splits, train and test, and,
    where the training pictures are those of a list, its title as subset. A sweep's column tells the chosen rate.
    """
    against, first = next(iter(results.items()))
    names = [_title(name, first) for name in first.scores] + [f"{_title(name, first)}, top-5" for name in first.top5]
    names += ["learning rate"] if "lr" in first.fitted else []
    lines = [
        f"{label(first.protocol)} on {data['name']} ({first.pictures[0]} {data['train']}{_chosen(first, data)}, "
        f"{first.pictures[1]} {data['test']} pictures), seed {first.seed}; per cent"
        + (f"; {NO_INTERVAL}" if len(results) > 1 else ""),
        "",
        f"| | {' | '.join(names)} |",
        f"|---|{'---:|' * len(names)}",
    ]
    ends = set()
    for name, result in results.items():
        cells = [f"{100 * score:.1f}" for score in (*result.scores.values(), *result.top5.values())]
        if "lr" in result.fitted:
            cells.append(f"{result.fitted['lr']:g}")
            tried = [float(lr) for lr in result.fitted["held_out"]]
            ends |= {min(tried), max(tried)} & {result.fitted["lr"]}
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for name, groups in _differences(results).items():
        cells = [
            cell(Spread(difference, None, None, None), interval=False, sign="+")
            for of_group in groups.values()
            for difference in of_group.values()
        ]
        cells += [""] * (len(names) - len(cells))
        lines.append(f"| {name} minus {against} | {' | '.join(cells)} |")
    if ends:
        rates = " and ".join(f"{lr:g}" for lr in sorted(ends))
        lines += ["", f"{rates}: the lowest or highest rate that was tried; others may be better (lrs=[...])"]
    return "\n".join(lines) + "\n"


def record(name: str, result: Result, data: Mapping[str, str]) -> dict[str, Any]:
    """One backbone's results as JSON has them: scores are fractions."""
    return {
        "name": name,
        **_about(result, data),
        "backbone": result.backbone,
        "scores": result.scores,
        "top5": result.top5,
        "fitted": result.fitted,
        "seconds": result.seconds,
        "device": result.device,
        "versions": versions(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def write(folder: Path, name: str, result: Result, data: Mapping[str, str]) -> None:
    """results.json. Raises UserError."""
    write_files(folder, {"results.json": record(name, result, data)})


def write_comparison(folder: Path, results: Mapping[str, Result], data: Mapping[str, str]) -> None:
    """comparison.json of several backbones. Raises UserError."""
    against, first = next(iter(results.items()))
    scores = {name: {"scores": result.scores, "top5": result.top5} for name, result in results.items()}
    more = {"backbones": scores, "minus": against, "differences": _differences(results)}
    write_files(folder, {"comparison.json": {**_about(first, data), **more}})


def _about(result: Result, data: Mapping[str, str]) -> dict[str, Any]:
    """What every number depends on."""
    return {
        "protocol": protocol_facts(result.protocol, deviations(result.protocol)),
        "data": {
            "name": data["name"],
            "train": {"split": data["train"], "pictures": result.pictures[0], **_subset(data)},
            "test": {"split": data["test"], "pictures": result.pictures[1]},
        },
        "seed": result.seed,
        "intervals": interval_facts(1),
    }


def _differences(results: Mapping[str, Result]) -> dict[str, dict[str, dict[str, float]]]:
    """Of all but the first from the first, with the groups of their scores."""
    first, *others = results
    scores, top5 = results[first].scores, results[first].top5
    return {
        name: {
            "scores": {key: results[name].scores[key] - score for key, score in scores.items()},
            "top5": {key: results[name].top5[key] - score for key, score in top5.items()},
        }
        for name in others
    }


def _chosen(result: Result, data: Mapping[str, str]) -> str:
    """Which training pictures these are, where they aren't all."""
    if "subset" in data:
        return f" listed in {data['subset']}"
    if result.protocol.fraction < 1:
        return f" drawn, {100 * result.protocol.fraction:g} % and equally many of each class"
    return ""


def _subset(data: Mapping[str, str]) -> dict[str, str]:
    return {"subset": data["subset"]} if "subset" in data else {}


def _title(name: str, result: Result) -> str:
    if not name.startswith("knn"):
        return name.replace("_", "-")
    k = int(name.removeprefix("knn"))
    plain = isinstance(result.protocol, Neighbours) and k == result.protocol.nearest
    return f"{k}-NN" if plain else f"k-NN {k}"
