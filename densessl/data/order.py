"""The order of an epoch: which picture stands at which place."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

LARGE = 1 << 24  # pictures from which on the order is computed where it is asked for: a table takes 4 bytes a picture
ROUNDS = 8


class Order(Protocol):
    """A permutation; an array is one."""

    def __getitem__(self, places: slice, /) -> np.ndarray: ...


def order(count: int, seed: int, epoch: int) -> Order:
    """The permutation of ``range(count)`` that ``seed`` and ``epoch`` give, in any process the same."""
    source = np.random.SeedSequence(seed, spawn_key=(epoch,))
    if count > LARGE:
        return Computed(count, source.generate_state(ROUNDS, np.uint64))
    return np.random.default_rng(source).permutation(np.arange(count, dtype=np.uint32))


class Computed:
    """A permutation of ``range(count)`` that takes no memory: places are enciphered to rows.

    A Feistel network whose halves are digits of the bases a and b, with a * b the next above count, so that hardly a
    place falls outside and has to go round again: Black, Rogaway 2002, "Ciphers with Arbitrary Finite Domains".
    """

    def __init__(self, count: int, keys: np.ndarray) -> None:
        self.count, self.keys = count, keys
        self._a = math.isqrt(count - 1) + 1
        self._b = -(-count // self._a)

    def __getitem__(self, places: slice) -> np.ndarray:
        """(n,) int64 rows. Two thousand take half a millisecond."""
        rows = self._enciphered(np.arange(*places.indices(self.count), dtype=np.uint64))
        while len(outside := np.flatnonzero(rows >= self.count)):
            rows[outside] = self._enciphered(rows[outside])
        return rows.astype(np.int64)

    def _enciphered(self, x: np.ndarray) -> np.ndarray:
        a, b = np.uint64(self._a), np.uint64(self._b)
        left, right = np.divmod(x, b)
        for number, key in enumerate(self.keys):
            if number % 2:
                right = (right + _mixed(left + key) % b) % b
            else:
                left = (left + _mixed(right + key) % a) % a
        return left * b + right


def _mixed(x: np.ndarray) -> np.ndarray:
    """Each of 64 bits depends on all: the end of SplitMix64. Steele, Lea, Flood 2014."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
