"""Learning rate, parameter groups, AdamW's and LARS's steps, each against numbers or a loop in float64."""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from densessl.config import OptimConfig
from densessl.training.optim import LARS, build_optimizer, lr_at, parameter_groups, set_lr


def optim(name: str = "adamw", **changes: object) -> OptimConfig:
    return OptimConfig(**({"name": name, "base_lr": 0.3, "weight_decay": 0.05, "warmup": 0.1} | changes))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1, bias=False))


@pytest.mark.parametrize(
    ("step", "lr"),
    [
        (0, 0.0),
        (5, 0.3),
        (10, 0.6),  # the peak: base_lr * batch / 256
        (55, 0.6 * (0.5 + 0.5 * 0.001)),  # half way down
        (99, 0.6 * (0.5 + 0.5 * math.cos(math.pi * 89 / 90) * (1 - 0.001) + 0.5 * 0.001)),
    ],
)
def test_learning_rate(step: int, lr: float) -> None:
    cfg = SimpleNamespace(optim=optim(), batch=512)
    assert lr_at(step, cfg, 100) == pytest.approx(lr, rel=1e-9)


def test_learning_rate_without_warmup_starts_at_the_peak_and_stays_above_the_end() -> None:
    cfg = SimpleNamespace(optim=optim(warmup=0.0, end_lr=0.1), batch=256)
    lrs = [lr_at(step, cfg, 50) for step in range(50)]
    assert lrs[0] == pytest.approx(0.3)
    assert lrs == sorted(lrs, reverse=True)
    assert 0.03 < lrs[-1] < 0.031


def test_learning_rate_of_a_run_that_is_all_warmup() -> None:
    cfg = SimpleNamespace(optim=optim(warmup=1.0), batch=256)
    assert [lr_at(step, cfg, 3) for step in range(3)] == pytest.approx([0, 0.1, 0.2])


def test_groups_hold_every_trainable_parameter_once_and_decay_weights_alone() -> None:
    module = net()
    module[0].bias.requires_grad_(False)
    weights, vectors = parameter_groups(module, 0.05)
    assert [p.shape for p in weights["params"]] == [module[0].weight.shape, module[2].weight.shape]
    assert [id(p) for p in vectors["params"]] == [id(module[1].weight), id(module[1].bias)]
    assert (weights["weight_decay"], weights["adapt"]) == (0.05, True)
    assert (vectors["weight_decay"], vectors["adapt"]) == (0.0, False)


def test_adamw_decays_weights_and_leaves_vectors() -> None:
    module = net()
    before = [p.detach().clone() for p in module.parameters()]
    optimizer = build_optimizer(module, optim())
    set_lr(optimizer, 0.1)
    for p in module.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for old, p in zip(before, module.parameters(), strict=True):
        torch.testing.assert_close(p.detach(), old * (1 - 0.1 * 0.05 if p.ndim > 1 else 1))


def naive_lars(w, gradients, lrs, *, momentum, trust, decay, adapt):
    """You et al. 2017 in float64, with VICReg's exceptions."""
    w, velocity = w.copy(), np.zeros_like(w)
    for gradient, lr in zip(gradients, lrs, strict=True):
        update = gradient + decay * w
        size, length = np.sqrt((w**2).sum()), np.sqrt((update**2).sum())
        if adapt and size > 0 and length > 0:
            update = update * trust * size / length
        velocity = momentum * velocity + update
        w = w - lr * velocity
    return w


@pytest.mark.parametrize("start", ["random", "zero"])
@pytest.mark.parametrize("gradient", ["random", "zero"])
@pytest.mark.parametrize("ndim", [1, 2])
def test_lars_equals_a_naive_loop(start: str, gradient: str, ndim: int) -> None:
    random = np.random.default_rng(0)
    shape, steps = (5,) * ndim, 4
    w = random.normal(size=shape) * (start == "random")
    gradients = random.normal(size=(steps, *shape)) * (gradient == "random")
    lrs = [0.0, 0.5, 1.0, 0.7]
    module = nn.ParameterList([torch.tensor(w)])
    optimizer = build_optimizer(module, optim("lars", weight_decay=0.1))
    assert isinstance(optimizer, LARS)
    for g, lr in zip(gradients, lrs, strict=True):
        module[0].grad = torch.tensor(g)
        set_lr(optimizer, lr)
        optimizer.step()
    expected = naive_lars(w, gradients, lrs, momentum=0.9, trust=0.001, decay=0.1 if ndim > 1 else 0.0, adapt=ndim > 1)
    np.testing.assert_allclose(module[0].detach().numpy(), expected, rtol=1e-12)
    if ndim == 2 and start == gradient == "random":
        assert not np.allclose(
            expected, naive_lars(w, gradients, lrs, momentum=0.9, trust=0.001, decay=0.1, adapt=False)
        )


def test_lars_state_survives_saving() -> None:
    module, twin = net(), net()
    optimizers = [build_optimizer(m, optim("lars")) for m in (module, twin)]

    def step(m: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        torch.manual_seed(1)
        for p in m.parameters():
            p.grad = torch.randn_like(p)
        set_lr(optimizer, 0.1)
        optimizer.step()

    step(module, optimizers[0])
    twin.load_state_dict(module.state_dict())
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    for m, optimizer in zip((module, twin), optimizers, strict=True):
        step(m, optimizer)
    for a, b in zip(module.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)
