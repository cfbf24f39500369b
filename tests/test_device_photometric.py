"""What the device does to views, against torchvision, OpenCV and the workers' form."""

import itertools

import cv2
import numpy as np
import pytest
import torch
import torchvision.transforms.functional as tv
from test_waiting import Waits
from torch import Tensor

from densessl.config import CropsConfig, PhotometricConfig, ViewsConfig
from densessl.data.device_photometric import KERNEL, MIRROR, Draw, numbers, on_device, retouch
from densessl.data.loader import Loader
from densessl.data.multi_crop import view_rng
from densessl.data.photometric import Photometric
from densessl.data.pixels import Pixels
from densessl.data.to_device import ToDevice
from densessl.data.views import View, Views

VIEWS = ViewsConfig(
    large=CropsConfig(count=2, size=48, scale=(0.3, 1)), small=CropsConfig(count=3, size=32, scale=(0.05, 0.3))
)
UNCHANGED = PhotometricConfig(jitter_p=0, grey_p=0, blur_p=(0, 0), solarize_p=(0, 0), where="workers")
USUAL = PhotometricConfig(blur_sigma=(0.5, 2.0))  # a weaker blur could not be told from none
STRONG = PhotometricConfig(jitter=(0.8, 0.8, 0.8, 0.2), blur_p=(0.5, 0.5), blur_sigma=(0.5, 2.0), solarize_p=(0.2, 0.2))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE = 48


def picture(seed: int, size: int = SIZE) -> np.ndarray:
    """Blobs of colours over the whole range, and fine texture."""
    rng = np.random.default_rng(seed)
    blobs = cv2.resize(rng.uniform(-60, 315, (6, 6, 3)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    return np.clip(blobs + rng.normal(0, 12, (size, size, 3)), 0, 255).astype(np.uint8)


def batch(pictures: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def retouched(images: Tensor, rows: list[list[float]]) -> Tensor:
    return retouch(images, torch.tensor(rows))


def half_kernel(size: int, sigma: float) -> list[float]:
    return cv2.getGaussianKernel(size, sigma)[size // 2 :, 0].tolist()


# --- each operation, and their orders ---------------------------------------------------------------------------------

JITTER = {
    "brightness": tv.adjust_brightness,
    "contrast": tv.adjust_contrast,
    "saturation": tv.adjust_saturation,
    "hue": tv.adjust_hue,
}
CASES = [
    *((name, factor) for name in ("brightness", "contrast", "saturation") for factor in (0.0, 0.3, 0.8, 1.0, 1.4, 1.8)),
    *(("hue", turn) for turn in (-0.5, -0.2, -0.03, 0.0, 0.1, 0.17, 0.5)),
]


@pytest.mark.parametrize(("name", "value"), CASES)
def test_jitter_is_torchvisions(name: str, value: float) -> None:
    """Within a grey level, since it rounds down; two where it also rounds the grey that it mixes in."""
    images = batch([picture(0), picture(1)])
    truth = torch.stack([JITTER[name](image, value) for image in images])
    ours = retouched(images, [numbers([(name, value)])] * 2)
    assert (ours - truth).abs().max() < (2 if name in ("contrast", "saturation") else 1.05)


def test_every_picture_has_its_own_order_and_strengths() -> None:
    """All 24 orders in one batch, against torchvision's chains in floats, where nothing is rounded."""
    rng = np.random.default_rng(0)
    orders = [
        [(name, rng.uniform(-0.2, 0.2) if name == "hue" else rng.uniform(0.3, 1.7)) for name in order]
        for order in itertools.permutations(JITTER)
    ]
    images = batch([picture(i) for i in range(len(orders))])
    ours = retouched(images, [numbers(order) for order in orders])
    for image, order, got in zip(images, orders, ours, strict=True):
        truth = image.float() / 255
        for name, value in order:
            truth = JITTER[name](truth, value)
        # Its grey has weights of four digits. What is nearly grey has a hue that hangs on them.
        assert (got - 255 * truth).abs().mean() < 0.1
        assert (got - 255 * truth).abs().max() < 1.5


def test_grey_and_solarise() -> None:
    images = batch([picture(0), picture(1), picture(2)])
    ours = retouched(images, [numbers(grey=True), numbers(solarise=True), numbers()])
    assert (ours[0] - tv.rgb_to_grayscale(images[0], 3)).abs().max() < 1.05
    assert (ours[0][0] == ours[0][2]).all()
    torch.testing.assert_close(ours[1], tv.solarize(images[1], 128).float(), rtol=0, atol=1e-3)
    torch.testing.assert_close(ours[2], images[2].float(), rtol=0, atol=1e-3)


def test_blur_is_opencvs_with_a_kernel_for_each_picture() -> None:
    images = [picture(i) for i in range(4)]
    sigmas = (0.4, 1.0, 1.7, 2.0)
    ours = retouched(batch(images), [numbers(kernel=half_kernel(15, sigma)) for sigma in sigmas])
    for image, sigma, got in zip(images, sigmas, ours, strict=True):
        truth = cv2.GaussianBlur(image, (15, 15), sigma)
        assert (got - torch.from_numpy(truth).permute(2, 0, 1)).abs().max() < 1.01


def test_grey_comes_before_blur_and_solarise_last() -> None:
    image = picture(3)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    truth = cv2.GaussianBlur(grey.astype(np.float32), (9, 9), 1.2)
    truth = np.where(truth < 127.5, truth, 255 - truth)
    [ours] = retouched(batch([image]), [numbers(grey=True, solarise=True, kernel=half_kernel(9, 1.2))])
    assert np.abs(ours.numpy() - truth).max() < 1


def test_16_bits_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU computes in."""
    images = batch([picture(i) for i in range(12)])
    draw = Draw(STRONG, SIZE, 1)
    rows = []
    for i in range(12):
        rows.append(draw(images[i].numpy(), view_rng(0, 0, i, 0))[1])
    exact = retouched(images, rows)
    monkeypatch.setattr("densessl.data.device_photometric.DTYPES", {"cpu": torch.float16})
    error = (retouched(images, rows).float() - exact).abs()
    assert error.mean() < 0.5
    assert error.max() < 4


# --- the two forms ----------------------------------------------------------------------------------------------------


def both(cfg: PhotometricConfig, number: int, count: int, seeds: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """`count` views of each of 6 pictures, (6, count, 3, SIZE, SIZE) by the workers and by the device; and the rows."""
    workers = Photometric(cfg, SIZE, number)
    draw = Draw(cfg, SIZE, number)
    pictures = [picture(i) for i in range(6)]
    theirs, rows = [], []
    for i in range(6):
        for view in range(count):
            theirs.append(workers(pictures[i], view_rng(seeds[0], 0, i, view))[0])
            image, row = draw(pictures[i], view_rng(seeds[1], 0, i, view))
            assert image is pictures[i]
            rows.append(row)
    images = batch(pictures).repeat_interleave(count, 0)
    ours = torch.cat([retouch(*part) for part in zip(images.split(48), torch.tensor(rows).split(48), strict=True)])
    shape = (6, count, 3, SIZE, SIZE)
    return batch(theirs).float().view(shape), ours.view(shape), torch.tensor(rows)


@pytest.mark.parametrize("cfg", [USUAL, STRONG])
@pytest.mark.parametrize("number", [0, 1])
def test_the_same_random_numbers_do_the_same_to_a_view(cfg: PhotometricConfig, number: int) -> None:
    theirs, ours, _ = both(cfg, number, 10, (0, 0))
    error = (ours - theirs).abs().mean((2, 3, 4))
    assert error.max() < 5  # where all round and then saturation grows, by up to 1.8
    assert error.mean() < 1.5


def statistics(views: Tensor) -> dict[str, Tensor]:
    """(pictures, views) of each; grey and solarised are 0 or 1."""
    spread = views.amax(2) - views.amin(2)
    return {
        **{f"mean {c}": views[:, :, c].mean((2, 3)) for c in range(3)},
        **{f"std {c}": views[:, :, c].std((2, 3)) for c in range(3)},
        "saturation": (spread / views.amax(2).clamp(min=1)).mean((2, 3)),
        "gradient": views.diff(dim=-1).square().mean((2, 3, 4)) + views.diff(dim=-2).square().mean((2, 3, 4)),
        "grey": (spread.amax((2, 3)) < 0.01).float(),
        "dark": (views.amax((2, 3, 4)) < 128).float(),  # all that is solarised, and a little more
    }


@pytest.mark.parametrize("cfg", [USUAL, STRONG])
@pytest.mark.parametrize("number", [0, 1])
def test_the_two_forms_have_one_distribution(cfg: PhotometricConfig, number: int) -> None:
    """Other random numbers, and means and variances of all statistics within four standard errors of their difference.

    The pictures are the same for both, so that the error is that of the views of a picture.
    """
    count = 80
    theirs, ours, rows = both(cfg, number, count, (1, 2))
    for (name, a), b in zip(statistics(theirs).items(), statistics(ours).values(), strict=True):
        middle = torch.cat([a, b], 1).mean(1, keepdim=True)
        for power in (1, 2):
            x, y = ((v - middle) ** power for v in (a, b))
            error = ((x.var(1) + y.var(1)) / count).sum().sqrt() / 6
            difference = (x.mean() - y.mean()).abs()
            # One grey level is what rounding down in each of brightness and contrast may come to.
            assert difference <= 4 * error + (1 if name.startswith("mean") and power == 1 else 1e-6), (name, power)
    for name, share, p in (
        ("grey", statistics(ours)["grey"].mean(), cfg.grey_p),
        ("solarised", (rows[:, MIRROR] == 255).float().mean(), cfg.solarize_p[number]),
        ("blurred", (rows[:, KERNEL] < 1).float().mean(), cfg.blur_p[number]),
    ):
        assert abs(share - p) <= 4 * (p * (1 - p) / (6 * count)) ** 0.5, name


# --- loader and device ------------------------------------------------------------------------------------------------


class Noise:
    pixels = Pixels()

    def __init__(self, count: int) -> None:
        self.pictures = [picture(i, 100) for i in range(count)]

    def __len__(self) -> int:
        return len(self.pictures)

    def read(self, i: int, reduction: object = None) -> np.ndarray:
        return self.pictures[i]


def batches(
    where: str, steps: tuple[int, int] = (0, 5), base: PhotometricConfig = STRONG, **options: int
) -> list[Views]:
    cfg = base.model_copy(update={"where": where})
    loader = Loader(Noise(10), VIEWS, cfg, **{"batch": 4, "seed": 0, "workers": 0} | options)  # type: ignore[arg-type]
    return [views for _, views in loader.from_step(*steps)]


def crops(views: Views) -> list[Tensor]:
    return [view.image for view in views.large + views.small]


def test_workers_ship_plain_crops_and_a_row_each() -> None:
    for views, plain in zip(batches("device"), batches("workers", base=UNCHANGED), strict=True):
        assert all(map(torch.equal, crops(views), crops(plain)))
        assert [len(rows) for rows in views.photometric] == [4] * 5
        assert all(rows.dtype == torch.float32 for rows in views.photometric)
        assert not plain.photometric


def test_rows_are_as_reproducible_as_crops() -> None:
    whole = [views.photometric for views in batches("device")]
    by_workers = [views.photometric for views in batches("device", workers=2)]
    resumed = [views.photometric for views in batches("device", steps=(3, 5))]
    ranks = [[views.photometric for views in batches("device", rank=r, world_size=2)] for r in range(2)]
    together = [[torch.cat(parts) for parts in zip(*step, strict=True)] for step in zip(*ranks, strict=True)]
    for other, truth in ((by_workers, whole), (resumed, whole[3:]), (together, whole)):
        for a, b in zip(other, truth, strict=True):
            assert all(map(torch.equal, a, b))
    assert not torch.equal(whole[0][0], whole[1][0])


def test_through_the_loader_both_forms_look_alike() -> None:
    to_device = ToDevice("cpu", MEAN, STD)
    for ours, theirs in zip(batches("device"), batches("workers"), strict=True):
        for a, b in zip(crops(to_device(ours)), crops(to_device(theirs)), strict=True):
            assert (a - b).abs().mean() < 3 / (255 * min(STD))


def test_auto_is_the_device_where_training_has_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert on_device(PhotometricConfig())
    assert not on_device(UNCHANGED)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    assert not on_device(PhotometricConfig())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("DS_ACCELERATOR")
    assert not on_device(PhotometricConfig())
    assert on_device(PhotometricConfig(where="device"))
    for auto, workers in zip(batches("auto"), batches("workers"), strict=True):
        assert all(map(torch.equal, crops(auto), crops(workers)))
        assert not auto.photometric


def test_the_device_normalises_keeps_channels_last_and_waits_for_nothing() -> None:
    [views] = batches("device", steps=(0, 1))
    to_device = ToDevice("cpu", MEAN, STD)
    with Waits() as waits:
        moved = to_device(views)
    assert not waits.seen
    assert not moved.photometric
    assert [len(moved.large), len(moved.small)] == [2, 3]
    for got, view, rows in zip(moved.large + moved.small, views.large + views.small, views.photometric, strict=True):
        assert isinstance(got, View)
        torch.testing.assert_close(got.image, tv.normalize(retouch(view.image, rows) / 255, MEAN, STD))
        assert got.image.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(got.affine, view.affine)


def test_pictures_of_a_batch_do_not_touch_each_other() -> None:
    [views] = batches("device", steps=(0, 1))
    image, rows = views.large[0].image, views.photometric[0]
    alone = torch.cat([retouch(image[i : i + 1], rows[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(retouch(image, rows), alone, rtol=0, atol=1e-2)
