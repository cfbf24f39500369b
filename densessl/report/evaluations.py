"""What evaluations of a run came to, from the results.json of eval-seg, eval-det and eval-cls."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from densessl.errors import UserError
from densessl.outcomes import Spread, cell, interval_text

KINDS = ("segmentation", "detection", "classification")  # folders of a run
FILE, COMPARED, SHEET = "results.json", "comparison.json", "pictures.png"
TITLES = {"miou": "mIoU", "boundary_miou": "boundary mIoU", "frequency_weighted_iou": "fw IoU", "linear": "linear"}


class Result(NamedTuple):
    about: str  # the protocol with its hash, and the data
    name: str  # of the backbone
    seeds: str
    scores: dict[str, str]  # per cent
    classes: dict[str, str]
    interval: str  # what the intervals of the scores are
    place: int = 1  # of its row: random weights first, differences last
    sheet: Path | None = None  # of pictures, beside it


def of_folder(folder: Path, remarks: list[str]) -> list[Result]:
    """The results that lie in a run, comparisons with other backbones last; of one that can't be read a remark."""
    found = []
    for read, name in ((_read_one, FILE), (_read_comparison, COMPARED)):
        for path in sorted(path for kind in KINDS for path in (folder / kind).rglob(name)):
            try:
                found += read(path)
            except UserError as error:
                remarks.append(str(error))
    return found


def read_results(paths: Iterable[Path]) -> list[Result]:
    """Of files, or of folders and all below them, comparisons last. Raises UserError."""
    found: list[Path] = []
    compared: list[Path] = []
    for path in paths:
        if path.is_dir() and not list(path.rglob(FILE)):
            raise UserError(f"--results {path}: no {FILE} in this folder")
        found += sorted(path.rglob(FILE)) if path.is_dir() else [path]
        compared += sorted(path.rglob(COMPARED)) if path.is_dir() else []
    read = [_read_one(path) for path in found] + [_read_comparison(path) for path in compared]
    return list(chain.from_iterable(read))


def _read_one(path: Path) -> list[Result]:
    sheet = path.resolve().with_name(SHEET)
    return _read(path, FILE, lambda given: [_result(given, sheet=sheet if sheet.is_file() else None)])


def _read_comparison(path: Path) -> list[Result]:
    """All that were compared, and their differences to the first."""

    def rows(given: dict[str, Any]) -> list[Result]:
        minus = given["minus"]
        found = [_result({**given, "name": name, **scores}) for name, scores in given["backbones"].items()]
        for name, scores in given["differences"].items():
            found.append(_result({**given, "name": f"{name} minus {minus}", **scores}, sign="+")._replace(place=2))
        return found

    return _read(path, COMPARED, rows)


def _read(path: Path, what: str, results: Callable[[dict[str, Any]], list[Result]]) -> list[Result]:
    try:
        return results(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path}: no {what} of eval-seg, eval-det or eval-cls ({type(error).__name__}: {error})"
        ) from None


def _result(given: dict[str, Any], sign: str = "", sheet: Path | None = None) -> Result:
    protocol, data = given["protocol"], given["data"]
    counts = ", ".join(f"{part['pictures']} {part['split']}" for part in data.values() if _is_split(part))
    changed = f" with {', '.join(map(str, protocol['deviations']))}" if protocol.get("deviations") else ""
    about = f"{protocol['name']}{changed} [{protocol['hash']}] on {data['name']} ({counts} pictures)"
    seeds = given["seeds"] if "seeds" in given else [given["seed"]]
    seeds = [seed["seed"] if isinstance(seed, dict) else seed for seed in seeds]
    groups = {key: given[key] for key in ("scores", "top5", "box", "mask") if isinstance(given.get(key), dict)}
    scores = {_title(group, key): _cell(value, sign) for group, found in groups.items() for key, value in found.items()}
    classes = {str(key): _cell(value, sign) for key, value in given.get("class_iou", {}).items()}
    name, interval = str(given["name"]), interval_text(given["intervals"]) if "intervals" in given else ""
    place = 0 if name.endswith("(random)") else 1
    return Result(about, name, ", ".join(map(str, seeds)), scores, classes, interval, place, sheet)


def tables(results: Sequence[Result]) -> list[tuple[str, str, list[str], list[list[str]]]]:
    """Title, what intervals are, head and rows of each protocol and data set: a row a backbone, random weights first
    and differences last; then of each with classes another.
    """
    found = []
    for about in dict.fromkeys(result.about for result in results):
        these: dict[tuple, Result] = {}
        for result in results:  # a file may be named that lies in a run as well, and a comparison repeats results
            if result.about == about:
                these.setdefault((result.name, result.seeds, *result.scores.values()), result)
        ordered = sorted(these.values(), key=lambda result: result.place)
        for kind, title in (("scores", about), ("classes", f"IoU of each class: {about}")):
            cells = [getattr(result, kind) for result in ordered]
            if columns := list(dict.fromkeys(key for each in cells for key in each)):
                rows = [
                    [r.name, r.seeds, *(each.get(key, "-") for key in columns)]
                    for r, each in zip(ordered, cells, strict=True)
                ]
                notes = "; ".join(dict.fromkeys(result.interval for result in ordered if result.interval))
                found.append((title, notes, ["", "seeds", *columns], rows))
    return found


def _is_split(part: Any) -> bool:
    return isinstance(part, dict) and {"split", "pictures"} <= part.keys()


def _title(group: str, key: str) -> str:
    name = TITLES.get(key, f"{key.removeprefix('knn')}-NN" if key.startswith("knn") else key.replace("_", " "))
    return {"top5": f"{name}, top-5", "box": f"box {name}", "mask": f"mask {name}"}.get(group, name)


def _cell(value: Any, sign: str) -> str:
    """Per cent of a fraction, or of its mean, standard deviation over seeds and interval."""
    parts = value if isinstance(value, dict) else {"mean": value}
    return cell(Spread(parts["mean"], *map(parts.get, Spread._fields[1:])), interval=True, sign=sign)
