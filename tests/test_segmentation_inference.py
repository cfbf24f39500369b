"""The sliding window covers every pixel and equals the whole picture; the head equals BatchNorm on large maps."""

import numpy as np
import pytest
import torch
from test_segmentation_linear import Blocks
from torch import nn
from torch.nn.functional import avg_pool2d, interpolate

from densessl.backbones import Backbone
from densessl.segmentation import inference
from densessl.segmentation.heads import LinearHead, resized_moments
from densessl.segmentation.inference import dense_logits, predict, slide, windows
from densessl.segmentation.protocols import find_protocol
from densessl.segmentation.samples import InferenceSamples, TrainingSamples

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def test_windows_cover_every_pixel_of_200_random_sizes():
    rng = np.random.default_rng(0)
    for _ in range(200):
        height, width, window = (int(n) for n in rng.integers(1, 90, 3))
        stride = int(rng.integers(1, window + 1))
        covered = np.zeros((height, width), int)
        places = windows(height, width, window, stride)
        for top, left, h, w in places:
            assert (h, w) == (min(window, height), min(window, width))
            assert 0 <= top <= height - h
            assert 0 <= left <= width - w
            covered[top : top + h, left : left + w] += 1
        assert covered.min() >= 1
        assert len(set(places)) == len(places)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (50, 64), (37, 21)])
def test_one_window_equals_the_whole_picture(height, width):
    backbone, head = tiny()
    image = torch.randn(1, 3, height, width)
    whole = dense_logits(backbone, head, image)
    assert whole.shape == (1, 4, height, width)
    torch.testing.assert_close(slide(lambda b: dense_logits(backbone, head, b), image, 64, 40), whole)

    sliding = find_protocol("linear_small", ["inference=slide", "window=64", "stride=40"])
    args = (backbone, head, image[0])
    size = (height + 9, width - 5)
    assert torch.equal(predict(*args, sliding, size), predict(*args, find_protocol("linear_small"), size))


def test_overlaps_are_averaged():
    """Logits that don't depend on their surroundings are the same in every window, so the average is the function."""
    image = torch.randn(1, 3, 41, 67)
    torch.testing.assert_close(slide(lambda b: 3 * b - 1, image, 16, 9), 3 * image - 1)
    # Each window's own number: the result at a pixel is the mean over the windows that hold it.
    numbers = iter(range(10**6))
    got = slide(lambda b: torch.stack([torch.full_like(p[:1], next(numbers)) for p in b]), image, 16, 9)
    places = windows(41, 67, 16, 9)
    for y, x in [(0, 0), (20, 30), (40, 66), (9, 15)]:
        inside = [n for n, (t, left, h, w) in enumerate(places) if t <= y < t + h and left <= x < left + w]
        assert got[0, 0, y, x] == pytest.approx(np.mean(inside))


def test_labels_are_upsampled_where_they_lie():
    """A picture whose left half is bright, classified by brightness: the border stays in the middle at any size."""

    class Brightness(nn.Module):
        strides = (8,)

        def stages(self, image):
            return [avg_pool2d(image[:, :1], 8)]

    image = torch.zeros(3, 64, 64)
    image[:, :, :32] = 1
    head = lambda maps: torch.cat([maps[0], 1 - maps[0]], 1)  # noqa: E731
    labels = predict(Brightness(), head, image, find_protocol("linear_small"), (200, 301))
    truth = (torch.arange(301) >= 150).expand(200, -1)
    assert (labels != truth).float().mean() < 0.01


@pytest.mark.parametrize("features", ["stages", "last"])
@pytest.mark.parametrize("training", [True, False])
def test_the_head_is_batchnorm_and_convolution_on_the_concatenated_maps(features, training):
    torch.manual_seed(0)
    channels = (3, 4, 5, 6)
    maps = [2 + 3 * torch.randn(2, c, max(24 >> i, 5), 30 >> i) for i, c in enumerate(channels)]
    head = LinearHead(channels, 7, features=features).train(training)
    for parameter in head.parameters():
        nn.init.normal_(parameter)
    width = sum(head.channels)
    norm, conv = nn.BatchNorm2d(width).train(training), nn.Conv2d(width, 7, 1)
    norm.load_state_dict(head.norm.state_dict())
    conv.load_state_dict({"weight": head.classify.weight.detach().clone(), "bias": head.bias.detach().clone()})

    read = maps if features == "stages" else maps[-1:]
    same = [interpolate(m, read[0].shape[-2:], mode="bilinear", align_corners=False) for m in read]
    want, got = conv(norm(torch.cat(same, 1))), head(maps)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    want.square().mean().backward()
    got.square().mean().backward()
    pairs = [(head.norm.weight, norm.weight), (head.norm.bias, norm.bias), (head.bias, conv.bias)]
    for ours, theirs in [*pairs, (head.classify.weight, conv.weight)]:
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(head.norm.running_mean, norm.running_mean)
    torch.testing.assert_close(head.norm.running_var, norm.running_var)


@pytest.mark.parametrize("training", [True, False])
def test_a_head_without_batchnorm_is_a_convolution_on_the_concatenated_maps(training):
    torch.manual_seed(0)
    maps = [torch.randn(2, 3, 8, 8), 5 + torch.randn(2, 4, 4, 4)]
    head = LinearHead((3, 4), 5, norm=False).train(training)
    large = torch.cat([maps[0], interpolate(maps[1], (8, 8), mode="bilinear")], dim=1)
    expected = nn.functional.conv2d(large, head.classify.weight, head.bias)
    torch.testing.assert_close(head(maps), expected, rtol=1e-4, atol=1e-5)
    assert {name for name, p in head.named_parameters() if p.requires_grad} == {"classify.weight", "bias"}


def test_moments_of_a_resized_map_without_resizing_it():
    m = 100 + torch.randn(3, 4, 5, 7)
    large = interpolate(m, (31, 28), mode="bilinear", align_corners=False)
    mean, variance = resized_moments(m, 31, 28)
    torch.testing.assert_close(mean, large.mean((0, 2, 3)))
    torch.testing.assert_close(variance, large.var((0, 2, 3), correction=0), rtol=1e-3, atol=1e-5)


def test_dropout_drops_whole_channels_in_training_only():
    torch.manual_seed(0)
    head = LinearHead((64,), 2, features="last", dropout=0.5)
    maps = [torch.ones(1, 64, 6, 6)]
    nn.init.ones_(head.norm.bias)
    first, second = head(maps), head(maps)
    assert not torch.allclose(first, second)
    torch.testing.assert_close(first, first[..., :1, :1].expand_as(first))
    torch.testing.assert_close(head.eval()(maps), head(maps))


def tiny() -> tuple[Backbone, LinearHead]:
    torch.manual_seed(0)
    backbone = Backbone("test_resnet").eval()
    return backbone, LinearHead(backbone.channels, 4).eval()


def test_ratios_and_mirrored_pictures_are_averaged_as_probabilities():
    backbone, head = tiny()
    torch.manual_seed(0)
    image = torch.randn(3, 64, 96)
    protocol = find_protocol("linear_small", ["test_ratios=[1.0, 0.5]", "test_flip=true"])
    total = torch.zeros(4, 64, 96)
    for size in ((64, 96), (32, 48)):
        picture = interpolate(image[None], size, mode="bilinear")
        for mirrored in (False, True):
            with torch.no_grad():
                logits = dense_logits(backbone, head, picture.flip(-1) if mirrored else picture)
            logits = logits.flip(-1) if mirrored else logits
            total += interpolate(logits, (64, 96), mode="bilinear")[0].softmax(0) / 4
    assert torch.equal(predict(backbone, head, image, protocol, (64, 96)), total.argmax(0))


def test_masks_are_scored_at_the_protocols_size():
    samples = InferenceSamples(Blocks("val"), find_protocol("linear_small", ["scored=[16, 12]"]), MEAN, STD)
    _, mask = samples[0]
    expected = Blocks("val")[0][1]
    assert mask.shape == (16, 12)
    assert torch.equal(mask, torch.from_numpy(expected[2::4, 2::4]))  # blocks of 16 pixels, so any of them will do


@pytest.mark.parametrize(("fraction", "pictures"), [(1.0, 8), (0.5, 4), (0.01, 1)])
def test_a_fraction_of_the_training_pictures(fraction, pictures):
    protocol = find_protocol("linear_small", [f"fraction={fraction}"])
    chosen = []
    for seed in (0, 1):
        samples = TrainingSamples(Blocks("train"), protocol, seed, MEAN, STD)
        seen = {samples.index(number)[1] for number in range(len(samples))}
        assert len(seen) == pictures
        assert sorted(samples.index(number)[1] for number in range(pictures)) == sorted(seen)  # an epoch has each once
        chosen.append(seen)
    assert (chosen[0] == chosen[1]) == (fraction == 1)


@pytest.mark.parametrize("size", [(64, 96), (100, 301)])
def test_many_classes_are_compared_a_few_at_a_time(size, monkeypatch):
    """The labels are those of all classes at once, and no larger part is ever enlarged."""
    torch.manual_seed(0)
    backbone = Backbone("test_resnet").eval()
    head = LinearHead(backbone.channels, 37).eval()
    image = torch.randn(3, 64, 96)
    with torch.no_grad():
        logits = dense_logits(backbone, head, image[None])
    expected = interpolate(logits, size, mode="bilinear")[0].argmax(0)
    enlarged = []

    def counted(x, to, **kind):
        if tuple(to) == size:
            enlarged.append(x.shape[1])
        return interpolate(x, to, **kind)

    monkeypatch.setattr(inference, "interpolate", counted)
    assert torch.equal(predict(backbone, head, image, find_protocol("linear_small"), size), expected)
    if size != (64, 96):
        assert enlarged == [16, 16, 5]


def test_a_large_picture_passes_a_few_windows_at_a_time():
    seen = []

    def logits(batch):
        seen.append(len(batch))
        return batch[:, :2]

    slide(logits, torch.randn(1, 3, 300, 500), 32, 16)
    assert max(seen) == inference.WINDOWS_AT_ONCE
    assert sum(seen) == len(windows(300, 500, 32, 16)) > 100
