"""What is healthy for which method: every measure that has a range, and the range."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf, sqrt
from typing import NamedTuple

FAMILIES = {
    "variance": ("vicreg", "vicregl"),  # standard deviations are held at 1
    "decorrelation": ("barlow_twins", "wmse"),  # so is what the loss sees, whatever the head gives
    "distillation": ("byol", "simsiam", "pixpro"),  # nothing but its asymmetry keeps pictures apart
    "contrast": ("simclr", "moco_v2", "moco_v3", "densecl"),  # pictures repel each other on the sphere
    "prototypes": ("swav", "dino", "deepcluster_v2"),  # pictures are shared out
}
FAMILY = {method: family for family, methods in FAMILIES.items() for method in methods}
LOCAL = ("vicregl", "densecl", "pixpro")  # whose loss compares places
KINDS = ("global", "local", "backbone")
FEWEST = 8  # rows: of fewer nothing is said


class Range(NamedTuple):
    """A number above zero and the healthy range of it."""

    value: float
    low: float = 0.0
    high: float = inf

    @property
    def excess(self) -> float:
        """How many times too low or too high; healthy up to 1."""
        return max(self.low / max(self.value, 1e-12), self.value / self.high)


def ranges(values: Mapping[str, float], method: str) -> dict[str, Range]:
    """Of each measure in ``values``, named health/KIND_MEASURE, that has a range for ``method``.

    Keys are KIND_MEASURE. Bounds are wide: they are left by what is ill, not by what could be better.
    """
    found: dict[str, Range] = {}
    for kind in KINDS:
        of_kind = {k.removeprefix(f"health/{kind}_"): v for k, v in values.items() if k.startswith(f"health/{kind}_")}
        if of_kind.get("rows", 0) >= FEWEST:
            found |= {f"{kind}_{name}": range_ for name, range_ in _of_embeddings(of_kind, kind, method).items()}
    places = round(1 / values.get("health/local_chance", 1))
    if method in LOCAL and places >= 9 and "health/local_agreement" in values:
        found["local_agreement"] = Range(values["health/local_agreement"], low=1.25 / places)
        found["local_distance"] = Range(values["health/local_distance"], high=0.47 * sqrt(places))
    if "health/prototypes_used" in values and values["health/prototypes_rows"] >= FEWEST:
        count, used = values["health/prototypes_count"], values["health/prototypes_used"]
        found["prototypes_used"] = Range(used, low=_few(min(count, values["health/prototypes_rows"])))
        if method != "deepcluster_v2":  # of which no picture has a cluster in the first epoch
            found["prototypes_of_one"] = Range(values["health/prototypes_of_one"], high=0.97 * count)
    return found


def ills(values: Mapping[str, float], method: str) -> dict[str, tuple[str, Range]]:
    """Of each kind that is ill the first measure, in the order above, that has left its range: what follows from it is
    not worth a sentence.
    """
    found: dict[str, tuple[str, Range]] = {}
    for name, range_ in ranges(values, method).items():
        if range_.excess > 1:
            found.setdefault(name.split("_")[0], (name, range_))
    return found


def _of_embeddings(v: Mapping[str, float], kind: str, method: str) -> dict[str, Range]:
    family, bound = FAMILY.get(method), min(v["rows"], v["dims"])
    found = {
        "unit_std": Range(v["unit_std"], low=0.05 if kind == "backbone" else 0.1),
        "rank": Range(v["rank"], low=_few(bound)),
        "dead": Range(v["dead"], high=0.5),
        "norm": Range(v["norm"] / sqrt(v["dims"]), low=1e-3, high=1e3),
    }
    loss_sees_it = kind == "global" or (kind == "local" and method in LOCAL)
    if family == "variance" and loss_sees_it and abs(v["norm"] - 1) > 1e-3:  # vicreg's variation of unit length
        found["std"] = Range(v["std"], low=0.1, high=10.0)
    if family in ("variance", "decorrelation") and loss_sees_it:
        chance = 1 / (v["rows"] - 1)
        found["correlation"] = Range(sqrt(max(0.0, (v["correlation"] ** 2 - chance) / (1 - chance))), high=0.8)
    if family == "contrast" and loss_sees_it:
        found["uniformity"] = Range(max(0.0, -v["uniformity"]), low=0.1)
    if "strangers" in v and loss_sees_it:
        found["alignment"] = Range(v["alignment"] / max(v["strangers"], 1e-12), high=0.95)
    return found


def _few(bound: float) -> float:
    return max(1.5, 0.05 * bound)
