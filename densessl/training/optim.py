"""The optimiser: parameter groups, SGD, Adam, AdamW or LARS, and the learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
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
        self._read: dict[Tensor, list[float]] = {}

    @torch.no_grad()
    def total_norm(self) -> Tensor:
        """The L2 norm of all gradients, which must stay as they are until `step`: on CPUs that reads them only once."""
        weights = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if weights[0].device.type != "cpu":
            return torch.linalg.vector_norm(norms([p.grad for p in weights]))
        self._read = {p: _products(p, _laid_out(p)) for p in weights}
        return torch.tensor(math.sqrt(sum(of_gradient for _, of_gradient, _ in self._read.values())))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if not weights:
                continue
            for p in weights:
                if not self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
            momenta = [self.state[p]["momentum"] for p in weights]
            if weights[0].device.type == "cpu":
                _on_cpu(group, weights, momenta, self._read)
            else:
                _on_gpu(group, weights, momenta)
        self._read = {}


def _on_gpu(group: dict[str, Any], weights: list[Tensor], momenta: list[Tensor]) -> None:
    """For all weights together, and without a look at a value, which would wait for the device."""
    updates = [p.grad for p in weights if p.grad is not None]  # in place: the gradients have served
    torch._foreach_add_(updates, weights, alpha=group["weight_decay"])
    if group["adapt"]:
        ratios = group["trust"] * norms(weights) / norms(updates)
        ratios = torch.where((ratios > 0) & ratios.isfinite(), ratios, 1.0)
        torch._foreach_mul_(updates, list(ratios.unbind()))
    torch._foreach_mul_(momenta, group["momentum"])
    torch._foreach_add_(momenta, updates)
    torch._foreach_add_(weights, momenta, alpha=-group["lr"])


def _on_cpu(
    group: dict[str, Any], weights: list[Tensor], momenta: list[Tensor], read: Mapping[Tensor, list[float]]
) -> None:
    """The same in two readings of memory, which are all it costs; from 8192 x 8192 weights on it is a tenth of a step.

    The first, which may be ``read`` already, gives the norm of the update; the second is torch's SGD, where 1 -
    dampening is what the update is multiplied by on its way into the momentum.
    """
    decay = group["weight_decay"]
    for p, momentum in zip(weights, momenta, strict=True):
        gradient, ratio = _laid_out(p), 1.0
        if group["adapt"]:
            of_weight, of_gradient, of_both = read.get(p) or _products(p, gradient)
            of_update = of_gradient + decay * (2 * of_both + decay * of_weight)
            if of_weight > 0 and of_update > 0:
                ratio = group["trust"] * math.sqrt(of_weight / of_update)
        sgd(
            [p],
            [gradient],
            [momentum],
            fused=True,
            lr=group["lr"],
            momentum=group["momentum"],
            dampening=1 - ratio,
            weight_decay=decay,
            nesterov=False,
            maximize=False,
        )


def _laid_out(p: Tensor) -> Tensor:
    """Its gradient, in memory as ``p`` is, since torch's loop of SGD goes by addresses."""
    assert p.grad is not None
    return p.grad if p.grad.stride() == p.stride() else torch.empty_like(p).copy_(p.grad)


def _products(p: Tensor, gradient: Tensor) -> list[float]:
    """The squared norms of both, and their product."""
    pieces = zip(_pieces(p), _pieces(gradient), strict=True)
    found = torch.stack([x.dot(y) for w, g in pieces for x, y in ((w, w), (g, g), (w, g))])
    return found.view(-1, 3).double().sum(0).tolist()


def norms(tensors: list[Tensor]) -> Tensor:
    """The L2 norm of each, (n,).

    torch's own adds up in fp32, one number after the other: on CPUs half a percent is missing of 8192 x 8192 numbers.
    """
    if tensors[0].device.type != "cpu":
        return torch.stack(torch._foreach_norm(tensors))
    return torch.stack([torch.stack([part.dot(part) for part in _pieces(x)]).sum() for x in tensors]).sqrt()


def _pieces(x: Tensor) -> tuple[Tensor, ...]:
    """All numbers of ``x`` as they lie in memory, so that nothing is copied, in pieces that fit a processor's cache."""
    return x.permute(x.dim_order()).flatten().split(2**18)


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
