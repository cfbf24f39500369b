"""Two and three processes equal one, in value, gradient and buffers: the form for CPUs and the one for GPUs.

The kernels that torch has for GPUs alone are written out here, by what torch's SyncBatchNorm expects of them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from spawned import spawn
from torch import Tensor, nn

from densessl.backbones import Backbone
from densessl.heads import mlp
from densessl.training.batch_norm import synchronise_batch_norm

FORMS = ("cpu", "gpu")


def cases() -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Name, module, batch of 6. Far from zero, where a mean of squares minus a squared mean would lose its digits."""
    torch.manual_seed(0)
    scaled = nn.BatchNorm2d(3)
    nn.init.normal_(scaled.weight)
    plain = nn.BatchNorm1d(3, affine=False, track_running_stats=False)
    images = 100 + 3 * torch.randn(6, 3, 33, 47)
    modules: dict[str, tuple[nn.Module, Tensor]] = {
        "2d": (scaled, images[..., :5]),
        "channels last": (nn.BatchNorm2d(3, momentum=0.03), images.contiguous(memory_format=torch.channels_last)),
        "1d": (nn.BatchNorm1d(3), images[..., 0, 0]),
        "of lengths": (nn.BatchNorm1d(3, eps=0.1), images[..., 0]),
        "without weights": (plain, images[..., 0, 0]),
        "backbone": (nn.Sequential(Backbone("test_resnet"), Last()), images),
        "head": (mlp(3, 8, 8, norm="batch", out_norm=True), images[..., 0, 0]),
    }
    for name, (module, batch) in modules.items():
        yield name, nn.Sequential(module).double(), batch.double()


class Last(nn.Module):
    def forward(self, maps: list[Tensor]) -> Tensor:
        return maps[-1]


# --- the kernels of GPUs ----------------------------------------------------------------------------------------------


def channels(values: Tensor, x: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (x.ndim - 2))


def batch_norm_stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    rows = x.transpose(0, 1).flatten(1)
    return rows.mean(1), (rows.var(1, correction=0) + eps).rsqrt()


def batch_norm_gather_stats_with_counts(
    x: Tensor,
    means: Tensor,
    inverse_stds: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
    counts: Tensor,
) -> tuple[Tensor, Tensor]:
    n, weights = counts.sum(), counts[:, None]
    mean = (weights * means).sum(0) / n
    var = (weights * (inverse_stds**-2 - eps + (means - mean) ** 2)).sum(0) / n
    if running_mean is not None and running_var is not None:
        running_mean.copy_((1 - momentum) * running_mean + momentum * mean)
        running_var.copy_((1 - momentum) * running_var + momentum * var * n / (n - 1))
    return mean, (var + eps).rsqrt()


def batch_norm_elemt(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, inverse_std: Tensor, eps: float
) -> Tensor:
    y = (x - channels(mean, x)) * channels(inverse_std, x)
    return y if weight is None or bias is None else y * channels(weight, x) + channels(bias, x)


def batch_norm_backward_reduce(
    gradient: Tensor, x: Tensor, mean: Tensor, inverse_std: Tensor, weight: Tensor | None, *needed: bool
) -> tuple[Tensor | None, ...]:
    over = [0, *range(2, x.ndim)]
    sum_dy, sum_dy_xmu = gradient.sum(over), (gradient * (x - channels(mean, x))).sum(over)
    return sum_dy, sum_dy_xmu, sum_dy_xmu * inverse_std if needed[1] else None, sum_dy if needed[2] else None


def batch_norm_backward_elemt(
    gradient: Tensor,
    x: Tensor,
    mean: Tensor,
    inverse_std: Tensor,
    weight: Tensor | None,
    sum_dy: Tensor,
    sum_dy_xmu: Tensor,
    counts: Tensor,
) -> Tensor:
    n = counts.sum()
    assert not counts.is_floating_point()  # of which the kernel reads whole numbers
    centered = gradient - channels(sum_dy / n, x)
    centered -= (x - channels(mean, x)) * channels(inverse_std**2 * sum_dy_xmu / n, x)
    return centered * channels(inverse_std if weight is None else inverse_std * weight, x)


KERNELS = (
    batch_norm_stats,
    batch_norm_gather_stats_with_counts,
    batch_norm_elemt,
    batch_norm_backward_reduce,
    batch_norm_backward_elemt,
)

# --- what processes do, and one ---------------------------------------------------------------------------------------


def train_and_evaluate(module: nn.Module, batch: Tensor) -> dict[str, Any]:
    """Two steps, the gradients of the second; ``out``, ``images`` and ``eval`` have a row an image."""
    batch = batch.clone(memory_format=torch.preserve_format).requires_grad_()
    module(batch)
    out = module(batch)
    out.pow(3).sum().backward()
    gradients = {name: p.grad for name, p in module.named_parameters()}
    state = {key: x.clone() for key, x in module.state_dict().items()}
    found = {"out": out.detach(), "images": batch.grad, "gradients": gradients, "state": state}
    return found | {"eval": module.eval()(batch).detach()}


def process(rank: int, folder: Path) -> dict[str, Any]:
    size = int((folder / "size").read_text())
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    found = {}
    for form in FORMS:
        if form == "gpu":
            torch.Tensor.is_cuda = property(lambda x: True)  # type: ignore[assignment, method-assign, misc]
            for kernel in KERNELS:
                setattr(torch, kernel.__name__, kernel)
        for name, module, batch in cases():
            found[form, name] = train_and_evaluate(synchronise_batch_norm(module), batch.chunk(size)[rank])
    dist.destroy_process_group()
    return found


@pytest.fixture(scope="module", params=[2, 3])
def processes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("processes")
    (folder / "size").write_text(str(request.param))
    return spawn(process, folder, request.param)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", [name for name, *_ in cases()])
def test_processes_equal_one(name: str, form: str, processes: list[dict[str, Any]]) -> None:
    module, batch = next((module, batch) for each, module, batch in cases() if each == name)
    whole = train_and_evaluate(module, batch)
    parts = [each[form, name] for each in processes]

    def close(ours: Tensor, expected: Tensor) -> None:
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6 * max(1, float(expected.abs().max())))

    own = name == "without weights"  # in eval mode its statistics are those of the process
    for key in ("out", "images", *([] if own else ["eval"])):
        close(torch.cat([part[key] for part in parts]), whole[key])
    for weight, expected in whole["gradients"].items():
        close(sum(part["gradients"][weight] for part in parts), expected)
    for part in parts:
        assert part["state"].keys() == whole["state"].keys()
        for key, expected in whole["state"].items():  # the running variance is the unbiased one
            close(part["state"][key], expected)
