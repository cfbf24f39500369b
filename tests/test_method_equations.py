"""Whole methods against their papers' equations: a method's own networks, and loops over rows in float64."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from test_criteria import (
    minus_log_share,
    naive_barlow_twins,
    naive_covariance,
    naive_nt_xent,
    naive_sinkhorn,
    naive_variance,
    naive_whitened,
    shares,
    unit,
)
from test_matching import PAIRS, crop, naive_close
from test_methods import random_views
from torch import Tensor, nn

from densessl import losses, momentum
from densessl.backbones import Backbone
from densessl.data.views import View, Views
from densessl.method import Method
from densessl.methods import METHODS

HEADS = {"projector": (16, 8)}


def double(views: Views) -> Views:
    large, small = ([View(view.image.double(), view.affine) for view in kind] for kind in views[:2])
    return Views(large, small, views.pictures)


def build(name: str, output_stride: int = 32, **arguments: Any) -> Method:
    """In float64; the target, if there is one, is no longer equal to what it follows."""
    torch.manual_seed(0)
    method = METHODS[name](Backbone("test_resnet", output_stride=output_stride), **arguments).double()
    if hasattr(method, "target"):
        for parameter in method.target.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return method


def mean(values: list[Tensor]) -> Tensor:
    return sum(values[1:], values[0]) / len(values)


def vector(backbone: nn.Module, view: View) -> Tensor:
    return backbone(view.image)[-1].flatten(2).mean(2)


def cells(head: nn.Module, features: Tensor) -> Tensor:
    """(B, H * W, D): a 1 x 1 convolution of the map (B, C, H, W)."""
    rows = torch.stack([features[:, :, y, x] for y in range(features.shape[2]) for x in range(features.shape[3])], 1)
    return head(rows.reshape(-1, features.shape[1])).reshape(*rows.shape[:2], -1)


@torch.no_grad()
def targets(method: Method, view: View) -> Tensor:
    return method.target[1](vector(method.target[0], view))


def check(method: Method, views: Views, equation: Callable[[], Tensor], held: tuple[str, ...] = ()) -> Tensor:
    """The loss and the gradient of every parameter are those of the equation; targets have none, held ones zero."""
    expected = equation()
    expected.backward()
    truth = {key: p.grad for key, p in method.named_parameters()}
    method.zero_grad()
    loss = torch.stack(list(method(views).values())).sum()
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    for key, p in method.named_parameters():
        if key.startswith("target."):
            assert p.grad is None, key
            assert not p.requires_grad, key
        elif key in held:
            assert not p.grad.any(), key
        else:
            torch.testing.assert_close(p.grad, truth[key], rtol=1e-7, atol=1e-9, msg=lambda m, key=key: f"{key}: {m}")
    method.zero_grad()
    return loss.detach()


def check_update(method: Method, share: float, *parts: nn.Module) -> None:
    """`update` moves each of the target's parameters by 1 - ``share`` towards those of ``parts``."""
    sources = [p for part in parts for p in part.parameters()]
    ours = list(method.target.parameters())
    expected = [share * p + (1 - share) * q for p, q in zip(ours, sources, strict=True)]
    expected = [p.detach().clone() for p in expected]
    method.update()
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


# --- information maximisation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("compat", [None, "official"])
def test_barlow_twins(compat: str | None) -> None:
    """With one process the authors' gradient is the true one."""
    method, views = build("barlow_twins", **HEADS, compat=compat), double(random_views(batch=5, small=0))

    def equation() -> Tensor:
        a, b = (method.projector(vector(method.backbone, view)) for view in views.large)
        return naive_barlow_twins(a, b, 0.0051)

    check(method, views, equation)
    a = method.projector(vector(method.backbone, views.large[0]))
    torch.testing.assert_close(a.mean(0), torch.zeros(8, dtype=a.dtype), rtol=0, atol=1e-9)
    assert (a.var(0, correction=0) <= 1).all()  # up to the 1e-5 under the root


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("large", [2, 3])
def test_wmse(large: int, distance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rounds; in each, every view is whitened on its own in the same two sub-batches; the head sees all views."""
    orders = [[7, 2, 9, 0, 4, 5, 3, 1, 8, 6], list(range(10))]
    drawn = iter(orders)
    monkeypatch.setattr(losses, "permutation", lambda n, device: torch.tensor(next(drawn)))
    method = build("wmse", projector=(16, 3), w_size=5, w_iter=2, distance=distance)
    views = double(random_views(batch=10, small=0, large=large))

    def equation() -> Tensor:
        rows = torch.cat([vector(method.backbone, view) for view in views.large])
        z = method.projector(rows).split(10)
        losses = []
        for order in orders:
            for part in (order[:5], order[5:]):
                white = [naive_whitened(view[part]) for view in z]
                for i in range(large):
                    for j in range(i):
                        for a, b in zip(white[i], white[j], strict=True):
                            if distance == "cosine":
                                a, b = unit(a), unit(b)
                            difference = (a - b).square().sum()
                            losses.append(difference if distance == "cosine" else difference / 3)
        return mean(losses)

    check(method, views, equation)
    assert next(drawn, None) is None


# --- distillation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mu", "nu"), [(0.0, 0.0), (1.0, 0.01)])
def test_byol(mu: float, nu: float) -> None:
    """Eq. 2 and its symmetric twin; VICReg's terms act on the projections, weighted as in its code."""
    method = build("byol", **HEADS, predictor=(12, 8), mu=mu, nu=nu, tau=0.9)
    views = double(random_views(batch=5, small=0))

    def equation() -> Tensor:
        z = [method.projector(vector(method.backbone, view)) for view in views.large]
        q, t = [method.predictor(each) for each in z], [targets(method, view) for view in views.large]
        loss = torch.zeros((), dtype=torch.float64)
        for i, j in ((0, 1), (1, 0)):
            loss = loss + mean([(unit(a) - unit(b)).square().sum() for a, b in zip(q[i], t[j], strict=True)])
        variance, covariance = mean([naive_variance(each) for each in z]), sum(naive_covariance(each) for each in z)
        return loss + mu * variance + nu * covariance

    assert 0 < check(method, views, equation) < 8 + mu + 100 * nu
    for progress in (0.0, 0.3, 1.0):
        method.progress = progress
        share = 1 - (1 - 0.9) * (math.cos(math.pi * progress) + 1) / 2
        check_update(method, share, method.backbone, method.projector)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
def test_byol_with_a_constant_share(tau: float) -> None:
    """1: a fixed random target; 0: a hard copy."""
    method = build("byol", **HEADS, predictor=(12, 8), tau=tau, schedule="constant")
    for progress in (0.0, 0.7):
        method.progress = progress
        check_update(method, tau, method.backbone, method.projector)


@pytest.mark.parametrize(("norm", "mu", "nu"), [("batch", 0.0, 0.0), ("none", 1.0, 0.01)])
def test_simsiam(norm: str, mu: float, nu: float) -> None:
    """Eq. 2 to 4: the mean of both ways, z without gradient."""
    method = build("simsiam", projector=(16, 12, 8), predictor=6, norm=norm, mu=mu, nu=nu)
    views = double(random_views(batch=5, small=0))

    def equation() -> Tensor:
        z = [method.projector(vector(method.backbone, view)) for view in views.large]
        p = [method.predictor(each) for each in z]
        loss = torch.zeros((), dtype=torch.float64)
        for i, j in ((0, 1), (1, 0)):
            cosines = [(unit(a) * unit(b.detach())).sum() for a, b in zip(p[i], z[j], strict=True)]
            loss = loss - mean(cosines) / 2
        variance, covariance = mean([naive_variance(each) for each in z]), sum(naive_covariance(each) for each in z)
        return loss + mu * variance + nu * covariance

    check(method, views, equation)


@pytest.mark.parametrize("progress", [0.0, 0.1, 0.8])
def test_dino(progress: float) -> None:
    """The paper's algorithm 1 with small crops: temperature, centre before and after, frozen prototypes, teacher."""
    method = build(
        "dino",
        projector=(16, 12, 8),
        prototypes=7,
        tau_t=(0.04, 0.07),
        warmup=0.4,
        center=0.8,
        momentum=0.9,
        freeze=0.05,
    )
    method.center.copy_(0.1 * torch.randn(7))
    method.progress = progress
    views = double(random_views(batch=4, small=2))
    center, rows = method.center.clone(), []
    tau = {0.0: 0.04, 0.1: 0.0475, 0.8: 0.07}[progress]

    def equation() -> Tensor:
        words = [unit(word) for word in method.prototypes.weight]
        fixed = [unit(word) for word in method.target[2].weight]
        losses = []
        for i, teacher in enumerate(views.large):
            scores = [[unit(row) @ word for word in fixed] for row in targets(method, teacher)]
            rows.extend(scores)
            for j, student in enumerate([*views.large, *views.small]):
                if i == j:
                    continue
                for row, score in zip(method.projector(vector(method.backbone, student)), scores, strict=True):
                    logits = [unit(row) @ word / 0.1 for word in words]
                    sharp = shares([(s - c) / tau for s, c in zip(score, center, strict=True)])
                    losses.append(-(sharp * torch.log(shares(logits))).sum())
        return mean(losses)

    check(method, views, equation, held=("prototypes.weight",) if progress < 0.05 else ())
    scores = torch.stack([torch.stack(row) for row in rows])
    assert len(scores) == 2 * 4
    torch.testing.assert_close(method.center, center, rtol=0, atol=0)
    share = 1 - (1 - 0.9) * (math.cos(math.pi * progress) + 1) / 2
    check_update(method, share, method.backbone, method.projector, method.prototypes)
    torch.testing.assert_close(method.center, 0.8 * center + 0.2 * scores.mean(0))


# --- contrast ---------------------------------------------------------------------------------------------------------


def test_simclr() -> None:
    method, views = build("simclr", **HEADS, tau=0.2), double(random_views(batch=5, small=0))

    def equation() -> Tensor:
        return naive_nt_xent(*(method.projector(vector(method.backbone, view)) for view in views.large), tau=0.2)

    check(method, views, equation)


@pytest.mark.parametrize("tau", [0.2, 1.0])
def test_moco_v3(tau: float) -> None:
    """Eq. 1, symmetric, times 2 tau; keys have no gradient."""
    method = build("moco_v3", **HEADS, predictor=(12, 8), tau=tau, momentum=0.9)
    views = double(random_views(batch=5, small=0))

    def equation() -> Tensor:
        q = [method.predictor(method.projector(vector(method.backbone, view))) for view in views.large]
        k = [targets(method, view) for view in views.large]
        loss = torch.zeros((), dtype=torch.float64)
        for i, j in ((0, 1), (1, 0)):
            for number, query in enumerate(q[i]):
                logits = [unit(query) @ unit(key) / tau for key in k[j]]
                loss = loss + 2 * tau * minus_log_share(logits, number) / 5
        return loss

    check(method, views, equation)
    method.progress = 0.3
    share = 1 - (1 - 0.9) * (math.cos(math.pi * 0.3) + 1) / 2
    check_update(method, share, method.backbone, method.projector)


ORDER = [4, 1, 5, 0, 3, 2]


def in_groups(function: Callable[[Tensor], Tensor], view: View) -> Tensor:
    """``function`` of the pictures 4, 1, 5 and of 0, 3, 2, each with their own statistics, in the order of pictures."""
    rows = torch.cat([function(view.image[part]) for part in (ORDER[:3], ORDER[3:])])
    return torch.stack([rows[ORDER.index(i)] for i in range(6)])


def test_moco_v2(monkeypatch: pytest.MonkeyPatch) -> None:
    """MoCo eq. 1 in three steps of six pictures with a queue of twelve; the keys of a step join it after its loss."""
    monkeypatch.setattr(momentum, "permutation", lambda n, device: torch.tensor(ORDER))
    method = build("moco_v2", **HEADS, queue=12, groups=2, momentum=0.9)
    queue, (backbone, projector) = list(method.queue()), method.target

    def equation(views: Views, keys: list[Tensor]) -> Tensor:
        losses = []
        for row, key in zip(method.projector(vector(method.backbone, views.large[0])), keys, strict=True):
            losses.append(minus_log_share([unit(row) @ k / 0.2 for k in (key, *map(unit, queue))], 0))
        return mean(losses)

    for step in range(3):
        views = double(random_views(batch=6, small=0, seed=step))
        with torch.no_grad():
            keys = in_groups(lambda image: projector(backbone(image)[-1].mean((2, 3))), views.large[1])
        keys = [unit(key) for key in keys]
        check(method, views, partial(equation, views, keys))
        place = step % 2 * 6
        queue[place : place + 6] = keys
        check_update(method, 0.9, method.backbone, method.projector)
        torch.testing.assert_close(method.queue(), torch.stack(queue))


# --- clusters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("queue", [0, 8])
def test_swav(queue: int) -> None:
    """Eq. 1 to 5 with two small crops: five steps of four pictures, prototypes held in the first.

    A queue of eight fills in the second and third step, where only the batch makes the codes, and is used from then on.
    """
    method = build("swav", **HEADS, prototypes=7, queue=queue, queue_from=0.2, freeze=0.1)
    earlier: list[list[Tensor]] = [[], []]

    def equation(views: Views, step: int) -> Tensor:
        crops = [*views.large, *views.small]
        z = [[unit(row) for row in method.projector(vector(method.backbone, view))] for view in crops]
        words = [unit(word) for word in method.prototypes.weight]
        losses = []
        for i in range(2):
            rows = [*z[i], *(earlier[i] if step >= 3 else [])]
            scores = torch.stack([torch.stack([row @ word for word in words]) for row in rows])
            codes = naive_sinkhorn(scores.detach(), 0.05, 3)[:4]
            for j in range(4):
                if j != i:
                    for row, code in zip(z[j], codes, strict=True):
                        losses.append(-(code * torch.log(shares([row @ word / 0.1 for word in words]))).sum())
            if queue and step > 0:
                earlier[i] = [row.detach() for row in [*z[i], *earlier[i]]][:queue]
        return mean(losses)

    for step in range(5):
        method.progress = step / 5
        views = double(random_views(batch=4, small=2, seed=step))
        check(method, views, partial(equation, views, step), held=("prototypes.weight",) if step == 0 else ())
        method.update()


def test_deepcluster_v2() -> None:
    """Three epochs of two steps: nothing is learned in the first, then each crop predicts its picture's last cluster.

    The first and third set of centroids come from the first large crop, the second from the second one.
    """
    method = build("deepcluster_v2", **HEADS, prototypes=(3, 4, 2), iterations=20)
    method.begin(pictures=8, batch=4)
    for i in range(3):  # buffers in fp32: a remembered row is worth 6 digits
        setattr(method, f"centroids{i}", method.get_buffer(f"centroids{i}").double())
    last: list[dict[int, Tensor]] = [{}, {}]
    now: list[dict[int, Tensor]] = [{}, {}]

    def nearest(i: int, row: Tensor) -> int:
        cosines = [(unit(row) @ word).item() for word in method.get_buffer(f"centroids{i}")]
        return cosines.index(max(cosines))

    def equation(views: Views) -> Tensor:
        losses = []
        for view in (*views.large, *views.small):
            for picture, row in zip(
                views.pictures.tolist(), method.projector(vector(method.backbone, view)), strict=True
            ):
                for i in range(3):
                    logits = [unit(row) @ unit(word) / 0.1 for word in method.get_buffer(f"centroids{i}")]
                    losses.append(minus_log_share(logits, nearest(i, last[i % 2][picture])))
        return mean(losses)

    for step in range(6):
        method.step = step
        pictures = torch.tensor([[5, 0, 3, 6], [1, 7, 4, 2]][step % 2])
        views = double(random_views(batch=4, small=1, seed=step))._replace(pictures=pictures)
        if step < 2:
            assert sum(method(views).values()).item() == 0
        else:
            check(method, views, partial(equation, views))
        for i in range(2):
            rows = method.projector(vector(method.backbone, views.large[i])).detach()
            now[i].update(zip(pictures.tolist(), rows, strict=True))
        method.update()
        if step % 2:  # the end of an epoch
            last, now = now, [{}, {}]
            for i in range(3):
                words = method.get_buffer(f"centroids{i}")
                members = [nearest(i, last[i % 2][picture]) for picture in range(8)]
                assert method.clusters[i].tolist() == members
                for k in set(members):
                    middle = sum(unit(last[i % 2][picture]) for picture in range(8) if members[picture] == k)
                    torch.testing.assert_close(words[k], unit(middle), rtol=1e-5, atol=1e-5)


# --- dense ------------------------------------------------------------------------------------------------------------


def test_densecl(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eq. 1 to 3 in three steps of six pictures: correspondence by the backbones' features, two queues of twelve.

    A negative of the dense queue is the mean of a picture's dense keys, made a unit vector, as in the authors' code.
    """
    monkeypatch.setattr(momentum, "permutation", lambda n, device: torch.tensor(ORDER))
    method = build("densecl", output_stride=16, **HEADS, queue=12, groups=2, momentum=0.9, lambd=0.3)
    queue, dense_queue = list(method.queue()), list(method.dense_queue())
    backbone, projector, dense = method.target

    def equation(views: Views, keys: list[Tensor], key_cells: Tensor, key_maps: Tensor) -> Tensor:
        single, local, matches, negatives = [], [], set(), [unit(key) for key in dense_queue]
        maps = method.backbone(views.large[0].image)[-1]
        places = cells(method.dense, maps)
        for n, row in enumerate(method.projector(maps.mean((2, 3)))):
            single.append(minus_log_share([unit(row) @ k / 0.2 for k in (keys[n], *map(unit, queue))], 0))
            theirs = [unit(feature) for feature in key_maps[n].flatten(1).T]
            for place, feature in enumerate(maps[n].flatten(1).T.detach()):
                cosines = [(unit(feature) @ other).item() for other in theirs]
                match = cosines.index(max(cosines))
                matches.add((place, match))
                row, positive = unit(places[n, place]), unit(key_cells[n, match])
                local.append(minus_log_share([row @ k / 0.2 for k in (positive, *negatives)], 0))
        assert len(matches) > 16
        return 0.7 * mean(single) + 0.3 * mean(local)

    for step in range(3):
        views = double(random_views(batch=6, small=0, seed=step))
        with torch.no_grad():
            key_maps = in_groups(lambda image: backbone(image)[-1], views.large[1])
            key_cells = in_groups(lambda image: cells(dense, backbone(image)[-1]), views.large[1])
            keys = [unit(key) for key in projector(key_maps.mean((2, 3)))]
        check(method, views, partial(equation, views, keys, key_cells, key_maps))
        place = step % 2 * 6
        queue[place : place + 6] = keys
        dense_queue[place : place + 6] = [unit(mean(list(rows))) for rows in key_cells]
        check_update(method, 0.9, method.backbone, method.projector, method.dense)
        torch.testing.assert_close(method.queue(), torch.stack(queue), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(method.dense_queue(), torch.stack(dense_queue), rtol=1e-5, atol=1e-6)
        dense_queue = list(method.dense_queue())


@pytest.mark.parametrize("threshold", [0.7, 1.5])
def test_pixpro(threshold: float) -> None:
    """Eq. 1 to 4: pairs by distance in the picture, propagation by cosines squared, both ways, times 2 as in the code.

    One of the six pairs of crops shares no place and adds nothing.
    """
    method = build("pixpro", output_stride=16, **HEADS, threshold=threshold, momentum=0.9)
    images = torch.randn(2, 6, 3, 64, 64, dtype=torch.float64)
    views = Views([View(images[i], torch.cat([crop(*pair[i]) for pair in PAIRS])) for i in range(2)], [])
    counts = []

    def propagated(x: Tensor) -> Tensor:
        """Eq. 3 and 4 with one linear layer, its output of unit length as in the code; x (P, D)."""
        values, units = (
            [unit(method.propagation.weight @ row + method.propagation.bias) for row in x],
            [unit(row) for row in x],
        )
        smooth = []
        for row in units:
            cosines = torch.stack([row @ other for other in units])
            smooth.append(sum(max(c, 0 * c) ** 2 * value for c, value in zip(cosines, values, strict=True)))
        return torch.stack(smooth)

    def equation() -> Tensor:
        x = [cells(method.projector, method.backbone(view.image)[-1]) for view in views.large]
        with torch.no_grad():
            k = [cells(method.target[1], method.target[0](view.image)[-1]) for view in views.large]
        loss = torch.zeros((), dtype=torch.float64)
        for n, pair in enumerate(PAIRS):
            for i, j in ((0, 1), (1, 0)):
                smooth = propagated(x[i][n])
                found = naive_close(pair[i], pair[j], (4, 4), (4, 4), threshold)
                cosines = [unit(smooth[p]) @ unit(k[j][n][q]) for p in range(16) for q in range(16) if found[p][q]]
                counts.append(len(cosines))
                if cosines:
                    loss = loss - 2 * mean(cosines) / len(PAIRS)
        return loss

    check(method, views, equation)
    assert 0 in counts
    assert len(set(counts)) > 3
    method.progress = 0.3
    share = 1 - (1 - 0.9) * (math.cos(math.pi * 0.3) + 1) / 2
    check_update(method, share, method.backbone, method.projector)


# --- constants --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["swav", "dino"])
def test_the_loss_begins_at_the_logarithm_of_the_prototypes(name: str) -> None:
    """Nearly so for random weights; exactly so for embeddings that say nothing."""
    torch.manual_seed(0)
    method = METHODS[name](Backbone("test_resnet"), projector=(512, 4096), prototypes=300)
    views = random_views(batch=8, small=1)
    assert sum(method(views).values()).item() == pytest.approx(math.log(300), rel=0.05)
    heads = [method.projector] if name == "swav" else [method.projector, method.target[1]]
    for head in heads:
        for parameter in head[-1].parameters():
            parameter.data.zero_()
    if name == "dino":
        method.center.zero_()
    assert sum(method(views).values()).item() == pytest.approx(math.log(300), rel=1e-6)


def test_the_losses_of_independent_views() -> None:
    """BYOL 4 of [0, 8], SimSiam 0 of [-1, 1], W-MSE 2 of [0, 4], NT-Xent ln(2N - 1), MoCo v3 twice 2 tau ln N."""
    torch.manual_seed(0)
    n, wide = 32, {"projector": (64, 4096)}
    cases = {
        "byol": (wide | {"predictor": (64, 4096)}, 4, 0.2),
        "simsiam": (wide | {"predictor": 64}, 0, 0.05),
        "simclr": (wide | {"tau": 0.5}, math.log(2 * n - 1), 0.1),
        "moco_v3": (wide | {"predictor": (64, 4096), "tau": 0.5}, 2 * math.log(n), 0.1),
    }
    for name, (arguments, expected, tolerance) in cases.items():
        method = METHODS[name](Backbone("test_resnet"), **arguments)
        views = random_views(batch=n, small=0)
        views.large[1] = random_views(batch=n, small=0, seed=1).large[0]
        assert sum(method(views).values()).item() == pytest.approx(expected, abs=tolerance), name
