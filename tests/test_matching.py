"""Matching against loops and against pictures of coordinates."""

import math
from collections import Counter

import pytest
import torch

from densessl.matching import cell_centers, close, crop_pairs, matches, nearest, take, unflipped


def crop(top: float, left: float, height: float, width: float, flip: bool = False) -> torch.Tensor:
    """The affine of one crop, written out."""
    x = [0, -width, left + width] if flip else [0, width, left]
    return torch.tensor([[[height, 0, top], x]])


def test_cell_centers_of_a_crop() -> None:
    centers = cell_centers(crop(10, 20, 70, 140), 7, 7)
    assert centers.shape == (1, 49, 2)
    for row in range(7):
        for column in range(7):
            assert centers[0, row * 7 + column].tolist() == [10 + 10 * row + 5, 20 + 20 * column + 10]


def test_a_mirrored_crop_has_mirrored_cells() -> None:
    plain = cell_centers(crop(3, 8, 60, 90), 3, 5).view(3, 5, 2)
    mirrored = cell_centers(crop(3, 8, 60, 90, flip=True), 3, 5).view(3, 5, 2)
    torch.testing.assert_close(mirrored, plain.flip(1))
    torch.testing.assert_close(cell_centers(unflipped(crop(3, 8, 60, 90, flip=True)), 3, 5).view(3, 5, 2), plain)
    torch.testing.assert_close(unflipped(crop(3, 8, 60, 90)), crop(3, 8, 60, 90))


def test_a_turned_view_needs_no_case_of_its_own() -> None:
    """A quarter turn: the view's rows run along the picture's columns."""
    affine = torch.tensor([[[0.0, 40, 0], [30.0, 0, 0]]])
    centers = cell_centers(affine, 3, 4).view(3, 4, 2)
    assert centers[2, 0].tolist() == [5, 25]


def test_cell_centers_keep_full_precision_under_autocast() -> None:
    affine = crop(1001, 2003, 224, 224, flip=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(cell_centers(affine, 7, 7), cell_centers(affine.double(), 7, 7).float())


@pytest.mark.parametrize("k", [None, 1, 4, 99])
def test_nearest_equals_a_loop(k: int | None) -> None:
    torch.manual_seed(0)
    a, b = torch.randn(3, 6, 4), torch.randn(3, 5, 4)
    ours_a, ours_b = nearest(a, b, k)
    for n in range(3):
        found = []
        for p in range(6):
            distances = [((a[n, p] - b[n, q]) ** 2).sum().sqrt().item() for q in range(5)]
            found.append((min(distances), p, distances.index(min(distances))))
        kept = sorted(sorted(found)[: k or 6], key=lambda pair: pair[1])
        assert ours_a[n].tolist() == [p for _, p, _ in kept]
        assert ours_b[n].tolist() == [q for _, _, q in kept]


def test_pairs_come_in_cell_order_and_ties_go_to_the_earlier_cell() -> None:
    a = torch.tensor([[[5.0], [0.0], [9.0], [0.0]]])
    b = torch.tensor([[[1.0], [1.0], [8.5]]])
    places, to = nearest(a, b, 2)
    assert places.tolist() == [[1, 2]]
    assert to.tolist() == [[0, 2]]
    assert take(a, places).flatten().tolist() == [0, 9]


def test_location_matches_of_overlapping_crops_are_the_same_places() -> None:
    """Two crops of 4 x 4 cells shifted by one cell, one mirrored: the twelve shared places match exactly."""
    a = cell_centers(crop(0, 0, 40, 40), 4, 4)
    b = cell_centers(crop(0, 10, 40, 40, flip=True), 4, 4)
    places, to = nearest(a, b, 12)
    assert torch.equal(take(a, places), take(b, to))


def test_matching_survives_large_coordinates() -> None:
    """A picture of 20,000 pixels: the product form of the distance would be off by whole cells here."""
    a = cell_centers(crop(19000, 19000, 7, 7), 7, 7)
    places, to = nearest(a, a)
    assert torch.equal(places, to)


# --- PixPro's pairs ---------------------------------------------------------------------------------------------------

Crop = tuple[float, float, float, float, bool]  # top, left, height, width, flip
# Overlapping, mirrored, one inside the other, apart, long and thin.
PAIRS: list[tuple[Crop, Crop]] = [
    ((10, 20, 60, 80, False), (25, 31, 64, 48, False)),
    ((10, 20, 60, 80, True), (25, 31, 64, 48, False)),
    ((10, 20, 60, 80, True), (25, 31, 64, 48, True)),
    ((0, 0, 200, 160, False), (90, 70, 20, 16, True)),
    ((0, 0, 30, 30, False), (100, 100, 30, 30, True)),
    ((5, 5, 100, 20, False), (40, 0, 20, 90, True)),
]


def naive_centers(box: Crop, rows: int, columns: int) -> list[tuple[float, float]]:
    top, left, height, width, flip = box
    centers = []
    for row in range(rows):
        for column in range(columns):
            across = (column + 0.5) * width / columns
            centers.append((top + (row + 0.5) * height / rows, left + (width - across if flip else across)))
    return centers


def naive_close(a: Crop, b: Crop, a_shape: tuple, b_shape: tuple, threshold: float) -> list[list[bool]]:
    """PixPro eq. 1: the distance of two cells' centres in the picture, over the diagonal of the larger cell."""
    cells = [math.hypot(box[2] / shape[0], box[3] / shape[1]) for box, shape in ((a, a_shape), (b, b_shape))]
    return [
        [math.dist(p, q) / max(cells) < threshold for q in naive_centers(b, *b_shape)]
        for p in naive_centers(a, *a_shape)
    ]


@pytest.mark.parametrize("threshold", [0.3, 0.7, 2.0])
@pytest.mark.parametrize(("a_shape", "b_shape"), [((7, 7), (7, 7)), ((3, 5), (4, 2))])
def test_close_equals_a_loop(a_shape: tuple[int, int], b_shape: tuple[int, int], threshold: float) -> None:
    a, b = (torch.cat([crop(*pair[side]) for pair in PAIRS]) for side in range(2))
    pairs = close(a, b, a_shape, b_shape, threshold)
    assert pairs.dtype == torch.bool
    assert pairs.tolist() == [naive_close(*pair, a_shape, b_shape, threshold) for pair in PAIRS]
    assert torch.equal(close(b, a, b_shape, a_shape, threshold), pairs.mT)
    assert not pairs[4].any()
    if threshold > 0.3:
        assert pairs[:4].any((1, 2)).all()


def test_a_crop_is_close_to_its_mirror_image_at_the_same_places() -> None:
    """At half a diagonal each square cell has only itself; the mirrored crop has it in the mirrored column."""
    pairs = close(crop(8, 8, 70, 70), crop(8, 8, 70, 70, flip=True), (7, 7), (7, 7), 0.5)
    mirrored = torch.arange(49).view(7, 7).flip(1).flatten()
    assert torch.equal(pairs[0], torch.eye(49, dtype=torch.bool)[mirrored])


def test_close_keeps_full_precision_under_autocast() -> None:
    a, b = crop(1001, 2003, 224, 224), crop(1003, 2001, 200, 210, flip=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = close(a, b, (7, 7), (7, 7), 0.7)
    assert torch.equal(inside, close(a, b, (7, 7), (7, 7), 0.7))


# --- pairs of crops ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("pivots", "crops"), [(1, 3), (2, 2), (2, 5), (3, 4)])
@pytest.mark.parametrize("counts", [(20, 4, 20), (20, 4, 4), (None, None, 4), (9, 9, 9)])
def test_each_pivot_meets_every_other_crop_both_ways(pivots: int, crops: int, counts: tuple) -> None:
    large, small, back = counts
    expected: Counter = Counter()
    for pivot in range(pivots):
        for other in range(crops):
            if other != pivot:
                expected[pivot, other, large] += 1
                expected[other, pivot, back if other < pivots else small] += 1
    pairs = crop_pairs(pivots, crops, large, small, back)
    assert pairs == expected
    assert pairs.total() == 2 * pivots * (crops - 1)


def test_pairs_of_two_large_crops_and_a_small_one() -> None:
    """VICRegL's paper: 20 matches from large maps, 4 from small ones. Its code: 4 on every way back."""
    assert crop_pairs(2, 3, 20, 4, 20) == {
        **{(0, 1, 20): 2, (1, 0, 20): 2},
        **{(0, 2, 20): 1, (1, 2, 20): 1, (2, 0, 4): 1, (2, 1, 4): 1},
    }
    assert crop_pairs(2, 3, 20, 4, 4) == {
        **{(0, 1, 20): 1, (1, 0, 4): 1, (1, 0, 20): 1, (0, 1, 4): 1},
        **{(0, 2, 20): 1, (1, 2, 20): 1, (2, 0, 4): 1, (2, 1, 4): 1},
    }


def statistic(rows: torch.Tensor) -> torch.Tensor:
    """Of matched rows (n, D), something that depends on which picture's match is which."""
    return (rows * rows.roll(1, 0).tanh()).mean()


@pytest.mark.parametrize("counts", [(5, 2, 5), (5, 2, 2), (None, None, 2), (99, 99, 99)])
@pytest.mark.parametrize("dim", [2, 12])
def test_matches_equal_a_loop_over_pairs_of_crops(counts: tuple, dim: int) -> None:
    """Terms of matches and of places by their shares: means over pairs of crops of means over their matches."""
    torch.manual_seed(0)
    sizes = [9, 9, 4, 4]
    cells = [torch.randn(3, size, 6, dtype=torch.float64) for size in sizes]
    places = [5 + torch.randn(3, size, dim, dtype=torch.float64) for size in sizes]
    of_pairs, of_sides, pairs = [], [], crop_pairs(2, 4, *counts)
    for (i, j, count), times in pairs.items():
        rows = []
        for n in range(3):
            distances = [[math.dist(p, q) for q in places[j][n].tolist()] for p in places[i][n].tolist()]
            found = sorted((min(row), p, row.index(min(row))) for p, row in enumerate(distances))[:count]
            kept = sorted((p, q) for _, p, q in found)
            rows.append([(cells[i][n, p], cells[j][n, q]) for p, q in kept])
        slots = [
            (torch.stack(a), torch.stack(b)) for a, b in (zip(*slot, strict=True) for slot in zip(*rows, strict=True))
        ]
        of_pairs += times * [sum(((a - b) ** 2).mean() for a, b in slots) / len(slots)]
        of_sides += times * [sum(statistic(a) + statistic(b) for a, b in slots) / len(slots) / 2]

    found = matches(places, pairs)
    rows = torch.cat([each.flatten(0, 1) for each in cells])
    squares = ((rows[found.a] - rows[found.b]) ** 2).mean((0, 2))
    torch.testing.assert_close(squares @ found.share, sum(of_pairs) / len(of_pairs))
    ours = torch.stack([statistic(rows[places]) for places in found.places.T])
    torch.testing.assert_close(ours @ found.weight, sum(of_sides) / len(of_sides))
    assert found.share.sum().item() == pytest.approx(1)


def test_maps_that_give_all_their_cells_stand_once_among_the_places() -> None:
    """Two large maps of 9 cells and two small ones of 4, all of whose cells count: 26 of their own, and 72 matched."""
    places = [torch.randn(3, size, 2) for size in (9, 9, 4, 4)]
    found = matches(places, crop_pairs(2, 4, None, None, None))
    pairs = 2 * 3 * 9 + 4 * 4  # from each large map to three others, from two small ones to two
    assert found.a.shape == found.b.shape == (3, pairs)
    assert found.places.shape == (3, pairs + 26)
    assert found.weight.sum().item() == pytest.approx(1)


def test_feature_matching_survives_a_large_mean() -> None:
    """Embeddings of norm 3000 that differ by less than 1: products would cancel."""
    torch.manual_seed(0)
    a, b = (1000 + 0.1 * torch.randn(2, 9, 16) for _ in range(2))
    assert torch.equal(nearest(a, b)[1], nearest(a.double(), b.double())[1])
