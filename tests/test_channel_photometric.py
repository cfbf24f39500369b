"""Photometrics of channels against loops in float64, how often they come, and where they are used."""

import itertools
import math

import cv2
import numpy as np
import pytest
import torch

from densessl.config import ChannelsConfig, CropsConfig, PhotometricConfig, ViewsConfig, load_config
from densessl.data.channel_photometric import ChannelPhotometric
from densessl.data.device_photometric import Draw
from densessl.data.multi_crop import MultiCrop, view_rng
from densessl.data.photometric import Photometric
from densessl.data.pixels import Pixels
from densessl.errors import UserError

NOTHING = ChannelsConfig(p=0, gain=0, offset=0, gamma=0, noise_p=0, noise=0, drop_p=0)
WHITE = {np.uint8: 255, np.uint16: 65_535}
DTYPES = pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
CHANNELS = pytest.mark.parametrize("channels", [1, 2, 5, 16])


def photometric(size: int = 32, number: int = 0, blur: float = 0, sigma: tuple[float, float] = (0.1, 2.0), **channels):
    cfg = NOTHING.model_copy(update=channels)
    return ChannelPhotometric(PhotometricConfig(blur_p=(blur, blur), blur_sigma=sigma, channels=cfg), size, number)


def levels(channels: int, dtype: type, size: int = 32) -> np.ndarray:
    """Values from black to white in every channel, in another order each."""
    ramp = np.linspace(0, WHITE[dtype], size * size).round().astype(dtype)
    rng = np.random.default_rng(0)
    return np.stack([rng.permutation(ramp) for _ in range(channels)], 1).reshape(size, size, channels)


def changed(change: ChannelPhotometric, image: np.ndarray, number: int) -> np.ndarray:
    before = image.copy()
    after, row = change(image, view_rng(0, 0, number, 0))
    assert not len(row)
    assert after.dtype == image.dtype
    assert after.shape == image.shape
    np.testing.assert_array_equal(image, before)
    return after


# --- each effect ------------------------------------------------------------------------------------------------------


@DTYPES
@CHANNELS
def test_nothing_changes_nothing(channels, dtype):
    image = levels(channels, dtype)
    np.testing.assert_array_equal(changed(photometric(), image, 0), image)
    np.testing.assert_array_equal(changed(photometric(p=1, noise_p=1, blur=1, sigma=(0.1, 0.1)), image, 0), image)


@DTYPES
@CHANNELS
def test_gain_offset_and_gamma_are_those_of_a_loop(channels, dtype):
    """What was drawn is read off three levels of a flat picture, by the same random numbers."""
    change, white = photometric(p=1, gain=0.3, offset=0.08, gamma=0.4), WHITE[dtype]
    image = levels(channels, dtype)
    for number in range(5):
        exact = []  # of each level, in 16 bits
        for share in (0.0, 0.25, 0.5):
            flat = np.full((2, 2, channels), round(65_535 * share), np.uint16)
            exact.append(changed(change, flat, number)[0, 0] / 65_535)
        black, quarter, half = np.array(exact)
        seen = black > 0  # an offset below black can't be read off
        power = np.log((half - black) / (quarter - black))[seen] / math.log(2)
        if not seen.any():
            continue
        np.testing.assert_allclose(power, power[0], atol=5e-4)  # one for all channels
        assert math.exp(-0.4) - 1e-3 < power[0] < math.exp(0.4) + 1e-3
        after = changed(change, image, number)
        for channel in np.flatnonzero(seen):
            gain = (half[channel] - black[channel]) / 0.5 ** power[0]
            assert 0.7 - 1e-3 < gain < 1.3 + 1e-3
            assert black[channel] < 0.08 + 1e-4
            for value, got in zip(image[::5, ::5, channel].ravel(), after[::5, ::5, channel].ravel(), strict=True):
                truth = (float(value) / white) ** power[0] * gain + black[channel]
                assert abs(min(max(truth, 0), 1) * white - float(got)) < 0.51 + 3e-4 * white


@pytest.mark.parametrize("effect", ["gain", "offset", "gamma"])
def test_strengths_are_uniform_within_their_bounds(effect):
    change = photometric(p=1, **{effect: 0.3})
    drawn = []
    for number in range(2000):
        after = changed(change, np.full((1, 1, 3), 26_214, np.uint16), number)[0, 0] / 65_535  # 0.4
        if effect == "gamma":
            assert np.ptp(after) == 0
        else:
            assert np.ptp(after) > 0
        drawn += {"gain": after / 0.4 - 1, "offset": after - 0.4, "gamma": np.log(np.log(after) / math.log(0.4))}[
            effect
        ].tolist()
    assert np.abs(drawn).max() < 0.3 + 1e-3
    np.testing.assert_allclose(
        np.quantile(drawn, (0.1, 0.3, 0.5, 0.7, 0.9)), 0.3 * np.linspace(-0.8, 0.8, 5), atol=0.03
    )


@DTYPES
def test_noise_is_normal_and_each_pixels_own(dtype):
    """Blur, which comes before it, leaves it alone."""
    flat = np.full((64, 64, 2), WHITE[dtype] // 2, dtype)
    deviations = []
    for number in range(300):
        noise = (changed(photometric(noise_p=1, noise=0.1, blur=1), flat, number).astype(float) - flat) / WHITE[dtype]
        deviations.append(noise.std())
        assert abs(noise.mean()) < 5 * noise.std() / 90 + 1e-3
        if number < 20 and noise.std() > 0.02:
            assert abs((noise**4).mean() / noise.var() ** 2 - 3) < 0.4
            places = [noise[1:, 1:, 0], noise[1:, 1:, 1], noise[:-1, 1:, 0], noise[1:, :-1, 0]]
            assert np.abs(np.corrcoef([place.ravel() for place in places]) - np.eye(4)).max() < 0.08
    assert max(deviations) < 0.103
    np.testing.assert_allclose(np.quantile(deviations, (0.2, 0.5, 0.8)), (0.02, 0.05, 0.08), atol=0.012)


@DTYPES
@CHANNELS
def test_blur_is_a_gaussian_cut_where_that_of_colours_is(channels, dtype):
    """A point of light becomes the kernel, by a loop."""
    for size, sigma, reach in ((224, 2.0, 7), (224, 0.7, 2), (96, 2.0, 4), (48, 2.0, 2), (24, 2.0, 1)):
        image = np.zeros((size, size, channels), dtype)
        image[10, 12] = WHITE[dtype]
        after = changed(photometric(size, blur=1, sigma=(sigma, sigma)), image, 0)
        weights = [math.exp(-(i**2) / (2 * sigma**2)) for i in range(-reach, reach + 1)]
        truth = np.zeros((size, size))
        for i, j in itertools.product(range(2 * reach + 1), repeat=2):
            truth[10 + i - reach, 12 + j - reach] = weights[i] * weights[j] / sum(weights) ** 2
        np.testing.assert_allclose(after, np.repeat(truth[..., None], channels, 2) * WHITE[dtype], atol=0.51)
    picture = cv2.GaussianBlur(levels(3, np.uint8, 96), (0, 0), 1)
    colour = PhotometricConfig(jitter_p=0, grey_p=0, blur_p=(1, 1), blur_sigma=(1.5, 1.5), solarize_p=(0, 0))
    theirs, _ = Photometric(colour, 96, 0)(picture, view_rng(0, 0, 0, 0))
    ours = changed(photometric(96, blur=1, sigma=(1.5, 1.5)), picture, 0)
    assert np.abs(ours.astype(int) - theirs).max() <= 1


@DTYPES
def test_a_dropped_channel_is_its_mean_and_the_others_stay(dtype):
    """All that comes before it is the same with and without, by the same random numbers."""
    usual = {"p": 1, "gain": 0.4, "offset": 0.1, "gamma": 0.3, "noise_p": 1, "noise": 0.05, "blur": 0.5}
    image, counts = levels(4, dtype), np.zeros(4)
    for number in range(400):
        before = changed(photometric(**usual), image, number)
        after = changed(photometric(**usual, drop_p=1), image, number)
        (dropped,) = np.flatnonzero((after != before).any((0, 1)))
        assert np.ptp(after[..., dropped]) == 0
        assert abs(float(after[0, 0, dropped]) - before[..., dropped].mean()) < 1
        counts[dropped] += 1
    assert (np.abs(counts - 100) < 35).all()  # four standard deviations
    one = levels(1, dtype)
    np.testing.assert_array_equal(changed(photometric(drop_p=1), one, 0), one)  # nothing would be left


# --- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1, 2])
def test_effects_come_as_often_as_configured_and_independently(number):
    channels = ChannelsConfig(p=0.7, gain=0.4, offset=0, gamma=0, noise_p=0.3, noise=0.03, drop_p=0.2)
    cfg = PhotometricConfig(blur_p=(0.6, 0.1), blur_sigma=(0.8, 2.0), channels=channels)
    change = ChannelPhotometric(cfg, 32, number)
    picture = np.full((32, 32, 4), 12_000, np.uint16)
    picture[:, 16:] = 36_000
    seen = np.empty((2500, 4), bool)
    for i in range(len(seen)):
        after = changed(change, picture, i) / 12_000
        dropped = after[:, :8].mean((0, 1)) > after[:, 24:].mean((0, 1)) - 0.5
        left = after[..., ~dropped]
        flat = left[:, :12].mean((0, 1))
        gained = np.abs(flat - 1).max() > 0.03
        blurred = (left[:, 15].mean(0) - flat > 0.12).all()
        noisy = np.diff(left[:, :8], axis=0).any()
        seen[i] = gained, blurred, noisy, dropped.any()
        assert dropped.sum() <= 1
    truth = np.array([0.7, (0.6, 0.1)[number % 2], 0.3, 0.2])
    both = seen.T.astype(float) @ seen / len(seen)
    np.testing.assert_allclose(both, np.outer(truth, truth) + np.diag(truth * (1 - truth)), atol=0.04)


def test_16_bits_stay_16_bits():
    """Of a sensor with 12, each of the 4096 levels can still be told from the next."""
    ramp = np.arange(4096, dtype=np.uint16).reshape(64, 64, 1) * 8
    picture = ramp.repeat(2, 2)
    for number in range(20):
        after = changed(photometric(p=1, gain=0.4, offset=0, gamma=0.1), picture, number)
        assert (np.diff(after.reshape(4096, 2).astype(int), axis=0) > 0).all()


@CHANNELS
def test_views_follow_from_their_numbers(channels):
    views = ViewsConfig(
        large=CropsConfig(count=2, size=48, scale=(0.3, 1)), small=CropsConfig(count=2, size=24, scale=(0.05, 0.3))
    )
    picture = np.random.default_rng(0).integers(0, 65_536, (60, 80, channels), dtype=np.uint16)

    def made(seed, epoch, index):
        crops = MultiCrop(views, PhotometricConfig(), seed, Pixels(channels, range=((0, 1),)))
        images = [image for image, *_ in crops(picture, epoch, index)]
        assert [image.shape for image in images] == [(48, 48, channels)] * 2 + [(24, 24, channels)] * 2
        assert all(image.dtype == np.uint16 for image in images)
        return np.concatenate([image.ravel() for image in images])

    once = made(0, 2, 5)
    assert (once == made(0, 2, 5)).all()
    assert not any((once == made(*key)).all() for key in [(1, 2, 5), (0, 3, 5), (0, 2, 6)])


# --- where they are used ----------------------------------------------------------------------------------------------

RGB, SCALED = Pixels(3), Pixels(3, range=((0, 4095),))


@pytest.mark.parametrize(
    ("kind", "where", "pixels", "form"),
    [
        ("auto", "workers", RGB, Photometric),
        ("auto", "auto", RGB, Draw),
        ("colour", "auto", RGB, Draw),
        ("channels", "auto", RGB, ChannelPhotometric),
        ("auto", "auto", SCALED, ChannelPhotometric),
        ("auto", "auto", Pixels(3, percentiles=(1, 99)), ChannelPhotometric),
        ("auto", "auto", Pixels(1), ChannelPhotometric),
        ("auto", "workers", Pixels(5), ChannelPhotometric),
    ],
)
def test_three_channels_of_8_bits_are_colours_unless_told(kind, where, pixels, form, monkeypatch):
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    views = ViewsConfig(large=CropsConfig(count=2, size=32, scale=(0.3, 1)))
    crops = MultiCrop(views, PhotometricConfig(kind=kind, where=where), 0, pixels)
    for *_, used in crops.crops:
        assert type(used) is form
        assert bool(used.width) == (form is Draw)


FIVE = ["backbone.in_chans=5", "data.mean=[0, 0, 0, 0, 0]", "data.std=[1, 1, 1, 1, 1]"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([*FIVE, "photometric.kind=colour"], "kind=colour with backbone.in_chans=5: .*kind=channels or auto"),
        (["data.range=[[0, 4095]]", "photometric.kind=colour"], "kind=colour changes pictures of 8 bits, .*data.range"),
        (["data.percentiles=[1, 99]", "photometric.kind=colour"], "kind=channels or auto, which keeps all 16"),
        (["photometric.kind=channels", "photometric.where=device"], "photometric.where=workers or auto"),
        ([*FIVE, "photometric.where=device"], "where=device changes colours alone, .*where=workers or auto"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(words, told):
    with pytest.raises(UserError, match=told):
        load_config("vicregl_cnx_s_1gpu", ["data.path=scenes", *words])
    right = [word for word in words if not word.startswith("photometric")]
    load_config("vicregl_cnx_s_1gpu", ["data.path=scenes", *right])
