"""Large JPEGs decoded smaller: the views lie where they say, and look as if the whole picture had been decoded."""

import io
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from PIL import Image

from densessl.config import CropsConfig, PhotometricConfig, ViewsConfig
from densessl.data.decoding import decode
from densessl.data.loader import Loader
from densessl.data.multi_crop import MultiCrop, _on_grid
from densessl.data.pixels import Pixels
from densessl.data.raster import Unreadable

SIZES = (901, 1203)  # of which no factor is a divisor
UNCHANGED = PhotometricConfig(jitter_p=0, grey_p=0, blur_p=(0, 0), solarize_p=(0, 0), where="workers")


def views(turn: float = 0) -> ViewsConfig:
    large, small = CropsConfig(count=2, size=64, scale=(0.4, 1)), CropsConfig(count=2, size=32, scale=(0.2, 0.4))
    return ViewsConfig(large=large, small=small, turn=turn)


def photograph(seed: int = 0) -> np.ndarray:
    """Smooth and rough at once: noise of several sizes."""
    rng, (height, width) = np.random.default_rng(seed), SIZES
    layers = [cv2.resize(rng.uniform(-1, 1, (n, n, 3)), (width, height)) / n**0.5 for n in (4, 16, 64, 256)]
    return (128 + 100 * np.tanh(sum(layers))).astype(np.uint8)


def jpeg(picture: np.ndarray, orientation: int = 1) -> bytes:
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture).save(file, "JPEG", quality=98, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("turn", [0, 180])
@pytest.mark.parametrize("orientation", [1, 6])
def test_views_look_as_of_the_whole_picture(turn: float, orientation: int) -> None:
    data, crops, asked = jpeg(photograph(), orientation), MultiCrop(views(turn), UNCHANGED, 0), set()
    whole = decode(data, "x")
    for index in range(6):
        plan, full = crops.plan(0, index), crops.plan(0, index)
        small = decode(data, "x", reduction=plan.reduction)
        asked.add(full.reduction(*whole.shape[:2]))
        assert plan.size == whole.shape[:2]
        assert small.shape[:2] == tuple(-(-side // plan.smaller) for side in plan.size)
        for ours, truth in zip(plan.take(small), full.take(whole), strict=True):
            np.testing.assert_array_equal(ours.affine, truth.affine)
            error = np.abs(ours.image.astype(int) - truth.image)
            assert error.mean() < 2
            assert np.abs(ours.image.mean((0, 1)) - truth.image.mean((0, 1))).max() < 0.5
    assert asked > {1} or asked == {2, 4} or asked == {4}, asked


def test_the_factor_leaves_every_view_twice_its_pixels() -> None:
    crops = MultiCrop(views(), UNCHANGED, 0)
    seen = {
        crops.plan(0, i).reduction(round(90 * grow), round(120 * grow)) for i in range(40) for grow in (1, 4, 9, 20, 40)
    }
    assert seen == {1, 2, 4, 8}
    for i in range(40):
        plan = crops.plan(0, i)
        factor = plan.reduction(900, 1200)
        sides = [
            np.abs(np.diag(affine[:, :2])).min() / size
            for affine, (size, *_) in zip(plan.drawn, crops.crops, strict=True)
        ]
        assert factor == max([n for n in (1, 2, 4, 8) if n == 1 or min(sides) >= 1.9 * n])


@pytest.mark.parametrize("step", [2, 4, 8])
def test_borders_on_the_grid_stay_near_and_inside(step: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        top, left = rng.integers(0, 400, 2)
        height, width = rng.integers(64, 500, 2)
        size = int(top + height), int(left + width)
        flip = rng.random() < 0.5
        affine = np.array([[height, 0, top], [0, -width if flip else width, left + width * flip]], np.float32)
        moved = _on_grid(affine, step, size)
        assert (moved[[0, 1, 0, 1], [0, 1, 2, 2]] % step == 0).all()
        for corner in ((0, 0, 1), (1, 1, 1)):
            place = moved @ np.array(corner)
            assert np.abs(place - affine @ np.array(corner)).max() < step
            assert (place <= size).all()
        assert (moved[1, 1] < 0) == flip


def test_what_is_no_plain_jpeg_is_decoded_whole() -> None:
    def asked(*_: int) -> int:
        raise AssertionError("asked")

    file = io.BytesIO()
    Image.fromarray(photograph()).save(file, "PNG")
    assert decode(file.getvalue(), "x", reduction=asked).shape == (*SIZES, 3)
    file = io.BytesIO()
    Image.fromarray(photograph()).convert("CMYK").save(file, "JPEG")
    assert decode(file.getvalue(), "x", reduction=asked).shape == (*SIZES, 3)
    grey = io.BytesIO()
    Image.fromarray(photograph()[..., 0]).save(grey, "JPEG")
    for channels in (1, 3):
        assert decode(grey.getvalue(), "x", Pixels(channels), lambda *_: 4).shape == (226, 301, channels)


class FirstIsBroken:
    """A JPEG with a header alone, then PNGs, which are decoded without a question."""

    pixels = Pixels()

    def __len__(self) -> int:
        return 3

    def path(self, i: int) -> str:
        return str(i)

    def read(self, i: int, reduction: Callable[[int, int], int] = lambda *_: 1) -> np.ndarray:
        if i == 0:
            assert reduction(*SIZES) > 1
            raise Unreadable("0", "broken")
        return photograph(1)[:300, :400]


def test_a_stand_in_of_another_size_has_views_of_its_own() -> None:
    loader = Loader(FirstIsBroken(), views(), UNCHANGED, batch=3, seed=0, workers=0)
    [(_, batch)] = loader.from_step(0, 1)
    assert loader.failed == {"0": "broken"}
    for view in batch.large + batch.small:
        corners = view.affine.numpy() @ np.array([(0, 0, 1), (0, 1, 1), (1, 0, 1), (1, 1, 1)], np.float32).T
        assert corners[:, 0].max() <= 300
        assert corners[:, 1].max() <= 400
