"""Two processes equal one: the same loss and the same gradients as one process with the whole batch."""

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from test_methods import random_views, small

from densessl.backbones import Backbone
from densessl.data.views import View, Views
from densessl.method import Method
from densessl.methods import METHODS
from densessl.training.distributed import mean_over_processes, synchronise_batch_norm

CASES = [(name, backbone) for name in METHODS for backbone in ("convnext_atto", "test_resnet")]


def build(name: str, backbone: str) -> Method:
    torch.manual_seed(0)
    return METHODS[name](Backbone(backbone), **small(name))


def part(views: Views, rank: int) -> Views:
    return Views(*[[View(*(t.chunk(2)[rank] for t in view)) for view in kind] for kind in views])


def process(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    for name, backbone in CASES:
        method = synchronise_batch_norm(build(name, backbone))
        terms = method(part(random_views(batch=6), rank))
        sum(terms.values()).backward()
        terms = mean_over_processes(terms)
        gradients = [p.grad for p in method.parameters()]
        for gradient in gradients:  # as the engine does
            dist.all_reduce(gradient)
            gradient /= 2
        if rank == 0:
            torch.save((terms, gradients), Path(folder) / f"{name}-{backbone}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(process, (port, str(folder)), nprocs=2)
    return folder


@pytest.mark.parametrize(("name", "backbone"), CASES)
def test_two_processes_equal_one(name: str, backbone: str, two_processes: Path) -> None:
    terms, gradients = torch.load(two_processes / f"{name}-{backbone}.pt")
    method = build(name, backbone)
    expected = method(random_views(batch=6))
    sum(expected.values()).backward()
    assert terms == pytest.approx({key: term.item() for key, term in expected.items()}, rel=1e-5)
    whole = torch.cat([p.grad.flatten() for p in method.parameters()])
    ours = torch.cat([gradient.flatten() for gradient in gradients])
    assert (ours - whole).norm() / whole.norm() < 1e-5
    for (key, parameter), gradient in zip(method.named_parameters(), gradients, strict=True):
        # Biases before batch statistics have no gradient but rounding: they are measured against the whole.
        assert (gradient - parameter.grad).norm() <= 1e-5 * max(parameter.grad.norm(), 1e-2 * whole.norm()), key
