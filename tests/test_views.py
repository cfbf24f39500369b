"""Where views lie and how they look."""

import itertools

import cv2
import numpy as np
import pytest
import torch
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.functional import normalize

from densessl.config import CropsConfig, PhotometricConfig, ViewsConfig
from densessl.data.crops import affine, crop_box, take_crop
from densessl.data.multi_crop import MultiCrop, view_rng
from densessl.data.photometric import Photometric, blur_kernel
from densessl.data.to_device import ToDevice
from densessl.data.views import View, Views

UNCHANGED = PhotometricConfig(jitter_p=0, grey_p=0, blur_p=(0, 0), solarize_p=(0, 0))
VIEWS = ViewsConfig(
    large=CropsConfig(count=2, size=96, scale=(0.3, 1)), small=CropsConfig(count=3, size=40, scale=(0.05, 0.3))
)


def coordinates(height: int, width: int) -> np.ndarray:
    """(height, width, 2): each pixel holds the (y, x) of its own centre."""
    grid = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    return np.stack(grid, -1).astype(np.float32)


def centers(matrix: np.ndarray, size: int) -> np.ndarray:
    """(size, size, 2): where the affine says that the pixels of a view have their centres."""
    unit = coordinates(size, size) / size
    return np.concatenate([unit, np.ones((size, size, 1))], -1) @ matrix.T.astype(float)


def inside(places: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """Which places are so far from the border of the crop that no pixel beyond it is asked for."""
    top, left, height, width = box
    y, x = places[..., 0], places[..., 1]
    return (y > top + 2) & (y < top + height - 2) & (x > left + 2) & (x < left + width - 2)


BOXES = [(0, 0, 120, 160), (7, 11, 96, 96), (3, 30, 60, 61), (20, 5, 33, 44), (90, 100, 13, 10), (0, 1, 119, 90)]


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("size", [17, 32, 48, 96, 224])
@pytest.mark.parametrize("flips", list(itertools.product([False, True], repeat=2)))
def test_affine_is_where_the_pixels_come_from(box, size, flips):
    flip, flip_vertical = flips
    view = take_crop(coordinates(120, 160), box, flip, size, flip_vertical)
    places = centers(affine(box, flip, flip_vertical), size)
    error = (view - places)[inside(places, box)]
    # OpenCV's cubic weights (a = -0.75) bend a straight line by up to 0.05 px to both sides, averages over broken
    # pixels by up to 0.09.
    assert np.abs(error).max() < 0.1
    assert np.abs(error.mean(0)).max() < 0.01


@pytest.mark.parametrize(("box", "size"), [((4, 6, 48, 48), 48), ((1, 2, 96, 96), 48), ((5, 3, 96, 128), 32)])
@pytest.mark.parametrize("flip", [False, True])
def test_affine_is_exact_where_pixels_fall_on_each_other(box, size, flip):
    view = take_crop(coordinates(120, 160), box, flip, size)
    np.testing.assert_allclose(view, centers(affine(box, flip), size), atol=1e-4)


def test_affine_maps_the_corners():
    corners = np.array([[0, 0, 1], [1, 1, 1]])
    np.testing.assert_array_equal(corners @ affine((3, 5, 20, 30), False).T, [[3, 5], [23, 35]])
    np.testing.assert_array_equal(corners @ affine((3, 5, 20, 30), True).T, [[3, 35], [23, 5]])
    np.testing.assert_array_equal(corners @ affine((3, 5, 20, 30), False, True).T, [[23, 5], [3, 35]])


def test_all_views_of_a_picture_lie_where_they_say():
    picture = np.zeros((230, 250, 3), np.uint8)
    picture[..., :2] = coordinates(230, 250)  # the centre's half pixel is cut off
    flips = 0
    for index in range(20):
        for image, _, matrix in MultiCrop(VIEWS, UNCHANGED, seed=3)(picture, epoch=1, index=index):
            (height, _, top), (_, width, left) = matrix.astype(int).tolist()
            box = (top, min(left, left + width), height, abs(width))
            places = centers(matrix, len(image))
            error = np.abs(image[..., :2] + 0.5 - places)[inside(places, box)]
            assert error.max() < 0.7  # half a grey level and the above
            flips += matrix[1, 1] < 0
    assert 30 < flips < 70  # of 100


def test_enlarging_and_shrinking_look_like_pillow():
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    picture = cv2.GaussianBlur(cv2.resize(noise, (400, 300)), (0, 0), 1)
    for box, size in [((20, 30, 200, 220), 224), ((0, 0, 300, 400), 96), ((10, 10, 130, 120), 96)]:
        top, left, height, width = box
        crop = Image.fromarray(picture[top : top + height, left : left + width])
        truth = np.asarray(crop.resize((size, size), Image.Resampling.BICUBIC)).astype(int)
        assert np.abs(take_crop(picture, box, False, size) - truth).mean() < 2


def test_crop_boxes_are_distributed_as_torchvisions():
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    for height, width, scale in [(300, 400, (0.08, 1.0)), (50, 500, (0.2, 0.9))]:
        image = torch.empty(1, height, width)
        theirs = np.array([RandomResizedCrop.get_params(image, list(scale), [3 / 4, 4 / 3]) for _ in range(3000)])
        ours = np.array([crop_box(rng, height, width, scale) for _ in range(3000)])
        for measure in (lambda b: b[:, 2] * b[:, 3], lambda b: b[:, 3] / b[:, 2], lambda b: b[:, 0], lambda b: b[:, 1]):
            a, b = (np.quantile(measure(boxes), np.linspace(0.05, 0.95, 10)) for boxes in (ours, theirs))
            np.testing.assert_allclose(a, b, atol=0.06 * np.ptp(measure(theirs)) + 1e-9)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 500), (500, 1), (2, 3), (37, 1000)])
def test_crop_boxes_fit_into_any_picture(height, width):
    rng = np.random.default_rng(0)
    for _ in range(50):
        top, left, h, w = crop_box(rng, height, width, (0.08, 1.0))
        assert 0 <= top <= top + h <= height
        assert 0 <= left <= left + w <= width
        assert h > 0 < w
        assert take_crop(np.zeros((height, width, 3), np.uint8), (top, left, h, w), True, 24).shape == (24, 24, 3)


def test_random_numbers_of_a_view_are_its_own():
    keys = itertools.product((0, 1, 2**32 - 1), (0, 1, 3), (0, 1, 10_000_000), (0, 1, 7))
    assert len({view_rng(*key).integers(2**63) for key in keys}) == 81
    for seed, *key in [(0, 1, 2, 3), (5, 0, 0, 0), (2**32 - 1, 400, 10_000_000, 7), (7, 3, 2**32 - 1, 0)]:
        truth = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
        assert (view_rng(seed, *key).random(4) == truth.random(4)).all()


def test_views_follow_from_seed_epoch_and_picture():
    picture = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)

    def views(seed, epoch, index):
        return np.concatenate(
            [image.ravel() for image, *_ in MultiCrop(VIEWS, PhotometricConfig(), seed)(picture, epoch, index)]
        )

    once = views(0, 2, 5)
    assert (once == views(0, 2, 5)).all()
    assert not any((once == views(*key)).all() for key in [(1, 2, 5), (0, 3, 5), (0, 2, 6)])


def effects(cfg: PhotometricConfig, number: int, count: int) -> np.ndarray:
    """(count, 4) bool: which of `count` views were jittered, made grey, blurred and solarised.

    Brightness alone is jittered, by less than a third: a light colour stays above 127 unless solarised.
    """
    cfg = cfg.model_copy(update={"jitter": (0.3, 0, 0, 0), "blur_sigma": (1.0, 2.0)})
    photometric = Photometric(cfg, 32, number)
    color = np.array([250, 200, 220])
    grey = round(float(color @ (0.299, 0.587, 0.114)))
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[:, :16] = color
    seen = np.empty((count, 4), bool)
    for i in range(count):
        left, edge = photometric(picture, view_rng(0, 0, i, number))[0][16, [2, 15]].astype(int)
        is_grey = left[0] == left[1]
        solarised = left[0] < 128
        red = 255 - left[0] if solarised else left[0]
        blurred = (edge != left).any()
        seen[i] = red != (grey if is_grey else 250), is_grey, blurred, solarised
    return seen


@pytest.mark.parametrize("number", [0, 1, 2])
def test_effects_come_as_often_as_configured_and_independently(number):
    cfg = PhotometricConfig()
    seen = effects(cfg, number, 2500)
    truth = np.array([cfg.jitter_p, cfg.grey_p, cfg.blur_p[number % 2], cfg.solarize_p[number % 2]])
    assert (truth[2:] == ((1.0, 0.0), (0.1, 0.2))[number % 2]).all()
    np.testing.assert_allclose(seen.mean(0), truth, atol=0.035)  # four standard deviations are 0.04 at most
    both = seen.T.astype(float) @ seen / len(seen)
    np.testing.assert_allclose(both, np.outer(truth, truth) + np.diag(truth * (1 - truth)), atol=0.035)


def test_small_views_are_counted_anew():
    views = ViewsConfig(large=CropsConfig(count=3, size=64, scale=(0.3, 1)), small=VIEWS.small)
    blurs = [photometric.blur_p for _, _, photometric in MultiCrop(views, PhotometricConfig(), 0).crops]
    assert blurs == [1.0, 0.1, 1.0, 1.0, 0.1, 1.0]


def test_blur_is_that_of_23_taps_at_224_and_narrower_on_small_views():
    picture = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    for sigma in (0.5, 1.3, 2.0):
        cfg = UNCHANGED.model_copy(update={"blur_p": (1.0, 1.0), "blur_sigma": (sigma, sigma)})
        blurred, _ = Photometric(cfg, 224, 0)(picture, view_rng(0, 0, 0, 0))
        assert np.abs(blurred - cv2.GaussianBlur(picture, (23, 23), sigma).astype(int)).max() <= 1
    assert [blur_kernel(size, 2.0) for size in (224, 160, 96, 48, 24)] == [0, 0, 9, 5, 3]


def test_solarise_inverts_the_light_half():
    picture = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
    cfg = UNCHANGED.model_copy(update={"solarize_p": (1.0, 1.0)})
    np.testing.assert_array_equal(
        Photometric(cfg, 16, 0)(picture, view_rng(0, 0, 0, 0))[0], np.where(picture < 128, picture, 255 - picture)
    )


def test_to_device_normalises():
    image = torch.randint(0, 256, (2, 8, 9, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    view = View(image, torch.rand(2, 2, 3))
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    moved = ToDevice("cpu", mean, std)(Views([view, view], [view]))
    assert [len(moved.large), len(moved.small)] == [2, 1]
    for got in moved.large + moved.small:
        torch.testing.assert_close(got.image, normalize(image.float() / 255, mean, std))
        assert got.image.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(got.affine, view.affine)
