"""What evaluations of a run came to, from the results.json of eval-seg, eval-det and eval-cls."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from densessl.errors import UserError

KINDS = ("segmentation", "detection", "classification")  # folders of a run
FILE, SHEET = "results.json", "pictures.png"
TITLES = {"miou": "mIoU", "boundary_miou": "boundary mIoU", "frequency_weighted_iou": "fw IoU", "linear": "linear"}


class Result(NamedTuple):
    about: str  # the protocol with its hash, and the data
    name: str  # of the backbone
    seeds: str
    scores: dict[str, str]  # per cent
    classes: dict[str, str]
    sheet: Path | None = None  # of pictures, beside it


def of_folder(folder: Path, remarks: list[str]) -> list[Result]:
    """The results that lie in a run; of one that can't be read a remark."""
    found = []
    for path in sorted(path for kind in KINDS for path in (folder / kind).rglob(FILE)):
        try:
            found.append(_read(path))
        except UserError as error:
            remarks.append(str(error))
    return found


def read_results(paths: Iterable[Path]) -> list[Result]:
    """Of files, or of folders and all below them. Raises UserError."""
    found = []
    for path in paths:
        if path.is_dir() and not list(path.rglob(FILE)):
            raise UserError(f"--results {path}: no {FILE} in this folder")
        found += sorted(path.rglob(FILE)) if path.is_dir() else [path]
    return [_read(path) for path in found]


def _read(path: Path) -> Result:
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        protocol, data = given["protocol"], given["data"]
        counts = ", ".join(f"{part['pictures']} {part['split']}" for part in data.values() if _is_split(part))
        changed = f" with {', '.join(map(str, protocol['deviations']))}" if protocol.get("deviations") else ""
        about = f"{protocol['name']}{changed} [{protocol['hash']}] on {data['name']} ({counts} pictures)"
        seeds = [seed["seed"] for seed in given["seeds"]] if "seeds" in given else [given["seed"]]
        groups = {key: given[key] for key in ("scores", "top5", "box", "mask") if isinstance(given.get(key), dict)}
        scores = {_title(group, key): _cell(value) for group, found in groups.items() for key, value in found.items()}
        classes = {str(key): _cell(value) for key, value in given.get("class_iou", {}).items()}
        sheet = path.resolve().with_name(SHEET)
        found = Result(about, str(given["name"]), ", ".join(map(str, seeds)), scores, classes)
        return found._replace(sheet=sheet if sheet.is_file() else None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path}: no {FILE} of eval-seg, eval-det or eval-cls ({type(error).__name__}: {error})"
        ) from None


def tables(results: Sequence[Result]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, head and rows of each protocol and data set: a row a backbone; then of each with classes another."""
    found = []
    for about in dict.fromkeys(result.about for result in results):
        these: list[Result] = []
        for result in results:  # a file may be named that lies in a run as well
            these += [result] if result.about == about and result not in these else []
        for kind, title in (("scores", about), ("classes", f"IoU of each class: {about}")):
            cells = [getattr(result, kind) for result in these]
            if columns := list(dict.fromkeys(key for each in cells for key in each)):
                rows = [
                    [r.name, r.seeds, *(each.get(key, "-") for key in columns)]
                    for r, each in zip(these, cells, strict=True)
                ]
                found.append((title, ["", "seeds", *columns], rows))
    return found


def _is_split(part: Any) -> bool:
    return isinstance(part, dict) and {"split", "pictures"} <= part.keys()


def _title(group: str, key: str) -> str:
    name = TITLES.get(key, f"{key.removeprefix('knn')}-NN" if key.startswith("knn") else key.replace("_", " "))
    return {"top5": f"{name}, top-5", "box": f"box {name}", "mask": f"mask {name}"}.get(group, name)


def _cell(value: Any) -> str:
    """Per cent of a fraction, or of its mean, standard deviation over seeds and interval over pictures."""
    parts = value if isinstance(value, dict) else {"mean": value}
    if parts["mean"] is None:
        return "-"
    std, low, high = (parts.get(key) for key in ("std", "low", "high"))
    text = f"{100 * parts['mean']:.1f}"
    text += f" ± {100 * std:.1f}" if std is not None else ""
    return text + (f" [{100 * low:.1f}, {100 * high:.1f}]" if low is not None and high is not None else "")
