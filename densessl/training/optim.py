"""The optimiser: parameter groups, AdamW or LARS, and the learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

if TYPE_CHECKING:
    from densessl.config import Config, OptimConfig


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights, and 1-D parameters (biases and norms), which are neither decayed nor adapted by LARS.

    Decided here because ZeRO hands optimisers flat tensors, whose shapes say nothing.
    """
    trainable = [p for p in module.parameters() if p.requires_grad]
    weights, vectors = [p for p in trainable if p.ndim > 1], [p for p in trainable if p.ndim <= 1]
    groups = [
        {"params": weights, "weight_decay": weight_decay, "adapt": True},
        {"params": vectors, "weight_decay": 0.0, "adapt": False},
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(module: nn.Module, optim: OptimConfig) -> Optimizer:
    """AdamW or LARS over the groups of ``module``; the learning rate is 0 until set_lr."""
    groups = parameter_groups(module, optim.weight_decay)
    if optim.name == "lars":
        return LARS(groups, momentum=optim.momentum, trust=optim.trust)
    return torch.optim.AdamW(groups, lr=0.0, betas=optim.betas)


class LARS(Optimizer):
    """SGD with momentum whose step is scaled for each weight by trust * norm of the weight / norm of its gradient.

    You, Gitman, Ginsburg 2017, https://arxiv.org/abs/1708.03888, in VICReg's form: decay enters the gradient, the ratio
    is 1 where a norm is 0, and groups with ``adapt=False`` are plain SGD.
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
            for p in group["params"]:
                if p.grad is None:
                    continue
                update = p.grad.add(p, alpha=group["weight_decay"])
                if group["adapt"]:
                    ratio = group["trust"] * p.norm() / update.norm()
                    update *= torch.where((ratio > 0) & ratio.isfinite(), ratio, 1.0)
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].mul_(group["momentum"]).add_(update)
                p.add_(state["momentum"], alpha=-group["lr"])


def lr_at(step: int, cfg: Config, steps: int) -> float:
    """Linear warm-up from 0 over the first ``warmup`` share of the run, then a half cosine to ``end_lr`` of the peak.

    ``step`` counts from 0 and is below ``steps``; the peak is base_lr * batch / 256.
    """
    peak = cfg.optim.base_lr * cfg.batch / 256
    warmup = cfg.optim.warmup * steps
    if step < warmup:
        return peak * step / warmup
    share = (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2
    return peak * (share + (1 - share) * cfg.optim.end_lr)


def set_lr(optimizer: Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
