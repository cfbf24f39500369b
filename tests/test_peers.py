"""The same losses in lightly (MIT), where it is installed: `pip install -e '.[peers]'`."""

from typing import Any

import pytest
import torch
from test_criteria import statistic
from test_methods import random_views
from torch import Tensor, nn
from torch.nn import functional as F

from densessl import criteria
from densessl import losses as ours
from densessl.backbones import Backbone, pooled
from densessl.data.views import View, Views
from densessl.heads import on_cells
from densessl.matching import cell_centers, take
from densessl.memory import Queue
from densessl.method import Method
from densessl.methods import METHODS
from densessl.momentum import Target, rising

losses = pytest.importorskip("lightly.loss", reason="lightly is not installed: pip install -e '.[peers]'")
vicreg = pytest.importorskip("lightly.loss.vicreg_loss")
swav = pytest.importorskip("lightly.loss.swav_loss")
utils = pytest.importorskip("lightly.models.utils")
scheduler = pytest.importorskip("lightly.utils.scheduler")

SIZES = [(6, 20), (20, 6)]


def rows(*shape: int, seed: int = 0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=random, dtype=torch.float64) + 0.2).requires_grad_()


def same(ours: Tensor, theirs: Tensor, leaves: list[Tensor]) -> None:
    """Value and gradient; lightly returns some losses as vectors of one."""
    torch.testing.assert_close(ours, theirs.squeeze())
    mine, other = (torch.autograd.grad(loss.sum(), leaves, allow_unused=True) for loss in (ours, theirs))
    for a, b in zip(mine, other, strict=True):
        torch.testing.assert_close(a, b)


def build(name: str, **arguments: Any) -> Method:
    torch.manual_seed(0)
    method = METHODS[name](Backbone("test_resnet"), **arguments).double()
    if hasattr(method, "target"):
        for parameter in method.target.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return method


def views_of(batch: int, small: int = 0, large: int = 2, seed: int = 0) -> Views:
    views = random_views(batch=batch, small=small, large=large, seed=seed)
    return Views(*[[View(view.image.double(), view.affine) for view in kind] for kind in views[:2]], views.pictures)


def total(method: Method, views: Views) -> Tensor:
    return torch.stack(list(method(views).values())).sum()


def trained(method: Method) -> list[Tensor]:
    return [p for p in method.parameters() if p.requires_grad]


# --- criteria ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "dim"), SIZES)
def test_barlow_twins(n: int, dim: int) -> None:
    """lightly normalises inside the loss, densessl by the head's last layer."""
    a, b = rows(n, dim), rows(n, dim, seed=1)
    standardised = [F.batch_norm(z, None, None, training=True) for z in (a, b)]
    theirs = losses.BarlowTwinsLoss(lambda_param=0.0051)(a, b)
    same(criteria.barlow_twins(*standardised, lambd=0.0051), theirs, [a, b])


@pytest.mark.parametrize("shape", [*SIZES, (6, 3, 4)])
def test_variance_and_covariance(shape: tuple[int, ...]) -> None:
    z = rows(*shape)
    same(statistic("variance", 0.5 * z), vicreg.variance_loss(0.5 * z), [z])
    same(statistic("covariance", z), vicreg.covariance_loss(z), [z])


@pytest.mark.parametrize(("n", "dim"), SIZES)
def test_nt_xent(n: int, dim: int) -> None:
    a, b = rows(n, dim), rows(n, dim, seed=1)
    same(criteria.nt_xent(a, b, 0.2), losses.NTXentLoss(temperature=0.2)(a, b), [a, b])


def test_info_nce_and_the_queue() -> None:
    """Three steps; lightly cuts off what does not fit at the end of its bank, so the batch divides it here."""
    peer, queue = losses.NTXentLoss(temperature=0.2, memory_bank_size=(12, 5)).double(), Queue(12, 5).double()
    queue.rows.copy_(peer.memory_bank.bank)
    for step in range(3):
        query, key = rows(6, 5, seed=step), rows(6, 5, seed=step + 10)
        same(criteria.info_nce(query, key, queue(), 0.2), peer(query, key), [query, key])
        queue.push(key)
        torch.testing.assert_close(queue(), peer.memory_bank.bank)


@pytest.mark.parametrize(("n", "dim"), SIZES)
def test_cosine(n: int, dim: int) -> None:
    a, b = rows(n, dim), rows(n, dim, seed=1)
    same(-criteria.cosine(a, b), losses.NegativeCosineSimilarity()(a, b), [a, b])


@pytest.mark.parametrize("shape", [(4, 9), (9, 4)])
@pytest.mark.parametrize("iterations", [1, 3])
def test_sinkhorn(shape: tuple[int, int], iterations: int) -> None:
    scores = torch.tanh(rows(*shape)).detach()
    torch.testing.assert_close(criteria.sinkhorn(scores, 0.05, iterations), swav.sinkhorn(scores, iterations, 0.05))


@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_whitening(eps: float) -> None:
    """lightly's layer in train mode; a random weighting, since the plain sum has no gradient."""
    z, weights = rows(12, 4), rows(12, 4, seed=1).detach()
    theirs = losses.Whitening2d(4, track_running_stats=False, eps=eps)(z)
    same((criteria.whitened(z, eps) * weights).sum(), (theirs * weights).sum(), [z])


def test_the_most_similar_place() -> None:
    """DenseCL's correspondence."""
    a, b, values = rows(3, 7, 5), rows(3, 7, 5, seed=1), rows(3, 7, 2, seed=2)
    assert torch.equal(take(values, criteria.similarity(a, b).argmax(2)), utils.select_most_similar(a, b, values))


@pytest.mark.parametrize(("n", "dim"), SIZES)
def test_losses_for_a_loop_of_ones_own(n: int, dim: int) -> None:
    """Their defaults too, but SimCLR's temperature, which lightly has at 0.5."""
    a, b, c = rows(n, dim), rows(n, dim, seed=1), rows(n, dim, seed=2)
    same(ours.vicreg(a, b), losses.VICRegLoss()(a, b), [a, b])
    same(ours.barlow_twins(a, b, lambd=5e-3), losses.BarlowTwinsLoss()(a, b), [a, b])
    same(ours.simclr(a, b, tau=0.5), losses.NTXentLoss()(a, b), [a, b])
    same(ours.negative_cosine(a, b), losses.NegativeCosineSimilarity()(a, b.detach()), [a])
    words = F.normalize(rows(7, dim, seed=3)).detach()
    scores = [F.normalize(each) @ words.T for each in (a, b, c)]
    same(ours.swav([a, b, c], words), losses.SwaVLoss()(scores[:2], scores[2:]), [a, b, c])


# --- targets ----------------------------------------------------------------------------------------------------------


def test_the_moving_average() -> None:
    torch.manual_seed(0)
    source, peer = nn.Linear(4, 3), nn.Linear(4, 3)
    target = Target(peer)
    target.follow(source, momentum=0.9)
    utils.update_momentum(source, peer, m=0.9)
    torch.testing.assert_close(list(target.parameters()), [p.detach() for p in peer.parameters()])


@pytest.mark.parametrize("step", [0, 3, 7, 10])
def test_the_rising_share(step: int) -> None:
    """lightly counts steps 0 to max_steps - 1."""
    assert rising(0.99, step / 10) == pytest.approx(scheduler.cosine_schedule(step, 11, 0.99, 1.0))


# --- methods ----------------------------------------------------------------------------------------------------------


def test_vicreg() -> None:
    method, views = build("vicreg", expander=(16, 8)), views_of(6)
    a, b = (method.expander(pooled(method.backbone(view.image)[-1])) for view in views.large)
    same(total(method, views), losses.VICRegLoss()(a, b), trained(method))


# lightly keeps as many matches on every way back, and in the order of distance, not of places: variance and covariance
# of the k-th match are the same for one match only.
@pytest.mark.parametrize(("matches", "weights"), [(1, (25.0, 25.0, 1.0)), (3, (25.0, 0.0, 0.0))])
def test_vicregl(matches: int, weights: tuple[float, float, float]) -> None:
    lambd, mu, nu = weights
    heads: dict[str, Any] = {"expander": (16, 8), "projector": (12, 6)}
    method = build("vicregl", **heads, alpha=0.6, num_matches=(matches, matches), lambd=lambd, mu=mu, nu=nu)
    views = views_of(6, small=2)
    features, grids = [], []
    for view in (*views.large, *views.small):
        maps = method.backbone(view.image)
        size = maps[-1].shape[2:]
        features.append((method.expander(pooled(maps[-1])), on_cells(method.projector, maps[-1]).unflatten(1, size)))
        grids.append(cell_centers(view.affine, *size).unflatten(1, size))
    peer = losses.VICRegLLoss(lambd, mu, nu, alpha=0.6, num_matches=(matches, matches))
    theirs = peer(features[:2], grids[:2], features[2:], grids[2:])
    same(total(method, views), theirs, trained(method))


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("large", [2, 3])
def test_wmse(large: int, distance: str) -> None:
    """Both draw the same sub-batches from the same seed."""
    method = build("wmse", projector=(16, 3), w_size=6, w_iter=2, eps=0.1, distance=distance)
    views = views_of(12, large=large)
    z = method.projector(torch.cat([pooled(method.backbone(view.image)[-1]) for view in views.large]))
    named = {"loss_fn": F.mse_loss} if distance == "euclidean" else {}
    peer = losses.WMSELoss(3, eps=0.1, track_running_stats=False, w_iter=2, w_size=6, num_samples=large, **named)
    torch.manual_seed(3)
    theirs = peer(z)
    torch.manual_seed(3)
    same(total(method, views), theirs.double(), trained(method))


@pytest.mark.parametrize("name", ["byol", "simsiam"])
def test_byol_and_simsiam(name: str) -> None:
    """BYOL's 2 - 2 cos, summed over both ways; SimSiam's mean of both."""
    heads = {"projector": (16, 8), "predictor": (12, 8)} if name == "byol" else {"projector": (16, 8), "predictor": 6}
    method, views = build(name, **heads), views_of(6)
    z = [method.projector(pooled(method.backbone(view.image)[-1])) for view in views.large]
    towards = method.target(view.image for view in views.large) if name == "byol" else [each.detach() for each in z]
    negative = losses.NegativeCosineSimilarity()
    both = negative(method.predictor(z[0]), towards[1]) + negative(method.predictor(z[1]), towards[0])
    same(total(method, views), 4 + 2 * both if name == "byol" else both / 2, trained(method))


@pytest.mark.parametrize("queue", [0, 8])
def test_swav(queue: int) -> None:
    """lightly takes scores; the unit length of prototypes is part of the graph in densessl, so it is here."""
    method = build("swav", projector=(16, 8), prototypes=7, queue=queue)
    views = views_of(4, small=2)
    for each in method.queues:
        each.push(rows(8, 8).detach())
    words = F.normalize(method.prototypes.weight)
    scores = [
        F.normalize(method.projector(pooled(method.backbone(view.image)[-1]))) @ words.T
        for view in (*views.large, *views.small)
    ]
    earlier = [each() @ words.T for each in method.queues] or None
    theirs = losses.SwaVLoss()(scores[:2], scores[2:], earlier)
    same(total(method, views), theirs, trained(method))


def test_dino() -> None:
    """Two steps with the centre that the first leaves behind."""
    method = build("dino", projector=(16, 8), prototypes=7, tau_t=(0.04, 0.07), warmup=0.4, center=0.8, freeze=0.0)
    method.progress = 0.2
    peer = losses.DINOLoss(7, student_temp=0.1, center_momentum=0.8).double()
    for step in range(2):
        views = views_of(4, small=1, seed=step)
        words, fixed = (F.normalize(layer.weight) for layer in (method.prototypes, method.target[2]))
        crops = [*views.large, *views.small]
        student = [F.normalize(method.projector(pooled(method.backbone(view.image)[-1]))) @ words.T for view in crops]
        teacher = [F.normalize(z) @ fixed.T for z in method.target(view.image for view in views.large)]
        same(total(method, views), peer(teacher, student, teacher_temp=0.055), trained(method))
        torch.testing.assert_close(method.center, peer.center.squeeze())
