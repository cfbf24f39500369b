"""The losses for a loop of one's own: against naive forms, against the methods, and in two processes."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_criteria import (
    naive_barlow_twins,
    naive_contrast,
    naive_cosine,
    naive_covariance,
    naive_info_nce,
    naive_nt_xent,
    naive_sinkhorn,
    naive_variance,
    naive_whitened,
    rows_of,
    unit,
)
from test_methods import build, double, views_for
from torch import Tensor
from torch.nn import functional as F

from densessl import losses
from densessl.backbones import pooled
from densessl.benchmark import naive
from densessl.heads import on_cells
from densessl.matching import cell_centers
from densessl.methods import METHODS

N, DIM, WORDS = 6, 4, 5
# Of each loss: the shapes of its arguments, the call, and the paper's equation over the same arguments.
Loss = Callable[..., Tensor]


def naive_vicreg(z1: Tensor, z2: Tensor) -> Tensor:
    """The authors' code: variance halved, covariance added over both views, invariance divided by D."""
    variance = (naive_variance(z1) + naive_variance(z2)) / 2
    covariance = naive_covariance(z1) + naive_covariance(z2)
    return 25 * ((z1 - z2) ** 2).mean() + 25 * variance + covariance


def standardised(z: Tensor) -> Tensor:
    """As BatchNorm does."""
    centered = z - sum(z) / len(z)
    return centered / ((centered**2).sum(0) / len(z) + 1e-5).sqrt()


def cross_entropies(logits: list[Tensor], targets: list[Tensor]) -> Tensor:
    """Every crop against every target but its own."""
    found = []
    for i, target in enumerate(targets):
        for j, scores in enumerate(logits):
            if i != j:
                shares = scores.exp() / scores.exp().sum(1, keepdim=True)
                found.append(-(target * shares.log()).sum() / len(scores))
    return sum(found) / len(found)


def naive_dino(s1: Tensor, s2: Tensor, s3: Tensor, t1: Tensor, t2: Tensor, center: Tensor) -> Tensor:
    sharp = [((t - center) / 0.04).exp() for t in (t1.detach(), t2.detach())]
    return cross_entropies([s / 0.1 for s in (s1, s2, s3)], [t / t.sum(1, keepdim=True) for t in sharp])


def naive_swav(z1: Tensor, z2: Tensor, z3: Tensor, prototypes: Tensor) -> Tensor:
    scores = [torch.stack([torch.stack([unit(x) @ unit(p) for p in prototypes]) for x in z]) for z in (z1, z2, z3)]
    return cross_entropies([s / 0.1 for s in scores], [naive_sinkhorn(s.detach(), 0.05, 3) for s in scores[:2]])


PAIR, FOUR, CENTER = [(N, DIM)] * 2, [(N, DIM)] * 4, [(WORDS,)]
LOSSES: dict[str, tuple[list[tuple[int, ...]], Loss, Loss]] = {
    "vicreg": (PAIR, losses.vicreg, naive_vicreg),
    "barlow_twins": (
        PAIR,
        losses.barlow_twins,
        lambda a, b: naive_barlow_twins(standardised(a), standardised(b), 0.0051),
    ),
    "wmse": (
        [(12, DIM)] * 2,
        lambda a, b: losses.wmse(a, b, w_size=12),  # of a single group the order does not matter
        lambda a, b: 2 - 2 * naive_cosine(naive_whitened(a), naive_whitened(b)),
    ),
    "negative_cosine": (PAIR, losses.negative_cosine, lambda p, z: -naive_cosine(p, z.detach())),
    "simsiam": (
        FOUR,
        losses.simsiam,
        lambda p1, p2, z1, z2: -(naive_cosine(p1, z2.detach()) + naive_cosine(p2, z1.detach())) / 2,
    ),
    "byol": (
        FOUR,
        losses.byol,
        lambda p1, p2, t1, t2: 4 - 2 * naive_cosine(p1, t2.detach()) - 2 * naive_cosine(p2, t1.detach()),
    ),
    "simclr": (PAIR, losses.simclr, lambda a, b: naive_nt_xent(a, b, 0.1)),
    "info_nce": (
        [(N, DIM), (N, DIM), (7, DIM)],
        losses.info_nce,
        lambda q, k, others: naive_info_nce(q, k.detach(), others.detach(), 0.2),
    ),
    "moco_v3": (
        FOUR,
        lambda q1, q2, k1, k2: losses.moco_v3(q1, q2, k1, k2, tau=0.2),
        lambda q1, q2, k1, k2: 0.4 * (naive_contrast(q1, k2.detach(), 0.2) + naive_contrast(q2, k1.detach(), 0.2)),
    ),
    "dino": (
        [(N, WORDS)] * 5 + CENTER,
        lambda s1, s2, s3, t1, t2, center: losses.dino([s1, s2, s3], [t1, t2], center.detach()),
        lambda *given: naive_dino(*given[:5], given[5].detach()),
    ),
    "swav": (
        [(N, DIM)] * 3 + [(WORDS, DIM)],
        lambda z1, z2, z3, prototypes: losses.swav([z1, z2, z3], prototypes),
        naive_swav,
    ),
}


def places(batch: int = N) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Vectors, maps and affines of two large crops and a small one."""
    shapes = [(batch, DIM)] * 3 + [(batch, 3, 4, 4)] * 2 + [(batch, 3, 2, 2)]
    rows = [z.requires_grad_() for z in rows_of(shapes)]
    random = torch.Generator().manual_seed(2)
    corners, sides = (20 * torch.rand(3, batch, 2, generator=random).double() for _ in range(2))
    affines = [
        torch.stack([torch.diag_embed(10 + s).mT[..., i] for i in (0, 1)] + [c], 2)
        for s, c in zip(sides, corners, strict=True)
    ]
    return rows[:3], rows[3:], affines


def same(ours: Tensor, theirs: Tensor, leaves: list[Tensor]) -> None:
    torch.testing.assert_close(ours, theirs)
    mine, other = (torch.autograd.grad(loss, leaves, allow_unused=True) for loss in (ours, theirs))
    assert [each is None for each in mine] == [each is None for each in other]
    for a, b in zip(mine, other, strict=True):
        if a is not None:
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradient_equal_the_papers_equation(name: str) -> None:
    shapes, loss, equation = LOSSES[name]
    leaves = [z.requires_grad_() for z in rows_of(shapes)]
    same(loss(*leaves), equation(*leaves), leaves)


def test_vicreg_of_small_crops_compares_them_with_both_large_ones() -> None:
    z = [each.requires_grad_() for each in rows_of([(N, DIM)] * 3)]
    pairs = [(0, 1), (1, 0), (0, 2), (1, 2)]
    expected = 25 * sum(((z[i] - z[j]) ** 2).mean() for i, j in pairs) / 4
    expected = expected + 25 * sum(map(naive_variance, z)) / 3 + 2 * sum(map(naive_covariance, z)) / 3
    same(losses.vicreg(*z), expected, z)


@pytest.mark.parametrize("alpha", [0.0, 0.75, 1.0])
def test_vicregl_equals_the_naive_form(alpha: float) -> None:
    vectors, maps, affines = places()
    cells = [each.flatten(2).mT for each in maps]
    centers = [cell_centers(affine, *each.shape[2:]) for affine, each in zip(affines, maps, strict=True)]
    terms = naive.criterion(vectors, cells, centers, 2, alpha=alpha, num_matches=(5, 2))
    theirs = sum(term for name, term in terms.items() if (0 if name.startswith("global") else 1) != alpha)
    ours = losses.vicregl(vectors if alpha else [], maps if alpha < 1 else [], affines, alpha=alpha, num_matches=(5, 2))
    same(ours, theirs, [*(vectors if alpha else []), *(maps if alpha < 1 else [])])


# --- the methods ------------------------------------------------------------------------------------------------------


def of_embeddings(name: str, method: Any, images: list[Tensor], affines: list[Tensor]) -> Tensor:
    """The loss of a method's networks, put together as in a loop of one's own."""
    maps = [method.backbone(image)[-1] for image in images]
    head = method.expander if name.startswith("vicreg") else method.projector
    head = head[:-1] if name == "barlow_twins" else head  # the loss has its own statistics
    z = (
        head(torch.cat([pooled(each) for each in maps])).chunk(len(maps))
        if name == "wmse"
        else [head(pooled(each)) for each in maps]
    )
    match name:
        case "vicregl":
            local = [on_cells(method.projector, each).mT.unflatten(2, each.shape[2:]) for each in maps]
            return losses.vicregl(z, local, affines)
        case "swav":
            return losses.swav(z, method.prototypes.weight)
        case "dino":
            student, teacher = (F.normalize(each.weight) for each in (method.prototypes, method.target[2]))
            targets = [F.normalize(each) @ teacher.T for each in method.target(images[:2])]
            return losses.dino([F.normalize(each) @ student.T for each in z], targets, method.center, tau_t=0.07)
        case "byol" | "moco_v3":
            return getattr(losses, name)(*map(method.predictor, z), *method.target(images))
        case "simsiam":
            return losses.simsiam(*map(method.predictor, z), *z)
        case "wmse":
            return losses.wmse(*z, w_size=3, w_iter=2)
        case _:
            return getattr(losses, name)(*z)


@pytest.mark.parametrize("name", [name for name in METHODS if hasattr(losses, name)])
def test_it_is_the_loss_of_the_method(name: str) -> None:
    method, views = build(name, "test_resnet").double(), double(views_for(name))
    crops = [*views.large, *views.small]
    torch.manual_seed(1)  # which pictures are whitened together is drawn
    theirs = torch.stack(list(method(views).values())).sum()
    torch.manual_seed(1)
    ours = of_embeddings(name, method, [each.image for each in crops], [each.affine for each in crops])
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if name == "barlow_twins" else {}  # standardised twice, with an epsilon
    torch.testing.assert_close(ours, theirs, **tolerance)


@pytest.mark.parametrize(("name", "method"), [*((name, name) for name in METHODS), ("info_nce", "moco_v2")])
def test_defaults_are_those_of_the_method(name: str, method: str) -> None:
    if not hasattr(losses, name):
        assert name in ("deepcluster_v2", "densecl", "moco_v2", "pixpro")
        return
    own, its = (inspect.signature(each).parameters for each in (getattr(losses, name), METHODS[method]))
    shared = {key for key in own.keys() & its.keys() if own[key].default is not inspect.Parameter.empty}
    if name == "dino":
        assert own["tau_t"].default == its["tau_t"].default[0]
        assert inspect.signature(losses.dino_center).parameters["keep"].default == its["center"].default
        shared -= {"tau_t"}
    assert {key: own[key].default for key in shared} == {key: its[key].default for key in shared}
    assert shared or name in ("byol", "simsiam")


# --- several processes: tests/test_processes.py -----------------------------------------------------------------------


def every_loss(rank: int | None = None) -> dict[str, tuple[Tensor, list[Tensor]]]:
    """Value and gradients, of the whole batch or as one of two processes; what is not of pictures is there whole."""
    found = {}

    def note(name: str, given: list[Tensor], loss: Loss) -> None:
        parts = given if rank is None else [z.chunk(2)[rank] if len(z) in (N, 12) else z for z in given]
        leaves = [z.detach().clone().requires_grad_() for z in parts]
        value = loss(*leaves)
        found[name] = (
            value.detach(),
            [g for g in torch.autograd.grad(value, leaves, allow_unused=True) if g is not None],
        )

    for name, (shapes, loss, _) in LOSSES.items():
        note(name, rows_of(shapes), loss)
    vectors, maps, affines = places()
    part = affines if rank is None else [each.chunk(2)[rank] for each in affines]
    note("vicregl", [*vectors, *maps], lambda *z: losses.vicregl(z[:3], z[3:], part, num_matches=(5, 2)))
    scores = [z if rank is None else z.chunk(2)[rank] for z in rows_of([(N, WORDS)] * 2)]
    found["center"] = losses.dino_center(torch.ones(WORDS, dtype=torch.float64), scores), []
    return found


# --- what is wrong, and what is known ---------------------------------------------------------------------------------


def test_what_broadcasting_would_hide_is_refused() -> None:
    a, b, last = torch.randn(6, 4), torch.randn(1, 4), torch.randn(6, 4, 2, 2)
    for name in ("vicreg", "barlow_twins", "simclr", "wmse", "negative_cosine"):
        with pytest.raises(ValueError, match=r"\(B, D\) each, all of one shape; these are \(6, 4\), \(1, 4\)"):
            getattr(losses, name)(a, b)
    with pytest.raises(ValueError, match=r"these are \(6, 4, 2, 2\)"):
        losses.vicreg(last, last)
    with pytest.raises(ValueError, match="2 vectors, 2 maps and 1 affines: each crop needs one of each"):
        losses.vicregl([a, a], [last, last], [torch.zeros(6, 2, 3)])
    with pytest.raises(ValueError, match="w_size=4 does not divide the 6 pictures"):
        losses.wmse(a, a, w_size=4)


def test_values_that_are_known_on_paper() -> None:
    z = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    assert losses.simclr(z, z, tau=1e6).item() == pytest.approx(math.log(127), abs=1e-4)
    assert losses.byol(z, z, z, z).item() == pytest.approx(0, abs=1e-5)
    assert losses.simsiam(z, z, z, z).item() == pytest.approx(-1)
    assert losses.dino([z] * 2, [z * 0] * 2, torch.zeros(8), tau_s=1e6).item() == pytest.approx(math.log(8), abs=1e-4)
    half = losses.vicreg(z.bfloat16(), -z.bfloat16())
    assert half.dtype == torch.float32  # bf16 has too few digits for statistics
    torch.testing.assert_close(half, losses.vicreg(z.bfloat16().float(), -z.bfloat16().float()))
