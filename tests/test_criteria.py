"""The criteria against a float64 implementation that forms every D x D matrix in a loop."""

import pytest
import torch
from torch import Tensor

from densessl import criteria
from densessl.methods.vicreg import global_terms


def naive_variance(z: Tensor) -> Tensor:
    """VICReg eq. 1, dimension by dimension; z (N, D) in float64."""
    hinges = []
    for column in z.unbind(1):
        var = sum((x - column.sum() / len(column)) ** 2 for x in column) / (len(column) - 1)
        hinges.append(torch.clamp(1 - torch.sqrt(var + 1e-4), min=0))
    return sum(hinges) / len(hinges)


def naive_covariance(z: Tensor) -> Tensor:
    """VICReg eq. 3 and 4 by the D x D matrix; z (N, D) in float64."""
    centered = z - z.sum(0) / len(z)
    matrix = sum(torch.outer(row, row) for row in centered) / (len(z) - 1)
    return (matrix**2 * (1 - torch.eye(z.shape[1], dtype=z.dtype))).sum() / z.shape[1]


NAIVE = {"variance": naive_variance, "covariance": naive_covariance}


@pytest.mark.parametrize("name", NAIVE)
@pytest.mark.parametrize(("n", "dim"), [(5, 12), (12, 5), (8, 8), (2, 3)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_value_and_gradient_equal_the_naive_form(name: str, n: int, dim: int, dtype: torch.dtype) -> None:
    torch.manual_seed(n * dim)
    z = 0.7 * torch.randn(n, dim, dtype=torch.float64) + 3
    exact = z.clone().requires_grad_()
    expected = NAIVE[name](exact)
    expected.backward()
    ours = z.to(dtype).requires_grad_()
    value = getattr(criteria, name)(ours)
    value.backward()
    tolerance = 1e-12 if dtype == torch.float64 else 2e-5
    torch.testing.assert_close(value.double(), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(ours.grad.double(), exact.grad, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", NAIVE)
@pytest.mark.parametrize(("n", "dim"), [(4, 9), (9, 4)])
def test_places_are_averaged(name: str, n: int, dim: int) -> None:
    z = torch.randn(n, 3, dim, dtype=torch.float64)
    expected = torch.stack([NAIVE[name](z[:, place]) for place in range(3)]).mean()
    torch.testing.assert_close(getattr(criteria, name)(z), expected)


@pytest.mark.parametrize("name", NAIVE)
@pytest.mark.parametrize("shape", [(6, 4), (6, 20), (6, 2, 5)])
def test_the_mean_over_processes_is_the_value_and_gradient_of_the_whole_batch(name: str, shape: tuple) -> None:
    whole = (0.5 * torch.randn(shape, dtype=torch.float64)).requires_grad_()
    value = getattr(criteria, name)(whole)
    value.backward()
    parts = [part.detach().clone().requires_grad_() for part in whole.chunk(3)]
    values = [getattr(criteria, name)(part, whole.detach()) for part in parts]
    for part_value in values:
        (part_value / 3).backward()  # the engine averages gradients
    torch.testing.assert_close(torch.stack(values).mean(), value)
    torch.testing.assert_close(torch.cat([part.grad for part in parts]), whole.grad)


@pytest.mark.parametrize("name", NAIVE)
def test_statistics_keep_full_precision_under_autocast(name: str) -> None:
    z = torch.randn(16, 32) + 5
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = getattr(criteria, name)(z)
    assert inside.dtype == torch.float32
    assert inside == getattr(criteria, name)(z)
    assert getattr(criteria, name)(z.bfloat16()).dtype == torch.float32


def test_random_normal_embeddings_have_the_expected_covariance() -> None:
    """For N(0, 1) the penalty is about (D - 1) / (N - 1)."""
    torch.manual_seed(0)
    assert criteria.covariance(torch.randn(64, 512)).item() == pytest.approx(511 / 63, rel=0.02)
    assert criteria.variance(torch.randn(4096, 32)).item() == pytest.approx(0.005, abs=0.005)


def test_one_picture_has_no_statistics() -> None:
    with pytest.raises(ValueError, match="at least 2 pictures"):
        criteria.variance(torch.randn(1, 4))


def test_global_terms_average_pairs_and_views() -> None:
    views = list(torch.randn(4, 6, 5, dtype=torch.float64))
    s, v, c = global_terms(views, pivots=2)
    pairs = [(0, 1), (0, 2), (0, 3), (1, 0), (1, 2), (1, 3)]
    torch.testing.assert_close(s, sum(((views[i] - views[j]) ** 2).mean() for i, j in pairs) / 6)
    torch.testing.assert_close(v, sum(map(naive_variance, views)) / 4)
    torch.testing.assert_close(c, sum(map(naive_covariance, views)) / 4)
