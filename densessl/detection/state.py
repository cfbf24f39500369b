"""The state of a training that may be killed at any moment: a file that is whole or absent."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from densessl.errors import UserError
from densessl.files import aside


class StateFile(NamedTuple):
    """Where the state goes, after every so many iterations, and whether one that is there is continued."""

    path: Path
    every: int
    resume: bool


def save(
    path: Path, about: dict[str, Any], done: int, detector: nn.Module, optimizer: Optimizer, terms: Tensor
) -> None:
    """After ``done`` iterations. ``about`` says which training it is. Raises UserError where it can't be written."""
    parts = {"detector": detector.state_dict(), "optimizer": optimizer.state_dict(), "terms": terms[:done].cpu()}
    try:
        with aside(path) as part:
            torch.save({"about": about, "done": done, **parts}, part)
    except (OSError, RuntimeError) as error:  # torch's own, where the disk is full
        raise UserError(f"{path}: the state can't be written there: {error}") from None


def load(path: Path, about: dict[str, Any], detector: nn.Module, optimizer: Optimizer, terms: Tensor) -> int:
    """Fills the last three from the file; how many iterations were done. Raises UserError for another training's."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        before, done = state["about"], state["done"]
    except Exception as error:  # what a broken file raises depends on where it is broken
        raise UserError(f"--resume: {path} can't be read ({error}); without it, training begins anew") from None
    if differences := [key for key in about if before.get(key) != about[key]]:
        lines = "".join(f"\n  {key}: {before.get(key)} before, {about[key]} now" for key in differences)
        raise UserError(f"--resume: {path} is the state of another training:{lines}")
    detector.load_state_dict(state["detector"])
    optimizer.load_state_dict(state["optimizer"])
    terms[:done] = state["terms"].to(terms.device)
    return done


def fingerprint(module: nn.Module) -> str:
    """Eight hexadecimal digits of the SHA-256 of all weights."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:8]
