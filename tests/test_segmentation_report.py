"""Tables, files and pictures say what was counted."""

import csv
import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from test_segmentation_linear import BLUE, GREEN, RED, Blocks, Colors
from torch import nn

from densessl.errors import UserError
from densessl.segmentation.confusion_chart import ABSENT, FULL, confusion_chart
from densessl.segmentation.evaluation import evaluate
from densessl.segmentation.metrics import areas, confusion_matrix
from densessl.segmentation.pictures import IGNORED, RIGHT, UNCOUNTED, WRONG, sheet
from densessl.segmentation.protocols import PROTOCOLS, label
from densessl.segmentation.report import record, write, write_comparison
from densessl.segmentation.result import Outcome, Result
from densessl.segmentation.scoring import Counts
from densessl.segmentation.table import csv_table, table

PROTOCOL = PROTOCOLS["linear_small"]


def result(seed: int, skill: float, pictures: int = 20) -> Result:
    """Labels 0 and 1 predicted with some skill, 2 neither in the truth nor predicted."""
    truth = torch.randint(0, 2, (pictures, 40), generator=torch.Generator().manual_seed(9))
    right = torch.rand(truth.shape, generator=torch.Generator().manual_seed(seed)) < skill
    confusions = torch.stack(
        [confusion_matrix(t, torch.where(r, t, 1 - t), 3) for t, r in zip(truth, right, strict=True)]
    )
    return Result(
        counts=Counts(confusions.sum(0), areas(confusions), areas(confusions) // 2),
        shown={},
        head=nn.Identity(),
        protocol=PROTOCOL,
        seed=seed,
        classes=("road", "a|b, c", "nowhere"),
        data={
            "name": "streets",
            "train": {"split": "train", "pictures": 5},
            "val": {"split": "val", "pictures": pictures},
        },
        backbone={"timm_name": "colors"},
        device="cpu",
        fitted={"loss": math.inf},
        seconds=(3.0, 4.0),
        memory=1.25,
        processes=1,
    )


def outcomes(seeds: int = 1) -> list[Outcome]:
    return [
        Outcome(name, [result(seed, skill) for seed in range(seeds)])
        for name, skill in (("one", 0.6), ("two", 0.8), ("three", 0.6))
    ]


@pytest.mark.parametrize("seeds", [1, 3])
def test_markdown_json_and_csv_agree(seeds):
    found = outcomes(seeds)
    lines = table(found).splitlines()
    assert label(PROTOCOL) in lines[0]
    over, left_out = (
        ("seeds, Student's t", "other images") if seeds > 1 else ("the validation images alone", "another seed")
    )
    said = f"[95% interval over {over}; not covered: {left_out}, another pretraining]"
    assert lines[0].endswith(said)
    header, *rows = ([cell.strip() for cell in line.strip("|").split("| ")] for line in lines[2:] if "---" not in line)
    assert header == ["", "one", "two", "three", "two minus one", "three minus one"]
    cells = {row[0]: row[1:] for row in rows}
    records = [record(outcome) for outcome in found]
    json.dumps(records, allow_nan=False)
    assert {about["intervals"]["over"] for about in records} == {"seeds" if seeds > 1 else "pictures"}
    assert {about["intervals"]["not_covered"] for about in records} == {f"{left_out}, another pretraining"}
    listed = list(csv.DictReader(csv_table(found).splitlines()))
    assert {line["protocol"] for line in listed} == {label(PROTOCOL)}
    assert len(listed) == 5 * (5 + 2 * 3)

    def line_of(backbone: str, minus: str, score: str, class_: str = "") -> dict[str, str]:
        (line,) = (
            row
            for row in listed
            if [row[k] for k in ("backbone", "minus", "score", "class")] == [backbone, minus, score, class_]
        )
        return line

    for i, (outcome, about) in enumerate(zip(found, records, strict=True)):
        value = about["scores"]["miou"]
        want = np.array([r.miou for r in outcome.results])
        assert value["mean"] == pytest.approx(want.mean())
        error = f" ± {100 * want.std(ddof=1):.1f}" if seeds > 1 else ""
        text = f"{100 * value['mean']:.1f}{error} [{100 * value['low']:.1f}, {100 * value['high']:.1f}]"
        assert cells["**mIoU**"][i] == text
        line = line_of(outcome.name, "", "miou")
        assert [float(line[key]) for key in ("mean", "low", "high")] == pytest.approx(
            [value[key] for key in ("mean", "low", "high")], abs=1e-6
        )
        assert (line["std"] == "") == (seeds == 1)
        road = about["class_boundary_iou"]["road"]["mean"]
        assert float(line_of(outcome.name, "", "boundary_iou", "road")["mean"]) == pytest.approx(road, abs=1e-6)
        assert about["class_iou"]["nowhere"] == {"mean": None, "std": None, "low": None, "high": None}
        assert about["seeds"][0]["class_iou"]["nowhere"] is None
        assert about["seeds"][0]["confusion"] == outcome.results[0].confusion.tolist()
        assert about["seeds"][0]["memory_gib"] == 1.25
        road = about["class_iou"]["road"]
        error = f" ± {100 * road['std']:.1f}" if seeds > 1 else ""
        assert cells["IoU road"][i] == f"{100 * road['mean']:.1f}{error}"
    assert r"IoU a\|b, c" in cells
    assert cells["IoU nowhere"] == ["-"] * 5
    assert cells["training, s"] == ["3.0"] * 3 + [""] * 2
    gain = line_of("two", "one", "miou")
    ends = f"[{100 * float(gain['low']):+.1f}, {100 * float(gain['high']):+.1f}]"
    assert cells["**mIoU**"][3].startswith(f"{100 * float(gain['mean']):+.1f}")
    assert cells["**mIoU**"][3].endswith(ends)
    assert float(gain["low"]) > (0.1 if seeds == 1 else 0)
    assert cells["**mIoU**"][4] == ("+0.0 ± 0.0 [+0.0, +0.0]" if seeds > 1 else "+0.0 [+0.0, +0.0]")


def test_files(tmp_path):
    one = outcomes()[0]
    val = Blocks("val", count=2)
    shown = {1: np.zeros((64, 48), np.uint8)}
    blocks = dataclasses.replace(one.results[0], classes=val.classes, shown=shown)
    write(tmp_path / "one", Outcome("mine", [blocks]), val)
    assert json.loads((tmp_path / "one" / "results.json").read_text())["data"]["classes"] == ["red", "green", "blue"]
    write_comparison(tmp_path / "one", outcomes())
    names = [f"comparison.{suffix}" for suffix in ("csv", "json", "md")]
    names += ["confusion.png", "pictures.png", *(f"results.{suffix}" for suffix in ("csv", "json", "md"))]
    assert sorted(file.name for file in (tmp_path / "one").iterdir()) == names
    with Image.open(tmp_path / "one" / "confusion.png") as page:
        assert page.format == "PNG"
    with pytest.raises(UserError, match="can't be written"):
        write_comparison(tmp_path / "one" / "results.md", outcomes())


def test_errors_are_red_and_ignored_pixels_grey():
    class Void(Blocks):
        def __getitem__(self, index):
            image, mask = super().__getitem__(index)
            mask[:16] = 255
            return image, mask

    data = Void("val", count=1, size=(64, 320))
    mask = data[0][1]
    prediction = np.where(mask == 255, 0, mask)
    prediction[48:] = (prediction[48:] + 1) % 3
    page = np.asarray(sheet(data, {0: prediction}, "title"))
    truth, predicted, errors = (page[40 : 40 + 64, 8 + 328 * i :][:, :320] for i in (1, 2, 3))
    np.testing.assert_array_equal(truth[:16], np.broadcast_to(IGNORED, (16, 320, 3)))
    np.testing.assert_array_equal(truth[16:], np.array((RED, GREEN, BLUE))[mask[16:]])
    np.testing.assert_array_equal(predicted, np.array((RED, GREEN, BLUE))[prediction])
    for rows, color in ((slice(0, 16), UNCOUNTED), (slice(16, 48), RIGHT), (slice(48, 64), WRONG)):
        assert (errors[rows] == color).all()
    line = Void("val", count=1, size=(16, 48 * 400))  # less than a pixel high
    assert sheet(line, {0: np.zeros((16, 48 * 400), np.uint8)}, "title").width == page.shape[1]


@pytest.mark.parametrize(("classes", "cell"), [(3, 36), (171, 16)])
def test_confusion_chart(classes, cell):
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 50, (classes, classes))
    counts[1] = 0
    counts[2] = 0
    counts[2, 0] = 7
    names = [
        "road",
        "a name of a class that is far too long to be shown whole",
        *(f"class {i}" for i in range(2, classes)),
    ]
    page = confusion_chart(torch.from_numpy(counts), names, "title")
    assert page.width > cell * classes + 100
    pixels = np.asarray(page).astype(int)
    left = int(np.flatnonzero((pixels == ABSENT).all(-1).sum(0) >= cell * classes - 1)[0])  # the first line of the grid
    top = int(np.flatnonzero((pixels == ABSENT).all(-1).sum(1) >= cell * classes - 1)[0])
    corners = pixels[top + 2 : top + cell * classes : cell, left + 2 : left + cell * classes : cell]
    assert (corners[1] == ABSENT).all()
    np.testing.assert_array_equal(corners[2, 0], FULL)
    assert (corners[2, 1:] == 255).all()
    shares = counts[0] / counts[0].sum()
    np.testing.assert_allclose(corners[0], 255 + np.sqrt(shares)[:, None] * (FULL - 255), atol=1)
    for i in range(classes):  # every row and every column has its name
        assert (pixels[top + i * cell :][1:cell, 8:left] < 128).any()
        assert (pixels[48:top, left + i * cell :][:, 1:cell] < 128).any()


def test_counts_of_an_evaluation_are_those_of_its_predictions():
    val = Blocks("val", count=3)
    protocol = dataclasses.replace(PROTOCOL, iterations=20, batch=2, crop=(32, 32))
    found = evaluate(Colors(), Blocks("train"), val, protocol)
    assert sorted(found.shown) == [0, 1, 2]
    for index, labels in found.shown.items():
        truth = torch.from_numpy(val[index][1])
        assert torch.equal(
            areas(confusion_matrix(truth, torch.from_numpy(labels).long(), 3)), found.counts.areas[index]
        )
    assert found.memory > 0.1
    assert found.measured["scores"]["miou"] == found.miou
