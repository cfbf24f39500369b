"""Pretraining: from a configuration to a run folder with a backbone file, in the order in which things happen."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm.contrib.logging import logging_redirect_tqdm

from densessl.backbone_file import FILE_NAME, save_backbone
from densessl.config import Config
from densessl.console import unbroken
from densessl.data.label_maps import find_label_maps
from densessl.data.loader import Loader
from densessl.data.pictures import Pictures, contents_of, open_pictures
from densessl.data.pixels import Pixels
from densessl.data.to_device import ToDevice
from densessl.data.waiting import advice
from densessl.errors import UserError
from densessl.health.health import Health
from densessl.probes.probes import Probes
from densessl.probes.watched import Watching
from densessl.signals import answer
from densessl.training import checkpoint, distributed, run_folder, sinks
from densessl.training.assembly import assemble
from densessl.training.engine import connect
from densessl.training.launch import command_to_resume, processes_here, setup
from densessl.training.log import Log, Pace
from densessl.training.optim import lr_at, peak_lr, set_lr
from densessl.training.recovery import Recovery
from densessl.training.seeding import seed_step

FAILURES = 3  # saves in a row that may fail before the run stops


@unbroken()
def pretrain(cfg: Config, *, resume: bool | Literal["auto"] = False, overwrite: bool = False) -> Path:
    """Run ``cfg`` to its end, or from its newest whole state on, and return the run folder.

    ``resume`` "auto" goes on where there is a state, and begins where a run has saved none yet, if there is a run.
    Ctrl-C, SIGTERM or another of signals.SIGNALS: all processes save after the step at hand and end with SystemExit; a
    second Ctrl-C ends at once. What can't be written to the console is dropped. A save that fails is said and leaves
    those before; the third in a row ends the run. A step that is not finite is skipped; cfg.max_skips in a row send the
    run back to its newest state, once, with a lower learning rate.
    Raises UserError for a configuration, pictures or a run folder that can't work, with all files as they were before,
    and where going back did not help.
    """
    try:
        return _pretrain(cfg, resume, overwrite)
    finally:
        run_folder.release()


def _pretrain(cfg: Config, asked: bool | Literal["auto"], overwrite: bool) -> Path:
    # --- processes, run folder ---
    device = setup(cfg.threads)
    connect(cfg.timeout)
    distributed.on_first(sinks.require, cfg.log_to)
    run = Path(cfg.run)
    resume = distributed.on_first(run_folder.check_run_folder, run, asked, overwrite, cfg.save_every)
    before: dict[str, Any] = {"step": 0}
    changed, damaged = list[str](), list[str]()
    if resume:
        changed = distributed.on_first(run_folder.check_same, run, cfg)
        before, damaged = distributed.on_first(checkpoint.newest_state, run)
    done = before["step"]

    # --- pictures ---
    loader = distributed.everywhere(_loader, cfg)
    pictures, list_hash = _same_list(loader.images, cfg.data.path)
    if resume:
        changed += distributed.on_first(run_folder.check_images, run, cfg, before, pictures, list_hash)
    steps = cfg.length(pictures)

    # --- method, engine ---
    engine, started_from = assemble(cfg, device, pictures, init=not resume)
    method = engine.method
    probes = Probes(cfg, pictures, loader.images.pixels, device)
    parameters = sum(p.numel() for p in method.parameters() if p.requires_grad)

    # --- run folder, opened: until here nothing was written, so that who is refused finds all as it was ---
    if resume:
        checkpoint.load(engine, run, done)
    distributed.on_first(run_folder.open_run, cfg, asked, overwrite, resume, done)
    saved = done if resume else None
    recovery = Recovery(cfg, loader.images, before)
    log = Log(run, done, steps, cfg.batch, advice(cfg, device.type == "cuda", processes_here()), cfg)
    for line in (*changed, *damaged, checkpoint.want_of_room(run, engine.state_size(), cfg.keep)):
        if line:
            log.say(line)
    log.say(
        f"{run}: {cfg.method.name}, {cfg.backbone.name} from {f'step {done}' if resume else started_from}; {steps} "
        f"steps of {cfg.batch} of {pictures} pictures; {distributed.world_size()} process(es) on "
        f"{device.type}, {'bf16 autocast' if engine.dtype else 'fp32'}"
        + (f", {cfg.micro_batch} pictures at a time" if cfg.micro_batch else "")
    )
    if contents := contents_of(loader.images):
        log.say(f"data.path={cfg.data.path}: {contents}")
    if distributed.is_first() and (mixed := find_label_maps(loader.images)):
        log.say(f"beware: {mixed}")
    if done == steps:
        log.say(
            f"all {steps} steps are done already, nothing is trained; a larger epochs= or steps= makes the run longer"
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
        about = {"pictures": pictures, "list_hash": list_hash, "parameters": parameters, **recovery.state()}
        # The backbone before the state: a run that is resumed at its end writes nothing any more.
        return distributed.on_first(backbone_left_out) or checkpoint.save(
            engine, run, done, about, cfg.keep, cfg.keep_every
        )

    # --- the loop ---
    health = Health(cfg, steps, log)
    watching = Watching(cfg, loader.images, steps, device, done)
    to_device = ToDevice(device, cfg.data.mean, cfg.data.std)
    failed = 0  # saves in a row
    stopping = False
    with (
        closing(engine),
        closing(log),
        stop_on_signal() as signals,
        logging_redirect_tqdm([logging.getLogger("densessl")]),
    ):
        watching.look(method.backbone, done, log)
        if not done and (found := probes.measure(method.backbone, 0, log)):  # what training starts from
            log.figures(0, found)
        while done < steps and not stopping:  # once, unless the run goes back
            pace = Pace(cfg.batch, done)
            for step, given in pace.watch(loader.from_step(done, steps)):
                seed_step(cfg.seed, step)
                distributed.at_step(step + 1, saved)
                method.step, method.progress = step, step / steps
                lr = lr_at(step, cfg, steps) * recovery.lr_scale
                peak = peak_lr(cfg) * recovery.lr_scale
                set_lr(engine.optimizer, lr, peak, heads_only=step < cfg.optim.heads_first * steps)
                views = to_device(given)
                health.watch(method, step + 1)
                terms = engine(views)
                loss = torch.stack(list(terms.values())).sum()
                gradient = engine.backward(loss)
                values = {"loss": loss.detach(), **{k: v.detach() for k, v in terms.items()}, "gradient": gradient}
                # The only wait for the device: what is not finite must not reach the weights, of no process.
                ending = bool(signals) or loader.failure is not None
                stopping, broken = distributed.any_process(ending, not_finite(values))
                if broken:
                    for line in recovery.skip(engine, step, given, views, values):
                        log.say(line)
                else:
                    engine.step()
                    method.update()
                    recovery.in_a_row = 0
                    health.measure(method, views, step + 1)
                done = step + 1
                log.advance()
                if due(done, cfg.log_every, steps):
                    means = distributed.mean_over_processes(values)
                    found = means | {"lr": lr} | pace.read(done, device) | health.read()
                    with pace.paused():
                        if not stopping:
                            watching.look(method.backbone, done, log)
                            found |= probes.measure(method.backbone, done, log)
                    log.write(done, found)
                saving = stopping or due(done, cfg.save_every, steps)
                if saving:
                    recovery.look_at_weights(engine)
                if recovery.too_many:
                    done, said = recovery.go_back(engine, step)
                    log.go_back(done)
                    watching.go_back(done)
                    for line in said:
                        log.say(line)
                    saved = done
                    break
                if saving:
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
        end = f"{run / FILE_NAME} after {done} of {steps} steps"
        log.say(f"{end}, and its state. To go on: {command_to_resume(run)}" if stopping else end)
    ends = distributed.gather_objects((str(loader.failure or ""), signals[0] if signals else 0))
    if failures := [failure for failure, _ in ends if failure]:
        distributed.refuse(f"{failures[0]}. The run stops; the state after {saved} steps is whole")
    if done < steps:  # all with one code, whoever it was that the signal came to
        raise SystemExit(128 + next(number for _, number in ends if number))
    return run


def _loader(cfg: Config) -> Loader:
    return Loader(
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


def _same_list(images: Pictures, path: str) -> tuple[int, str]:
    """Number of the pictures and hash of their list. Refuses lists that differ from process to process."""
    lists = distributed.gather_objects((len(images), images.list_hash()))
    for number, (count, _) in enumerate(lists):
        if lists[number] != lists[0]:
            distributed.refuse(
                f"data.path={path}: process {number} of {len(lists)} has another list of pictures, {count}, than the "
                f"first, which has {lists[0][0]}; all need the same ones in the same order"
            )
    return lists[0]


def due(done: int, every: int, steps: int) -> bool:
    return done % every == 0 or done == steps


def not_finite(values: dict[str, Tensor]) -> Tensor:
    return ~torch.stack([value.float() for value in values.values()]).isfinite().all()


@contextmanager
def stop_on_signal() -> Iterator[list[int]]:
    """The signals that came. They only leave a note: what follows all processes do together.

    None come to a thread beside the main one, as programs with a window may have one.
    """
    came: list[int] = []

    def note(number: int, frame: Any) -> None:
        if number in came and number == signal.SIGINT:
            raise KeyboardInterrupt
        came.append(number)

    before = answer(note) if threading.current_thread() is threading.main_thread() else {}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
