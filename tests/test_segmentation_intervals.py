"""Bootstrap intervals against a naive loop over the same draws, and how often they hold the truth."""

import math

import numpy as np
import pytest
import torch

from densessl.outcomes import Spread, spread_over_seeds
from densessl.segmentation.intervals import drawn, draws, spread
from densessl.segmentation.metrics import scores


def some_counts(pictures: int, seed: int, skill: float = 0.5) -> np.ndarray:
    """(pictures, 3, classes): the pictures differ in how hard they are, and the last class is on few of them."""
    same = np.random.default_rng(7)
    truth = same.integers(0, 400, (pictures, 3))
    truth[:, 2] *= same.random(pictures) < 0.2
    easy = same.beta(2, 2, (pictures, 1)) - 0.5
    right = np.random.default_rng(seed).binomial(truth, np.clip(skill + easy, 0, 1))
    predicted = right + np.roll(truth - right, 1, axis=1)
    return np.stack([right, truth, predicted], 1)


def naive_miou(counts: np.ndarray) -> float:
    right, truth, predicted = counts.sum(0)
    return float(np.mean([r / (t + p - r) for r, t, p in zip(right, truth, predicted, strict=True) if t + p > r]))


def miou(counts: np.ndarray, times: torch.Tensor) -> torch.Tensor:
    return scores(drawn(torch.from_numpy(counts), times))["miou"]


def test_intervals_equal_a_naive_loop():
    one, two = some_counts(12, 0), some_counts(12, 1)
    times = draws(12, count=300, seed=5)
    assert torch.equal(times, draws(12, count=300, seed=5))
    assert not torch.equal(times, draws(12, count=300, seed=6))
    pictures = [np.repeat(np.arange(12), row.int()) for row in times]
    assert pictures[0].tolist() == list(range(12))
    assert all(len(drawn) == 12 for drawn in pictures)
    assert len({tuple(drawn) for drawn in pictures}) > 290

    loops = np.array([[naive_miou(counts[drawn]) for drawn in pictures] for counts in (one, two)])
    values = torch.stack([miou(one, times), miou(two, times)])
    np.testing.assert_allclose(values.numpy(), loops)
    for rows, want in ((values[:1], loops[0]), (values[1:] - values[:1], loops[1] - loops[0])):
        found = spread(rows)
        assert found.mean == pytest.approx(want[0])
        assert (found.low, found.high) == pytest.approx(tuple(np.quantile(want[1:], [0.025, 0.975])))
    assert spread(values[:1]).std is None


def test_of_several_seeds_the_interval_is_students() -> None:
    """The quantiles are those of Student 1908's table; three seeds of the demo are the numbers."""
    table = {2: 12.7062, 3: 4.3027, 5: 2.7764, 11: 2.2281}
    for n, quantile in table.items():
        values = np.random.default_rng(n).normal(0.3, 0.1, n)
        mean = sum(values) / n
        std = (sum((value - mean) ** 2 for value in values) / (n - 1)) ** 0.5
        on_draws = torch.from_numpy(np.c_[values, np.random.default_rng(0).random((n, 20))])  # which say nothing then
        want = [mean, std, mean - quantile * std / n**0.5, mean + quantile * std / n**0.5]
        assert [*spread(on_draws)] == pytest.approx(want, rel=1e-4)
    low, high = spread_over_seeds([-0.008, 0.021, -0.014])[2:]
    assert low == pytest.approx(-0.0468, abs=1e-4)  # each one's interval over images left out zero
    assert high == pytest.approx(0.0462, abs=1e-4)
    assert spread_over_seeds([0.5, math.nan]) == (0.5, None, None, None)


def test_students_intervals_of_paired_seeds_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    seeds = rng.normal(0, 1, (2000, 3))  # what a seed does to both
    gains = (seeds + rng.normal(0.5, 0.2, seeds.shape)) - (seeds + rng.normal(0, 0.2, seeds.shape))
    found = [spread_over_seeds(gain.tolist()) for gain in gains]
    assert 0.935 <= np.mean([each.low <= 0.5 <= each.high for each in found]) <= 0.965


def test_pairs_cancel_what_pictures_share():
    times = draws(60, count=400)
    first = miou(some_counts(60, 0), times)
    better = miou(some_counts(60, 1, skill=0.53), times)
    assert spread((first - first)[None]) == Spread(0.0, None, 0.0, 0.0)
    paired = spread((better - first)[None])
    apart = torch.cat([first[:1], first[1:].roll(1)])
    mixed = spread((better - apart)[None])
    assert 0 < paired.low < paired.mean < paired.high
    assert paired.high - paired.low < 0.5 * (mixed.high - mixed.low)


def test_where_there_is_nothing_to_draw_from():
    assert spread(torch.full((2, 11), torch.nan)) == Spread(None, None, None, None)
    times = draws(1, count=10)
    counts = some_counts(1, 3)
    assert spread(miou(counts, times)[None])[2:] == pytest.approx([naive_miou(counts)] * 2)
    now_and_then = torch.tensor([[0.5, torch.nan, 0.4, 0.6]])
    assert spread(now_and_then)[2:] == pytest.approx((0.405, 0.595))
    nothing = torch.zeros(5, 3, 4, dtype=torch.int64)
    assert scores(drawn(nothing, draws(5, count=10)))["miou"].isnan().all()


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    def pictures(count: int, seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        truth = rng.integers(50, 400, (count, 3))
        right = rng.binomial(truth, rng.beta(3, 2, (count, 1)))
        return np.stack([right, truth, right + np.roll(truth - right, 1, axis=1)], 1)

    truth = naive_miou(pictures(200_000, 0))
    times = draws(80, count=400)
    trials = [spread(miou(pictures(80, seed), times)[None]) for seed in range(1, 301)]
    assert 0.91 <= np.mean([found.low <= truth <= found.high for found in trials]) <= 0.98
