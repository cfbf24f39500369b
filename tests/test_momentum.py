"""Targets, queues and clusters against loops."""

import itertools
import math

import pytest
import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional as F

from densessl import momentum
from densessl.backbones import Backbone, pooled
from densessl.errors import UserError
from densessl.kmeans import spherical_kmeans
from densessl.memory import Queue
from densessl.momentum import Target, rising


def network(backbone: str, drop_path: float = 0.0) -> tuple[Backbone, nn.Module]:
    torch.manual_seed(0)
    body = Backbone(backbone, drop_path=drop_path)
    return body, nn.Sequential(nn.Linear(body.channels[-1], 6), nn.BatchNorm1d(6))


def fixed(monkeypatch: pytest.MonkeyPatch, module: object, order: list[int]) -> None:
    """``module`` draws this permutation."""

    def permutation(n: int, device: torch.device) -> Tensor:
        assert n == len(order)
        return torch.tensor(order, device=device)

    monkeypatch.setattr(module, "permutation", permutation)


# --- targets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", ["convnext_atto", "test_resnet"])
def test_a_target_is_a_copy_that_needs_no_gradient(backbone: str) -> None:
    parts = network(backbone)
    target = Target(*parts)
    source = nn.ModuleList(parts)
    assert target.state_dict().keys() == source.state_dict().keys()
    for key, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[key], value), key
        assert target.state_dict()[key].data_ptr() != value.data_ptr(), key
    assert not any(p.requires_grad for p in target.parameters())
    assert all(p.requires_grad for p in source.parameters())
    image = torch.randn(3, 3, 64, 64, requires_grad=True)
    (output,) = target([image])
    assert not output.requires_grad
    torch.testing.assert_close(output, parts[1](pooled(parts[0](image)[-1])))


def test_a_target_has_batch_statistics_of_its_own() -> None:
    """It normalises by the pictures it sees, and neither they nor following touch the source's running statistics."""
    body, head = network("test_resnet")
    target = Target(body, head)
    before = {key: value.clone() for key, value in body.state_dict().items()}
    target([torch.randn(4, 3, 64, 64) + 2])
    running = [value.clone() for value in target.buffers()]
    target.follow(body, head, momentum=0.5)
    for key, value in body.state_dict().items():
        assert torch.equal(value, before[key]), key
    for now, then in zip(target.buffers(), running, strict=True):
        assert torch.equal(now, then)
    assert not torch.equal(target[0].state_dict()["net.bn1.running_mean"], body.state_dict()["net.bn1.running_mean"])


@pytest.mark.parametrize("backbone", ["convnext_atto", "test_resnet"])
def test_drop_path_is_off_in_the_target_and_on_in_the_source(backbone: str) -> None:
    body, _ = network(backbone, drop_path=0.5)
    for parameter in body.parameters():  # the last normalisation of a ResNet's branch begins at zero
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    target = Target(body, nn.Identity())
    assert any(m.drop_prob for m in body.modules() if isinstance(m, DropPath))
    image = torch.randn(6, 3, 64, 64)
    assert torch.equal(target([image])[0], target([image])[0])
    assert not torch.equal(pooled(body(image)[-1]), pooled(body(image)[-1]))
    without = Backbone(backbone)
    without.load_state_dict(body.state_dict())
    torch.testing.assert_close(target([image])[0], pooled(without(image)[-1]))


@pytest.mark.parametrize("share", [0.0, 0.5, 0.996, 0.9999, 1.0])
def test_following_is_the_moving_average(share: float) -> None:
    body, head = network("test_resnet")
    target = Target(body, head)
    expected = [p.detach().double() for p in target.parameters()]
    for _ in range(3):
        for p in (*body.parameters(), *head.parameters()):
            p.data.add_(0.1 * torch.randn_like(p))
        target.follow(body, head, momentum=share)
        sources = [p.detach().double() for p in (*body.parameters(), *head.parameters())]
        expected = [share * ours + (1 - share) * theirs for ours, theirs in zip(expected, sources, strict=True)]
        for p, truth in zip(target.parameters(), expected, strict=True):
            if share in (0.0, 1.0):  # a hard copy, a fixed target: to the last digit
                assert torch.equal(p.double(), truth)
            torch.testing.assert_close(p.double(), truth, rtol=1e-6, atol=1e-6)
    assert not any(p.requires_grad for p in target.parameters())


@pytest.mark.parametrize("tau", [0.0, 0.99, 0.996, 1.0])
def test_the_share_rises_as_in_byol(tau: float) -> None:
    """tau_k = 1 - (1 - tau) (cos(pi k / K) + 1) / 2."""
    assert rising(tau, 0) == pytest.approx(tau, abs=1e-15)
    assert rising(tau, 0.5) == pytest.approx((1 + tau) / 2, abs=1e-15)
    assert rising(tau, 1) == 1
    steps = [rising(tau, k / 10) for k in range(11)]
    assert steps == sorted(steps)
    assert steps[2] == pytest.approx(1 - (1 - tau) * (math.cos(0.2 * math.pi) + 1) / 2)


@pytest.mark.parametrize(("groups", "parts"), [(1, [[4, 1, 5, 0, 3, 2]]), (3, [[4, 1], [5, 0], [3, 2]])])
def test_shuffled_parts_have_batch_statistics_of_their_own(
    groups: int, parts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part as if it were alone, and the rows come back in the order of the pictures."""
    fixed(monkeypatch, momentum, [4, 1, 5, 0, 3, 2])
    body, head = network("test_resnet")
    image = torch.randn(6, 3, 64, 64) * torch.linspace(0.5, 3, 6).view(-1, 1, 1, 1)
    target = Target(body, head, groups=groups)
    expected = torch.empty(6, 6)
    for rows in parts:
        (expected[rows],) = Target(body, head)([image[rows]])
    ours, same = target.shuffled(lambda part: (*target([part]), part), image)
    torch.testing.assert_close(ours, expected)
    assert torch.equal(same, image)
    assert not ours.requires_grad
    if groups > 1:
        assert (ours - target([image])[0]).abs().max() > 0.01


def test_groups_that_processes_cannot_share_are_refused_before_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(momentum, "world_size", lambda: 3)
    with pytest.raises(UserError, match="groups=8 can't be shared out equally among 3 processes: set a multiple"):
        Target(nn.BatchNorm1d(1), groups=8)
    Target(nn.Linear(1, 1), groups=8)  # nothing to shuffle
    Target(nn.BatchNorm1d(1), groups=6)


def test_shuffling_draws_a_new_order_each_time() -> None:
    """Otherwise the same pictures would share their statistics in every step."""
    target, image = Target(nn.BatchNorm1d(1), groups=2), torch.arange(64.0)[:, None]
    seen: list[Tensor] = []
    for _ in range(2):
        (back,) = target.shuffled(lambda part: (seen.append(part) or part,), image)
        assert torch.equal(back, image)
    assert [len(part) for part in seen] == [32] * 4
    assert not torch.equal(seen[0], seen[2])
    assert torch.equal(torch.cat(seen[:2]).sort(0).values, image)


# --- queue ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "batch"), [(6, 2), (6, 6), (5, 2), (7, 3)])
def test_a_queue_is_a_ring_of_unit_rows(size: int, batch: int) -> None:
    """The newest rows take the place of the oldest, also across its end."""
    torch.manual_seed(0)
    queue = Queue(size, 4)
    torch.testing.assert_close(queue().norm(dim=1), torch.ones(size))
    ring, place = list(queue().double()), 0
    for push in range(1, 9):
        rows = 5 * torch.randn(batch, 4)
        for row in rows.double():
            ring[place] = row / row.norm()
            place = (place + 1) % size
        queue.push(rows)
        torch.testing.assert_close(queue().double(), torch.stack(ring), rtol=1e-6, atol=1e-6)
        assert queue.full == (push * batch >= size)


def test_pushing_does_not_change_what_a_backward_needs() -> None:
    queue = Queue(4, 3)
    query = torch.randn(2, 3, requires_grad=True)
    before = queue()
    loss = (query @ before.T).square().sum()
    queue.push(torch.randn(2, 3, requires_grad=True))
    loss.backward()
    torch.testing.assert_close(query.grad, (2 * query @ before.T @ before).detach())
    assert not torch.equal(queue(), before)
    assert not queue().requires_grad


def test_a_queue_goes_on_where_its_state_was_saved() -> None:
    queue, other = Queue(4, 3), Queue(4, 3)
    queue.push(torch.randn(3, 3))
    other.load_state_dict(queue.state_dict())
    rows = torch.randn(3, 3)
    queue.push(rows)
    other.push(rows)
    assert torch.equal(queue(), other())
    assert other.full


# --- clusters ---------------------------------------------------------------------------------------------------------


def naive_kmeans(rows: Tensor, order: list[int], count: int, iterations: int) -> tuple[Tensor, list[int]]:
    """Spherical k-means row by row; float64."""
    rows = torch.stack([row / row.norm() for row in rows])
    centroids = [rows[i] for i in order[:count]]
    for step in range(iterations + 1):
        members = []
        for row in rows:
            cosines = [(row @ centroid).item() for centroid in centroids]
            members.append(cosines.index(max(cosines)))
        if step < iterations:
            for k in range(count):
                own = [row for row, member in zip(rows, members, strict=True) if member == k]
                if own:
                    centroids[k] = sum(own) / sum(own).norm()
    return torch.stack(centroids), members


@pytest.mark.parametrize("count", [1, 3, 7])
@pytest.mark.parametrize("iterations", [0, 1, 4])
def test_kmeans_equals_a_loop(count: int, iterations: int) -> None:
    torch.manual_seed(0)
    order = torch.randperm(20).tolist()
    rows = 3 * torch.randn(20, 4, dtype=torch.float64)
    centroids, members = spherical_kmeans(rows, rows[order[:count]], iterations)
    expected, truth = naive_kmeans(rows, order, count, iterations)
    torch.testing.assert_close(centroids, expected)
    assert members.tolist() == truth


def test_kmeans_finds_clusters_that_lie_apart() -> None:
    """From one row of each; lengths mean nothing."""
    torch.manual_seed(0)
    truth = torch.arange(5).repeat(40)
    directions = torch.linalg.qr(torch.randn(8, 8)).Q[:5]
    rows = (directions[truth] + 0.05 * torch.randn(200, 8)) * torch.rand(200, 1).add(0.1)
    centroids, members = spherical_kmeans(rows, rows[:5], 10)
    assert torch.equal(members, truth)
    assert F.cosine_similarity(centroids, directions).min() > 0.99
    torch.testing.assert_close(centroids.norm(dim=1), torch.ones(5))


@pytest.mark.parametrize("seed", range(3))
def test_kmeans_never_loses_what_it_gained(seed: int) -> None:
    """The sum of the rows' cosines with their centroids, after more and more iterations from the same start."""
    rows = torch.randn(300, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    objective = []
    for iterations in range(12):
        centroids, members = spherical_kmeans(rows, rows[:20], iterations)
        objective.append(F.cosine_similarity(rows, centroids[members]).sum().item())
        nearest = F.cosine_similarity(rows[:, None], centroids[None], dim=2).argmax(1)
        assert torch.equal(members, nearest)
    assert all(later >= earlier - 1e-9 for earlier, later in itertools.pairwise(objective))
    assert objective[-1] > objective[0] + 1


def test_a_centroid_without_rows_stays_where_it_is() -> None:
    """Two begin in the same place: all rows go to the first."""
    rows = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0.6, 0.8]])
    centroids, members = spherical_kmeans(rows, rows[:3], 5)
    assert members.tolist() == [0, 0, 2, 2]
    torch.testing.assert_close(centroids[1], rows[1])
    assert centroids.isfinite().all()
