"""Two processes equal one: the same loss and the same gradients as one process with the whole batch."""

import os
import socket
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from test_criteria import rows_of
from test_losses import WORDS, N, every_loss
from test_methods import CASES, advance, build, double, views_for

from densessl.data.views import View, Views
from densessl.methods import METHODS
from densessl.training.batch_norm import synchronise_batch_norm
from densessl.training.distributed import mean_over_processes

# Every method with both backbones, every further argument with one.
PAIRS = [(case, "test_resnet") for case in CASES] + [(name, "test_convnext") for name in METHODS]


def part(views: Views, rank: int) -> Views:
    crops = ([View(*(t.chunk(2)[rank] for t in view)) for view in kind] for kind in views[:2])
    return Views(*crops, views.pictures.chunk(2)[rank])


def process(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error", FutureWarning)  # which a user would see, of each process
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    for number, (case, backbone) in enumerate(PAIRS):
        method = synchronise_batch_norm(build(case, backbone).double())  # a difference is not rounding
        advance(method, part(double(views_for(case, seed=1)), rank))
        terms = method(part(double(views_for(case)), rank))
        torch.stack(list(terms.values())).sum().backward()
        terms = mean_over_processes(terms)
        gradients = [p.grad for p in method.parameters() if p.requires_grad]
        if case == "barlow_twins, official":  # whose authors add the matrix up outside autograd
            gradients = [2 * gradient for gradient in gradients]
        for gradient in gradients:  # as the engine does
            dist.all_reduce(gradient)
            gradient /= 2
        if rank == 0:
            torch.save((terms, gradients), Path(folder) / f"{number}.pt")
    torch.save(every_loss(rank), Path(folder) / f"losses{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(process, (port, str(folder)), nprocs=2)
    return folder


@pytest.mark.parametrize(("case", "backbone"), PAIRS)
def test_two_processes_equal_one(case: str, backbone: str, two_processes: Path) -> None:
    terms, gradients = torch.load(two_processes / f"{PAIRS.index((case, backbone))}.pt")
    method = build(case, backbone).double()
    advance(method, double(views_for(case, seed=1)))
    expected = method(double(views_for(case)))
    torch.stack(list(expected.values())).sum().backward()
    assert terms == pytest.approx({key: term.item() for key, term in expected.items()}, rel=1e-5)
    trained = [(key, p.grad) for key, p in method.named_parameters() if p.requires_grad]
    whole = torch.cat([gradient.flatten() for _, gradient in trained])
    ours = torch.cat([gradient.flatten() for gradient in gradients])
    assert (ours - whole).norm() / whole.norm() < 1e-5
    for (key, expected_gradient), gradient in zip(trained, gradients, strict=True):
        # Biases before batch statistics have no gradient but rounding: they are measured against the whole.
        assert (gradient - expected_gradient).norm() <= 1e-5 * max(expected_gradient.norm(), 1e-2 * whole.norm()), key


def test_losses_of_two_processes_are_those_of_the_whole_batch(two_processes: Path) -> None:
    """After the mean over processes, which DistributedDataParallel takes."""
    whole, parts = every_loss(), [torch.load(two_processes / f"losses{rank}.pt") for rank in range(2)]
    torch.testing.assert_close(whole["center"][0], 0.9 + 0.1 * torch.cat(rows_of([(N, WORDS)] * 2)).mean(0))
    for name, (value, gradients) in whole.items():
        (a, of_a), (b, of_b) = (part[name] for part in parts)
        torch.testing.assert_close((a + b) / 2, value)
        for gradient, first, second in zip(gradients, of_a, of_b, strict=True):
            shared = first.shape == gradient.shape  # prototypes, which every process has
            mean = (first + second) / 2 if shared else torch.cat([first, second]) / 2
            torch.testing.assert_close(mean, gradient)
