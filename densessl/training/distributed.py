"""Processes: how many there are, which one this is, and what they tell each other. The only user of torch.distributed.

Everything here works with one process and without any set-up, so methods and tests need no launcher.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from types import TracebackType
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from densessl.errors import UserError
from densessl.training.launch import setup, told
from densessl.training.pulse import Pulse

T = TypeVar("T")
TIMEOUT = 10.0  # minutes
LAST = 2.0  # seconds that the first process has to say why, before its launcher sees another end, and ends it

# --- who is here ------------------------------------------------------------------------------------------------------


@contextmanager
def connected(device: str = "auto") -> Iterator[str]:
    """For programs without an engine: the processes that a launcher started are connected inside the block.

    Gives the device: the GPU of the process's number, or the CPU if there is none or ``device`` is "cpu"; for one
    process ``device`` as it is. Raises UserError as ``launch.setup`` does.
    """
    launched = bool(told(os.environ))
    if device == "cpu" and launched:
        os.environ["DS_ACCELERATOR"] = "cpu"
    place = setup() if launched else None
    if place is None or int(os.environ["WORLD_SIZE"]) == 1:
        yield device
        return
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=patience(TIMEOUT))
    watch(TIMEOUT)
    yield str(place)
    unwatch()
    dist.destroy_process_group()  # not after an error, which all say who are still connected


def connect_alone() -> None:
    """A process on a CPU to itself; with an address it would listen to all networks, and ask the DNS for its name."""
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)


# --- who is still here ------------------------------------------------------------------------------------------------

_pulse: Pulse | None = None


def patience(minutes: float) -> timedelta:
    """What torch is given as its own timeout: a little more, since it does not say who is waited for."""
    return timedelta(minutes=minutes + 1)


def watch(minutes: float) -> None:
    """From now on a process that waits so long for another ends, with a message that names it. See pulse.Pulse."""
    global _pulse
    unwatch()
    if world_size() == 1:
        return
    store = dist.PrefixStore("densessl", dist.distributed_c10d._get_default_store())
    _pulse = Pulse(store, rank(), world_size(), 60 * minutes, (dist.__name__, __name__))
    sys.excepthook = _last_words


def unwatch() -> None:
    global _pulse
    if _pulse is not None:
        _pulse.stop()
        _pulse, sys.excepthook = None, sys.__excepthook__


def _last_words(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if _pulse is not None:
        _pulse.failed(error, isinstance(error, dist.DistError) or "gloo" in str(error))
    sys.__excepthook__(kind, error, trace)


def at_step(step: int, saved: int | None) -> None:
    """This process begins a step, counted from 1; ``saved`` is the newest whole state. For the message alone."""
    if _pulse is not None:
        _pulse.step, _pulse.saved = step, saved


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if world_size() > 1 else 0


def is_first() -> bool:
    return rank() == 0


def barrier() -> None:
    if world_size() > 1:
        dist.barrier()


def message_device() -> torch.device:
    """Where small messages must lie: NCCL carries only what is on a GPU."""
    on_gpu = world_size() > 1 and dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")


# --- tensors, with gradients ------------------------------------------------------------------------------------------


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return gathering(x)()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return own(gradient)


def gather(x: Tensor) -> Tensor:
    """The rows (B, ...) of all processes in rank order, (processes * B, ...). With one process ``x`` itself.

    B is the same in every process. The backward sums the gradients of all processes; since the engine averages those of
    the parameters, a loss of gathered rows needs no factor. Where ``x`` needs no gradient, no collective runs backward.
    """
    return _Gather.apply(x) if world_size() > 1 else x


def _received(work: dist.Work | None, x: Tensor) -> Tensor:
    assert work is not None  # what torch gives to a process outside the group, which there is none of
    work.wait()
    return x


def _newest(*names: str) -> Callable[..., Any]:
    """The first of torch's ``names`` of a collective that this torch has: it warns of the old ones."""
    return getattr(dist, next(name for name in names if hasattr(dist, name)))


@torch.no_grad()
def gathering(x: Tensor) -> Callable[[], Tensor]:
    """Begin to `gather` ``x`` without gradient; a call of what this gives waits for everyone's rows."""
    if world_size() == 1:
        return x.detach
    everyone, x = x.new_empty((world_size() * len(x), *x.shape[1:])), x.contiguous()
    work = _newest("all_gather_single", "all_gather_into_tensor")(everyone, x, async_op=True)
    return lambda: _received(work, everyone)


@torch.no_grad()
def gather_together(*tensors: Tensor) -> list[Tensor]:
    """`gather` of each, of any types and without gradient, in one message: processes wait for each other once."""
    if world_size() == 1:
        return list(tensors)
    messages = [x.contiguous().flatten().view(torch.uint8) for x in tensors]
    parts = gather(torch.cat(messages)[None]).split([len(message) for message in messages], dim=1)
    return [part.contiguous().view(x.dtype).view(-1, *x.shape[1:]) for part, x in zip(parts, tensors, strict=True)]


@torch.no_grad()
def total_own(everyone: Tensor) -> Callable[[], Tensor]:
    """Begin to sum all processes' (processes * B, ...); a call of what this gives waits for this process's rows of the
    sum, (B, ...).
    """
    if world_size() == 1:
        return lambda: everyone
    rows = everyone.new_empty((len(everyone) // world_size(), *everyone.shape[1:]))
    work = _newest("reduce_scatter_single", "reduce_scatter_tensor")(rows, everyone, async_op=True)
    return lambda: _received(work, rows)


@torch.no_grad()
def total(x: Tensor) -> Tensor:
    """The sum over all processes, in place."""
    if world_size() > 1:
        dist.all_reduce(x)
    return x


def own(everyone: Tensor) -> Tensor:
    """This process's rows of what was gathered."""
    return everyone.chunk(world_size())[rank()]


def share(n: int) -> slice:
    """This process's of n things that are there for all: every one is somebody's, none two's."""
    return slice(rank() * n // world_size(), (rank() + 1) * n // world_size())


def permutation(n: int, device: torch.device) -> Tensor:
    """A random order of n rows, the first process's in all of them."""
    return from_first(torch.randperm(n, device=device))


def from_first(x: Tensor) -> Tensor:
    """The first process's ``x`` in all of them, in place."""
    if world_size() > 1:
        dist.broadcast(x, src=0)
    return x


# --- small messages ---------------------------------------------------------------------------------------------------


def mean_over_processes(values: dict[str, Any]) -> dict[str, float]:
    """Scalars, averaged over processes in one collective. The keys are the same in every process."""
    packed = torch.stack([torch.as_tensor(v).detach().to(message_device(), torch.float32) for v in values.values()])
    if world_size() > 1:
        dist.all_reduce(packed)
    return dict(zip(values, (packed / world_size()).tolist(), strict=True))


def any_process(*flags: bool | Tensor) -> tuple[bool, ...]:
    """Each flag is true if it is true in any process; all of them in one collective."""
    device = next((flag.device for flag in flags if isinstance(flag, Tensor)), message_device())
    # torch.full fills where it is; as_tensor would copy from the CPU, and wait for that.
    found = torch.stack(
        [f.int() if isinstance(f, Tensor) else torch.full((), f, dtype=torch.int32, device=device) for f in flags]
    )
    if world_size() > 1:
        dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return tuple(bool(flag) for flag in found.tolist())


def broadcast_object(value: T) -> T:
    """The first process's ``value``, pickled."""
    if world_size() == 1:
        return value
    message = [value]
    dist.broadcast_object_list(message, device=message_device())
    return message[0]


def gather_objects(value: T) -> list[T]:
    """Every process's ``value`` in rank order, pickled."""
    if world_size() == 1:
        return [value]
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, value)
    return found


@torch.no_grad()
def broadcast_buffers(module: nn.Module) -> None:
    """The first process's buffers everywhere: DeepSpeed does this for parameters alone."""
    if world_size() > 1:
        for buffer in module.buffers():
            from_first(buffer)


def refuse(message: str) -> NoReturn:
    """Called by all processes alike: the first raises UserError, so that it is said once; the others leave."""
    if is_first():
        raise UserError(message)
    time.sleep(LAST)
    raise SystemExit(2)


def on_first(function: Callable[..., T], *arguments: Any) -> T:
    """``function`` runs in the first process, its result is everyone's. If it raises UserError, all processes stop."""
    result, error = None, None
    if is_first():
        try:
            result = function(*arguments)
        except UserError as e:
            error = str(e)
    result, error = broadcast_object((result, error))
    if error is not None:
        refuse(error)
    return result  # type: ignore[return-value]


def everywhere(function: Callable[..., T], *arguments: Any) -> T:
    """``function`` runs in every process; if it raises UserError in any, all stop, and the first says it."""
    result, error = None, ""
    try:
        result = function(*arguments)
    except UserError as e:
        error = str(e)
    errors = gather_objects(error)
    if found := [each for each in errors if each]:
        alike = len(set(errors)) == 1
        refuse(found[0] if alike else f"process {errors.index(found[0])} of {len(errors)}: {found[0]}")
    return result  # type: ignore[return-value]


def on_first_slowly(function: Callable[..., T], *arguments: Any) -> T:
    """`on_first` for work that may take longer than processes wait for each other."""

    long_work = _pulse.long_work if _pulse is not None else nullcontext

    def work() -> T:
        with long_work():
            return function(*arguments)

    if not is_first():
        with long_work():
            pass  # it is done
    return on_first(work)
