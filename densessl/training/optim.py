"""The optimiser: parameter groups, SGD, Adam, AdamW or LARS, and the learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.sgd import sgd

from densessl.errors import UserError

if TYPE_CHECKING:
    from densessl.config import Config, OptimConfig


def parameter_groups(module: nn.Module, optim: OptimConfig) -> list[dict[str, Any]]:
    """Weights and vectors (1-D parameters: biases and norms) of ``module``; parts named in ``optim.constant`` apart.

    The backbone stands apart where it has a learning rate of its own. Vectors are neither decayed nor adapted by LARS
    unless ``optim.decay_all``. Each group says what set_lr needs. All this is decided here because ZeRO hands
    optimisers flat tensors, whose shapes say nothing. Raises UserError for a part that ``module`` does not have.
    """
    trainable = [(name.split(".")[0], p) for name, p in module.named_parameters() if p.requires_grad]
    parts = list(dict.fromkeys(part for part, _ in trainable))
    if unknown := [part for part in optim.constant if part not in parts]:
        raise UserError(f"optim.constant: the method trains no part called {unknown[0]}, only {', '.join(parts)}")
    own_lr = optim.backbone_lr != 1 or optim.heads_first > 0
    groups = []
    for backbone, constant, vectors in product((False, True), repeat=3):
        like_weights = optim.decay_all or not vectors
        groups.append(
            {
                "params": [
                    p
                    for part, p in trainable
                    if (own_lr and part == "backbone", part in optim.constant, p.ndim <= 1)
                    == (backbone, constant, vectors)
                ],
                "weight_decay": optim.weight_decay if like_weights else 0.0,
                "adapt": like_weights,
                "scale": (optim.vector_lr if vectors else 1.0) * (optim.backbone_lr if backbone else 1.0),
                "constant": constant,
                "backbone": backbone,
            }
        )
    return [group for group in groups if group["params"]]


def build_optimizer(module: nn.Module, optim: OptimConfig) -> Optimizer:
    """The optimiser of that name over the groups of ``module``; the learning rate is 0 until set_lr.

    Raises UserError for a part in ``optim.constant`` that ``module`` does not have.
    """
    groups = parameter_groups(module, optim)
    if optim.name == "lars":
        return LARS(groups, momentum=optim.momentum, trust=optim.trust)
    if optim.name == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=optim.momentum, nesterov=optim.nesterov)
    adam = torch.optim.Adam if optim.name == "adam" else torch.optim.AdamW  # adam decays in the gradient
    return adam(groups, lr=0.0, betas=optim.betas, fused=True)  # one pass over memory instead of a dozen


class LARS(Optimizer):
    """SGD with momentum whose step is scaled for each weight by trust * norm of the weight / norm of its gradient.

    You, Gitman, Ginsburg 2017, https://arxiv.org/abs/1708.03888, in VICReg's form: decay enters the gradient, the ratio
    is 1 where a norm is 0, and groups with ``adapt=False`` are plain SGD. With all groups adapted it is SwAV's LARC
    without clipping, save that LARC divides by the norm of the gradient plus that of the decay, not by their sum's.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 0.0,
        *,
        momentum: float = 0.9,
        trust: float = 0.001,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "trust": trust, "weight_decay": weight_decay, "adapt": True}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if not weights:
                continue
            updates = [p.grad for p in weights]  # in place: the gradients have served
            torch._foreach_add_(updates, weights, alpha=group["weight_decay"])
            ratios = weights[0].new_ones(len(weights))
            if group["adapt"]:
                ratios = group["trust"] * norms(weights) / norms(updates)
                ratios = torch.where((ratios > 0) & ratios.isfinite(), ratios, 1.0)
            for p in weights:
                if not self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            momenta = [self.state[p]["momentum"] for p in weights]
            if weights[0].device.type == "cpu":
                _sgd(weights, updates, momenta, ratios.tolist(), group)
                continue
            torch._foreach_mul_(updates, list(ratios.unbind()))
            torch._foreach_mul_(momenta, group["momentum"])
            torch._foreach_add_(momenta, updates)
            torch._foreach_add_(weights, momenta, alpha=-group["lr"])


def _sgd(
    weights: list[Tensor], updates: list[Tensor], momenta: list[Tensor], ratios: list[float], group: dict[str, Any]
) -> None:
    """``group``'s step with ``ratios`` of the updates: by dampening, so that torch goes through memory only once."""
    for p, update, momentum, ratio in zip(weights, updates, momenta, ratios, strict=True):
        if update.stride() != p.stride():  # its loop takes for granted that all lie in memory alike
            update = torch.empty_like(p).copy_(update)
        sgd(
            [p],
            [update],
            [momentum],
            fused=True,
            lr=group["lr"],
            momentum=group["momentum"],
            dampening=1 - ratio,
            weight_decay=0.0,
            nesterov=False,
            maximize=False,
        )


def norms(tensors: list[Tensor]) -> Tensor:
    """The L2 norm of each, (n,).

    torch's own adds up in fp32, one number after the other: on CPUs half a percent is missing of 8192 x 8192 numbers.
    """
    if tensors[0].device.type != "cpu":
        return torch.stack(torch._foreach_norm(tensors))
    flat = (x.permute(x.dim_order()).flatten() for x in tensors)  # as it lies in memory, which copies nothing
    return torch.stack([torch.stack([part.dot(part) for part in x.split(2**18)]).sum() for x in flat]).sqrt()


def peak_lr(cfg: Config) -> float:
    """The highest learning rate of a run: base_lr * batch / 256."""
    return cfg.optim.base_lr * cfg.batch / 256


def lr_at(step: int, cfg: Config, steps: int) -> float:
    """Linear warm-up from ``start_lr`` of the peak over the first ``warmup`` share of the run, then a fall.

    The fall is a half cosine to ``end_lr`` of the peak or, with ``drops``, a factor ``drop`` at each of these shares of
    the run. ``step`` counts from 0 and is below ``steps``.
    """
    peak, warmup = peak_lr(cfg), cfg.optim.warmup * steps
    if step < warmup:
        first = cfg.optim.start_lr * peak
        return first + (peak - first) * step / warmup
    if cfg.optim.drops:
        return peak * cfg.optim.drop ** sum(step / steps >= share for share in cfg.optim.drops)
    share = (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2
    return peak * (share + (1 - share) * cfg.optim.end_lr)


def set_lr(optimizer: Optimizer, lr: float, peak: float | None = None, *, heads_only: bool = False) -> None:
    """``lr`` for all groups but the constant ones, which get ``peak``; each times its scale.

    With ``heads_only`` the backbone gets 0, so that its weights stay.
    """
    for group in optimizer.param_groups:
        value = peak if group["constant"] else lr
        assert value is not None, "optim.constant needs the peak"
        group["lr"] = 0.0 if heads_only and group["backbone"] else group["scale"] * value
