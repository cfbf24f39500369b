"""The order of an epoch, as a table and as it is computed for large collections."""

import numpy as np
import pytest
from scipy import stats

from densessl.config import CropsConfig, PhotometricConfig, ViewsConfig
from densessl.data import order as module
from densessl.data.loader import Loader
from densessl.data.order import order
from densessl.data.pixels import Pixels

SIZES = [2, 3, 4, 5, 10, 97, 1000, 1023, 1024, 1025, 65_537, 99_999]


@pytest.fixture
def computed(monkeypatch):
    monkeypatch.setattr(module, "LARGE", 1)


def test_small_collections_keep_their_order():
    """Runs that were begun before go on with it."""
    for count, seed, epoch in [(1, 0, 0), (10, 0, 0), (1000, 3, 7)]:
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch,)))
        wanted = rng.permutation(np.arange(count, dtype=np.uint32))
        np.testing.assert_array_equal(order(count, seed, epoch)[:], wanted)


@pytest.mark.parametrize("count", SIZES)
def test_computed_order_is_a_permutation(computed, count):
    for seed in range(3):
        found = order(count, seed, 5)
        assert not isinstance(found, np.ndarray)
        np.testing.assert_array_equal(np.sort(found[:]), np.arange(count))


def test_parts_are_those_of_the_whole(computed):
    whole = order(10_007, 1, 2)[:]
    found = order(10_007, 1, 2)
    for part in [slice(0, 0), slice(0, 1), slice(17, 400), slice(9_990, 20_000)]:
        np.testing.assert_array_equal(found[part], whole[part])


def naive(count: int, seed: int, epoch: int, place: int) -> int:
    """The computed order in whole numbers of Python."""
    keys = np.random.SeedSequence(seed, spawn_key=(epoch,)).generate_state(8, np.uint64).tolist()
    a = next(a for a in range(int(count**0.5) - 1, count) if a * a >= count)
    b = next(b for b in range(a - 2, a + 1) if a * b >= count)
    while True:
        left, right = divmod(place, b)
        for number, key in enumerate(keys):
            x = ((left if number % 2 else right) + key) % 2**64
            x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
            x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
            x ^= x >> 31
            left, right = (left, (right + x) % b) if number % 2 else ((left + x) % a, right)
        place = left * b + right
        if place < count:
            return place


def test_a_hundred_million_take_no_memory():
    found = order(100_000_007, 0, 0)
    rows = found[99_999_000:100_000_007]
    assert len(set(rows.tolist())) == 1007
    assert rows.min() >= 0
    assert rows.max() < 100_000_007
    assert rows.tolist() == [naive(100_000_007, 0, 0, place) for place in range(99_999_000, 100_000_007)]


def test_seeds_and_epochs_differ(computed):
    whole = {key: order(5000, *key)[:] for key in [(0, 0), (0, 1), (1, 0), (1, 1)]}
    for a in whole:
        for b in whole:
            same = (whole[a] == whole[b]).sum()
            assert same == 5000 if a == b else same < 10  # one on average


def test_places_are_uniform(computed):
    """Chi-square over the cells of (place, row), each in 16 parts, for many keys."""
    table = np.zeros((16, 16))
    for seed in range(200):
        rows = order(1009, seed, 0)[:]
        np.add.at(table, (np.arange(1009) * 16 // 1009, rows * 16 // 1009), 1)
    sizes = np.bincount(np.arange(1009) * 16 // 1009)
    expected = 200 * np.outer(sizes, sizes) / 1009
    # Less than independent draws would vary, since each row and each place is taken once.
    statistic = ((table - expected) ** 2 / expected).sum() * 1008 / 1009
    assert 1e-4 < stats.chi2.sf(statistic, 15 * 15) < 1 - 1e-4


def test_one_place_takes_every_row(computed):
    counts = np.bincount([order(50, seed, 0)[7:8][0] for seed in range(5000)], minlength=50)
    assert stats.chisquare(counts).pvalue > 1e-4


def test_neighbours_do_not_stay_neighbours(computed):
    count = 20_011
    rows = order(count, 0, 0)[:].astype(np.int64)
    # The distance of two random rows on a circle is uniform; so are those of places at any small distance.
    for distance in (1, 2, 3, 142, 143):  # 142 is the base of the halves
        gaps = (rows[distance:] - rows[:-distance]) % count
        counts = np.histogram(gaps, 64, (0, count))[0]
        assert stats.chisquare(counts).pvalue > 1e-4
        assert (gaps == distance).sum() < 10
    assert abs(np.corrcoef(np.arange(count), rows)[0, 1]) < 4 / np.sqrt(count)


class Blank:
    pixels = Pixels()

    def __len__(self) -> int:
        return 1003

    def path(self, i: int) -> str:
        return str(i)

    def read(self, i: int, reduction: object = None) -> np.ndarray:
        return np.zeros((32, 32, 3), np.uint8)


def test_processes_share_a_computed_order(computed):
    views = ViewsConfig(large=CropsConfig(count=2, size=16, scale=(0.5, 1)))

    def rows(rank: int, world_size: int, workers: int) -> list[list[int]]:
        loader = Loader(
            Blank(), views, PhotometricConfig(), batch=8, seed=4, workers=workers, rank=rank, world_size=world_size
        )
        return [views.pictures.tolist() for _, views in loader.from_step(123, 128)]  # over the end of an epoch

    alone = rows(0, 1, 0)
    assert alone == rows(0, 1, 2)
    assert alone == [a + b for a, b in zip(rows(0, 2, 0), rows(1, 2, 0), strict=True)]
    wanted = [order(1003, 4, step // 125)[step % 125 * 8 :][:8].tolist() for step in range(123, 128)]
    assert alone == wanted
