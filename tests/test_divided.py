"""Statistics of places that processes share: three processes against one, and against what a wrong loss would do."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from spawned import spawn
from torch import Tensor

from densessl import criteria
from densessl.divided import everyones_statistics
from densessl.training.distributed import gathering

PROCESSES, N, ROWS, DIM = 3, 2, 10, 4  # pictures and rows of a process
COUNTS = (7, 2, 40)  # places: no multiple of 3, fewer than processes, many


def made(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Everyone's rows, each process's places among its own, weights."""
    random = torch.Generator().manual_seed(count)
    rows = 0.5 * torch.randn(PROCESSES * ROWS, DIM, generator=random, dtype=torch.float64) + 3
    places = torch.randint(0, ROWS, (PROCESSES * N, count), generator=random)
    return rows, places, torch.rand(2, count, generator=random, dtype=torch.float64)


def process(rank: int, folder: Path) -> dict[str, Any]:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=PROCESSES)
    result: dict[str, Any] = {}
    for count in COUNTS:
        rows, places, weights = made(count)
        own = rows.chunk(PROCESSES)[rank].clone().requires_grad_()
        values = torch.stack(everyones_statistics(own, places.chunk(PROCESSES)[rank], gathering(own), weights))
        (gradient,) = torch.autograd.grad(8 * (values * weights).sum(), own, retain_graph=True)
        (other,) = torch.autograd.grad(values.sum(), own)
        result[str(count)] = values.detach(), gradient, other
    half = made(40)[0].chunk(PROCESSES)[rank].bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):  # as the engine calls methods
        values = torch.stack(everyones_statistics(half, places.chunk(PROCESSES)[rank], gathering(half), weights))
    (gradient,) = torch.autograd.grad((values * weights).sum(), half, retain_graph=True)
    result["half"] = values.detach(), gradient
    # Alone in the backward: another process that sent or waited would hang, and be told of.
    if rank == 0:
        torch.autograd.grad((values * weights).sum(), half)
    dist.destroy_process_group()
    return result


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return spawn(process, tmp_path_factory.mktemp("three"), PROCESSES)


def whole(rows: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """All rows and where all pictures have their places among them."""
    starts = ROWS * torch.arange(PROCESSES).repeat_interleave(N)
    return rows.requires_grad_(), places + starts[:, None]


@pytest.mark.parametrize("count", COUNTS)
def test_three_processes_have_the_values_and_gradients_of_one(count: int, found: list[dict[str, Any]]) -> None:
    rows, places, weights = made(count)
    rows, places = whole(rows, places)
    values = torch.stack(criteria.variance_and_covariance(rows, places))
    (gradient,) = torch.autograd.grad(8 * (values * weights).sum(), rows)
    ours, gradients, _ = zip(*(each[str(count)] for each in found), strict=True)
    torch.testing.assert_close(sum(ours) / PROCESSES, values.detach())
    torch.testing.assert_close(torch.cat(gradients) / PROCESSES, gradient)  # the engine averages


def test_half_the_digits_are_summed_in_fp32(found: list[dict[str, Any]]) -> None:
    rows, places, weights = made(40)
    rows, places = whole(rows.bfloat16(), places)
    values = torch.stack(criteria.variance_and_covariance(rows, places))
    (gradient,) = torch.autograd.grad((values * weights.float()).sum(), rows)
    ours, gradients = zip(*(each["half"] for each in found), strict=True)
    torch.testing.assert_close(sum(ours) / PROCESSES, values.detach())
    torch.testing.assert_close(torch.cat(gradients).float() / PROCESSES, gradient.float(), rtol=2**-7, atol=1e-6)


def test_each_place_is_computed_once(found: list[dict[str, Any]]) -> None:
    for count in COUNTS:
        computed = torch.stack([each[str(count)][0][1] > 0 for each in found])
        assert (computed.sum(0) == 1).all()


@pytest.mark.parametrize("count", COUNTS)
def test_the_gradient_of_a_loss_that_was_not_said_is_nan(count: int, found: list[dict[str, Any]]) -> None:
    for each in found:
        assert each[str(count)][2].isnan().all()
