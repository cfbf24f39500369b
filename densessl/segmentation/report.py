"""What an evaluation leaves behind: results.json, results.md and pictures.png."""

from __future__ import annotations

import json
import math
import platform
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

import densessl
from densessl.backbones import Backbone
from densessl.errors import UserError
from densessl.files import aside
from densessl.segmentation.datasets import SegmentationDataset
from densessl.segmentation.inference import predict
from densessl.segmentation.linear import Result
from densessl.segmentation.pictures import sheet
from densessl.segmentation.protocols import deviations, digest, label
from densessl.segmentation.samples import InferenceSamples, normalisation

PICTURES = 4
NAMES = {"miou": "**mIoU**", "pixel_accuracy": "pixel accuracy", "mean_accuracy": "mean accuracy"}


def table(results: Mapping[str, Sequence[Result]]) -> str:
    """Markdown: the protocol with its hash, then a column a backbone and a row a score and class, in per cent.

    ``results`` holds one Result a seed under each backbone's name, all of one protocol and data set.
    """
    first = next(iter(results.values()))[0]
    seeds = [r.seed for r in next(iter(results.values()))]
    counts = ", ".join(f"{part['pictures']} {part['split']}" for part in (first.data["train"], first.data["val"]))
    over = f"seeds {', '.join(map(str, seeds))}: mean ± standard deviation" if len(seeds) > 1 else f"seed {seeds[0]}"
    rows: list[tuple[str, str, str]] = [("scores", key, text) for key, text in NAMES.items()]
    rows += [("class_iou", name, f"IoU {name}") for name in first.classes]
    lines = [
        f"{label(first.protocol)} on {first.data['name']} ({counts} pictures), {over}; per cent",
        "",
        f"| | {' | '.join(results)} |",
        f"|---|{'---:|' * len(results)}",
    ]
    for group, key, text in rows:
        cells = (_cell([getattr(r, group)[key] for r in column]) for column in results.values())
        lines.append(f"| {text} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def record(name: str, results: Sequence[Result]) -> dict[str, Any]:
    """One backbone's results as JSON has them: scores are fractions, null where a class has none."""
    first = results[0]
    return {
        "name": name,
        "protocol": {
            "name": first.protocol.name,
            "hash": digest(first.protocol),
            "deviations": deviations(first.protocol),
            "source": first.protocol.source,
            "settings": first.protocol.settings(),
        },
        "data": {**first.data, "classes": first.classes},
        "backbone": first.backbone,
        "scores": {key: _spread([r.scores[key] for r in results]) for key in NAMES},
        "class_iou": {key: _spread([r.class_iou[key] for r in results]) for key in first.classes},
        "seeds": [
            {
                "seed": r.seed,
                **{key: _number(value) for key, value in r.scores.items()},
                "class_iou": {key: _number(value) for key, value in r.class_iou.items()},
                "confusion": r.confusion.tolist(),
                "loss": _number(r.loss),
                "seconds": {"train": round(r.seconds[0], 1), "val": round(r.seconds[1], 1)},
            }
            for r in results
        ],
        "device": first.device,
        "versions": {
            "densessl": densessl.__version__,
            "torch": torch.__version__,
            "timm": timm.__version__,
            "python": platform.python_version(),
        },
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def write(folder: Path, name: str, results: Sequence[Result], backbone: Backbone, val: SegmentationDataset) -> None:
    """The three files; ``backbone`` is that of the first result, which the pictures show. Raises UserError."""
    first = results[0]
    chosen = np.linspace(0, len(val) - 1, min(PICTURES, len(val))).round().astype(int).tolist()
    predictions = _predictions(first, backbone, val, chosen)
    title = f"{name}, {label(first.protocol)}, mIoU {_cell([first.miou])} on all of {val.title} {val.split}"
    page = sheet(val, chosen, predictions, title)
    try:
        with aside(folder / "pictures.png") as part:
            page.save(part)
        with aside(folder / "results.md") as part:
            part.write_text(table({name: results}), encoding="utf-8")
        with aside(folder / "results.json") as part:
            part.write_text(json.dumps(record(name, results), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder}: the results can't be written there: {error}") from None


def _predictions(
    result: Result, backbone: Backbone, val: SegmentationDataset, indices: Sequence[int]
) -> list[np.ndarray]:
    samples = InferenceSamples(val, result.protocol, *normalisation(backbone))
    backbone, head = backbone.to(result.device).eval(), result.head.eval()
    found = []
    for index in indices:
        sample = samples[index]
        assert not isinstance(sample, UserError)
        image, mask = sample
        labels = predict(backbone, head, image.to(result.device), result.protocol, mask.shape)
        found.append(labels.cpu().numpy())
    return found


def _cell(values: Sequence[float]) -> str:
    spread = _spread(values)
    if spread["mean"] is None:
        return "-"
    error = f" ± {100 * spread['std']:.1f}" if spread["std"] is not None else ""
    return f"{100 * spread['mean']:.1f}{error}"


def _spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean and sample standard deviation over the seeds that have a value."""
    have = [value for value in values if not math.isnan(value)]
    return {
        "mean": statistics.fmean(have) if have else None,
        "std": statistics.stdev(have) if len(have) > 1 else None,
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
