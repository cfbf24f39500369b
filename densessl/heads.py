"""The networks between a backbone and a criterion."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from densessl.backbones import Backbone

Norm = Literal["batch", "layer", "none"]
_NORMS = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
_FEW = 48  # rows up to which memory, and not multiplying, is what a wide layer costs on a CPU


def mlp(
    channels: int,
    *widths: int,
    norm: Norm,
    bias: bool = True,
    out_bias: bool = False,
    out_norm: bool = False,
    act: type[nn.Module] = nn.ReLU,
) -> nn.Sequential:
    """Expander, projector or predictor, (N, channels) to (N, widths[-1]).

    Linear (with ``bias``), ``norm`` and ``act`` for each hidden width, then a linear layer, by default without bias;
    with ``out_norm`` batch statistics of the output follow, without scale and shift. The defaults are VICReg's and
    VICRegL's form, with their keys (0, 1, 3, 4, 6 for three widths).
    """
    layers: list[nn.Module] = []
    for width in widths[:-1]:
        layers += [_Linear(channels, width, bias=bias), *([] if norm == "none" else [_NORMS[norm](width)]), act()]
        channels = width
    layers.append(_Linear(channels, widths[-1], bias=out_bias))
    return nn.Sequential(*layers, *([nn.BatchNorm1d(widths[-1], affine=False)] if out_norm else []))


class _Linear(nn.Linear):
    def forward(self, rows: Tensor) -> Tensor:
        few = rows.device.type == "cpu" and len(rows) <= _FEW and torch.is_autocast_enabled("cpu")
        return _FewRows.apply(rows, self.weight, self.bias) if few else super().forward(rows)


class _FewRows(torch.autograd.Function):
    """A linear layer under autocast whose weight gets its gradient in fp32 at once, in a third less time.

    Autocast's goes to memory in bf16, and from there to fp32; 8192 x 8192 of them take longer than the product.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows, weight = (x.to(torch.get_autocast_dtype("cpu")) for x in (rows, weight))
        ctx.save_for_backward(rows, weight)
        return F.linear(rows, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        with torch.autocast("cpu", enabled=False):
            precise = gradient.float()
            of_rows = gradient @ weight if ctx.needs_input_grad[0] else None
            of_weight = precise.mT @ rows.float() if ctx.needs_input_grad[1] else None
            return of_rows, of_weight, precise.sum(0) if ctx.needs_input_grad[2] else None


def norm_like(backbone: Backbone) -> Norm:
    """A head normalises as its backbone does: batch statistics for ResNet, LayerNorm for ConvNeXt (VICRegL's code)."""
    return "batch" if backbone.batch_norm else "layer"


def each(head: nn.Module, parts: Iterable[Tensor]) -> list[Tensor]:
    """``head`` of each of several (N, C): all of them in one call, but each with batch statistics of its own.

    One call reads the weights once, and adds their gradient up once; with a small batch and 8192 x 8192 weights that
    takes longer than all else.
    """
    parts = list(parts)
    lengths, rows = [len(part) for part in parts], torch.cat(parts)
    for layer in head if isinstance(head, nn.Sequential) else [head]:
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            rows = torch.cat([layer(part) for part in rows.split(lengths)])
        else:
            rows = layer(rows)
    return list(rows.split(lengths))


def on_cells(head: nn.Module, features: Tensor) -> Tensor:
    """A head at every place of a map: (B, C, H, W) to (B, H * W, D) in raster order.

    Batch statistics run over all places of all pictures, as those of a 1 x 1 convolution do.
    """
    cells = features.flatten(2).mT
    return head(cells.flatten(0, 1)).unflatten(0, cells.shape[:2])


def held(weight: Tensor, free: bool) -> Tensor:
    """``weight``, whose gradient is zero unless ``free``: zero, since optimisers and DeepSpeed want one each step."""
    return weight if free else weight.detach() + 0 * weight
