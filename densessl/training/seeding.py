"""Random numbers of a step, from its number: resuming needs no memory of them."""

from __future__ import annotations

import random

import numpy as np
import torch

from densessl.training import distributed


def seed_step(seed: int, step: int) -> None:
    """Drop path and the like draw what follows from (seed, step, process)."""
    number = int(np.random.SeedSequence(seed, spawn_key=(step, distributed.rank())).generate_state(1)[0])
    torch.manual_seed(number)
    np.random.seed(number)
    random.seed(number)
