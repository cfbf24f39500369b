"""A detector trained by gradient descent, in one process or several, from the start or from where it was killed."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from torchvision.models.detection.faster_rcnn import FasterRCNN

from densessl.detection.datasets import DetectionDataset
from densessl.detection.detector import backbone_parts, draws_of, seed_pictures, training_mode
from densessl.detection.protocols.base import Protocol
from densessl.detection.samples import TrainingSamples, batch_of
from densessl.detection.state import StateFile, load, save
from densessl.progress import progress
from densessl.training import distributed
from densessl.training.batch_norm import synchronise_batch_norm

TERMS = ("loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg")
DROP = 0.1  # of the learning rate at each of the protocol's steps


def learning_rate(protocol: Protocol, iteration: int) -> float:
    """Linear from ``warmup_start`` of ``lr`` over ``warmup`` iterations, then a tenth after each of ``steps``."""
    rate = protocol.lr * DROP ** sum(iteration >= step for step in protocol.steps)
    if iteration < protocol.warmup:
        done = iteration / protocol.warmup
        rate *= protocol.warmup_start * (1 - done) + done
    return rate


def build_optimizer(detector: FasterRCNN, protocol: Protocol) -> Optimizer:
    """Groups have a ``share`` of the learning rate: the backbone its own; vectors, norms and biases, don't decay."""
    own = {id(p) for part in backbone_parts(detector) for p in part.parameters()}
    groups = [
        {
            "params": [p for p in detector.parameters() if p.requires_grad and (id(p) in own, p.ndim <= 1) == kind],
            "share": protocol.backbone_lr / protocol.lr if kind[0] else 1.0,
            "weight_decay": 0.0 if kind[1] else protocol.weight_decay,
        }
        for kind in ((False, False), (False, True), (True, False), (True, True))
    ]
    groups = [group for group in groups if group["params"]]
    if protocol.optimizer == "adamw":
        return torch.optim.AdamW(groups, protocol.lr)
    return torch.optim.SGD(groups, protocol.lr, 0.9)


def losses(detector: FasterRCNN, batch: Any, device: torch.device) -> dict[str, Tensor]:
    """torchvision's terms, so weighted that their mean over processes is that of the whole batch in one process.

    Each is a mean over what was drawn, of which one process may have more than another.
    """
    pictures, targets, seeds = batch
    seed_pictures(detector, seeds)
    terms = detector(
        [picture.to(device, non_blocking=True) for picture in pictures],
        [{key: value.to(device, non_blocking=True) for key, value in target.items()} for target in targets],
    )
    anchors, proposals = draws_of(detector)
    own = {"anchors": anchors.drawn, "proposals": proposals.drawn, "positive": proposals.positive}
    mean = distributed.mean_over_processes(own)
    share = {key: count / mean[key] if mean[key] else 0.0 for key, count in own.items()}
    over = dict(zip(TERMS, ("proposals", "proposals", "positive", "anchors", "anchors"), strict=True))
    return {name: value * share[over[name]] for name, value in terms.items()}


def average_gradients(module: nn.Module) -> None:
    """The mean over processes in each of them, a message a parameter; one without a part in its loss has 0 there."""
    if distributed.world_size() == 1:
        return
    for p in module.parameters():
        if p.requires_grad:
            own = torch.zeros_like(p) if p.grad is None else p.grad
            p.grad = distributed.gather(own[None]).mean(0)


def train(
    detector: FasterRCNN,
    data: DetectionDataset,
    protocol: Protocol,
    *,
    seed: int,
    device: torch.device,
    workers: int,
    about: dict[str, Any],
    state: StateFile | None = None,
) -> dict[str, float]:
    """Trains ``detector``, which lies on ``device``, and gives the mean of each loss over the last tenth.

    A call of all processes. ``about`` says which training it is; a ``state`` of another one is refused. The result is
    that of an uninterrupted training. Raises UserError for a loss that isn't finite.
    """
    rank, world_size = distributed.rank(), distributed.world_size()
    if protocol.batch % world_size:
        distributed.refuse(f"batch={protocol.batch} can't be shared out evenly among {world_size} processes")
    synchronise_batch_norm(detector)
    optimizer = build_optimizer(detector, protocol)
    terms = torch.zeros(protocol.iterations, len(TERMS))
    done = 0
    if state and state.resume and distributed.on_first(state.path.exists):
        done = load(state.path, about, detector, optimizer, terms)

    def loader(first: int, last: int) -> DataLoader:
        samples = TrainingSamples(data, protocol, seed, first, last, rank, world_size)
        return DataLoader(
            samples, samples.share, num_workers=workers, collate_fn=batch_of, pin_memory=device.type == "cuda"
        )

    training_mode(detector, protocol)
    title = f"train from iteration {done}" if done else "train"
    saved, first = done, done
    if done < protocol.iterations:
        for batch in progress(
            loader(done, protocol.iterations), title, lambda n: f"loss {terms[first + n - 1].sum():.3f}"
        ):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(protocol, done) * group["share"]
            found = losses(detector, batch, device)
            values = distributed.mean_over_processes(found)
            if not all(map(math.isfinite, values.values())):
                _refuse(done, values, protocol, saved if state else 0)
            weights = {name: protocol.rpn_weight if name in TERMS[3:] else 1.0 for name in found}
            optimizer.zero_grad()
            torch.stack([weights[name] * value for name, value in found.items()]).sum().backward()
            average_gradients(detector)
            optimizer.step()
            terms[done] = torch.tensor([values.get(name, 0.0) for name in TERMS])
            done += 1
            if state and (done % state.every == 0 or done == protocol.iterations):
                distributed.on_first(save, state.path, about, done, detector, optimizer, terms)
                saved = done
    if protocol.precise:
        compute_statistics(detector, loader(done, done + protocol.precise), device)
    last = terms[-max(1, protocol.iterations // 10) :].mean(0)
    return {"loss": float(last.sum()), **{name: float(value) for name, value in zip(TERMS, last, strict=True)}}


@torch.no_grad()
def compute_statistics(detector: FasterRCNN, batches: DataLoader, device: torch.device) -> None:
    """Running means and variances anew, as the mean over ``batches``, where they are trained. Wu, Johnson 2021."""
    norms = [m for m in detector.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all
    for batch in progress(batches, "statistics") if norms else ():
        losses(detector, batch, device)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _refuse(done: int, values: dict[str, float], protocol: Protocol, saved: int) -> None:
    names = ", ".join(name for name, value in values.items() if not math.isfinite(value))
    left = f"the state after {saved} iterations is whole" if saved else "no state was saved yet"
    distributed.refuse(
        f"iteration {done + 1} of {protocol.iterations}: not finite: {names}; {left}. A lower lr={protocol.lr} or "
        f"backbone_lr={protocol.backbone_lr}, or a longer warmup={protocol.warmup}, may help"
    )
