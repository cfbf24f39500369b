"""The protocol: every setting of the evaluation under a name, with a hash that stands beside each number."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The settings. ``source`` says where they come from."""

    name: str
    source: str
    size: int | None  # of the square centre crop, in pixels; None: as features.py says
    nearest: int  # neighbours of the plain vote, by Euclidean distance
    weighted: tuple[int, ...]  # neighbours of the weighted votes, by cosine
    temperature: float
    epochs: int  # of the linear probe
    batch: int
    lr: float  # Adam's, falling exponentially to end_lr
    end_lr: float
    weight_decay: float

    def settings(self) -> dict[str, Any]:
        """All that decides the scores: everything but name and source."""
        return {key: value for key, value in asdict(self).items() if key not in ("name", "source")}

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits of the SHA-256 of all settings; name and source don't count."""
        return hashlib.sha256(json.dumps(self.settings(), sort_keys=True).encode()).hexdigest()[:8]

    @property
    def label(self) -> str:
        """Name and hash, and the crop where it was chosen."""
        return f"{self.name}{f' with size={self.size}' if self.size else ''} [{self.digest}]"


# A better one gets another name, so that a number and its hash stay comparable.
LINEAR_FEATURES = Protocol(
    name="linear_features",
    source="5-NN and linear probe as in W-MSE (https://arxiv.org/abs/2007.06346; batches of 1000 and ties to the lower "
    "class are its code's), but on standardised features, which makes one learning rate fit every backbone; weighted "
    "k-NN as in DINO (https://arxiv.org/abs/2104.14294)",
    size=None,
    nearest=5,
    weighted=(20, 200),
    temperature=0.07,
    epochs=500,
    batch=1000,
    lr=1e-2,
    end_lr=1e-6,
    weight_decay=5e-6,
)
