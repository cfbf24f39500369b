"""The engine with two processes and every ZeRO stage against plain torch with one process and the whole batch."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from spawned import spawn
from torch import Tensor, nn

from densessl.config import OptimConfig
from densessl.data.views import View, Views
from densessl.errors import UserError
from densessl.training import distributed, launch
from densessl.training.batch_norm import synchronise_batch_norm
from densessl.training.engine import Engine, autocast_dtype, connect
from densessl.training.optim import build_optimizer, set_lr

CPU = torch.device("cpu")
CASES = [("adamw", 0, 0.0), ("adamw", 0, 0.5), ("adamw", 1, 0.5), ("adamw", 2, 0.0), ("lars", 0, 0.0), ("sgd", 1, 0.0)]
LRS = [0.0, 0.02, 0.05, 0.01]


class Statistic(nn.Module):
    """A loss of gathered rows, with batch norm, a frozen weight and a buffer: what methods are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)  # its bias would get rounding for a gradient
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 5)
        self.frozen = nn.Parameter(torch.randn(5), requires_grad=False)
        self.register_buffer("queue", torch.randn(3))

    def forward(self, views: Views) -> dict[str, Tensor]:
        maps = self.norm(self.conv(views.large[0].image))
        self.dtype = maps.dtype
        z = self.head(maps.relu().mean((2, 3))).float() + self.frozen
        everyone = distributed.gather(z)
        return {"own": z.pow(2).mean(), "all": 10 * (1 - everyone.var(0)).relu().mean()}


def build(seed: int = 0) -> Statistic:
    torch.manual_seed(seed)
    return Statistic()


def settings(name: str = "adamw", zero: int = 0, clip: float = 0.0, precision: str = "fp32") -> Any:
    optim = OptimConfig(name=name, base_lr=1.0, weight_decay=0.1, warmup=0.0, clip=clip, trust=0.1)
    return SimpleNamespace(batch=8, optim=optim, zero=zero, precision=precision)


def batch(step: int, rank: int = 0, processes: int = 1) -> Views:
    images = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(step))
    return Views([View(images.chunk(processes)[rank], torch.empty(0))], [])


# --- two processes ----------------------------------------------------------------------------------------------------


def process(rank: int, folder: Path) -> dict[str, Any]:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"MASTER_PORT": (folder / "port").read_text(), "TORCH_EXTENSIONS_DIR": str(folder / "extensions")}
    assert launch.setup(threads=1) == CPU
    connect()
    result: dict[str, Any] = {}
    for name, zero, clip in CASES:
        method = synchronise_batch_norm(build(seed=rank))
        cfg = settings(name, zero, clip)
        engine = Engine(method, build_optimizer(method, cfg.optim), cfg, CPU)
        seen: dict[str, Any] = {"terms": [], "gradients": []}
        for step, lr in enumerate(LRS):
            set_lr(engine.optimizer, lr)
            terms = engine(batch(step, rank, 2))
            seen["gradients"].append(engine.backward(torch.stack(list(terms.values())).sum()).item())
            engine.step()
            seen["terms"].append(distributed.mean_over_processes(terms))
        seen["state"] = {k: v.clone() for k, v in method.state_dict().items()}
        seen["losses"] = losses_on_and_after_loading(engine, cfg, rank, folder / f"{name}{zero}{clip}")
        seen["after"] = {
            stage: loaded(name, stage, clip, folder / f"{name}{zero}{clip}", rank) for stage in stages(name)
        }
        seen["after one"] = loaded(name, zero, clip, folder / f"one{name}{clip}", rank)
        result[name, zero, clip] = seen
        engine.close()
    return result


def losses_on_and_after_loading(engine: Engine, cfg: Any, rank: int, folder: Path) -> list[float]:
    """Losses of the same two steps: straight on, and in a new engine that loaded the state."""
    folder.mkdir(exist_ok=True)
    distributed.barrier()
    write(engine, folder)
    distributed.barrier()
    other = synchronise_batch_norm(build(seed=7))
    twin = Engine(other, build_optimizer(other, cfg.optim), cfg, CPU)
    twin.load(folder)
    losses = [loss for each in (engine, twin) for loss, _ in two_more(each, rank, 2)]
    twin.close()
    return losses


def write(engine: Engine, folder: Path) -> None:
    for name, tensors in engine.state().items():
        save_file(tensors, folder / name)


def two_more(engine: Engine, rank: int = 0, processes: int = 1) -> list[tuple[float, float]]:
    """The loss of this process, and the mean over all, of two steps."""
    losses = []
    for step in (5, 6):
        set_lr(engine.optimizer, 0.1)
        loss = torch.stack(list(engine(batch(step, rank, processes)).values())).sum()
        engine.backward(loss)
        engine.step()
        losses.append((loss.item(), distributed.mean_over_processes({"loss": loss})["loss"]))
    return losses


def stages(name: str) -> tuple[int, ...]:
    return (0,) if name == "lars" else (0, 1, 2)


def loaded(name: str, zero: int, clip: float, folder: Path, rank: int = 0) -> list[float]:
    """Mean losses of two steps from a saved state on, by all processes that there are."""
    cfg, method = settings(name, zero, clip), synchronise_batch_norm(build(seed=9))
    engine = Engine(method, build_optimizer(method, cfg.optim), cfg, CPU)
    engine.load(folder)
    losses = [mean for _, mean in two_more(engine, rank, distributed.world_size())]
    engine.close()
    return losses


def one(rank: int, folder: Path) -> dict[str, Any]:
    """One process: saves states for two, or goes on with theirs."""
    launch.setup(threads=1)
    connect()
    result: dict[str, Any] = {}
    for name, zero, clip in CASES:
        if (theirs := folder / f"{name}{zero}{clip}").exists():
            result[name, zero, clip] = {stage: loaded(name, stage, clip, theirs) for stage in stages(name)}
            continue
        cfg, method = settings(name, 0, clip), build()
        engine = Engine(method, build_optimizer(method, cfg.optim), cfg, CPU)
        for step, lr in enumerate(LRS):
            set_lr(engine.optimizer, lr)
            engine.backward(torch.stack(list(engine(batch(step)).values())).sum())
            engine.step()
        (folder / f"one{name}{clip}").mkdir(exist_ok=True)
        write(engine, folder / f"one{name}{clip}")
        engine.close()
    return result


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("two")
    (folder / "extensions").mkdir()
    (folder / "port").write_text(launch.alone()["MASTER_PORT"])
    spawn(one, folder, 1)
    results = spawn(process, folder)
    results += spawn(one, folder, 1)
    # DeepSpeed would have compiled an operation that training never uses.
    assert not list((folder / "extensions").iterdir())
    return results


def plain_torch(name: str, clip: float, more: bool = False) -> tuple[Statistic, list[dict[str, float]], list[float]]:
    method = build()
    optimizer = build_optimizer(method, settings(name).optim)
    terms, norms = [], []
    for step, lr in [*enumerate(LRS), *(((5, 0.1), (6, 0.1)) if more else ())]:
        set_lr(optimizer, lr)
        optimizer.zero_grad()
        values = method(batch(step))
        sum(values.values()).backward()
        parameters = [p for p in method.parameters() if p.grad is not None]
        norms.append(nn.utils.clip_grad_norm_(parameters, clip or float("inf")).item())
        optimizer.step()
        terms.append({k: v.item() for k, v in values.items()})
    return method, terms, norms


@pytest.mark.parametrize(("name", "zero", "clip"), CASES)
def test_two_processes_equal_plain_torch(name: str, zero: int, clip: float, results: list[dict[str, Any]]) -> None:
    method, terms, norms = plain_torch(name, clip)
    ours = [result[name, zero, clip] for result in results[:2]]
    for o in ours:
        for mine, truth in zip(o["terms"], terms, strict=True):
            assert mine == pytest.approx(truth, rel=1e-5)
        assert o["gradients"] == pytest.approx(norms, rel=1e-5)
        assert min(norms) > 0.5  # so that clipping is felt
        for key, value in method.state_dict().items():
            torch.testing.assert_close(o["state"][key], value, rtol=1e-4, atol=2e-6)
            assert torch.equal(o["state"][key], ours[0]["state"][key]), key
    moved = (method.conv.weight - build().conv.weight).norm()
    assert (ours[0]["state"]["conv.weight"] - method.conv.weight).norm() < 1e-5 * moved


@pytest.mark.parametrize("case", CASES)
def test_loaded_state_goes_on_with_the_same_losses(case: tuple[str, int, float], results: list[dict[str, Any]]) -> None:
    for result in results[:2]:
        losses = result[case]["losses"]
        assert losses[:2] == losses[2:]
        assert losses[0] != losses[1]


@pytest.mark.parametrize(("name", "zero", "clip"), CASES)
def test_any_number_of_processes_and_stage_goes_on(
    name: str, zero: int, clip: float, results: list[dict[str, Any]]
) -> None:
    """From two processes to one and back, from each stage of ZeRO to each: as plain torch with the whole batch."""
    _, terms, _ = plain_torch(name, clip, more=True)
    truth = [sum(values.values()) for values in terms[-2:]]
    two, alone = results[0][name, zero, clip], results[2][name, zero, clip]
    assert two["after one"] == pytest.approx(truth, rel=1e-5)
    for stage in stages(name):
        assert two["after"][stage] == pytest.approx(truth, rel=1e-5)
        assert alone[stage] == pytest.approx(truth, rel=1e-5)


# --- one process ------------------------------------------------------------------------------------------------------


def test_bf16_is_an_autocast_inside_the_forward_over_fp32_parameters() -> None:
    launch.setup()
    connect()
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        method, cfg = build(), settings(precision=precision)
        engine = Engine(method, build_optimizer(method, cfg.optim), cfg, CPU)
        loss = torch.stack(list(engine(batch(0)).values())).sum()
        engine.backward(loss)
        engine.step()
        assert method.dtype == dtype
        assert {p.dtype for p in method.parameters()} == {torch.float32}
        assert loss.isfinite()
        engine.close()


@pytest.mark.parametrize(
    ("precision", "capability", "dtype"),
    [
        ("auto", (9, 0), torch.bfloat16),
        ("auto", (7, 5), None),
        ("fp32", (9, 0), None),
        ("bf16", (8, 0), torch.bfloat16),
    ],
)
def test_precision_follows_the_gpu(
    monkeypatch: pytest.MonkeyPatch, precision: str, capability: tuple[int, int], dtype: torch.dtype | None
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert autocast_dtype(precision, torch.device("cuda")) == dtype


@pytest.mark.parametrize(
    ("precision", "has", "dtype"),
    [
        ("auto", "_is_amx_tile_supported", torch.bfloat16),
        ("auto", "_is_avx512_bf16_supported", torch.bfloat16),
        ("auto", None, None),
        ("fp32", "_is_amx_tile_supported", None),
        ("bf16", None, torch.bfloat16),
    ],
)
def test_precision_follows_the_processor(
    monkeypatch: pytest.MonkeyPatch, precision: str, has: str | None, dtype: torch.dtype | None
) -> None:
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda name=name: name == has)
    assert autocast_dtype(precision, CPU) == dtype


def test_bf16_on_a_gpu_without_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "V100")
    with pytest.raises(UserError, match="V100 has no bf16"):
        autocast_dtype("bf16", torch.device("cuda"))
