"""What an export target is: a module with these names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from densessl.backbones import Backbone


class Exporter(Protocol):
    """One destination: its file, its own architecture, and how it loads the one into the other."""

    @property
    def SUFFIX(self) -> str:
        """How the destination wants its files to end."""

    def architecture(self, backbone: Backbone) -> nn.Module:
        """The destination's own network of that name, no classifier. Raises UserError if it has none."""

    def tensors(self, backbone: Backbone, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The backbone in the names and shapes of the destination, whose state dict is ``wanted``."""

    def write(self, tensors: dict[str, Tensor], file: Path) -> None:
        """Equal tensors give equal bytes. Raises OSError."""

    def load(self, net: nn.Module, file: Path) -> None:
        """Fill the destination's network from the file as its users do. Raises RuntimeError unless all keys fit."""

    def stages(self, net: nn.Module, image: Tensor) -> list[Tensor]:
        """The destination's four stage maps."""

    def snippet(self, backbone: Backbone, net: nn.Module, file: Path) -> str:
        """Python for the destination that makes ``vectors`` and ``maps`` of ``image``, equal to densessl's.

        Comments say where the destination differs with the same weights.
        """
