"""Retrieval and over-clustering against loops over places."""

import itertools

import pytest
import torch
from test_segmentation_linear import Blocks, Colors
from torch.nn import functional as F

from densessl.errors import UserError
from densessl.segmentation import clusters, retrieval
from densessl.segmentation.evaluation import evaluate
from densessl.segmentation.protocols import find_protocol

CPU = torch.device("cpu")
SMALL = ["crops=12", "places=200", "batch=4", "scale=null", "ratio=[1, 1]", "crop=[32, 32]", "inference=whole"]
SMALL += ["final_norm=false"]  # of the backbone below, which has none


def naive_retrieval(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, k: int, t: float) -> torch.Tensor:
    cosines = [float(query @ key / query.norm() / key.norm()) for key in keys]
    best = sorted(range(len(keys)), key=lambda i: -cosines[i])[:k]
    weights = torch.tensor([cosines[i] / t for i in best], dtype=torch.float64).exp()
    return sum(w * values[i].double() for w, i in zip(weights / weights.sum(), best, strict=True))


@pytest.mark.parametrize("at_once", [1, 2**26])
def test_retrieval_equals_a_loop(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(retrieval, "AT_ONCE", at_once)
    keys, values, last = F.normalize(torch.randn(30, 6), dim=1), torch.rand(30, 4), torch.randn(2, 6, 3, 5)
    found = retrieval.NearestPlaces(keys, values, k=5, temperature=0.1)([last])
    assert found.shape == (2, 4, 3, 5)
    for b, y, x in [(0, 0, 0), (1, 2, 4), (1, 0, 3)]:
        expected = naive_retrieval(last[b, :, y, x], keys, values, 5, 0.1)
        torch.testing.assert_close(found[b, :, y, x].double(), expected, rtol=1e-4, atol=1e-5)


def test_class_shares_of_cells() -> None:
    mask = torch.tensor([[0, 0, 1, 255], [0, 2, 255, 255], [1, 1, 255, 255], [1, 1, 255, 255]])[None]
    shares = retrieval.class_shares(mask, 3, torch.Size((2, 2)))
    expected = [[[0.75, 0, 0.25], [0, 1, 0]], [[0, 1, 0], [0, 0, 0]]]
    torch.testing.assert_close(shares[0].movedim(0, 2), torch.tensor(expected))


@pytest.mark.parametrize("name", ["hummingbird", "overclustering"])
def test_what_colours_tell_is_found_without_training(name: str) -> None:
    changes = SMALL + (["clusters=8"] if name == "overclustering" else ["k=5"])
    result = evaluate(Colors(), Blocks("train"), Blocks("val", count=2), find_protocol(name, changes))
    assert result.miou > 0.9


def test_clusters_are_named_by_what_they_cover_most() -> None:
    named = clusters.NamedClusters(F.normalize(torch.tensor([[1.0, 0], [0, 1]]), dim=1), torch.eye(3)[[2, 0]])
    last = torch.tensor([[[[3.0, 0.1]], [[0.2, 5]]]])  # (1, 2, 1, 2)
    assert named([last]).argmax(1).flatten().tolist() == [2, 0]


def test_purity_is_the_share_of_places_that_have_their_names() -> None:
    protocol = find_protocol("overclustering", [*SMALL, "clusters=4"])
    head, fitted = clusters.fit(Colors(), Blocks("train"), protocol, 0, CPU, 0)
    places, shares = retrieval.collect(Colors(), Blocks("train"), protocol, 0, CPU, 0)
    names = head.names[(places @ head.centroids.T).argmax(1)].argmax(1)
    assert fitted["purity"] == pytest.approx(shares.gather(1, names[:, None]).mean().item(), rel=1e-5)


def test_more_clusters_than_places_are_refused() -> None:
    with pytest.raises(UserError, match="places can't form clusters=5000: set fewer"):
        clusters.fit(Colors(), Blocks("train"), find_protocol("overclustering", [*SMALL, "clusters=5000"]), 0, CPU, 0)


def test_hungarian_matching_gives_each_class_one_cluster() -> None:
    """Against every pairing there is."""
    changes = [*SMALL, "clusters=3", "matching=hungarian"]
    head, fitted = clusters.fit(Colors(), Blocks("train"), find_protocol("overclustering", changes), 0, CPU, 0)
    places, shares = retrieval.collect(Colors(), Blocks("train"), find_protocol("overclustering", changes), 0, CPU, 0)
    members = (places @ head.centroids.T).argmax(1)
    covered = torch.stack([shares[members == cluster].sum(0) for cluster in range(3)])
    best = max(itertools.permutations(range(3)), key=lambda names: sum(covered[c, n] for c, n in enumerate(names)))
    assert tuple(head.names.argmax(1).tolist()) == best
    assert fitted["purity"] == pytest.approx(sum(float(covered[c, n]) for c, n in enumerate(best)) / len(places))


def test_hungarian_matching_needs_as_many_clusters_as_classes() -> None:
    protocol = find_protocol("overclustering", [*SMALL, "matching=hungarian", "clusters=5"])
    with pytest.raises(UserError, match="blocks has 3 classes: matching=hungarian needs clusters=3, not 5"):
        clusters.fit(Colors(), Blocks("train"), protocol, 0, CPU, 0)
