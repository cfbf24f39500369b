"""DeepSpeed behind a few verbs. The only user of deepspeed.

Its configuration is made here from ours, since it takes misspelt keys in silence and clips gradients unless told not
to. Parameters stay in fp32, and bf16 is an autocast of our own around the method's forward: DeepSpeed's bf16 mode
rounds slow targets away and takes an optimiser step before the first one.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import Optimizer

from densessl.device import gpu_is_used
from densessl.errors import UserError
from densessl.training import distributed, optimizer_state
from densessl.training.batch_norm import running_statistics
from densessl.training.optim import LARS, norms

if TYPE_CHECKING:
    from densessl.config import Config
    from densessl.data.views import Views
    from densessl.method import Method

MODEL, OPTIMIZER = "model.safetensors", "optimizer.safetensors"


def connect(timeout: float = distributed.TIMEOUT) -> None:
    """Join the processes that launch.setup has named. One that waits ``timeout`` minutes for another gives up."""
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if gpu_is_used() else "cpu")
    import deepspeed  # only now: it looks for accelerators, and complains, when it is imported
    from deepspeed import ops

    # Its calls of collectives, at each step of ZeRO, by names that torch has since changed.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    # On CPU it would compile, for a minute, an operation that only inference uses, and fail without a compiler.
    ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if os.environ["WORLD_SIZE"] == "1" and os.environ["DS_ACCELERATOR"] == "cpu":  # NCCL was never tried so
        distributed.connect_alone()
    deepspeed.init_distributed(verbose=False, timeout=distributed.patience(timeout))
    distributed.watch(timeout)


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """bf16 or None, fp32 throughout. "auto" is bf16 where the hardware multiplies it.

    GPUs do from compute capability 8.0, x86 processors with AMX or AVX512-BF16. Others only imitate it, slowly.
    """
    if device.type == "cuda":
        capable = torch.cuda.get_device_capability(device) >= (8, 0)
        if precision == "bf16" and not capable:
            raise UserError(f"precision=bf16: {torch.cuda.get_device_name(device)} has no bf16; use precision=fp32")
    else:
        capable = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if precision == "bf16" or (precision == "auto" and capable) else None


@torch.no_grad()
def _copy(source: list[Tensor], destination: list[Tensor]) -> None:
    """Each to its place; those of one type together, which on a GPU is one kernel instead of one a buffer."""
    for dtype in {x.dtype for x in source}:
        alike = [i for i, x in enumerate(source) if x.dtype == dtype]
        torch._foreach_copy_([destination[i] for i in alike], [source[i] for i in alike])


class _Autocast(nn.Module):
    """A method under autocast. It opens inside the engine's forward, since DeepSpeed closes those around it."""

    def __init__(self, method: Method, dtype: torch.dtype | None, device: torch.device) -> None:
        super().__init__()
        self.method, self.dtype, self.device_type = method, dtype, device.type

    def forward(self, views: Views) -> dict[str, Tensor]:
        with torch.autocast(self.device_type, self.dtype, enabled=self.dtype is not None):
            return self.method(views)


class Engine:
    """A method, its optimiser and the averaging of gradients over processes.

    ``method`` is moved to ``device`` and starts from the first process's parameters and buffers everywhere.
    """

    def __init__(self, method: Method, optimizer: Optimizer, cfg: Config, device: torch.device) -> None:
        import deepspeed

        self.dtype = autocast_dtype(cfg.precision, device)
        self.method = method
        self.optimizer: Any
        self.terms = _Autocast(method, self.dtype, device)  # without DeepSpeed around it
        self._engine, self.optimizer, *_ = deepspeed.initialize(
            model=self.terms,
            optimizer=optimizer,
            config={
                "train_micro_batch_size_per_gpu": cfg.batch // distributed.world_size(),
                "gradient_accumulation_steps": 1,
                "gradient_clipping": cfg.optim.clip if cfg.zero else 0.0,
                "zero_optimization": {"stage": cfg.zero},
                "zero_allow_untested_optimizer": True,  # SGD, which does to each number what it does to any other
                "steps_per_print": 2**31 - 1,
                "timers": {"throughput": {"enabled": False}},  # it would wait for the device twice a step
            },
        )
        self._clip = cfg.optim.clip
        self._norm = torch.zeros(())
        if self._engine.zero_optimization():  # which sees only its part of a gradient, and asks for the norm itself
            self._norm_of_parts = self.optimizer.scaled_global_norm
            self.optimizer.scaled_global_norm = lambda norm_type=2: self._norm
        if not cfg.zero:
            # Convolutions are up to a quarter faster with channels last, as the pictures are. Only now, since DeepSpeed
            # broadcasts contiguous weights alone, and not with ZeRO, which keeps them as parts of a flat tensor.
            method.to(memory_format=torch.channels_last)
            # One process has nothing to average; DeepSpeed would copy all gradients there and back.
            self._engine.enable_backward_allreduce = distributed.world_size() > 1
        distributed.broadcast_buffers(method)
        self._statistics = list(running_statistics(method))
        self._statistics_before = [buffer.clone() for buffer in self._statistics]

    def __call__(self, views: Views) -> dict[str, Tensor]:
        """The method's terms on this process's share of the batch."""
        _copy(self._statistics, self._statistics_before)
        return self._engine(views)

    def backward(self, loss: Tensor) -> Tensor:
        """Compute the gradient, averaged over processes; returns its norm before clipping."""
        self._engine.backward(loss)
        if self._engine.zero_optimization():
            norm = self._norm_of_parts()
            self._norm = norm.where(norm >= 0, torch.nan)  # of what is not finite it is -1
        elif isinstance(self.optimizer, LARS) and not self._clip:
            self._norm = self.optimizer.total_norm()
        else:
            self._norm = torch.linalg.vector_norm(norms([p.grad for p in self._weights() if p.grad is not None]))
        return self._norm

    def step(self) -> None:
        """Take the optimiser's step."""
        if self._clip and not self._engine.zero_optimization():  # which does it itself, with the same norm
            torch.nn.utils.clip_grads_with_norm_(self._weights(), self._clip, self._norm)
        self._engine.step()

    def skip(self) -> None:
        """Drop the gradient, in place of `step`; a call of all processes. All is as it was before the forward."""
        self.restore_statistics()
        self._norm = torch.full_like(self._norm, torch.nan)  # with which ZeRO leaves its weights alone
        for weight in self._weights():
            weight.grad = None
        self._engine.step()  # for what it counts

    def restore_statistics(self) -> None:
        """Those that BatchNorm had before the last forward through the engine."""
        _copy(self._statistics_before, self._statistics)

    def _weights(self) -> list[nn.Parameter]:
        return [p for p in self.method.parameters() if p.grad is not None]

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Weights, buffers and the optimiser's state, as files of tensors on the CPU; a call of all processes.

        In the first process; empty in the others. DeepSpeed's own files are pickles, which run code when they are read,
        and with ZeRO fit one number of processes.
        """
        of_optimizer = optimizer_state.collect(self.optimizer, self._names())
        return {MODEL: self.weights(), OPTIMIZER: of_optimizer} if distributed.is_first() else {}

    def state_size(self) -> int:
        """Bytes of `state` once a step is taken: Adam keeps two numbers a weight, SGD and LARS one."""
        numbers = 2 if "betas" in self.optimizer.param_groups[0] else 1
        trained = sum(p.nbytes for p in self.method.parameters() if p.requires_grad)
        return numbers * trained + sum(x.nbytes for x in self.method.state_dict().values())

    def weights(self) -> dict[str, Tensor]:
        """Weights and buffers, on the CPU."""
        return {key: x.cpu().contiguous() for key, x in self.method.state_dict().items()}

    def load(self, folder: Path) -> None:
        """Read the files of a state; a call of all processes, which stop together if it fails in any."""
        error = ""
        try:
            self.method.load_state_dict(load_file(folder / MODEL))
            if self._engine.zero_optimization():
                self.optimizer.refresh_fp32_params()  # of which ZeRO has copies
            optimizer_state.spread(self.optimizer, self._names(), load_file(folder / OPTIMIZER))
        except Exception as e:  # whatever it is, the other processes must not be left waiting
            error = f"{type(e).__name__}: {e}"
        (failed,) = distributed.any_process(bool(error))
        if failed:
            raise UserError(f"--resume: {folder} was not loaded: {error or 'it failed in another process'}")

    def _names(self) -> dict[Tensor, str]:
        return {weight: name for name, weight in self.method.named_parameters()}

    def close(self) -> None:
        """Free what DeepSpeed holds, so that another engine can follow in this Python."""
        self._engine.destroy()
