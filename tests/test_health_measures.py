"""Each measure against its definition, written out in float64 with numpy."""

from itertools import combinations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from densessl.data.views import View, Views
from densessl.health import measures
from densessl.health.places import SHARED, place_sums
from densessl.health.values import ASSIGNED, ROWS, values

Array = NDArray[np.float64]


def rows(n: int, dim: int, rank: int, seed: int = 0, offset: float = 0.5) -> Tensor:
    """Rows in a random ``rank`` of ``dim`` dimensions, and a little in all of them."""
    random = np.random.default_rng(seed)
    parts = random.normal(size=(n, rank)) @ random.normal(size=(rank, dim))
    return torch.from_numpy((parts + 0.01 * random.normal(size=(n, dim)) + offset).astype(np.float32))


CASES = {
    "few rows": rows(12, 40, 5),
    "many rows": rows(60, 7, 3),
    "some dead": rows(30, 10, 10) * torch.tensor([1.0] * 7 + [1e-4, 0, 1]),
    "of one length": torch.nn.functional.normalize(rows(20, 20, 20)),
}


def unit(z: Array) -> Array:
    return z / np.linalg.norm(z, axis=1, keepdims=True)


def naive(z: Array) -> dict[str, float]:
    _n, dim = z.shape
    shares = np.linalg.svd(z, compute_uv=False)
    shares = shares[shares > 1e-7 * shares[0]] / shares.sum()
    deviations = z.std(0, ddof=1)
    lives = deviations > 0
    correlations = np.zeros((dim, dim))
    correlations[np.ix_(lives, lives)] = np.corrcoef(z[:, lives], rowvar=False)
    u = unit(z)
    return {
        "norm": float(np.mean([np.sqrt((row**2).sum()) for row in z])),
        "std": float(deviations.mean()),
        "unit_std": float(u.std(0, ddof=1).mean() * np.sqrt(dim)),
        "dead": float(np.mean(deviations <= 0.01 * np.sqrt((z**2).mean()))),
        "correlation": float(np.sqrt(np.mean([correlations[pair] ** 2 for pair in combinations(range(dim), 2)]))),
        "uniformity": float(np.log(np.mean([np.exp(-2 * ((a - b) ** 2).sum()) for a, b in combinations(u, 2)]))),
        "rank": float(np.exp(-(shares * np.log(shares)).sum())),
    }


@pytest.mark.parametrize("case", CASES)
def test_measures_of_rows(case: str) -> None:
    found = {name: value.item() for name, value in measures.of_rows(CASES[case]).items()}
    assert found == pytest.approx(naive(CASES[case].double().numpy()), rel=1e-6)


def test_the_rank_is_that_of_what_the_rows_span() -> None:
    """Of equal singular values it is their number; of one direction it is 1, in whatever precision it came."""
    orthogonal = torch.linalg.qr(torch.randn(50, 50, generator=torch.Generator().manual_seed(0)))[0]
    assert measures.of_rows(orthogonal[:9])["rank"] == pytest.approx(9, rel=1e-5)
    assert measures.of_rows(orthogonal[:1].repeat(40, 1))["rank"] == pytest.approx(1, abs=1e-5)


def test_measures_of_two_views() -> None:
    a, b = CASES["many rows"], rows(60, 7, 3, seed=1)
    u, v = unit(a.double().numpy()), unit(b.double().numpy())
    assert measures.alignment(a, b).mean().item() == pytest.approx(((u - v) ** 2).sum(1).mean())
    assert measures.strangers(a, b).item() == pytest.approx(np.mean([((x - y) ** 2).sum() for x in u for y in v]))


def test_the_use_of_prototypes() -> None:
    scores = 3 * torch.randn(10, 6, generator=torch.Generator().manual_seed(0))
    p = np.exp(scores.double().numpy())
    p /= p.sum(1, keepdims=True)
    found = measures.usage(*measures.assignments(scores))
    assert found["used"].item() == pytest.approx(np.exp(-(p.mean(0) * np.log(p.mean(0))).sum()))
    assert found["of_one"].item() == pytest.approx(np.exp(np.mean([-(row * np.log(row)).sum() for row in p])))


def test_places_are_compared_where_both_views_have_them() -> None:
    """3 x 4 cells of crops of two pictures, one of them mirrored, one partly outside the other."""
    random = np.random.default_rng(0)
    a_affine = np.array([[[60.0, 0, 5], [0, 80, 3]], [[60, 0, 0], [0, 80, 10]]])
    b_affine = np.array([[[66.0, 0, 8], [0, -76, 83]], [[30, 0, 20], [0, 40, 50]]])
    a, b = random.normal(size=(2, 2, 12, 5))
    count, agreement, distance, alignment = 0, 0.0, 0.0, 0.0
    for i in range(2):
        centers = [
            [affine @ [(y + 0.5) / 3, (x + 0.5) / 4, 1] for y in range(3) for x in range(4)]
            for affine in (a_affine[i], b_affine[i])
        ]
        side = np.sqrt(abs(b_affine[i, 0, 0] * b_affine[i, 1, 1]) / 12)
        for p in range(12):
            gaps = [np.linalg.norm(centers[0][p] - center) / side for center in centers[1]]
            where, alike = int(np.argmin(gaps)), int(np.argmin(np.linalg.norm(a[i, p] - b[i], axis=1)))
            if gaps[where] <= SHARED:
                count += 1
                agreement += where == alike
                distance += gaps[alike]
                alignment += ((unit(a[i, p : p + 1]) - unit(b[i, where : where + 1])) ** 2).sum()
    assert 4 < count < 24
    tensors = [torch.from_numpy(x).float() for x in (a, b, a_affine, b_affine)]
    found = place_sums(tensors[0], tensors[1], tensors[2], tensors[3], (3, 4))
    assert found.shape == (1, 4)
    assert found[0].tolist() == pytest.approx([count, agreement, distance, alignment], rel=1e-5)


def test_views_of_one_crop_agree_wholly() -> None:
    maps = torch.randn(4, 6, 3, 3, generator=torch.Generator().manual_seed(0))
    view = View(torch.empty(4, 3, 96, 96), torch.tensor([[[50.0, 0, 0], [0, 50, 0]]] * 4))
    found = values({"maps": [maps, maps]}, Views([view, view], []))
    assert found["health/local_agreement"] == 1
    assert found["health/local_chance"] == pytest.approx(1 / 9)
    assert found["health/local_distance"] == found["health/backbone_alignment"] == pytest.approx(0, abs=1e-9)
    expected = {f"health/local_{k}": v for k, v in naive(maps.flatten(2).mT.flatten(0, 1).double().numpy()).items()}
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    assert not any(name.startswith("health/global") for name in found)


def test_rows_are_bounded_and_what_is_not_finite_is_left_out() -> None:
    random = torch.Generator().manual_seed(0)
    maps = torch.randn(1500, 4, 2, 2, generator=random)
    broken = torch.full((1500, 5), torch.nan)
    views = Views([View(maps, torch.rand(1500, 2, 3, generator=random))] * 2, [])
    shown = {"maps": [maps], "global": [broken, broken], "prototypes": [torch.randn(1500, 3, generator=random)]}
    found = values(shown, views)
    assert found["health/backbone_rows"] == found["health/local_rows"] == ROWS
    assert found["health/prototypes_rows"] == ASSIGNED
    assert not any(name.startswith(("health/global", "health/local_agreement")) for name in found)
