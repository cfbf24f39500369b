"""Each method against its paper's equations, written out pair by pair in float64."""

import pytest
import torch
from test_criteria import naive_covariance, naive_variance
from torch import Tensor

from densessl.backbones import Backbone, pooled
from densessl.data.views import View, Views
from densessl.matching import cell_centers, unflipped
from densessl.methods import METHODS
from densessl.methods.vicreg import VICReg
from densessl.methods.vicregl import VICRegL

BACKBONES = ["convnext_atto", "test_resnet"]
SMALL = {"expander": (32, 24), "projector": (16, 12)}


def random_views(batch: int = 4, small: int = 1, seed: int = 0) -> Views:
    """Two large crops and some small ones, at random places of pictures of 100 x 120, some of them mirrored."""
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

    return Views([view(64), view(64)], [view(32) for _ in range(small)])


def small(name: str) -> dict:
    return {key: value for key, value in SMALL.items() if name == "vicregl" or key == "expander"}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_method_gives_finite_terms_that_train_its_backbone(name: str, backbone: str) -> None:
    method = METHODS[name](Backbone(backbone), **small(name))
    terms = method(random_views())
    sum(terms.values()).backward()
    for key, term in terms.items():
        assert term.shape == (), key
        assert term.isfinite(), key
    for key, parameter in method.named_parameters():
        # A convolution before batch statistics may have a zero gradient; one without any is not part of the graph.
        assert parameter.grad is not None, key
    assert not any("classifier" in key or "fc." in key.replace("mlp.fc", "") for key, _ in method.named_parameters())
    method.update(1.0)


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
    views = random_views(small=2)
    views = Views(*[[View(v.image.double(), v.affine) for v in kind] for kind in views])
    terms = method(views)
    sum(terms.values()).backward()
    grads = [p.grad.clone() for p in method.parameters()]
    method.zero_grad()

    crops = [*views.large, *views.small]
    maps = [method.backbone(view.image) for view in crops]
    z = [method.expander(pooled(m)) for m in maps]
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
