"""No operation of a step makes the host wait for the device: none needs a value of a tensor, none copies to it.

Only the loop waits, once, between the backward and the optimiser: whether all is finite.
"""

from typing import Any

import pytest
import torch
from test_methods import CASES, advance, build, views_for
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from densessl.config import OptimConfig
from densessl.data.to_device import ToDevice
from densessl.training import optim
from densessl.training.optim import build_optimizer, set_lr

# What reads a value, has an output whose size is one, or (lift_fresh) was made of numbers of the host.
WAITING = {
    "_local_scalar_dense",
    "equal",
    "is_nonzero",
    "nonzero",
    "masked_select",
    "lift_fresh",
    "_unique2",
    "bincount",
}


class Waits(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        masks = name in ("index", "index_put", "index_put_") and any(
            isinstance(i, Tensor) and i.dtype == torch.bool for i in args[1]
        )
        if name in WAITING or masks:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def test_what_waits_is_seen() -> None:
    x = torch.randn(3)
    with Waits() as waits:
        bool(x.sum() > 0), x[x > 0], x.nonzero(), torch.tensor([1.0])
    assert set(waits.seen) >= {"_local_scalar_dense", "index", "nonzero", "lift_fresh"}


@pytest.mark.parametrize("backbone", ["test_convnext", "test_resnet"])
@pytest.mark.parametrize("case", CASES)
def test_methods_do_not_wait(case: str, backbone: str) -> None:
    """After the first steps: constants are kept by then, and queues are full."""
    method, views = build(case, backbone), views_for(case)
    for _ in range(2):
        advance(method, views)
    with Waits() as waits:
        torch.stack(list(method(views).values())).sum().backward()
        if "deepcluster" not in case:  # which clusters at the end of an epoch
            method.update()
    assert not waits.seen


@pytest.mark.parametrize("name", ["adamw", "adam", "lars", "sgd"])
def test_optimisers_do_not_wait(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optim, "_on_cpu", lambda group, weights, momenta, read: optim._on_gpu(group, weights, momenta))
    network = torch.nn.Linear(3, 2)
    optimizer = build_optimizer(network, OptimConfig(name=name, base_lr=1.0, weight_decay=0.1, warmup=0.0))
    for _ in range(2):
        set_lr(optimizer, 0.1)
        network(torch.ones(1, 3)).sum().backward()
        with Waits() as waits:
            optimizer.step()
    assert not waits.seen


def test_nor_do_views_on_their_way() -> None:
    to_device, views = ToDevice("cpu", (0.5,) * 3, (0.2,) * 3), views_for("vicreg")
    views = views._replace(large=[view._replace(image=view.image.to(torch.uint8)) for view in views.large], small=[])
    with Waits() as waits:
        to_device(views)
    assert not waits.seen
