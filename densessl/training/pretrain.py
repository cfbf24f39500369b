"""Pretraining: from a configuration to a run folder with a backbone file, in the order in which things happen."""

from __future__ import annotations

import logging
import math
import random
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor
from tqdm.contrib.logging import logging_redirect_tqdm

from densessl.backbone_file import FILE_NAME, save_backbone
from densessl.config import Config
from densessl.data.loader import Loader
from densessl.data.pictures import open_pictures
from densessl.data.pixels import Pixels
from densessl.data.to_device import ToDevice
from densessl.data.waiting import advice
from densessl.errors import UserError
from densessl.training import checkpoint, distributed
from densessl.training.assembly import assemble
from densessl.training.engine import connect
from densessl.training.launch import processes_here, setup
from densessl.training.log import Log, Pace
from densessl.training.optim import lr_at, peak_lr, set_lr

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)  # USR1 is how schedulers warn
FAILURES = 3  # saves in a row that may fail before the run stops


def pretrain(cfg: Config, *, resume: bool = False, overwrite: bool = False) -> Path:
    """Run ``cfg`` to its end, or from its newest whole state on, and return the run folder.

    SIGTERM, SIGUSR1 or Ctrl-C: all processes save after the step at hand and end with SystemExit; a second Ctrl-C ends
    at once. A save that fails is said and leaves those before; the third in a row ends the run.
    Raises UserError for a configuration, pictures or a run folder that can't work, and for a loss that is not finite.
    """
    # --- processes, run folder ---
    device = setup(cfg.threads)
    connect()
    run = Path(cfg.run)
    distributed.on_first(checkpoint.check_run_folder, run, resume, overwrite)
    before: dict[str, int] = {"step": 0}
    damaged: list[str] = []
    if resume:
        distributed.on_first(checkpoint.check_same, run, cfg)
        before, damaged = distributed.on_first(checkpoint.newest_state, run)
    done = before["step"]

    # --- pictures ---
    loader = Loader(
        open_pictures(cfg.data.path, Pixels.of(cfg)),
        cfg.views,
        cfg.photometric,
        batch=cfg.batch,
        seed=cfg.seed,
        workers=cfg.data.workers,
        rank=distributed.rank(),
        world_size=distributed.world_size(),
        unreadable=cfg.data.unreadable,
    )
    pictures = len(loader.images)
    if before.get("pictures", pictures) != pictures:
        distributed.refuse(f"--resume: data.path={cfg.data.path} had {before['pictures']} pictures, now {pictures}")
    steps = cfg.length(pictures)

    # --- method, engine ---
    engine, started_from = assemble(cfg, device, pictures, init=not resume)
    method = engine.method
    parameters = sum(p.numel() for p in method.parameters() if p.requires_grad)

    # --- run folder, opened ---
    if resume:
        checkpoint.load(engine, run, done)
    else:
        distributed.on_first(checkpoint.begin_run, run, cfg)
    saved = done if resume else None
    log = Log(run, done, steps, cfg.batch, advice(cfg, device.type == "cuda", processes_here()))
    for line in damaged:
        log.say(line)
    log.say(
        f"{run}: {cfg.method.name}, {cfg.backbone.name} from {f'step {done}' if resume else started_from}; {steps} "
        f"steps of {cfg.batch} of {pictures} pictures; {distributed.world_size()} process(es) on "
        f"{device.type}, {'bf16 autocast' if engine.dtype else 'fp32'}"
        + (f", {cfg.micro_batch} pictures at a time" if cfg.micro_batch else "")
    )

    def backbone_left_out() -> str:
        facts: dict[str, Any] = {"mean": cfg.data.mean, "std": cfg.data.std, "pixels": loader.images.pixels}
        try:
            save_backbone(run / FILE_NAME, method.backbone, **facts, method=cfg.method.name, step=done)
        except UserError as error:
            return str(error)
        return ""

    def left_out() -> str:
        """Save; why it failed, if it did."""
        distributed.broadcast_buffers(method)
        about = {"pictures": pictures, "parameters": parameters}
        # The backbone before the state: a run that is resumed at its end writes nothing any more.
        return distributed.on_first(backbone_left_out) or checkpoint.save(
            engine, run, done, about, cfg.keep, cfg.keep_every
        )

    # --- the loop ---
    pace = Pace(cfg.batch, done)
    to_device = ToDevice(device, cfg.data.mean, cfg.data.std)
    failed = 0  # saves in a row
    flags, recent = distributed.Flags(), deque[tuple[int, dict[str, Tensor]]](maxlen=2)
    with (
        closing(engine),
        closing(log),
        stop_on_signal() as signals,
        logging_redirect_tqdm([logging.getLogger("densessl")]),
    ):
        for step, views in pace.watch(loader.from_step(done, steps)):
            seed_step(cfg.seed, step)
            method.step, method.progress = step, step / steps
            lr = lr_at(step, cfg, steps)
            set_lr(engine.optimizer, lr, peak_lr(cfg), heads_only=step < cfg.optim.heads_first * steps)
            terms = engine(to_device(views))
            loss = torch.stack(list(terms.values())).sum()
            engine.backward(loss)
            gradient = engine.step()
            done = step + 1
            method.update()
            log.advance()
            values = {"loss": loss.detach(), **{k: v.detach() for k, v in terms.items()}, "gradient": gradient}
            recent.append((step, values))
            logging_now, saving = due(done, cfg.log_every, steps), due(done, cfg.save_every, steps)
            # They are known a step late, and at once where somebody waits for the device anyway.
            stopping, broken = flags.exchange(bool(signals), not_finite(values), wait=logging_now or saving)
            if stopping:
                _, broken = flags.exchange(True, broken, wait=True)
            if broken:
                refuse_step(recent, saved)
            if logging_now:
                log.write(done, distributed.mean_over_processes(values) | {"lr": lr} | pace.read(done, device))
            if stopping or saving:
                if problem := left_out():
                    failed += 1
                    left = f"the state after {saved} steps is whole" if saved else "no state was saved yet"
                    if stopping or failed == FAILURES or done == steps:
                        distributed.refuse(f"step {done} was not saved: {problem}. The run stops; {left}")
                    log.say(f"step {done} was not saved: {problem}. Training goes on; {left}")
                else:
                    saved, failed = done, 0
            if stopping:
                break
        log.say(f"{run / FILE_NAME} after {done} of {steps} steps")
    if done < steps:
        raise SystemExit(128 + (signals[0] if signals else signal.SIGTERM))
    return run


def seed_step(seed: int, step: int) -> None:
    """Drop path and the like draw what follows from (seed, step, process), so that resuming needs no memory of it."""
    number = int(np.random.SeedSequence(seed, spawn_key=(step, distributed.rank())).generate_state(1)[0])
    torch.manual_seed(number)
    np.random.seed(number)
    random.seed(number)


def due(done: int, every: int, steps: int) -> bool:
    return done % every == 0 or done == steps


def not_finite(values: dict[str, Tensor]) -> Tensor:
    return ~torch.stack([value.float() for value in values.values()]).isfinite().all()


def refuse_step(recent: Iterable[tuple[int, dict[str, Tensor]]], saved: int | None) -> NoReturn:
    """What is not finite turns every weight into NaN. ``recent``: steps with their values; a call of all processes."""
    means = [(step, distributed.mean_over_processes(values)) for step, values in recent]
    step, names = next(
        (step, names)
        for step, values in means
        if (names := [name for name, value in values.items() if not math.isfinite(value)])
    )
    names = [name for name in names if name not in ("loss", "gradient")] or names[:1]  # the cause, if a term is it
    left = f"the state after {saved} steps is whole" if saved else "no state was saved yet"
    distributed.refuse(
        f"step {step + 1}: not finite: {', '.join(names)}. The run stops; {left}. "
        "A lower optim.base_lr, a longer optim.warmup, optim.clip=1 or precision=fp32 may help"
    )


@contextmanager
def stop_on_signal() -> Iterator[list[int]]:
    """The signals that came. They only leave a note: what follows all processes do together."""
    came: list[int] = []

    def note(number: int, frame: Any) -> None:
        if number in came and number == signal.SIGINT:
            raise KeyboardInterrupt
        came.append(number)

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
