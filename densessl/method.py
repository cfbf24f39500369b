"""What every method is."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from torch import Tensor, nn

from densessl.backbones import Backbone

if TYPE_CHECKING:
    from densessl.data.views import Views


class Method(nn.Module):
    """Pretraining of a backbone: views in, weighted terms of the loss out.

    A method is abstract or final. Its keyword-only constructor arguments, named as in its paper, are its part of the
    configuration; each default stands there and nowhere else.
    """

    backbone: Backbone  # the only part that leaves

    @abstractmethod
    def forward(self, views: Views) -> dict[str, Tensor]:
        """Weighted scalar terms; their sum is the loss.

        A term's mean over processes is its true value, and so is the mean over processes of its gradient.
        """

    def update(self, progress: float) -> None:
        """Called after each optimiser step with the share of the run that is done, 0 to 1."""
