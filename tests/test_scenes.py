"""The made-up scenes: reproducible, varied, and no class readable from colour."""

import time

import cv2
import numpy as np
import pytest

from densessl.data.scenes import Scenes
from densessl.data.textures import GROUNDS, OBJECTS
from densessl.errors import UserError


def test_pictures_follow_from_seed_split_and_number():
    scenes = Scenes(20, 96, 3)
    again = Scenes(500, 96, 3)
    assert len(scenes) == 20
    for i in (7, 0, 19):  # in any order
        assert scenes.read(i).shape == (96, 96, 3)
        assert scenes.read(i).dtype == scenes.mask(i).dtype == np.uint8
        np.testing.assert_array_equal(scenes.read(i), again.read(i))
        np.testing.assert_array_equal(scenes.mask(i), again.mask(i))
    for other in (Scenes(20, 96, 4), Scenes(20, 96, 3, "val")):
        assert (scenes.read(0) != other.read(0)).mean() > 0.9
        assert (scenes.mask(0) != other.mask(0)).any()


def test_scenes_can_be_read_without_changing_global_random_state():
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    Scenes(1).read(0)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_masks_hold_one_ground_and_all_classes_occur():
    scenes = Scenes(120, 64)
    pixels = np.zeros(len(scenes.classes))
    for i in range(len(scenes)):
        counts = np.bincount(scenes.mask(i).ravel(), minlength=len(scenes.classes))
        assert (counts[: len(GROUNDS)] > 0).sum() <= 1
        pixels += counts
    assert len(pixels) == len(GROUNDS) + len(OBJECTS) == 12
    shares = pixels / pixels.sum()
    assert shares.min() > 0.02
    assert 0.4 < shares[: len(GROUNDS)].sum() < 0.8


def test_masks_lie_on_the_objects():
    """Colour changes along the borders of the mask far more than elsewhere, and a moved mask loses that."""
    at, away = [], []
    for i in range(30):
        scenes = Scenes(30, 160)
        grey = cv2.GaussianBlur(cv2.cvtColor(scenes.read(i), cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 1.5)
        slope = np.hypot(cv2.Sobel(grey, -1, 1, 0), cv2.Sobel(grey, -1, 0, 1))
        mask = scenes.mask(i)
        border = cv2.dilate(mask, np.ones((3, 3))) != mask
        at.append(slope[border].mean())
        away.append(np.roll(slope, (9, 9), (0, 1))[border].mean())
    assert np.mean(at) > 1.15 * np.mean(away)


def regions(scenes: Scenes) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each colour, and class, of every class's part of every scene."""
    features, labels = [], []
    for i in range(len(scenes)):
        picture, mask = scenes.read(i).astype(float), scenes.mask(i)
        for label in np.unique(mask):
            part = picture[mask == label]
            if len(part) >= 60:
                features.append(np.concatenate([part.mean(0), part.std(0)]))
                labels.append(label)
    return np.array(features), np.array(labels)


def recall(train, test, classes: int) -> float:
    """Mean recall on `test`: the better of nearest class mean and least squares on the features and their squares."""
    (x, y), (x_test, y_test) = train, test
    middle, spread = x.mean(0), x.std(0)
    x, x_test = (x - middle) / spread, (x_test - middle) / spread
    means = np.stack([x[y == label].mean(0) for label in range(classes)])
    nearest = ((x_test[:, None] - means) ** 2).sum(-1).argmin(1)

    def features(x):
        return np.concatenate([np.ones((len(x), 1)), x, x**2], 1)

    shares = np.eye(classes)[y] / np.bincount(y, minlength=classes)  # each class weighs the same
    linear = (features(x_test) @ np.linalg.lstsq(features(x), shares, rcond=None)[0]).argmax(1)
    return max(
        np.mean([(guess == label)[y_test == label].mean() for label in range(classes)]) for guess in (nearest, linear)
    )


@pytest.fixture(scope="module")
def measured():
    return regions(Scenes(300, 96)), regions(Scenes(300, 96, split="val"))


def test_mean_colour_tells_no_class(measured):
    (x, y), (x_test, y_test) = measured
    for first, last in [(0, 12), (0, 4), (4, 12)]:  # of all, among grounds, among objects
        train, test = (
            (x[keep][:, :3], y[keep] - first)
            for x, y, keep in ((x, y, (y >= first) & (y < last)), (x_test, y_test, (y_test >= first) & (y_test < last)))
        )
        chance = 1 / (last - first)
        found = recall(train, test, last - first)
        assert found < 1.5 * chance


def test_structure_tells_the_class():
    """Sorted spectra alone, without place or turn, tell the grounds apart: the classes are there to be found."""
    scenes = [Scenes(200, 160), Scenes(100, 160, split="val")]
    sets = []
    for scene in scenes:
        features, labels = [], []
        for i in range(len(scene)):
            grey, mask = cv2.cvtColor(scene.read(i), cv2.COLOR_RGB2GRAY).astype(np.float32), scene.mask(i)
            for top, left in ((0, 0), (0, 112), (112, 0), (112, 112), (56, 56)):
                part = mask[top : top + 48, left : left + 48]
                if (part == part[0, 0]).all():
                    spectrum = np.abs(np.fft.fft2(grey[top : top + 48, left : left + 48]))[:24, :24]
                    features.append(np.log(np.sort(spectrum.ravel()[1:])[-40:]))
                    labels.append(part[0, 0])
        sets.append((np.array(features), np.array(labels)))
    grounds = [(x[y < 4] - x[y < 4].mean(1, keepdims=True), y[y < 4]) for x, y in sets]
    assert recall(*grounds, 4) > 0.4


@pytest.mark.parametrize("options", [{"split": "test"}, {"count": 0}, {"size": 8}])
def test_errors(options):
    with pytest.raises(UserError, match="scenes"):
        Scenes(**options)


def test_a_picture_takes_milliseconds():
    scenes = Scenes()
    scenes.read(0)
    start = time.process_time()
    for i in range(30):
        scenes.read(i)
    assert (time.process_time() - start) / 30 < 0.03  # 5 ms when nothing else runs
