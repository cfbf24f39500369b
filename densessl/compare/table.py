"""What the runs come to: a summary that is JSON, and its table."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from densessl import __version__
from densessl.compare.plot import MAIN
from densessl.compare.rows import RANDOM
from densessl.compare.runs import Evaluation, Run
from densessl.compare.steps import Failed
from densessl.outcomes import LEVEL, cell, spread_over_seeds
from densessl.outcomes import Spread as Difference

SCORES = {"miou": "mIoU", "pixel_accuracy": "pixel acc.", "mean_accuracy": "class acc."}
SCORES |= {"boundary_miou": "boundary mIoU", "frequency_weighted_iou": "fw IoU"}
SCORES |= {f"knn{k}": f"{k}-NN" for k in (5, 20, 200)}
# Of pretraining: title, unit, and which is the best
COSTS: list[tuple[str, str, float, Any]] = [
    ("pictures_per_s", "pictures/s", 1.0, max),
    ("memory_gib", "GiB", 1.0, min),
    ("parameters", "M parameters", 1e6, None),
    ("seconds", "minutes", 60.0, min),
]
Spread = dict[str, Any]  # mean, and std or None
WAITING = 0.2  # share of the time, above which it is the reading of pictures that limits the speed


def summarise(
    runs: Sequence[Run], evaluations: Sequence[Evaluation], failed: Failed, facts: dict[str, Any]
) -> dict[str, Any]:
    """``facts`` about all rows, then what is known of each row and seed. Scores are fractions."""
    about: dict[str, Any] = {evaluation.kind: None for evaluation in evaluations}
    rows: dict[str, Any] = {}
    for run in runs:
        results = {e.kind: found for e in evaluations if (found := run.results(e))}
        about |= {kind: {key: found[key] for key in ("protocol", "data")} for kind, found in results.items()}
        row = rows.setdefault(run.row.name, {"from": run.row.origin, "seeds": []})
        row["seeds"].append(
            {
                "seed": run.seed,
                "folder": str(run.folder),
                "done": run.trained and len(results) == len(evaluations),
                "scores": {kind: _means(found["scores"]) for kind, found in results.items()},
                "cost": run.cost(),
                "failed": {kind: why for (*at, kind), why in failed.items() if at == [run.row.name, run.seed]},
            }
        )
        row["config"] = run.row.config.model_dump(mode="json")
    for row in rows.values():
        row["scores"] = {kind: _spreads([seed["scores"].get(kind, {}) for seed in row["seeds"]]) for kind in about}
        row["cost"] = _spreads([seed["cost"] for seed in row["seeds"]])
    for name in rows.keys() - {RANDOM} if RANDOM in rows else ():
        rows[name]["minus_random"] = _differences(rows[name]["seeds"], rows[RANDOM]["seeds"], about)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return {**facts, "evaluations": about, "rows": rows, "densessl": __version__, "date": date}


def table(summary: dict[str, Any]) -> str:
    """Markdown: a row a method, the best of each column in bold; below, what the numbers depend on."""
    rows = summary["rows"]
    columns = []
    for kind in summary["evaluations"]:
        for key in dict.fromkeys(key for row in rows.values() for key in row["scores"][kind]):
            cells = _column([row["scores"][kind].get(key) for row in rows.values()], 0.01, max)
            columns.append([SCORES.get(key, key), "---:", *cells])
            if key in MAIN and any("minus_random" in row for row in rows.values()):
                found = (row.get("minus_random", {}).get(kind, {}).get(key) for row in rows.values())
                cells = [cell(Difference(**each), interval=True, sign="+") if each else "-" for each in found]
                columns.append([f"{SCORES.get(key, key)} minus {RANDOM}", "---:", *cells])
    for key, title, unit, best in COSTS:
        means = [{**row["cost"][key], "std": None} if key in row["cost"] else None for row in rows.values()]
        if any(means):
            columns.append([title, "---:", *_column(means, unit, best)])
    optimisers = [_optimiser(row["config"]) if row["cost"] else "-" for row in rows.values()]
    columns.append(["optimiser, peak rate", "---", *optimisers])
    names = ["", "---"]
    for name, row in rows.items():
        done, asked = sum(seed["done"] for seed in row["seeds"]), len(row["seeds"])
        names.append(name if done == asked else f"{name} ({done} of {asked} seeds)")
    lines = [f"| {' | '.join(cells)} |" for cells in zip(names, *columns, strict=True)]
    return "\n".join([*lines, "", *(f"- {note}" for note in _notes(summary))]) + "\n"


def _notes(summary: dict[str, Any]) -> list[str]:
    rows = summary["rows"]
    first = next(iter(rows.values()))
    config, seeds = first["config"], [str(seed["seed"]) for seed in first["seeds"]]
    crops = [f"{v['count']} x {v['size']} px" for v in map(config["views"].get, ("large", "small")) if v["count"]]
    over = f"seeds {', '.join(seeds)}: mean ± sample standard deviation" if len(seeds) > 1 else f"seed {seeds[0]}"
    backbone = f"{config['backbone']['name']} ({_number(summary['backbone_parameters'] / 1e6)} M parameters)"
    notes = [
        f"{backbone}, {summary['pictures']} pictures of {config['data']['path']}, views {' + '.join(crops)}, "
        f"batch {config['batch']}, {summary['budget']}; {over}",
        "speed, peak memory of a process, trained parameters and minutes are those of pretraining",
    ]
    for kind, about in summary["evaluations"].items():
        if about:
            protocol, data = about["protocol"], about["data"]
            changed = ", ".join(protocol.get("deviations", []))
            counts = ", ".join(f"{part['pictures']} {part['split']}" for part in data.values() if "split" in part)
            named = f"{protocol['name']}{f' with {changed}' if changed else ''} [{protocol['hash']}]"
            notes.append(f"{kind}: {named} on {data['name']} ({counts} pictures), per cent")
    if summary["evaluations"]:
        if len(seeds) == 1:
            notes.append("one seed, so no interval: with another one differences may be others (--seeds)")
        elif RANDOM in rows:
            notes.append(
                f"minus {RANDOM}: [{LEVEL:.0%} interval over seeds, paired, Student's t; not covered: other images]"
            )
    else:
        notes.append("only pretraining was compared: --seg and --cls evaluate the backbones")
    if summary["jobs"] > 1:
        notes.append(f"{summary['jobs']} runs at a time, so that speed and minutes depend on what ran beside")
    if waiting := [name for name, row in rows.items() if row["cost"].get("data_wait", {"mean": 0})["mean"] > WAITING]:
        notes.append(f"over {WAITING:.0%} of the time spent waiting for pictures: {', '.join(waiting)}")
    if summary["changes"]:
        notes.append(f"all rows with {' '.join(summary['changes'])}")
    notes += [f"{name}: {row['from']}" for name, row in rows.items() if row["from"] not in (name, f"{name}_cifar")]
    for name, row in rows.items():
        for seed in row["seeds"]:
            for kind, why in seed["failed"].items():
                notes.append(f"**{name} seed {seed['seed']} {kind} failed**: {why} ({seed['folder']}/{kind}.log)")
    return [" ".join(note.split()) for note in notes]


def _optimiser(config: dict[str, Any]) -> str:
    return f"{config['optim']['name']} {_number(config['optim']['base_lr'] * config['batch'] / 256)}"


def _means(scores: dict[str, Any]) -> dict[str, float | None]:
    """Evaluations give a number, or its mean over the one seed they were asked for."""
    return {key: value["mean"] if isinstance(value, dict) else value for key, value in scores.items()}


def _differences(seeds: Sequence[dict], of_random: Sequence[dict], kinds: Iterable[str]) -> dict[str, Any]:
    """Of each score, seed by seed where both have it."""
    found: dict[str, Any] = {}
    for kind in kinds:
        pairs = [(a["scores"].get(kind, {}), b["scores"].get(kind, {})) for a, b in zip(seeds, of_random, strict=True)]
        for key in dict.fromkeys(key for own, _ in pairs for key in own):
            values = [own[key] - its[key] for own, its in pairs if None not in (own.get(key), its.get(key))]
            if values:
                found.setdefault(kind, {})[key] = spread_over_seeds(values)._asdict()
    return found


def _spreads(values: Sequence[dict[str, float | None]]) -> dict[str, Spread]:
    """Mean and sample standard deviation of each key over the seeds that have it."""
    spreads: dict[str, Spread] = {}
    for key in dict.fromkeys(key for value in values for key in value):
        if have := [number for value in values if (number := value.get(key)) is not None]:
            spreads[key] = {"mean": statistics.fmean(have), "std": statistics.stdev(have) if len(have) > 1 else None}
    return spreads


def _column(spreads: Sequence[Spread | None], unit: float, best: Any) -> list[str]:
    """Cells in ``unit``; those that read like the ``best`` (max or min) are bold, unless all do."""
    means = [_number(spread["mean"] / unit) if spread else "-" for spread in spreads]
    winner = (
        best((float(mean), mean) for mean in means if mean != "-")[1] if best and len({*means} - {"-"}) > 1 else None
    )
    cells = []
    for mean, spread in zip(means, spreads, strict=True):
        cell = f"{mean} ± {_number(spread['std'] / unit)}" if spread and spread["std"] is not None else mean
        cells.append(f"**{cell}**" if mean == winner else cell)
    return cells


def _number(value: float) -> str:
    """One decimal, and two digits below 1."""
    return f"{value:.1f}" if abs(value) >= 1 or not value else f"{value:.2g}"
