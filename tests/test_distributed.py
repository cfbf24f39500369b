"""Two gloo processes against one with the whole batch: values and gradients."""

import os
import socket
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from spawned import spawn
from torch import Tensor, nn

from densessl.__main__ import main, run
from densessl.data.scenes import Scenes
from densessl.errors import UserError
from densessl.training import distributed
from densessl.training.batch_norm import synchronise_batch_norm
from densessl.training.distributed import gather
from densessl.training.launch import PLACE, setup
from densessl.training.pretrain import _same_list

# --- what both processes do -------------------------------------------------------------------------------------------


def whole_batch() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    return torch.randn(6, 5, generator=random, dtype=torch.float64), torch.randn(5, 4, generator=random).double()


def coupled_loss(own: Tensor, everyone: Tensor) -> Tensor:
    """A mean over own rows of something that every row enters, and a statistic of all rows."""
    return (own @ everyone.T).exp().mean() + everyone.var(0).log().sum()


def process(rank: int, folder: Path) -> dict[str, Any]:
    warnings.simplefilter("error", FutureWarning)  # which a user would see, of each process
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    result: dict[str, Any] = {"rank": distributed.rank(), "world_size": distributed.world_size()}
    # gather
    x, weight = whole_batch()
    weight.requires_grad_()
    own = torch.tanh(x.chunk(2)[rank] @ weight)
    everyone = gather(own)
    loss = coupled_loss(own, everyone)
    loss.backward()
    result |= {"gathered": everyone.detach(), "loss": loss.detach(), "gradient": weight.grad}
    result["counted"] = gather(torch.tensor([[rank, 7]]))
    result["detached"] = gather(own.detach()).requires_grad
    result["half"] = gather(torch.full((1, 2), rank + 0.5, dtype=torch.bfloat16))
    # small messages
    result["mean"] = distributed.mean_over_processes({"a": torch.tensor(float(rank)), "b": 3.0})
    result["any"] = distributed.any_process(rank == 1, False, torch.tensor(rank == 0))
    result["object"] = distributed.broadcast_object({"from": rank})
    module = nn.BatchNorm1d(2)
    module.running_mean.fill_(rank + 1)
    distributed.broadcast_buffers(module)
    result["buffer"] = module.running_mean
    result["on_first"] = distributed.on_first(lambda: f"by {rank}")
    try:
        distributed.on_first(refused, "no such thing")
    except (UserError, SystemExit) as e:
        result["refused"] = repr(e)
    result["everywhere"] = distributed.everywhere(lambda: f"by {rank}")
    for name, refusal in {
        "one": lambda: distributed.everywhere(refused_in, 1, rank),
        "all": lambda: distributed.everywhere(refused, "nowhere"),
        "lists": lambda: _same_list(Scenes(5 + rank), "scenes"),
    }.items():
        try:
            refusal()
        except (UserError, SystemExit) as e:
            result[f"refused by {name}"] = repr(e)
    distributed.barrier()
    dist.destroy_process_group()
    return result


def refused(text: str) -> None:
    raise UserError(text)


def refused_in(which: int, rank: int) -> None:
    if rank == which:
        raise UserError("no such folder here")


# --- what must come of it ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return spawn(process, tmp_path_factory.mktemp("two"))


def test_gather_gives_all_rows_in_rank_order(results: list[dict[str, Any]]) -> None:
    x, weight = whole_batch()
    for rank, result in enumerate(results):
        assert (result["rank"], result["world_size"]) == (rank, 2)
        torch.testing.assert_close(result["gathered"], torch.tanh(x @ weight), rtol=1e-12, atol=0)
        assert result["counted"].tolist() == [[0, 7], [1, 7]]
        assert result["half"].tolist() == [[0.5, 0.5], [1.5, 1.5]]
        assert not result["detached"]


def test_averaged_gradient_through_gather_is_that_of_the_whole_batch(results: list[dict[str, Any]]) -> None:
    x, weight = whole_batch()
    weight.requires_grad_()
    everyone = torch.tanh(x @ weight)
    loss = coupled_loss(everyone, everyone)
    loss.backward()
    torch.testing.assert_close((results[0]["loss"] + results[1]["loss"]) / 2, loss.detach(), rtol=1e-12, atol=0)
    mean = (results[0]["gradient"] + results[1]["gradient"]) / 2
    torch.testing.assert_close(mean, weight.grad, rtol=1e-10, atol=0)


def test_small_messages(results: list[dict[str, Any]]) -> None:
    for rank, result in enumerate(results):
        assert result["mean"] == {"a": 0.5, "b": 3.0}
        assert result["any"] == (True, False, True)
        assert result["object"] == {"from": 0}
        assert result["buffer"].tolist() == [1, 1]
        assert result["on_first"] == "by 0"
        assert result["refused"] == ["UserError('no such thing')", "SystemExit(2)"][rank]


# --- one process ------------------------------------------------------------------------------------------------------


def test_one_process_needs_no_setup() -> None:
    x = torch.ones(3, 2)
    assert gather(x) is x
    norm = nn.BatchNorm1d(2)
    assert type(synchronise_batch_norm(nn.Sequential(norm))[0]) is nn.BatchNorm1d
    assert distributed.mean_over_processes({"a": x.sum()}) == {"a": 6}
    assert distributed.any_process(False, torch.tensor(True)) == (False, True)
    assert distributed.broadcast_object("a") == "a"
    with pytest.raises(UserError, match="no such thing"):
        distributed.on_first(refused, "no such thing")


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment of its own, without what a launcher says."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_", "MASTER_", "SLURM_", "OMP_", "DS_", "OMPI_", "PMI", "MPI_")
    environ = {k: v for k, v in os.environ.items() if not k.startswith(names)} | {"DS_ACCELERATOR": "cpu"}
    monkeypatch.setattr(os, "environ", environ)
    threads = torch.get_num_threads()
    yield environ
    torch.set_num_threads(threads)


def test_plain_python_is_one_process(environ: dict[str, str]) -> None:
    assert setup(threads=1) == torch.device("cpu")
    assert (environ["RANK"], environ["WORLD_SIZE"], environ["LOCAL_RANK"]) == ("0", "1", "0")
    with socket.socket() as s:
        s.bind((environ["MASTER_ADDR"], int(environ["MASTER_PORT"])))  # it is free


def test_a_launcher_is_believed(environ: dict[str, str]) -> None:
    named = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    environ.update(named)
    setup(threads=1)
    assert named.items() <= environ.items()


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("n[03-05,9],gpu1", "n03"),
        ("gpu1,n[03-05]", "gpu1"),
        ("a-b-01", "a-b-01"),
        ("r[1,3]n-ib,x", "r1n-ib"),
    ],
)
def test_srun_names_processes(environ: dict[str, str], nodes: str, first: str) -> None:
    environ.update(SLURM_STEP_NODELIST=nodes, SLURM_PROCID="5", SLURM_NTASKS="8", SLURM_LOCALID="1")
    environ.update(SLURM_JOB_ID="123456", SLURM_STEP_TASKS_PER_NODE="4(x2)")
    setup(threads=1)
    expected = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": first}
    assert expected.items() <= environ.items()
    assert environ["MASTER_PORT"] == "23456"


def test_a_shell_of_salloc_is_one_process(environ: dict[str, str]) -> None:
    """Whose job has eight tasks, and whose step has one."""
    environ.update(SLURM_STEP_NODELIST="n[1-2]", SLURM_PROCID="0", SLURM_NTASKS="8", SLURM_LOCALID="0")
    environ.update(SLURM_JOB_ID="123456", SLURM_STEP_NUM_TASKS="1", SLURM_STEP_TASKS_PER_NODE="1")
    setup(threads=1)
    assert (environ["RANK"], environ["WORLD_SIZE"], environ["MASTER_ADDR"]) == ("0", "1", "127.0.0.1")


OPEN_MPI = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE")
MPICH = ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS")


@pytest.mark.parametrize("names", [OPEN_MPI, MPICH])
def test_mpirun_names_processes(environ: dict[str, str], names: tuple[str, ...]) -> None:
    given = {"MASTER_PORT": "29500"} if names is MPICH else {"PMIX_NAMESPACE": "prterun-vm-4242@1"}
    environ.update(zip(names, ("1", "2", "1", "2"), strict=True))
    environ.update(given)
    setup(threads=1)
    expected = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    assert (expected | given).items() <= environ.items()
    assert 20000 <= int(environ["MASTER_PORT"]) < 30000


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "a", "MASTER_PORT": "1"},
            "no LOCAL_RANK: set LOCAL_RANK .its",
        ),
        (
            {"RANK": "0", "LOCAL_RANK": "0"},
            "^RANK=0, LOCAL_RANK=0, but no WORLD_SIZE and no MASTER_ADDR and no MASTER_P",
        ),
        ({"WORLD_SIZE": "2"}, "^WORLD_SIZE=2, but no RANK and no LOCAL_RANK"),
        (dict(zip(OPEN_MPI, ("9", "16", "1", "8"), strict=True)), "no MASTER_ADDR and no MASTER_PORT: set MASTER_ADDR"),
        (dict(zip(MPICH, ("1", "2", "1", "2"), strict=True)), "no MASTER_PORT: set MASTER_PORT .a free port there"),
        ({"PMI_RANK": "1", "PMI_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "no LOCAL_RANK"),
        (dict(zip(PLACE, ("2", "2", "0", "a", "1"), strict=True)), "RANK=2 WORLD_SIZE=2 .*: RANK counts from 0"),
    ],
)
def test_a_name_that_is_not_whole_is_refused_by_each_process(
    environ: dict[str, str], variables: dict[str, str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    environ.update(variables)
    with pytest.raises(UserError, match=message):
        setup(threads=1)
    environ.update(variables)
    assert run(lambda: 0 * len(str(setup(threads=1)))) == 2
    if "RANK" in variables:  # others say it by their own names
        assert capsys.readouterr().err.startswith("densessl: RANK=")


def test_what_a_launcher_leaves_out_srun_knows(environ: dict[str, str]) -> None:
    """As where a script says RANK=$SLURM_PROCID and WORLD_SIZE alone."""
    environ.update(SLURM_STEP_NODELIST="n[1-2]", SLURM_PROCID="5", SLURM_NTASKS="8", SLURM_LOCALID="1")
    environ.update(SLURM_JOB_ID="123456", SLURM_STEP_TASKS_PER_NODE="4(x2)", RANK="5", WORLD_SIZE="8", MASTER_PORT="7")
    setup(threads=1)
    assert (environ["LOCAL_RANK"], environ["MASTER_ADDR"], environ["MASTER_PORT"]) == ("1", "n1", "7")


def test_one_gpu_is_that_of_a_task_of_srun_and_not_of_torchrun_within(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU: what would find and take it is replaced."""
    taken: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    environ.pop("DS_ACCELERATOR")
    environ.update(SLURM_STEP_NODELIST="n1", SLURM_PROCID="1", SLURM_NTASKS="2", SLURM_LOCALID="1")
    environ.update(SLURM_JOB_ID="123456", SLURM_STEP_TASKS_PER_NODE="2")
    torchrun = dict(zip(PLACE, ("1", "2", "1", "127.0.0.1", "29500"), strict=True))
    environ.update(torchrun)
    with pytest.raises(UserError, match="process 1 of this machine has no GPU, there are 1: start at most 1"):
        setup(threads=1)
    for name in torchrun:
        del environ[name]
    assert setup(threads=1) == torch.device("cuda", 0)
    assert taken == [torch.device("cuda", 0)]


@pytest.mark.parametrize("word", ["--local-rank=1", "--local_rank=1"])
@pytest.mark.parametrize("command", ["pretrain --cfg demo --print", "eval-seg --list", "eval-det --list"])
def test_launchers_may_add_an_argument(
    command: str, word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """torch.distributed.launch and deepspeed."""
    first, *words = command.split()
    monkeypatch.setattr(sys, "argv", ["densessl", first, word, *words])
    assert main() == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "variables", "threads"),
    [
        (3, {}, 3),
        (None, {}, 8),
        (None, {"LOCAL_SIZE": "2"}, 4),  # the deepspeed launcher
        (None, {"LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "none"}, 4),  # torchrun
        (None, {"LOCAL_SIZE": "16"}, 1),
    ],
)
def test_processes_share_the_cores(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, given: int | None, variables: dict[str, str], threads: int
) -> None:
    environ.update(variables)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(8), raising=False)
    setup(given)
    assert torch.get_num_threads() == threads


def test_the_users_number_of_threads_stays(environ: dict[str, str]) -> None:
    environ["OMP_NUM_THREADS"] = "1"
    before = torch.get_num_threads()
    setup()
    assert torch.get_num_threads() == before


def test_what_any_process_refuses_all_do_and_the_first_says_why(results: list[dict[str, Any]]) -> None:
    assert [result["everywhere"] for result in results] == ["by 0", "by 1"]
    for name, message in {
        "one": "process 1 of 2: no such folder here",
        "all": "nowhere",
        "lists": "data.path=scenes: process 1 of 2 has another list of pictures, 6, than the first, which has 5; "
        "all need the same ones in the same order",
    }.items():
        assert [result[f"refused by {name}"] for result in results] == [repr(UserError(message)), "SystemExit(2)"]
