"""Learning rate, parameter groups and the steps of each optimiser, against numbers or a loop in float64."""

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from densessl.config import OptimConfig
from densessl.errors import UserError
from densessl.training import optim as training_optim
from densessl.training.optim import LARS, build_optimizer, lr_at, norms, parameter_groups, peak_lr, set_lr


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


def test_warmup_from_a_share_of_the_peak() -> None:
    """SwAV's, from 0.3 to 4.8 in ten steps."""
    cfg = SimpleNamespace(optim=optim(base_lr=0.3, start_lr=0.0625), batch=4096)
    assert peak_lr(cfg) == pytest.approx(4.8)
    assert [lr_at(step, cfg, 100) for step in (0, 5, 10)] == pytest.approx([0.3, 2.55, 4.8])


def test_drops_take_the_place_of_the_cosine() -> None:
    """W-MSE's, for 1000 epochs of 97 steps: a fifth is left for the last 50 epochs, and a fifth of that for 25."""
    cfg = SimpleNamespace(optim=optim("adam", warmup=0.005, drops=(0.95, 0.975), drop=0.2), batch=256)
    steps = {0: 0.0, 485: 1.0, 949 * 97 + 96: 1.0, 950 * 97: 0.2, 974 * 97 + 96: 0.2, 975 * 97: 0.04, 96_999: 0.04}
    for step, share in steps.items():
        assert lr_at(step, cfg, 97_000) == pytest.approx(0.3 * share), step


@pytest.mark.parametrize("share", [k / 100 for k in range(1, 100)])
def test_a_drop_comes_at_the_step_of_its_share(share: float) -> None:
    """Not one later, as by the rounding of 0.07 * 100 to 7.000000000000001."""
    cfg = SimpleNamespace(optim=optim(warmup=0.0, drops=(share,), drop=0.5), batch=256)
    step = round(share * 100)
    assert [lr_at(s, cfg, 100) for s in (step - 1, step)] == pytest.approx([0.3, 0.15])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drops": (0.9, 0.8)}, r"drops=\[0.9, 0.8\] .*increase"),
        ({"drops": (0.9, 0.9)}, r"increase"),
        ({"drops": (0.05, 0.9)}, r"after warmup=0.1"),
        ({"nesterov": True}, r"nesterov=true with name=adamw.*sgd"),
        ({"name": "sgd", "nesterov": True, "momentum": 0.0}, r"nesterov=true .*momentum=0.0"),
        ({"betas": (0.9, 1.0)}, r"betas=\[0.9, 1.0\] must be below 1"),
        ({"vector_lr": 0.0}, r"vector_lr"),
        ({"start_lr": 2.0}, r"start_lr"),
    ],
)
def test_what_no_optimiser_can_do_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        optim(**changes)


def test_groups_hold_every_trainable_parameter_once_and_decay_weights_alone() -> None:
    module = net()
    module[0].bias.requires_grad_(False)
    weights, vectors = parameter_groups(module, optim())
    assert [p.shape for p in weights["params"]] == [module[0].weight.shape, module[2].weight.shape]
    assert [id(p) for p in vectors["params"]] == [id(module[1].weight), id(module[1].bias)]
    assert (weights["weight_decay"], weights["adapt"]) == (0.05, True)
    assert (vectors["weight_decay"], vectors["adapt"]) == (0.0, False)


def test_groups_with_vectors_like_weights() -> None:
    weights, vectors = parameter_groups(net(), optim(decay_all=True))
    assert [len(group["params"]) for group in (weights, vectors)] == [2, 3]
    assert [(group["weight_decay"], group["adapt"]) for group in (weights, vectors)] == [(0.05, True)] * 2


def test_constant_parts_and_vectors_have_learning_rates_of_their_own() -> None:
    module = nn.ModuleDict({"backbone": net(), "predictor": nn.Linear(2, 2), "target": nn.Linear(2, 2)})
    module["target"].requires_grad_(False)
    optimizer = build_optimizer(module, optim("sgd", vector_lr=0.5, constant=("predictor",)))
    set_lr(optimizer, 0.1, 0.8)
    lrs = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(lrs) == 7
    for p in module["backbone"].parameters():
        assert lrs[id(p)] == pytest.approx(0.1 if p.ndim > 1 else 0.05)
    for p in module["predictor"].parameters():
        assert lrs[id(p)] == pytest.approx(0.8 if p.ndim > 1 else 0.4)
    with pytest.raises(AssertionError, match="needs the peak"):
        set_lr(optimizer, 0.1)
    with pytest.raises(UserError, match="no part called target, only backbone, predictor"):
        build_optimizer(module, optim("sgd", constant=("target",)))


def test_a_backbone_that_came_with_weights_waits_for_its_heads_and_goes_slower() -> None:
    module = nn.ModuleDict({"backbone": net(), "projector": nn.Linear(2, 2)})
    optimizer = build_optimizer(module, optim("adamw", backbone_lr=0.1, heads_first=0.3, vector_lr=0.5))
    before = [p.clone() for p in module["backbone"].parameters()]
    for heads_only, scale in ((True, 0.0), (False, 0.1)):
        set_lr(optimizer, 0.2, heads_only=heads_only)
        lrs = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        for part, factor in (("backbone", scale), ("projector", 1.0)):
            for p in module[part].parameters():
                assert lrs[id(p)] == pytest.approx(0.2 * factor * (1 if p.ndim > 1 else 0.5))
                p.grad = torch.ones_like(p)
        optimizer.step()
        still = [torch.equal(a, b) for a, b in zip(before, module["backbone"].parameters(), strict=True)]
        assert all(still) if heads_only else not any(still)


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
@pytest.mark.parametrize("decay_all", [False, True])
@pytest.mark.parametrize("gpu", [False, True])
def test_lars_equals_a_naive_loop(
    start: str, gradient: str, ndim: int, decay_all: bool, gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if gpu:  # its form for GPUs, on this device
        monkeypatch.setattr(training_optim, "_on_cpu", lambda group, w, m, read: training_optim._on_gpu(group, w, m))
    w, gradients, lrs = run_of(start, gradient, ndim)
    module = nn.ParameterList([torch.tensor(w)])
    optimizer = build_optimizer(module, optim("lars", weight_decay=0.1, decay_all=decay_all))
    assert isinstance(optimizer, LARS)
    adapt = decay_all or ndim > 1
    expected = naive_lars(w, gradients, lrs, momentum=0.9, trust=0.001, decay=0.1 if adapt else 0.0, adapt=adapt)
    np.testing.assert_allclose(walked(module, optimizer, gradients, lrs), expected, rtol=1e-12)
    if adapt and start == gradient == "random":
        assert not np.allclose(
            expected, naive_lars(w, gradients, lrs, momentum=0.9, trust=0.001, decay=0.1, adapt=False)
        )


def test_lars_whatever_lies_in_memory_how() -> None:
    """torch's loop over all at once goes by addresses, and is silently wrong where gradients lie otherwise."""
    torch.manual_seed(0)
    w, gradients = torch.randn(4, 3, 5, 2), torch.randn(3, 4, 3, 5, 2)
    module = nn.ParameterList([w.contiguous(memory_format=torch.channels_last)])
    found = walked(module, build_optimizer(module, optim("lars", weight_decay=0.1)), gradients.numpy(), [0.1, 0.2, 0.3])
    arrays = w.double().numpy(), gradients.double().numpy()
    expected = naive_lars(*arrays, [0.1, 0.2, 0.3], momentum=0.9, trust=0.001, decay=0.1, adapt=True)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("skipped", [False, True])
def test_lars_is_the_same_after_it_gave_the_norm_of_all_gradients(skipped: bool) -> None:
    modules = net(), net()
    optimizers = [build_optimizer(module, optim("lars", weight_decay=0.1)) for module in modules]
    for step in range(3):
        torch.manual_seed(step)
        gradients = [torch.randn_like(p) for p in modules[0].parameters()]
        for module, optimizer in zip(modules, optimizers, strict=True):
            for p, gradient in zip(module.parameters(), gradients, strict=True):
                p.grad = 2 * gradient
            set_lr(optimizer, 0.1)
            if module is modules[0] and skipped and step == 1:
                optimizer.total_norm()  # of a step that is not taken
            for p, gradient in zip(module.parameters(), gradients, strict=True):
                p.grad = gradient.clone()
            if module is modules[0] and (not skipped or step == 1):
                norm = math.sqrt(sum(float((g.double() ** 2).sum()) for g in gradients))
                assert float(optimizer.total_norm()) == pytest.approx(norm, rel=1e-6)
            optimizer.step()
    for a, b in zip(*(module.parameters() for module in modules), strict=True):
        assert torch.equal(a, b)


def test_norms_of_many_numbers() -> None:
    torch.manual_seed(0)
    large, small = torch.randn(4096, 8192), torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    every_other, one = torch.randn(30, 2)[:, 0], torch.tensor(-2.0)
    tensors = [large, small, every_other, one]
    expected = [math.sqrt(float((x.double() ** 2).sum())) for x in tensors]
    np.testing.assert_allclose(norms(tensors), expected, rtol=1e-6)
    assert abs(torch.linalg.vector_norm(large) / expected[0] - 1) > 1e-5  # what this is for


def naive_sgd(w, gradients, lrs, *, decay, nesterov):
    """Sutskever et al. 2013 in torch's form, momentum 0.9."""
    w, velocity = w.copy(), np.zeros_like(w)
    for gradient, lr in zip(gradients, lrs, strict=True):
        update = gradient + decay * w
        velocity = 0.9 * velocity + update
        w = w - lr * (update + 0.9 * velocity if nesterov else velocity)
    return w


def naive_adam(w, gradients, lrs, *, decay, decoupled):
    """Kingma and Ba 2015, decay in the gradient; decoupled, Loshchilov and Hutter 2019."""
    w, m, v = w.copy(), np.zeros_like(w), np.zeros_like(w)
    for t, (gradient, lr) in enumerate(zip(gradients, lrs, strict=True), start=1):
        g = gradient + (0 if decoupled else decay * w)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        step = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        w = w - lr * (step + (decay * w if decoupled else 0))
    return w


NAIVE = {
    "sgd": lambda *run, decay: naive_sgd(*run, decay=decay, nesterov=False),
    "nesterov": lambda *run, decay: naive_sgd(*run, decay=decay, nesterov=True),
    "adam": lambda *run, decay: naive_adam(*run, decay=decay, decoupled=False),
    "adamw": lambda *run, decay: naive_adam(*run, decay=decay, decoupled=True),
}


@pytest.mark.parametrize("name", NAIVE)
@pytest.mark.parametrize("ndim", [1, 2])
@pytest.mark.parametrize("decay_all", [False, True])
def test_torchs_optimisers_equal_naive_loops(name: str, ndim: int, decay_all: bool) -> None:
    w, gradients, lrs = run_of("random", "random", ndim)
    module = nn.ParameterList([torch.tensor(w)])
    nesterov = {"name": "sgd", "nesterov": True} if name == "nesterov" else {"name": name}
    optimizer = build_optimizer(module, optim(**nesterov, weight_decay=0.1, decay_all=decay_all))
    decay = 0.1 if decay_all or ndim > 1 else 0.0
    result = walked(module, optimizer, gradients, lrs)
    np.testing.assert_allclose(result, NAIVE[name](w, gradients, lrs, decay=decay), rtol=1e-9)
    assert not np.allclose(result, NAIVE[name](w, gradients, lrs, decay=0.1 - decay), rtol=1e-4)


def run_of(start: str, gradient: str, ndim: int) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Weights, gradients and learning rates of a few steps."""
    random = np.random.default_rng(0)
    shape = (5,) * ndim
    w = random.normal(size=shape) * (start == "random")
    return w, random.normal(size=(4, *shape)) * (gradient == "random"), [0.0, 0.5, 1.0, 0.7]


def walked(
    module: nn.ParameterList, optimizer: torch.optim.Optimizer, gradients: np.ndarray, lrs: list[float]
) -> np.ndarray:
    for gradient, lr in zip(gradients, lrs, strict=True):
        module[0].grad = torch.tensor(gradient)
        set_lr(optimizer, lr)
        optimizer.step()
    return module[0].detach().numpy()


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
