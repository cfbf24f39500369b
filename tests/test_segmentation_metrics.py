"""Scores against a naive loop and against segmentation-models-pytorch, hostile inputs included."""

import math

import numpy as np
import pytest
import torch
from segmentation_models_pytorch.metrics import get_stats, iou_score

from densessl.segmentation.metrics import confusion_matrix, iou, mean_accuracy, mean_iou, pixel_accuracy

CLASSES = 5


def hostile(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(3)
    truth = torch.randint(0, CLASSES, (3, 17, 23), generator=rng)
    prediction = torch.randint(0, CLASSES, (3, 17, 23), generator=rng)
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


KINDS = ["plain", "borders", "absent from both", "never predicted", "only predicted", "perfect"]


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

    ious, recalls = [], []
    for c in range(CLASSES):
        union = counts[c].sum() + counts[:, c].sum() - counts[c, c]
        ious.append(counts[c, c] / union if union else math.nan)
        recalls += [counts[c, c] / counts[c].sum()] if counts[c].sum() else []
    np.testing.assert_allclose(iou(got).numpy(), ious, rtol=1e-12)
    scored = [value for value in ious if not math.isnan(value)]
    if not scored:
        assert all(math.isnan(score(got)) for score in (mean_iou, pixel_accuracy, mean_accuracy))
        return
    assert mean_iou(got) == pytest.approx(sum(scored) / len(scored))
    assert pixel_accuracy(got) == pytest.approx(np.trace(counts) / counts.sum())
    assert mean_accuracy(got) == pytest.approx(sum(recalls) / len(recalls))


@pytest.mark.parametrize("kind", KINDS)
def test_scores_equal_segmentation_models_pytorch(kind):
    truth, prediction = hostile(kind)
    got = confusion_matrix(truth, prediction, CLASSES)
    # Theirs ignores one value that must be inside the classes' type; -1 stands for our 255.
    stats = get_stats(
        prediction, torch.where(truth == 255, -1, truth), mode="multiclass", num_classes=CLASSES, ignore_index=-1
    )
    theirs = iou_score(*(s.sum(0, keepdim=True) for s in stats), zero_division=math.nan)
    np.testing.assert_allclose(iou(got).numpy(), theirs[0].numpy(), rtol=1e-6)


def test_pictures_add_up():
    truth, prediction = hostile("borders")
    parts = [confusion_matrix(t, p, CLASSES) for t, p in zip(truth, prediction, strict=True)]
    assert torch.equal(torch.stack(parts).sum(0), confusion_matrix(truth, prediction, CLASSES))
