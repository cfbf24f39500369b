"""Pretraining: from a configuration to a run folder with a backbone file, in the order in which things happen."""

from __future__ import annotations

import logging
import math
import random
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.contrib.logging import logging_redirect_tqdm

from densessl.backbone_file import FILE_NAME, init_backbone, save_backbone
from densessl.backbones import Backbone
from densessl.config import Config
from densessl.data.loader import Loader, open_images
from densessl.data.views import to_device
from densessl.methods import METHODS
from densessl.training import checkpoint, distributed
from densessl.training.batch_norm import synchronise_batch_norm
from densessl.training.engine import Engine, connect
from densessl.training.log import Log, Pace
from densessl.training.optim import build_optimizer, lr_at, peak_lr, set_lr


def pretrain(cfg: Config, *, resume: bool = False, overwrite: bool = False) -> Path:
    """Run ``cfg`` to its end, or from its newest whole state on, and return the run folder.

    SIGTERM or Ctrl-C: all processes save after the step at hand and end with SystemExit; a second Ctrl-C ends at once.
    Raises UserError for a configuration, pictures or a run folder that can't work, and for a loss that is not finite.
    """
    # --- processes, run folder ---
    device = distributed.setup(cfg.threads)
    connect()
    run = Path(cfg.run)
    distributed.on_first(checkpoint.check_run_folder, run, resume, overwrite)
    before: dict[str, int] = {"step": 0}
    damaged: list[str] = []
    if resume:
        distributed.on_first(checkpoint.check_same, run, cfg)
        before, damaged = distributed.on_first(checkpoint.newest_state, run)
        processes = before["processes"]
        if cfg.zero and processes != distributed.world_size():
            distributed.refuse(
                f"--resume: zero={cfg.zero} cuts the state of run={run} to {processes} processes: start as many"
            )
    done = before["step"]

    # --- pictures ---
    loader = Loader(
        open_images(cfg.data),
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
    steps = cfg.steps or max(1, round((cfg.epochs or 0) * loader.steps_per_epoch))

    # --- method, engine ---
    torch.manual_seed(cfg.seed)
    backbone = Backbone(
        cfg.backbone.name, in_chans=cfg.backbone.in_chans, stem=cfg.backbone.stem, drop_path=cfg.backbone.drop_path
    )
    started_from = init_backbone(backbone, cfg.backbone.init) if cfg.backbone.init and not resume else "random weights"
    method = METHODS[cfg.method.name](backbone, **cfg.method.arguments)
    method.begin(pictures=pictures, batch=cfg.batch)
    synchronise_batch_norm(method)
    parameters = sum(p.numel() for p in method.parameters() if p.requires_grad)
    engine = Engine(method, build_optimizer(method, cfg.optim), cfg, device)

    # --- run folder, opened ---
    if resume:
        checkpoint.load(engine, run, done)
    else:
        distributed.on_first(checkpoint.begin_run, run, cfg)
    saved = done if resume else None
    log = Log(run, done, steps, cfg.batch)
    for line in damaged:
        log.say(line)
    log.say(
        f"{run}: {cfg.method.name}, {cfg.backbone.name} from {f'step {done}' if resume else started_from}; {steps} "
        f"steps of {cfg.batch} of {pictures} pictures; {distributed.world_size()} process(es) on "
        f"{device.type}, {'bf16 autocast' if engine.dtype else 'fp32'}"
    )

    def save() -> None:
        distributed.broadcast_buffers(method)
        if distributed.is_first():  # before the state: a run that is resumed at its end writes nothing any more
            mean, std = cfg.data.mean, cfg.data.std
            save_backbone(run / FILE_NAME, backbone, mean=mean, std=std, method=cfg.method.name, step=done)
        checkpoint.save(engine, run, done, {"pictures": pictures, "parameters": parameters})

    # --- the loop ---
    pace = Pace(cfg.batch, done)
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
            terms = engine(to_device(views, device, cfg.data.mean, cfg.data.std))
            loss = torch.stack(list(terms.values())).sum()
            stopping, broken = distributed.any_process(bool(signals), ~loss.isfinite())
            if broken:
                refuse_step(step, terms, saved)
            engine.backward(loss)
            gradient = engine.step()
            done = step + 1
            method.update()
            log.advance()
            if due(done, cfg.log_every, steps):
                values = distributed.mean_over_processes({"loss": loss, **terms, "gradient": gradient})
                log.write(done, values | {"lr": lr} | pace.read(done, device))
            if stopping or due(done, cfg.save_every, steps):
                if any(distributed.any_process(~gradient.isfinite())):
                    refuse_step(step, {"gradient": gradient}, saved)
                save()
                saved = done
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


def refuse_step(step: int, values: dict[str, Tensor], saved: int | None) -> None:
    """What is not finite would turn every weight into NaN. A call of all processes."""
    names = [name for name, value in distributed.mean_over_processes(values).items() if not math.isfinite(value)]
    left = f"the state after {saved} steps is whole" if saved else "no state was saved yet"
    distributed.refuse(
        f"step {step + 1}: not finite: {', '.join(names) or 'the sum of the terms'}. The run stops; {left}. "
        "A lower optim.base_lr, a longer optim.warmup, optim.clip=1 or precision=fp32 may help"
    )


@contextmanager
def stop_on_signal() -> Iterator[list[int]]:
    """The signals that came, SIGTERM and SIGINT. They only leave a note: what follows all processes do together."""
    came: list[int] = []

    def note(number: int, frame: Any) -> None:
        if number in came and number == signal.SIGINT:
            raise KeyboardInterrupt
        came.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
