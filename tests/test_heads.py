"""Heads: a wide layer under autocast with few rows, against torch's own and float64."""

import copy

import pytest
import torch
from torch import Tensor, nn

from densessl.heads import mlp


def gradients(layer: nn.Module, rows: Tensor, of_output: Tensor) -> tuple[Tensor, list[Tensor]]:
    rows = rows.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        output = layer(rows)
    output.backward(of_output.to(output.dtype))
    return output, [rows.grad, *(p.grad for p in layer.parameters())]


@pytest.mark.parametrize("rows", [1, 32, 48, 49])
@pytest.mark.parametrize("bias", [False, True])
def test_layers_under_autocast(rows: int, bias: bool) -> None:
    torch.manual_seed(0)
    head = mlp(40, 24, norm="none", out_bias=bias)
    plain = nn.Linear(40, 24, bias=bias)
    plain.load_state_dict(head[0].state_dict())
    x, of_output = torch.randn(rows, 40), torch.randn(rows, 24).bfloat16()
    (z, found), (expected, theirs) = (gradients(layer, x, of_output) for layer in (head[0], plain))
    assert torch.equal(z, expected)
    assert z.dtype == torch.bfloat16
    assert torch.equal(found[0], theirs[0])
    assert [g.dtype for g in found] == [torch.float32] * len(found)
    exact = [of_output.double().T @ x.bfloat16().double(), of_output.double().sum(0)][: len(found) - 1]
    for g, truth in zip(found[1:], exact, strict=True):
        torch.testing.assert_close(
            g.double(), truth, rtol=2e-2 if rows > 48 else 1e-5, atol=1e-1 if rows > 48 else 1e-5
        )
    if 1 < rows <= 48:  # torch's has gone through bf16
        assert (theirs[1] - exact[0]).abs().max() > 100 * (found[1] - exact[0]).abs().max()


def test_layers_whose_weights_or_rows_need_no_gradient() -> None:
    torch.manual_seed(0)
    head = mlp(8, 6, 4, norm="layer")
    head[0].weight.requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):
        head(torch.randn(5, 8)).float().square().sum().backward()
    assert head[0].weight.grad is None
    assert all(p.grad is not None and p.grad.isfinite().all() for p in list(head.parameters())[1:])


def test_without_autocast_a_layer_is_torchs() -> None:
    torch.manual_seed(0)
    head = mlp(8, 6, 4, norm="layer").double()
    plain = nn.Sequential(*(copy.deepcopy(layer) for layer in head))
    for layer in plain:
        if isinstance(layer, nn.Linear):
            layer.__class__ = nn.Linear
    x = torch.randn(5, 8, dtype=torch.float64)
    assert torch.equal(head(x), plain(x))
    for net in (head, plain):
        net(x).square().sum().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(head.parameters(), plain.parameters(), strict=True))
