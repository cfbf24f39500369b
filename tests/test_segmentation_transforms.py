"""Picture and mask stay together through every transform, and nothing depends on who draws the numbers."""

import dataclasses

import numpy as np
import pytest
import torch

from densessl.segmentation.protocols import PROTOCOLS, find_protocol
from densessl.segmentation.transforms import (
    PHOTOMETRIC,
    inference_picture,
    normalise,
    photometric,
    random_crop,
    resize,
    training_sample,
)

PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def telling(height=60, width=84) -> tuple[np.ndarray, np.ndarray]:
    """A picture that stores its mask: blocks of classes in red, its own coordinates in green and blue."""
    y, x = np.mgrid[:height, :width]
    mask = (y // 20 * 5 + x // 12).astype(np.uint8)
    return np.stack([mask * 8, y * 3, x * 3], -1).astype(np.uint8), mask


@pytest.mark.parametrize("name", PROTOCOLS)
def test_picture_and_mask_stay_aligned(name):
    protocol = dataclasses.replace(PROTOCOLS[name], scale=None, crop=(64, 96), photometric=False)
    image, mask = telling()
    flipped = padded = 0
    for index in range(60):
        pixels, labels = training_sample(image, mask, protocol, *PLAIN, seed=0, epoch=0, index=index)
        assert pixels.shape == (3, 64, 96)
        assert labels.shape == (64, 96)
        assert (pixels.dtype, labels.dtype) == (torch.float32, torch.int64)
        inside = labels != 255
        told = (pixels[0] * 255 / 8)[inside]
        # Bilinear colours blend at the borders of blocks; a mask shifted by a pixel would fail here by far.
        assert ((told - labels[inside]).abs() < 0.51).float().mean() > 0.93
        assert (pixels[:, ~inside] == 0).all()
        padded += bool((~inside).any())
        rows, columns = inside.any(1).nonzero().flatten(), inside.any(0).nonzero().flatten()
        flipped += bool(pixels[2, rows[0], columns[0]] > pixels[2, rows[0], columns[-1]])
    assert 10 < flipped < 50
    assert 0 < padded < 60


@pytest.mark.parametrize("size", [(30, 42), (120, 168), (97, 61)])
def test_nearest_labels_lie_where_bilinear_pixels_lie(size):
    ramp = np.repeat(np.arange(84, dtype=np.uint8)[None], 60, 0)
    image, mask = resize(np.stack([ramp] * 3, -1), ramp, size)
    difference = image[..., 0].astype(float) - mask
    assert abs(difference).max() <= 1
    assert abs(difference[:, 2:-2].mean()) < 0.3  # a shift of half a source pixel would give 0.5


def test_crops_follow_the_share_of_one_class():
    mask = np.zeros((100, 100), np.uint8)
    mask[:, 60:] = 1
    mask[:30] = 255
    image = np.zeros((100, 100, 3), np.uint8)

    def shares(most: float) -> np.ndarray:
        rng, found = np.random.default_rng(0), []
        for _ in range(200):
            counts = np.bincount(random_crop(image, mask, (50, 50), most, rng)[1].ravel(), minlength=2)[:2]
            found.append(counts.max() / counts.sum())
        return np.asarray(found)

    assert (shares(0.75) < 0.75).all()
    assert (shares(1.0) > 0.9).mean() > 0.2
    only = random_crop(image, np.zeros_like(mask), (50, 50), 0.75, np.random.default_rng(0))
    assert only[0].shape == (50, 50, 3)  # no crop can do it: the last try counts


def test_samples_follow_from_seed_epoch_and_index_alone():
    image, mask = telling()
    protocol = dataclasses.replace(find_protocol("vicregl_convnext"), scale=None, crop=(40, 40))

    def sample(seed=0, epoch=0, index=0):
        return training_sample(image, mask, protocol, *PLAIN, seed=seed, epoch=epoch, index=index)[0]

    np.random.seed(1)
    torch.manual_seed(1)
    first = sample()
    np.random.seed(2)
    torch.manual_seed(2)
    assert torch.equal(first, sample())
    for other in (sample(seed=1), sample(epoch=1), sample(index=1)):
        assert not torch.equal(first, other)


def test_photometric_distortions_are_bounded():
    grey = np.full((8, 8, 3), (120, 100, 80), np.uint8)
    for transform in PHOTOMETRIC:
        assert 0.35 < np.mean([(color != grey[0, 0]).any() for color in _draws(transform, grey)]) < 0.65
    brightness = [int(color[0]) - 120 for color in _draws(PHOTOMETRIC[0], grey)]
    assert -33 <= min(brightness) < -20
    assert 20 < max(brightness) <= 33
    contrast = [color[0] / 120 for color in _draws(PHOTOMETRIC[1], grey)]
    assert 0.49 <= min(contrast) < 0.7
    assert 1.3 < max(contrast) <= 1.51


def test_every_photometric_distortion_has_its_own_seed(monkeypatch):
    """With one seed for all, which is what a Compose does, all four would fire together or not at all."""
    seeds = []

    class Coin:
        def set_random_seed(self, seed):
            seeds.append(seed)

        def __call__(self, image):
            return {"image": image}

    monkeypatch.setattr("densessl.segmentation.transforms.PHOTOMETRIC", [Coin()] * 4)
    for index in range(5):
        photometric(np.zeros((4, 4, 3), np.uint8), np.random.default_rng(index))
    assert len(set(seeds)) == 20


def _draws(transform, image) -> list[np.ndarray]:
    found = []
    for seed in range(200):
        transform.set_random_seed(seed)
        found.append(transform(image=image)["image"][0, 0])
    return found


def test_scale_keeps_the_aspect_ratio():
    protocol = find_protocol("vicregl_convnext")  # (2048, 512)
    for shape, size in (((500, 375), (683, 512)), ((100, 1000), (205, 2048)), ((512, 512), (512, 512))):
        assert inference_picture(np.zeros((*shape, 3), np.uint8), protocol, *PLAIN).shape == (3, *size)
    small = find_protocol("linear_small")
    assert inference_picture(np.zeros((97, 31, 3), np.uint8), small, *PLAIN).shape == (3, 97, 31)


def test_normalise():
    image = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.228, 0.224, 0.225)
    want = (image / 255 - np.asarray(mean)) / np.asarray(std)
    got = normalise(image, mean, std)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, atol=1e-5)
