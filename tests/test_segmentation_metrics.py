"""Scores against naive loops, segmentation-models-pytorch and torchmetrics, hostile inputs included."""

import math

import cv2
import numpy as np
import pytest
import torch
from segmentation_models_pytorch.metrics import get_stats, iou_score, recall

from densessl.segmentation.boundary import band, boundary_areas
from densessl.segmentation.metrics import areas, class_iou, confusion_matrix, iou, mean_iou, measure, scores

CLASSES = 5


def hostile(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(3)
    size = (3, 1, 1) if kind == "one pixel" else (3, 17, 23)
    truth = torch.randint(0, CLASSES, size, generator=rng)
    prediction = torch.randint(0, CLASSES, size, generator=rng)
    if kind == "borders":
        truth[:, ::4] = 255
    if kind == "absent from both":
        truth[truth == 2], prediction[prediction == 2] = 1, 3
    if kind == "never predicted":
        prediction[prediction == 2] = 0
    if kind == "only predicted":
        truth[truth == 2] = 255
    if kind == "perfect":
        prediction = truth.clone()
    if kind == "all ignored":
        truth[:] = 255
    return truth, prediction


KINDS = ["plain", "borders", "absent from both", "never predicted", "only predicted", "perfect", "one pixel"]


@pytest.mark.parametrize("kind", [*KINDS, "all ignored"])
def test_scores_equal_a_naive_loop(kind):
    truth, prediction = hostile(kind)
    counts = np.zeros((CLASSES, CLASSES), int)
    for t, p in zip(truth.flatten().tolist(), prediction.flatten().tolist(), strict=True):
        if t != 255:
            counts[t, p] += 1
    got = confusion_matrix(truth.to(torch.uint8), prediction, CLASSES)
    assert got.dtype == torch.int64
    np.testing.assert_array_equal(got.numpy(), counts)

    ious, recalls, weighted = [], [], 0.0
    for c in range(CLASSES):
        union = counts[c].sum() + counts[:, c].sum() - counts[c, c]
        ious.append(counts[c, c] / union if union else math.nan)
        recalls += [counts[c, c] / counts[c].sum()] if counts[c].sum() else []
        weighted += ious[-1] * counts[c].sum() / counts.sum() if counts[c].sum() else 0
    np.testing.assert_allclose(iou(got).numpy(), ious, rtol=1e-12)
    scored = [value for value in ious if not math.isnan(value)]
    found = scores(areas(got))
    if not scored:
        assert math.isnan(mean_iou(got))
        assert all(math.isnan(score) for score in found.values())
        return
    assert mean_iou(got) == pytest.approx(sum(scored) / len(scored))
    assert {key: value.item() for key, value in found.items()} == pytest.approx(
        {
            "miou": sum(scored) / len(scored),
            "pixel_accuracy": np.trace(counts) / counts.sum(),
            "mean_accuracy": sum(recalls) / len(recalls),
            "frequency_weighted_iou": weighted,
        }
    )


@pytest.mark.parametrize("kind", KINDS)
def test_scores_equal_segmentation_models_pytorch(kind):
    truth, prediction = hostile(kind)
    got = areas(confusion_matrix(truth, prediction, CLASSES))
    # Theirs ignores one value that must be inside the classes' type; -1 stands for our 255.
    stats = get_stats(
        prediction, torch.where(truth == 255, -1, truth), mode="multiclass", num_classes=CLASSES, ignore_index=-1
    )
    summed = [s.sum(0, keepdim=True) for s in stats]
    theirs = iou_score(*summed, zero_division=math.nan)
    np.testing.assert_allclose(class_iou(got).numpy(), theirs[0].numpy(), rtol=1e-6)
    recalls = recall(*summed, zero_division=math.nan)
    assert scores(got)["mean_accuracy"] == pytest.approx(recalls.nanmean().item())
    assert scores(got)["pixel_accuracy"] == pytest.approx(recall(*summed, reduction="micro").item())


@pytest.mark.parametrize("kind", KINDS)
def test_scores_equal_torchmetrics(kind):
    theirs = pytest.importorskip("torchmetrics.functional.classification")
    truth, prediction = hostile(kind)
    got = areas(confusion_matrix(truth, prediction, CLASSES))
    settings = {"num_classes": CLASSES, "ignore_index": 255}
    want = theirs.multiclass_jaccard_index(prediction, truth, average="none", **settings)
    np.testing.assert_allclose(class_iou(got).nan_to_num().numpy(), want.numpy(), rtol=1e-6)  # theirs is 0 for absent
    want = theirs.multiclass_accuracy(prediction, truth, average="micro", **settings)
    assert scores(got)["pixel_accuracy"] == pytest.approx(want.item())


def test_pictures_add_up_and_shapes_go_through():
    truth, prediction = hostile("borders")
    parts = torch.stack([confusion_matrix(t, p, CLASSES) for t, p in zip(truth, prediction, strict=True)])
    whole = confusion_matrix(truth, prediction, CLASSES)
    assert torch.equal(parts.sum(0), whole)
    assert torch.equal(areas(parts).sum(0), areas(whole))
    names = "abcde"
    groups = measure(areas(parts), areas(whole).expand(3, -1, -1), names)
    for i, part in enumerate(parts):
        for key, value in scores(areas(part)).items():
            assert groups["scores"][key][i] == value
        assert torch.equal(torch.stack([groups["class_iou"][name][i] for name in names]), iou(part))
        assert groups["scores"]["boundary_miou"][i] == mean_iou(whole)
        assert torch.equal(torch.stack([groups["class_boundary_iou"][name][i] for name in names]), iou(whole))


# --- boundary IoU -----------------------------------------------------------------------------------------------------


def patches(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels of patches, so that there are insides, and a prediction that is a few pixels off."""
    rng = np.random.default_rng(5)
    height, width = {"one pixel": (1, 1), "a row": (1, 70), "narrow": (90, 3)}.get(kind, (90, 115))  # width 1 to 3
    shape = -(-height // 20), -(-width // 20)
    truth = np.kron(rng.integers(0, CLASSES, shape), np.ones((20, 20), int))[:height, :width].astype(np.uint8)
    prediction = np.roll(truth, (2, 1), (0, 1))
    prediction[rng.random(truth.shape) < 0.01] = 4
    if kind == "void borders":
        edge = np.zeros(truth.shape, bool)
        edge[:-1] |= truth[1:] != truth[:-1]
        edge[:, :-1] |= truth[:, 1:] != truth[:, :-1]
        truth[cv2.dilate(edge.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0] = 255
    if kind == "void patches":
        truth[truth == 0] = 255
    if kind == "noise":
        truth[rng.random(truth.shape) < 0.3] = 255
    if kind == "all ignored":
        truth[:] = 255
    if kind == "absent":
        truth[truth == 2], prediction[prediction == 2] = 1, 1
    return truth, prediction


VOIDS = ["void borders", "void patches", "noise", "all ignored"]
ODD = ["plain", "absent", "one pixel", "a row", "narrow"]


def naive_band(labels: list[list[int]], c: int) -> set[tuple[int, int]]:
    height, width = len(labels), len(labels[0])
    d = max(1, round(0.02 * math.sqrt(height**2 + width**2)))
    found = set()
    for y in range(height):
        for x in range(width):
            if labels[y][x] == c:
                inside = d <= y < height - d and d <= x < width - d
                around = {v for row in labels[max(0, y - d) : y + d + 1] for v in row[max(0, x - d) : x + d + 1]}
                if not inside or around - {c, 255}:
                    found.add((y, x))
    return found


@pytest.mark.parametrize("kind", [*ODD, *VOIDS])
def test_boundary_equals_a_naive_loop(kind):
    truth, prediction = patches(kind)
    got = boundary_areas(torch.from_numpy(truth), torch.from_numpy(prediction).long(), CLASSES)
    assert got.dtype == torch.int64
    judged = np.where(truth == 255, 255, prediction)
    for c in range(CLASSES):
        ours, theirs = (naive_band(labels.tolist(), c) for labels in (truth, judged))
        assert got[:, c].tolist() == [len(ours & theirs), len(ours), len(theirs)]
        union = len(ours | theirs)
        want = len(ours & theirs) / union if union else math.nan
        assert class_iou(got)[c].item() == pytest.approx(want, nan_ok=True)


@pytest.mark.parametrize("kind", ODD)
def test_boundary_equals_erosion_class_by_class(kind):
    """The authors' way, without ignored pixels: erosion by 3x3, as often as the band is wide, nothing outside."""
    truth, prediction = patches(kind)
    got = class_iou(boundary_areas(torch.from_numpy(truth), torch.from_numpy(prediction), CLASSES))
    times = max(1, round(0.02 * math.hypot(*truth.shape)))
    for c in range(CLASSES):
        bands = []
        for labels in (truth, prediction):
            mask = np.pad((labels == c).astype(np.uint8), 1)
            eroded = cv2.erode(mask, np.ones((3, 3), np.uint8), iterations=times)
            bands.append((mask > eroded)[1:-1, 1:-1])
        union = (bands[0] | bands[1]).sum()
        assert got[c].item() == pytest.approx((bands[0] & bands[1]).sum() / union if union else math.nan, nan_ok=True)


def test_boundary_of_two_halves_by_hand():
    """100 x 100 pixels have a diagonal of 141 and a band of 3: what is left of a half is 94 x 44."""
    halves = torch.zeros(100, 100, dtype=torch.uint8)
    halves[:, 50:] = 1
    size = 100 * 50 - 94 * 44
    assert boundary_areas(halves, halves, 2).tolist() == [[size, size]] * 3


@pytest.mark.parametrize("kind", VOIDS)
def test_ignored_pixels_make_no_boundary(kind):
    truth, prediction = patches(kind)
    hidden = np.where(truth == 255, (prediction + 1) % CLASSES, prediction)
    labels, one, two = (torch.from_numpy(part) for part in (truth, prediction, hidden))
    assert torch.equal(boundary_areas(labels, one, CLASSES), boundary_areas(labels, two, CLASSES))
    right = np.where(truth == 255, 3, truth)
    perfect = class_iou(boundary_areas(labels, torch.from_numpy(right), CLASSES))
    assert set(perfect[~perfect.isnan()].tolist()) <= {1.0}
    alone = np.where(truth == 255, truth, 2)
    inside = np.zeros(truth.shape, bool)
    inside[3:-3, 3:-3] = True
    np.testing.assert_array_equal(band(alone), (alone == 2) & ~inside)  # the edge of the picture alone
