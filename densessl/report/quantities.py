"""What a run logs, in the order in which a report shows it: groups of charts, titles, healthy ranges."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, isfinite
from typing import NamedTuple

from densessl.health.ranges import KINDS, Range, ranges
from densessl.report.chart import Curve, chart
from densessl.report.records import Run

TITLES = {
    "lr": "learning rate",
    "gradient": "length of the gradient",
    "pictures_per_s": "pictures a second",
    "data_wait": "share of the time spent waiting for pictures",
    "memory_gib": "peak memory of a process, GiB",
    "probe/linear_miou": "linear segmentation, mIoU",
    "probe/dense_knn_miou": "segmentation by nearest places, mIoU",
    "probe/knn_accuracy": "classes by nearest pictures, accuracy",
}
PREFIXES = {"probe": "Probes: scores on labelled pictures"}
COURSE = ("pictures_per_s", "data_wait", "memory_gib")
NOUNS = {
    "global": "Embeddings of whole views (global)",
    "local": "Embeddings of places (local)",
    "backbone": "The backbone's pooled vectors",
    "prototypes": "Prototypes",
}
MEASURES = {
    "rank": "effective rank",
    "unit_std": "standard deviation, of unit length",
    "std": "standard deviation",
    "correlation": "correlation of dimensions",
    "agreement": "places found again, share",
    "distance": "distance of matches, cells",
    "uniformity": "uniformity",
    "alignment": "alignment of two views",
    "used": "prototypes in use",
    "of_one": "prototypes of one picture",
    "dead": "dead dimensions, share",
    "norm": "mean length",
    "strangers": "alignment of different pictures",
}
CONSTANT = ("rows", "dims", "chance", "count")


class Group(NamedTuple):
    """``names`` are keys of metrics.jsonl; ``more`` are of less interest."""

    title: str
    names: list[str]
    more: list[str]


def groups(runs: Sequence[Run]) -> tuple[list[Group], list[Group]]:
    """Those of the loss and the course, and those of health."""
    names = list(dict.fromkeys(name for run in runs for record in run.records for name in record if name != "step"))
    plain = [name for name in names if "/" not in name and name not in ("loss", "lr", "gradient", *COURSE)]
    loss = [name for name in ("loss", *plain, "gradient", "lr") if name in names]
    course = [Group("Loss", loss, []), Group("Speed and memory", [name for name in COURSE if name in names], [])]
    for prefix in dict.fromkeys(name.split("/")[0] for name in names if "/" in name):
        if prefix != "health":
            course.append(
                Group(PREFIXES.get(prefix, prefix), [name for name in names if name.startswith(f"{prefix}/")], [])
            )
    judged = {f"health/{name}" for run in runs for name in last_ranges(run)}
    health = []
    for kind in NOUNS:
        of_kind = [
            name
            for measure in MEASURES
            if (name := f"health/{kind}_{measure}") in names and not name.endswith(CONSTANT)
        ]
        first = [name for name in of_kind if name in judged and not name.endswith(("_dead", "_norm"))]
        health.append(Group(NOUNS[kind], first, [name for name in of_kind if name not in first]))
    return [group for group in course if group.names], [group for group in health if group.names or group.more]


def title(name: str) -> str:
    if name.startswith("health/"):
        measure = name.removeprefix("health/").split("_", 1)[-1]
        return MEASURES.get(measure, measure)
    return TITLES.get(name, name.split("/", 1)[-1].replace("_", " "))


def curve(run: Run, label: str, name: str) -> Curve:
    having = [record for record in run.records if name in record]
    return Curve(label, [int(record["step"] or 0) for record in having], [record[name] for record in having])


def drawn(runs: dict[str, Run], name: str) -> str:
    """The chart of a quantity, with its healthy range if all runs have the same."""
    curves = [curve(run, label, name) for label, run in runs.items()]
    key = name.removeprefix("health/")
    found = {range_._replace(value=0) for run in runs.values() if (range_ := last_ranges(run).get(key))}
    same = len(found) == 1 and all(_as_it_is(run, name) for run in runs.values())
    range_ = found.pop() if same else None
    bounds = [bound for bound in (range_.low, range_.high) if 0 < bound < inf] if range_ else []
    return chart(title(name), curves, bounds, f"healthy {interval(range_)}" if range_ else "")


def interval(range_: Range) -> str:
    """In words."""
    if not isfinite(range_.high):
        return f"above {range_.low:.4g}"
    return f"{range_.low:.4g} to {range_.high:.4g}" if range_.low else f"below {range_.high:.4g}"


def last_ranges(run: Run) -> dict[str, Range]:
    """Of the measures by which the run is judged, by KIND_MEASURE; none where some are missing that belong together."""
    try:
        return ranges(run.late, run.method)
    except (KeyError, ZeroDivisionError, ValueError):
        return {}


def _as_it_is(run: Run, name: str) -> bool:
    """Whether the range is one of the very number that is logged: some are made from several."""
    range_, value = last_ranges(run).get(name.removeprefix("health/")), run.late.get(name)
    return range_ is None or range_.value == value


def kind_of(name: str) -> str:
    """Of KIND_MEASURE."""
    return next((kind for kind in (*KINDS, "prototypes") if name.startswith(f"{kind}_")), name)
