"""The criteria against float64 loops written from the papers' equations."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from densessl import criteria
from densessl.terms import invariance_of_pairs, variance_and_covariance


def naive_variance(z: Tensor, gamma: float = 1.0) -> Tensor:
    """VICReg eq. 1, dimension by dimension; z (N, D) in float64."""
    hinges = []
    for column in z.unbind(1):
        var = sum((x - column.sum() / len(column)) ** 2 for x in column) / (len(column) - 1)
        hinges.append(torch.clamp(gamma - torch.sqrt(var + 1e-4), min=0))
    return sum(hinges) / len(hinges)


def naive_covariance(z: Tensor) -> Tensor:
    """VICReg eq. 3 and 4 by the D x D matrix; z (N, D) in float64."""
    centered = z - z.sum(0) / len(z)
    matrix = sum(torch.outer(row, row) for row in centered) / (len(z) - 1)
    return (matrix**2 * (1 - torch.eye(z.shape[1], dtype=z.dtype))).sum() / z.shape[1]


NAIVE = {"variance": naive_variance, "covariance": naive_covariance}


def statistic(name: str, z: Tensor, everyone: Tensor | None = None, first: int = 0, gamma: float = 1.0) -> Tensor:
    """Ours for z (n, D) or (n, L, D), a place a row: scattered rows among others that no place names; averaged."""

    def scattered(z: Tensor) -> tuple[Tensor, Tensor]:
        z = z if z.ndim == 3 else z[:, None]
        order = torch.randperm(z.shape[0] * z.shape[1], generator=torch.Generator().manual_seed(0))
        rows = torch.cat([z.flatten(0, 1)[order], z.new_full((2, z.shape[2]), 99)])
        return rows, order.argsort().view(z.shape[:2])

    others = () if everyone is None else scattered(everyone)
    values = criteria.variance_and_covariance(*scattered(z), *others, first=first, gamma=gamma)
    return values[list(NAIVE).index(name)].mean()


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
    value = statistic(name, ours)
    value.backward()
    tolerance = 1e-12 if dtype == torch.float64 else 2e-5
    torch.testing.assert_close(value.double(), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(ours.grad.double(), exact.grad, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", NAIVE)
@pytest.mark.parametrize(("n", "dim"), [(4, 9), (9, 4)])
def test_places_have_values_and_gradients_of_their_own(name: str, n: int, dim: int, monkeypatch: Any) -> None:
    """Places share rows, and count differently; pieces of two places, as large collections are cut."""
    monkeypatch.setattr("densessl.places._chunks", lambda _, *indices: zip(*(i.split(2) for i in indices), strict=True))
    rows = torch.randn(3 * n, dim, dtype=torch.float64, requires_grad=True)
    places = torch.randint(3, (n, 5)) + 3 * torch.arange(n)[:, None]
    weight = torch.rand(5, dtype=torch.float64)
    values = criteria.variance_and_covariance(rows, places)[list(NAIVE).index(name)]
    expected = torch.stack([NAIVE[name](rows[places[:, place]]) for place in range(5)])
    torch.testing.assert_close(values, expected)
    ours, truth = (torch.autograd.grad(each @ weight, rows)[0] for each in (values, expected))
    torch.testing.assert_close(ours, truth)


def test_invariance_of_matches_equals_a_loop() -> None:
    rows = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
    a, b = torch.randint(9, (2, 3, 6))
    values = criteria.place_invariance(rows, a, b)
    loop = [sum(((rows[a[n, m]] - rows[b[n, m]]) ** 2).sum() for n in range(3)) / 12 for m in range(6)]
    torch.testing.assert_close(values, torch.stack(loop))
    weight = torch.rand(6, dtype=torch.float64)
    ours, truth = (torch.autograd.grad(each @ weight, rows)[0] for each in (values, torch.stack(loop)))
    torch.testing.assert_close(ours, truth)


@pytest.mark.parametrize("name", NAIVE)
@pytest.mark.parametrize("shape", [(6, 4), (6, 20), (6, 2, 5), (12, 3, 2)])
def test_the_mean_over_processes_is_the_value_and_gradient_of_the_whole_batch(name: str, shape: tuple) -> None:
    whole = (0.5 * torch.randn(shape, dtype=torch.float64)).requires_grad_()
    value = statistic(name, whole)
    value.backward()
    parts = [part.detach().clone().requires_grad_() for part in whole.chunk(3)]
    values = [statistic(name, part, whole.detach(), i * len(part)) for i, part in enumerate(parts)]
    for part_value in values:
        (part_value / 3).backward()  # the engine averages gradients
    torch.testing.assert_close(torch.stack(values).mean(), value)
    torch.testing.assert_close(torch.cat([part.grad for part in parts]), whole.grad)


@pytest.mark.parametrize("name", NAIVE)
def test_statistics_keep_full_precision_under_autocast(name: str) -> None:
    z = torch.randn(16, 32) + 5
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = statistic(name, z)
    assert inside.dtype == torch.float32
    assert inside == statistic(name, z)
    assert statistic(name, z.bfloat16()).dtype == torch.float32


def test_random_normal_embeddings_have_the_expected_covariance() -> None:
    """For N(0, 1) the penalty is about (D - 1) / (N - 1)."""
    torch.manual_seed(0)
    assert statistic("covariance", torch.randn(64, 512)).item() == pytest.approx(511 / 63, rel=0.02)
    assert statistic("variance", torch.randn(4096, 32)).item() == pytest.approx(0.005, abs=0.005)


def test_one_picture_has_no_statistics() -> None:
    with pytest.raises(ValueError, match="at least 2 pictures"):
        statistic("variance", torch.randn(1, 4))


def test_global_terms_average_pairs_and_views() -> None:
    views = list(torch.randn(4, 6, 5, dtype=torch.float64))
    s, (v, c) = invariance_of_pairs(views, views, pivots=2), variance_and_covariance(views)()
    pairs = [(0, 1), (0, 2), (0, 3), (1, 0), (1, 2), (1, 3)]
    torch.testing.assert_close(s, sum(((views[i] - views[j]) ** 2).mean() for i, j in pairs) / 6)
    torch.testing.assert_close(v, sum(map(naive_variance, views)) / 4)
    torch.testing.assert_close(c, sum(map(naive_covariance, views)) / 4)


# --- the other equations ----------------------------------------------------------------------------------------------


def unit(row: Tensor) -> Tensor:
    return row / row.square().sum().sqrt()


def shares(logits: list[Tensor]) -> Tensor:
    """What every contrastive loss is made of: the exponentials' shares of their sum."""
    exponentials = torch.exp(torch.stack(logits))
    return exponentials / exponentials.sum()


def minus_log_share(logits: list[Tensor], positive: int) -> Tensor:
    return -torch.log(shares(logits)[positive])


def naive_barlow_twins(a: Tensor, b: Tensor, lambd: float) -> Tensor:
    """Barlow Twins eq. 1, with the entries of C as eq. 2 has them for rows that are normalised already."""
    total = torch.zeros((), dtype=a.dtype)
    for i in range(a.shape[1]):
        for j in range(a.shape[1]):
            c = sum(a[:, i] * b[:, j]) / len(a)
            total = total + ((1 - c) ** 2 if i == j else lambd * c**2)
    return total


def naive_whitened(z: Tensor, eps: float = 0.0) -> Tensor:
    """W-MSE: W (v - mean) where W'W is the inverse of the covariance; W = L^-1 of Cholesky's L, row by row."""
    if z.ndim > 2:
        return torch.stack([naive_whitened(part, eps) for part in z])
    dim = z.shape[1]
    centered = z - sum(z) / len(z)
    sigma = sum(torch.outer(row, row) for row in centered) / (len(z) - 1)
    sigma = (1 - eps) * sigma + eps * torch.eye(dim, dtype=z.dtype)
    low: list[list[Tensor]] = []
    for i in range(dim):
        low.append([])
        for j in range(i + 1):
            rest = sigma[i, j] - sum(low[i][k] * low[j][k] for k in range(j))
            low[i].append(rest.sqrt() if i == j else rest / low[j][j])
    rows = []
    for row in centered:
        white: list[Tensor] = []
        for i in range(dim):
            white.append((row[i] - sum(low[i][k] * white[k] for k in range(i))) / low[i][i])
        rows.append(torch.stack(white))
    return torch.stack(rows)


def naive_similarity(a: Tensor, b: Tensor) -> Tensor:
    if a.ndim > 2:
        return torch.stack([naive_similarity(*pair) for pair in zip(a, b, strict=True)])
    return torch.stack([torch.stack([(x * y).sum() / (x.norm() * y.norm()) for y in b]) for x in a])


def naive_cosine(a: Tensor, b: Tensor) -> Tensor:
    pairs = list(zip(a.flatten(0, -2), b.flatten(0, -2), strict=True))
    return sum((unit(x) * unit(y)).sum() for x, y in pairs) / len(pairs)


def naive_propagated(x: Tensor, values: Tensor, power: float) -> Tensor:
    """PixPro eq. 3 and 4, place by place, with values of unit length as its code has them."""
    out = torch.zeros_like(values)
    for n in range(len(x)):
        for i, row in enumerate(x[n]):
            for j, other in enumerate(x[n]):
                cosine = unit(row) @ unit(other)
                if cosine > 0:
                    out[n, i] = out[n, i] + cosine**power * unit(values[n, j])
    return out


def naive_contrast(query: Tensor, keys: Tensor, tau: float, first: int = 0) -> Tensor:
    """MoCo v3 eq. 1 (without its 2 tau)."""
    losses = [minus_log_share([unit(q) @ unit(k) / tau for k in keys], first + i) for i, q in enumerate(query)]
    return sum(losses) / len(losses)


def naive_nt_xent(a: Tensor, b: Tensor, tau: float) -> Tensor:
    """SimCLR eq. 1, over all 2N ordered pairs; with places, the mean of their losses."""
    if a.ndim > 2:
        return sum(naive_nt_xent(x, y, tau) for x, y in zip(a.unbind(1), b.unbind(1), strict=True)) / a.shape[1]
    views, n = [unit(row) for row in (*a, *b)], len(a)
    total = torch.zeros((), dtype=a.dtype)
    for i, view in enumerate(views):
        others = [k for k in range(2 * n) if k != i]
        total = total + minus_log_share([view @ views[k] / tau for k in others], others.index((i + n) % (2 * n)))
    return total / (2 * n)


def naive_info_nce(query: Tensor, key: Tensor, negatives: Tensor, tau: float) -> Tensor:
    """MoCo eq. 1: one positive, then the negatives."""
    losses = []
    for q, k in zip(query, key, strict=True):
        losses.append(minus_log_share([unit(q) @ unit(other) / tau for other in (k, *negatives)], 0))
    return sum(losses) / len(losses)


def naive_sinkhorn(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """SwAV eq. 3 to 5 and its appendix: the plan's rows come to 1 / K and its columns to 1 / B, in turns."""
    (rows, clusters), plan = scores.shape, [[math.exp(s / epsilon) for s in row] for row in scores.T.tolist()]
    for _ in range(iterations):
        plan = [[x / sum(row) / clusters for x in row] for row in plan]
        sums = [sum(column) for column in zip(*plan, strict=True)]
        plan = [[x / s / rows for x, s in zip(row, sums, strict=True)] for row in plan]
    return torch.tensor(plan, dtype=torch.float64).T * rows


EQUATIONS = {
    "variance": naive_variance,
    "barlow_twins": naive_barlow_twins,
    "whitened": naive_whitened,
    "cosine": naive_cosine,
    "similarity": naive_similarity,
    "propagated": naive_propagated,
    "contrast": naive_contrast,
    "nt_xent": naive_nt_xent,
    "info_nce": naive_info_nce,
}
CASES: list[tuple[str, list[tuple[int, ...]], dict[str, Any]]] = [
    *[
        case
        for n, dim in [(4, 9), (9, 4), (6, 6), (2, 3)]
        for case in (
            ("variance", [(n, dim)], {"gamma": 0.4}),
            ("variance", [(n, dim)], {"gamma": 2.5}),
            ("barlow_twins", [(n, dim)] * 2, {"lambd": 0.3}),
            ("cosine", [(n, dim)] * 2, {}),
            ("similarity", [(n, dim), (n + 2, dim)], {}),
            ("contrast", [(n, dim)] * 2, {"tau": 0.3}),
            ("contrast", [(n, dim), (n + 3, dim)], {"tau": 1.0, "first": 2}),
            ("nt_xent", [(n, dim)] * 2, {"tau": 0.2}),
            ("info_nce", [(n, dim), (n, dim), (7, dim)], {"tau": 0.2}),
        )
    ],
    ("whitened", [(12, 4)], {}),
    ("whitened", [(6, 9)], {"eps": 0.5}),
    ("whitened", [(2, 3, 12, 3)], {"eps": 0.1}),
    ("cosine", [(2, 3, 5)] * 2, {}),
    ("similarity", [(2, 3, 5), (2, 4, 5)], {}),
    ("propagated", [(2, 5, 3), (2, 5, 4)], {"power": 2.0}),
    ("propagated", [(2, 4, 6), (2, 4, 2)], {"power": 1.0}),
    ("propagated", [(2, 4, 3), (2, 4, 2)], {"power": 0.5}),
    ("nt_xent", [(4, 3, 9)] * 2, {"tau": 0.2}),
    ("nt_xent", [(7, 3, 2)] * 2, {"tau": 0.5}),
]
NAMES = [f"{name}-{'-'.join('x'.join(map(str, shape)) for shape in shapes)}" for name, shapes, _ in CASES]


def rows_of(shapes: list[tuple[int, ...]]) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(shape, dtype=torch.float64) + 0.3 for shape in shapes]


def criterion(name: str) -> Any:
    return partial(statistic, name) if name in NAIVE else getattr(criteria, name)


@pytest.mark.parametrize(("name", "shapes", "named"), CASES, ids=NAMES)
def test_value_and_gradient_equal_the_equation(name: str, shapes: list, named: dict) -> None:
    exact = [z.requires_grad_() for z in rows_of(shapes)]
    expected = EQUATIONS[name](*exact, **named)
    weights = torch.randn_like(expected)
    (expected * weights).sum().backward()
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 2e-5)):
        ours = [z.to(dtype).requires_grad_() for z in rows_of(shapes)]
        value = criterion(name)(*ours, **named)
        assert value.dtype == dtype
        (value * weights.to(dtype)).sum().backward()
        torch.testing.assert_close(value.double(), expected, rtol=tolerance, atol=tolerance)
        for z, truth in zip(ours, exact, strict=True):
            torch.testing.assert_close(z.grad.double(), truth.grad, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("name", "shapes", "named"), CASES, ids=NAMES)
def test_bf16_rows_are_computed_in_fp32_under_autocast(name: str, shapes: list, named: dict) -> None:
    rounded = [z.bfloat16() for z in rows_of(shapes)]
    expected = EQUATIONS[name](*(z.double() for z in rounded), **named)
    with torch.autocast("cpu", torch.bfloat16):
        ours = criterion(name)(*rounded, **named)
        single = criterion(name)(*(z.float() for z in rounded), **named)
    assert ours.dtype == torch.float32
    assert torch.equal(ours, single)
    torch.testing.assert_close(ours.double(), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("shape", [(6, 4), (6, 20)])
def test_the_mean_over_processes_of_barlow_twins_is_that_of_the_whole_batch(shape: tuple[int, int]) -> None:
    """As above: everyone's rows come without gradient, own rows carry all of it."""
    whole = [z.requires_grad_() for z in rows_of([shape, shape])]
    value = criteria.barlow_twins(*whole, lambd=0.3)
    value.backward()
    everyone = [z.detach() for z in whole]
    parts = [[z.clone().requires_grad_() for z in pair] for pair in zip(*(z.chunk(3) for z in everyone), strict=True)]
    values = [criteria.barlow_twins(a, b, 0.3, *everyone) for a, b in parts]
    for part_value in values:
        (part_value / 3).backward()
    torch.testing.assert_close(torch.stack(values).mean(), value)
    for side in range(2):
        torch.testing.assert_close(torch.cat([pair[side].grad for pair in parts]), whole[side].grad)


@pytest.mark.parametrize("shape", [(6, 4), (6, 20)])
def test_the_mean_over_processes_of_a_contrast_is_that_of_the_whole_batch(shape: tuple[int, ...]) -> None:
    """Here gradients flow through everyone's keys too: each is the sum of what all processes send back."""
    query, keys = whole = [z.requires_grad_() for z in rows_of([shape, shape])]
    value = criteria.contrast(*whole, tau=0.3)
    expected = torch.autograd.grad(value, whole)
    values = [criteria.contrast(query[first : first + 2], keys, tau=0.3, first=first) for first in (0, 2, 4)]
    ours = torch.autograd.grad(torch.stack(values).mean(), whole)
    torch.testing.assert_close(torch.stack(values).mean(), value)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("shape", [(6, 4), (6, 20), (6, 2, 5)])
def test_nt_xent_of_own_rows_has_their_gradient_in_everyones_loss(shape: tuple[int, ...]) -> None:
    """Nothing is sent back: the mean of what processes have for their own rows is the gradient of the whole."""
    whole = [z.requires_grad_() for z in rows_of([shape, shape])]
    weight = torch.rand(shape[1], dtype=torch.float64) if len(shape) == 3 else None
    value = criteria.nt_xent(*whole, tau=0.3, share=weight)
    expected = torch.autograd.grad(value, whole)
    everyones: list[Tensor] = []  # what all processes send at each call: known once they ran, one after the other
    for _ in range(4):
        values, ours, sent = [], [], []
        for first in (0, 2, 4):
            a, b = (z[first : first + 2].detach().clone().requires_grad_() for z in whole)
            known, calls = iter(everyones), []

            def gather(own: Tensor, known: Any = known, calls: list[Tensor] = calls) -> Tensor:
                assert not own.requires_grad
                calls.append(own)
                return next(known, own.repeat(3, *[1] * (own.ndim - 1)))

            values.append(criteria.nt_xent(a, b, 0.3, gather, first, weight))
            ours.append(torch.autograd.grad(values[-1] / 3, (a, b)))
            sent.append(calls)
        everyones = [torch.cat(parts) for parts in zip(*sent, strict=True)]
    torch.testing.assert_close(torch.stack(values).mean(), value)
    for side in range(2):
        torch.testing.assert_close(torch.cat([pair[side] for pair in ours]), expected[side])


# --- constants --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "dim"), [(6, 9), (30, 7)])
def test_barlow_twins_is_that_of_the_paper_for_raw_embeddings(n: int, dim: int) -> None:
    """Eq. 2 as printed: centred columns, divided by their lengths over the batch."""
    a, b = (z.requires_grad_() for z in rows_of([(n, dim), (n, dim)]))
    total = torch.zeros((), dtype=a.dtype)
    for i in range(dim):
        for j in range(dim):
            x, y = a[:, i] - a[:, i].mean(), b[:, j] - b[:, j].mean()
            c = (x * y).sum() / (x.square().sum().sqrt() * y.square().sum().sqrt())
            total = total + ((1 - c) ** 2 if i == j else 0.0051 * c**2)
    expected = torch.autograd.grad(total, (a, b))
    standardised = [(z - z.mean(0)) / z.std(0, correction=0) for z in (a, b)]
    value = criteria.barlow_twins(*standardised, lambd=0.0051)
    torch.testing.assert_close(value, total)
    torch.testing.assert_close(torch.autograd.grad(value, (a, b)), expected)


@pytest.mark.parametrize(("n", "dim"), [(32, 8), (9, 8)])
def test_barlow_twins_is_zero_at_decorrelated_agreement_and_d_at_collapse(n: int, dim: int) -> None:
    torch.manual_seed(0)
    z = torch.randn(n, dim, dtype=torch.float64)
    z = torch.linalg.qr(z - z.mean(0)).Q * n**0.5  # columns of mean 0 and variance 1 that have nothing in common
    assert criteria.barlow_twins(z, z, 0.0051).item() == pytest.approx(0, abs=1e-12)
    for lambd in (0.0051, 1.0):
        assert criteria.barlow_twins(0 * z, 0 * z, lambd).item() == dim


@pytest.mark.parametrize("eps", [0.0, 1e-3])
def test_whitened_rows_have_mean_zero_and_unit_covariance(eps: float) -> None:
    torch.manual_seed(0)
    z = (torch.randn(3, 256, 64) @ torch.randn(64, 64) * 0.3 + 2).double()
    white = criteria.whitened(z, eps)
    torch.testing.assert_close(white.mean(1), torch.zeros(3, 64, dtype=torch.float64), rtol=0, atol=1e-5)
    if eps == 0:
        for part in white:
            torch.testing.assert_close(torch.cov(part.T), torch.eye(64, dtype=torch.float64), rtol=0, atol=1e-5)


def test_fp32_whitens_a_paper_sized_sub_batch() -> None:
    torch.manual_seed(0)
    white = criteria.whitened(torch.randn(128, 64))
    torch.testing.assert_close(torch.cov(white.T), torch.eye(64), rtol=0, atol=1e-5)


@pytest.mark.parametrize("constant", [0.0, 1.0, 0.3, -7.1])
def test_whitening_a_collapsed_batch_gives_nan_and_no_crash(constant: float) -> None:
    """One collapsed sub-batch says nothing about the others."""
    torch.manual_seed(0)
    z = torch.randn(2, 12, 4)
    z[0] = constant
    z.requires_grad_()
    white = criteria.whitened(z)
    assert white[0].isnan().all()
    assert white[1].isfinite().all()
    white.sum().backward()


@pytest.mark.parametrize("rows", [3, 7, 8])
def test_whitening_needs_more_rows_than_dimensions(rows: int) -> None:
    with pytest.raises(ValueError, match=f"{rows} rows can't be whitened in 8 dimensions"):
        criteria.whitened(torch.randn(rows, 8))


def test_w_mse_lies_between_0_and_4_and_near_2_for_independent_views() -> None:
    torch.manual_seed(0)
    a, b = (criteria.whitened(torch.randn(256, 64) @ torch.randn(64, 64)) for _ in range(2))
    assert 2 - 2 * criteria.cosine(a, a).item() == pytest.approx(0, abs=1e-6)
    assert 2 - 2 * criteria.cosine(a, -a).item() == pytest.approx(4, abs=1e-6)
    assert 2 - 2 * criteria.cosine(a, b).item() == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize(("n", "dim", "tau"), [(16, 4096, 0.1), (64, 4096, 0.5)])
def test_contrasts_of_independent_rows_are_the_logarithm_of_their_number(n: int, dim: int, tau: float) -> None:
    torch.manual_seed(0)
    a, b, negatives = torch.randn(n, dim), torch.randn(n, dim), torch.randn(3 * n, dim)
    assert criteria.nt_xent(a, b, tau).item() == pytest.approx(math.log(2 * n - 1), rel=0.02)
    assert criteria.contrast(a, b, tau).item() == pytest.approx(math.log(n), rel=0.02)
    assert criteria.info_nce(a, b, negatives, tau).item() == pytest.approx(math.log(3 * n + 1), rel=0.02)


def test_nt_xent_at_total_collapse_is_the_logarithm_of_all_others() -> None:
    same = torch.ones(5, 3)
    assert criteria.nt_xent(same, same, 0.1).item() == pytest.approx(math.log(9))


# --- codes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "clusters"), [(4, 9), (9, 4), (1, 3)])
@pytest.mark.parametrize("iterations", [1, 3])
def test_sinkhorn_equals_the_equation(n: int, clusters: int, iterations: int) -> None:
    torch.manual_seed(0)
    scores = (2 * torch.rand(n, clusters, dtype=torch.float64) - 1).requires_grad_()
    expected = naive_sinkhorn(scores.detach(), 0.05, iterations)
    codes = criteria.sinkhorn(scores, 0.05, iterations)
    assert not codes.requires_grad
    torch.testing.assert_close(codes, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        criteria.sinkhorn(scores.float(), 0.05, iterations).double(), expected, rtol=2e-5, atol=2e-5
    )
    rounded = scores.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        codes = criteria.sinkhorn(rounded, 0.05, iterations)
    assert codes.dtype == torch.float32
    torch.testing.assert_close(codes.double(), naive_sinkhorn(rounded.double(), 0.05, iterations), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("n", "clusters"), [(8, 24), (24, 8)])
def test_codes_sum_to_one_and_share_the_rows_equally_in_the_end(n: int, clusters: int) -> None:
    torch.manual_seed(0)
    scores = 2 * torch.rand(n, clusters, dtype=torch.float64) - 1
    uneven = []
    for iterations in (1, 3, 30, 3000):
        codes = criteria.sinkhorn(scores, 0.05, iterations)
        torch.testing.assert_close(codes.sum(1), torch.ones(n, dtype=torch.float64))
        uneven.append((codes.sum(0) - n / clusters).abs().max().item())
    assert uneven == sorted(uneven, reverse=True)
    assert uneven[-1] < 1e-4
