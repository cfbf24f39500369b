"""Each method against its paper's equations, written out pair by pair in float64."""

from typing import Any

import pytest
import torch
from test_criteria import naive_covariance, naive_variance
from torch import Tensor

from densessl.backbones import Backbone, pooled
from densessl.data.views import View, Views
from densessl.matching import cell_centers, unflipped
from densessl.method import Method
from densessl.methods import METHODS
from densessl.methods.vicreg import VICReg
from densessl.methods.vicregl import VICRegL

BACKBONES = ["test_convnext", "test_resnet"]
SMALL = {"expander": (32, 24), "projector": (16, 12)}
HEADS = {"projector": (32, 16)}
# Every method, made small, and every argument that changes what is computed.
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "barlow_twins": ("barlow_twins", HEADS),
    "barlow_twins, official": ("barlow_twins", HEADS | {"compat": "official"}),
    "byol": ("byol", HEADS | {"predictor": (24, 16)}),
    "byol, hard copy, regularised": (
        "byol",
        HEADS | {"predictor": (24, 16), "tau": 0.0, "schedule": "constant", "mu": 1.0, "nu": 0.01},
    ),
    "deepcluster_v2": ("deepcluster_v2", HEADS | {"prototypes": (5, 4, 3)}),
    "densecl": ("densecl", HEADS | {"queue": 12, "groups": 2}),
    "dino": ("dino", {"projector": (32, 24, 16), "prototypes": 20}),
    "dino, first steps": ("dino", {"projector": (32, 16), "prototypes": 20, "freeze": 1.0, "norm": "batch"}),
    "moco_v2": ("moco_v2", HEADS | {"queue": 12, "groups": 2}),
    "moco_v3": ("moco_v3", HEADS | {"predictor": (24, 16)}),
    "pixpro": ("pixpro", HEADS),
    "simclr": ("simclr", HEADS),
    "simsiam": ("simsiam", {"projector": (32, 24, 16), "predictor": 8}),
    "simsiam, no statistics, regularised": (
        "simsiam",
        {"projector": (32, 16), "predictor": 8, "norm": "none", "mu": 1.0, "nu": 0.01},
    ),
    "swav": ("swav", HEADS | {"prototypes": 5}),
    "swav, queue": ("swav", HEADS | {"prototypes": 5, "queue": 6, "freeze": 0.9}),
    "vicreg": ("vicreg", {"expander": (32, 24)}),
    "vicreg, predictor": ("vicreg", {"expander": (32, 24), "predictor": (16, 24)}),
    "vicreg, two networks": ("vicreg", {"expander": (32, 24), "second": "test_resnet"}),
    "vicreg, standardised": ("vicreg", {"expander": (32, 24), "embedding": "standardised"}),
    "vicreg, unit length": ("vicreg", {"expander": (32, 24), "embedding": "unit"}),
    "vicregl": ("vicregl", SMALL),
    "vicregl, official": ("vicregl", SMALL | {"compat": "official"}),
    "vicregl, location": ("vicregl", SMALL | {"matching": "location", "local": ("invariance", "variance")}),
    "vicregl, feature": ("vicregl", SMALL | {"matching": "feature", "alpha": 0.0, "num_matches": (1, 1)}),
    "simclr-l": ("vicregl", SMALL | {"criterion": "simclr", "num_matches": (3, 1)}),
    "wmse": ("wmse", {"projector": (32, 2), "w_size": 3, "w_iter": 2}),
    "wmse, plain distance": ("wmse", {"projector": (32, 2), "w_size": 6, "distance": "euclidean", "eps": 0.1}),
}
assert {name for name, _ in CASES.values()} == METHODS.keys()


def random_views(batch: int = 4, small: int = 1, seed: int = 0, large: int = 2) -> Views:
    """Large crops and some small ones, at random places of pictures of 100 x 120, some of them mirrored."""
    random = torch.Generator().manual_seed(seed)

    def view(size: int) -> View:
        affines = []
        for _ in range(batch):
            y, x, h, w = (
                torch.rand(4, generator=random) * torch.tensor([40, 50, 50, 60]) + torch.tensor([0, 0, 10, 10])
            ).tolist()
            mirrored = torch.rand((), generator=random) < 0.5
            affines.append([[h, 0, y], [0, -w, x + w] if mirrored else [0, w, x]])
        return View(torch.randn(batch, 3, size, size, generator=random), torch.tensor(affines))

    return Views([view(64) for _ in range(large)], [view(32) for _ in range(small)], torch.arange(batch))


def views_for(case: str, seed: int = 0) -> Views:
    """Six pictures, with the crops that the method takes."""
    crops = METHODS[CASES[case][0]].crops
    return random_views(batch=6, small=int(crops in ("two and small", "any")), seed=seed, large=2 + (crops == "large"))


def double(views: Views) -> Views:
    large, small = ([View(view.image.double(), view.affine) for view in kind] for kind in views[:2])
    return Views(large, small, views.pictures)


def build(case: str, backbone: str, seed: int = 0) -> Method:
    """The method of ``case`` before the last step of the only epoch of six pictures."""
    torch.manual_seed(seed)
    name, arguments = CASES[case]
    method = METHODS[name](Backbone(backbone), **arguments)
    method.begin(pictures=6, batch=6)
    method.progress = 0.5
    return method


def advance(method: Method, views: Views) -> None:
    """One step that leaves the weights: what a method remembers changes."""
    torch.manual_seed(1)
    method(views)
    method.update()


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("case", CASES)
def test_every_method_gives_finite_terms_that_train_all_but_targets(case: str, backbone: str) -> None:
    method = build(case, backbone)
    advance(method, views_for(case, seed=1))
    terms = method(views_for(case))
    torch.stack(list(terms.values())).sum().backward()
    for key, term in terms.items():
        assert term.shape == (), key
        assert term.isfinite(), key
    for key, parameter in method.named_parameters():
        # A convolution before batch statistics may have a zero gradient; one without any is not part of the graph.
        assert (parameter.grad is None) == key.startswith("target."), key
        assert parameter.requires_grad != key.startswith("target."), key
    assert sum(p.grad.abs().sum() for p in method.backbone.parameters()) > 0
    assert not any("classifier" in key or "fc." in key.replace("mlp.fc", "") for key, _ in method.named_parameters())


@pytest.mark.parametrize("case", CASES)
def test_terms_are_in_fp32_under_autocast(case: str) -> None:
    """A term that a product gave would be in bf16, with two digits, and so would be its gradient."""
    method = build(case, "test_resnet")
    with torch.autocast("cpu", torch.bfloat16):
        terms = method(views_for(case))
    assert {key: term.dtype for key, term in terms.items()} == dict.fromkeys(terms, torch.float32)


@pytest.mark.parametrize("case", CASES)
def test_a_method_goes_on_from_its_state(case: str) -> None:
    """All that a method remembers is in its state: another instance with it computes the same, now and a step later."""
    first, second = build(case, "test_resnet"), build(case, "test_resnet", seed=1)
    advance(first, views_for(case, seed=1))
    second.load_state_dict(first.state_dict())
    for seed in (2, 3):
        terms = []
        for method in (first, second):
            torch.manual_seed(seed)
            terms.append(method(views_for(case, seed)))
            method.update()
        assert terms[0] == terms[1]


def constant(method: torch.nn.Module) -> None:
    """Total collapse: every embedding is zero."""
    for head in (method.expander, getattr(method, "projector", None)):
        if head is not None:
            head[-1].weight.data.zero_()


@pytest.mark.parametrize("compat", [None, "official"])
def test_loss_at_total_collapse(compat: str | None) -> None:
    """24.75 for VICReg; VICRegL adds its two matchings: 0.75 * 24.75 + 0.25 * 49.5."""
    vicreg = VICReg(Backbone("convnext_atto"), expander=(32, 24))
    vicregl = VICRegL(Backbone("convnext_atto"), alpha=0.75, compat=compat, **SMALL)
    for method, expected in ((vicreg, 24.75), (vicregl, 30.9375)):
        constant(method)
        assert sum(method(random_views()).values()).item() == pytest.approx(expected, rel=1e-6)


def naive_pairs(query: Tensor, key: Tensor, k: int | None) -> list[tuple[int, int]]:
    """Nearest key of each query place of one picture, the k closest, in cell order."""
    distances = ((query[:, None] - key[None]) ** 2).sum(-1).sqrt().tolist()
    found = sorted((min(row), p, row.index(min(row))) for p, row in enumerate(distances))
    return sorted((p, q) for _, p, q in found[:k])


def naive_local(
    cells: list[Tensor], places: list[Tensor], counts: list[tuple[int, int, int | None, int | None]]
) -> Tensor:
    """The local criterion, pair of crops by pair of crops; counts: (pivot, other, pairs there, pairs back)."""
    total = torch.zeros((), dtype=torch.float64)
    for i, j, there, back in counts:
        for q, k, count in ((i, j, there), (j, i, back)):
            pairs = [naive_pairs(places[q][n], places[k][n], count) for n in range(len(cells[q]))]
            a = torch.stack([torch.stack([cells[q][n, p] for p, _ in of]) for n, of in enumerate(pairs)])
            b = torch.stack([torch.stack([cells[k][n, p] for _, p in of]) for n, of in enumerate(pairs)])
            slots = range(a.shape[1])
            s = ((a - b) ** 2).mean()
            v = sum(naive_variance(a[:, m]) + naive_variance(b[:, m]) for m in slots) / len(slots) / 2
            c = sum(naive_covariance(a[:, m]) + naive_covariance(b[:, m]) for m in slots) / len(slots) / 2
            total = total + (25 * s + 25 * v + c) / 2 / len(counts)
    return total


@pytest.mark.parametrize("compat", [None, "official"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_vicregl_equals_the_equations_written_out(backbone: str, compat: str | None) -> None:
    torch.manual_seed(0)
    method = VICRegL(Backbone(backbone), alpha=0.6, num_matches=(3, 1), compat=compat, **SMALL).double()
    views = double(random_views(small=2))
    terms = method(views)
    sum(terms.values()).backward()
    grads = [p.grad.clone() for p in method.parameters()]
    method.zero_grad()

    crops = [*views.large, *views.small]
    maps = [method.backbone(view.image) for view in crops]
    z = [method.expander(pooled(m[-1])) for m in maps]
    pivots = [(i, j) for i in (0, 1) for j in range(4) if i != j]
    invariance = sum(((z[i] - z[j]) ** 2).mean() for i, j in pivots) / len(pivots)
    loss = 0.6 * (25 * invariance + 25 * sum(map(naive_variance, z)) / 4 + sum(map(naive_covariance, z)) / 4)

    cells = [torch.stack(m[-1].flatten(2).unbind(-1), dim=1) for m in maps]
    cells = [method.projector(c.reshape(-1, c.shape[-1])).reshape(*c.shape[:2], -1) for c in cells]
    affines = [unflipped(view.affine) if compat else view.affine for view in crops]
    centers = [cell_centers(a, *m[-1].shape[2:]) for a, m in zip(affines, maps, strict=True)]
    location = [(i, j, 3, 3 if j < 2 and not compat else 1) for i, j in pivots]
    feature = [(i, j, None, None) for i, j in pivots] if compat else location
    detached = [c.detach() for c in cells]
    loss = loss + 0.4 * (naive_local(cells, centers, location) + naive_local(cells, detached, feature))
    loss.backward()

    torch.testing.assert_close(sum(terms.values()), loss, rtol=1e-6, atol=1e-6)
    for ours, (key, parameter) in zip(grads, method.named_parameters(), strict=True):
        torch.testing.assert_close(ours, parameter.grad, rtol=1e-5, atol=1e-6, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_heads_that_have_no_share_do_not_exist(alpha: float) -> None:
    method = VICRegL(Backbone("convnext_atto"), alpha=alpha, **SMALL)
    heads = {key.split(".")[0] for key in method.state_dict()} - {"backbone"}
    assert heads == ({"projector"} if alpha == 0 else {"expander"})
    kinds = {key.split("_")[0] for key in method(random_views())}
    assert kinds == ({"location", "feature"} if alpha == 0 else {"global"})


@pytest.mark.parametrize(("backbone", "norm"), [("convnext_atto", "LayerNorm"), ("test_resnet", "BatchNorm1d")])
def test_heads_normalise_as_their_backbone_does(backbone: str, norm: str) -> None:
    method = VICRegL(Backbone(backbone), expander=(32, 24, 16), projector=(16, 12, 8))
    for head in (method.expander, method.projector):
        assert type(head[1]).__name__ == type(head[4]).__name__ == norm
        assert [head[0].bias is None, head[3].bias is None, head[6].bias is None] == [False, False, True]
