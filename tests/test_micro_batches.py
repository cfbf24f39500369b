"""Parts of a batch through the network against all of it at once: the same loss, the same gradient, less memory."""

from pathlib import Path
from typing import Any

import pytest
import torch
from test_methods import CASES, advance, build, double, random_views, views_for
from torch import Tensor

from densessl.backbones import Backbone
from densessl.config import load_config
from densessl.errors import UserError
from densessl.method import Method
from densessl.methods.vicregl import VICRegL
from densessl.training import launch
from densessl.training.assembly import assemble
from densessl.training.engine import connect
from densessl.training.optim import set_lr

CONVNEXT_CASES = [case for case in CASES if case != "vicreg, two networks"]  # whose other one is a ResNet


def gradients(method: Method, case_views: Any, seed: int = 3) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    torch.manual_seed(seed)
    method.zero_grad()
    terms = method(case_views)
    torch.stack(list(terms.values())).sum().backward()
    return terms, {key: p.grad.clone() for key, p in method.named_parameters() if p.grad is not None}


def same(ours: tuple[dict, dict], truth: tuple[dict, dict]) -> None:
    torch.testing.assert_close(ours[0], truth[0], rtol=1e-5, atol=1e-8)
    whole = torch.cat([g.flatten() for g in truth[1].values()]).norm()
    assert ours[1].keys() == truth[1].keys()
    for key, expected in truth[1].items():
        assert (ours[1][key] - expected).norm() <= 1e-5 * max(expected.norm(), 1e-2 * whole), key


@pytest.mark.parametrize("case", CONVNEXT_CASES)
def test_every_method_has_the_loss_and_gradient_of_the_whole_batch(case: str) -> None:
    """In parts of 4 and 2 of 6 pictures, or 1 at a time; what methods remember is the same too."""
    views = double(views_for(case))
    results, states = [], []
    for size in (None, 4, 1):
        method = build(case, "test_convnext").double()
        for module in method.modules():
            if isinstance(module, Backbone):
                module.set_micro_batch(size)
        advance(method, double(views_for(case, seed=1)))
        results.append(gradients(method, views))
        states.append(method.state_dict())
    for result, state in zip(results[1:], states[1:], strict=True):
        same(result, results[0])
        torch.testing.assert_close(state, states[0])


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("size", [1, 3, 4])
def test_drop_path_drops_what_it_would_have_dropped(size: int, checkpointing: bool) -> None:
    def make(**how: Any) -> Method:
        torch.manual_seed(0)
        backbone = Backbone("test_convnext", drop_path=0.5, **how)
        return VICRegL(backbone, expander=(32, 24), projector=(16, 12), num_matches=(3, 1)).double()

    views, whole, parts = double(random_views(batch=7, small=2)), make(), make(checkpointing=checkpointing)
    parts.backbone.set_micro_batch(size)
    truth = gradients(whole, views)
    same(gradients(parts, views), truth)
    with pytest.raises(AssertionError):  # other draws are another loss: the comparison sees drop path
        same(gradients(parts, views, seed=4), truth)


@pytest.mark.parametrize("name", ["convnext_atto", "test_resnet"])
def test_checkpointing_changes_nothing_but_memory(name: str) -> None:
    """Neither gradients nor the running statistics, which a block that is computed twice could move twice."""

    def make(checkpointing: bool) -> Method:
        torch.manual_seed(0)
        backbone = Backbone(name, drop_path=0.5, checkpointing=checkpointing)
        return VICRegL(backbone, expander=(32, 24), projector=(16, 12), num_matches=(3, 1)).double()

    views, plain, ours = double(random_views(small=2)), make(False), make(True)
    same(gradients(ours, views), gradients(plain, views))
    running = {key: value for key, value in plain.state_dict().items() if "running" in key}
    assert bool(running) == (name == "test_resnet")
    for key, value in running.items():
        assert torch.equal(ours.state_dict()[key], value), key


class Saved:
    """Counts the bytes that are kept for the backward."""

    def __init__(self) -> None:
        self.bytes = 0

    def __enter__(self) -> "Saved":
        def pack(x: Tensor) -> Tensor:
            self.bytes += x.numel() * x.element_size()
            return x

        self.hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x)
        self.hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.hooks.__exit__(*error)


def test_what_is_kept_for_the_backward_does_not_grow_with_the_pictures() -> None:
    """But for pictures and maps themselves: of eight pictures two at a time keep what two keep, and a little."""
    backbone = Backbone("convnext_atto")
    images = [torch.randn(8, 3, 64, 64), torch.randn(8, 3, 64, 64)]

    def kept(size: int | None) -> int:
        backbone.set_micro_batch(size)
        with Saved() as saved:
            backbone.each(images)
        return saved.bytes

    assert kept(2) < 0.1 * kept(None)


def test_batch_statistics_are_refused() -> None:
    with pytest.raises(UserError, match=r"micro_batch=4: test_resnet has batch statistics, .* of 4 pictures"):
        Backbone("test_resnet").set_micro_batch(4)
    with pytest.raises(UserError, match=r"backbone\.checkpointing=true saves memory too"):
        load_config("vicreg_r50", ["micro_batch=16"])


@pytest.mark.parametrize("key", ["accumulate", "gradient_accumulation_steps", "optim.accumulation"])
def test_accumulation_is_refused_with_what_to_take_instead(key: str) -> None:
    with pytest.raises(UserError, match=rf"{key} .*another loss; micro_batch=N cuts the batch"):
        load_config("vicregl_cnx_s", [f"{key}=4"])


@pytest.mark.parametrize("zero", [0, 1, 2])
def test_the_engine_takes_the_same_steps(zero: int, tmp_path: Path) -> None:
    """Through DeepSpeed, whose ZeRO stages listen to each parameter's gradient."""
    device = launch.setup(threads=1)
    connect()
    losses = []
    for size in ("null", "3"):
        cfg = load_config(
            "vicregl_cnx_s",
            [
                *("backbone.name=test_convnext", "backbone.drop_path=0.5", "batch=8", f"zero={zero}", "precision=fp32"),
                *("method.expander=[32,24]", "method.projector=[16,12]", "method.num_matches=[3,1]"),
                *("data.path=none", f"micro_batch={size}", f"run={tmp_path}"),
            ],
        )
        engine, _ = assemble(cfg, device, pictures=8)
        seen = []
        for step in range(3):
            torch.manual_seed(step)
            set_lr(engine.optimizer, 1e-3)
            loss = torch.stack(list(engine(random_views(batch=8, seed=step)).values())).sum()
            engine.backward(loss)
            engine.step()
            seen.append(loss.item())
        losses.append(seen)
        engine.close()
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert len(set(losses[0])) == 3
