"""Matching against loops and against pictures of coordinates."""

import pytest
import torch

from densessl.matching import cell_centers, nearest, take, unflipped


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
