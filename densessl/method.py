"""What every method is."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

from torch import Tensor, nn

from densessl.backbones import Backbone

if TYPE_CHECKING:
    from densessl.data.views import View, Views


class Method(nn.Module):
    """Pretraining of a backbone: views in, weighted terms of the loss out.

    A method is abstract or final. Its keyword-only constructor arguments, named as in its paper, are its part of the
    configuration; each default stands there and nowhere else.
    """

    crops: ClassVar[Literal["two", "two and small", "large", "any"]] = "two"  # large crops, and small ones
    backbone: Backbone  # the only part that leaves
    step: int = 0  # the loop says before each step which one it is,
    progress: float = 0.0  # and the share of the run that is done
    shown: dict[str, list[Tensor]] | None = None  # a dict at the steps whose embeddings are measured

    def begin(self, pictures: int, batch: int) -> None:
        """Called once before the first step; what remembers each picture of the collection is made here."""

    def maps(self, views: list[View]) -> list[Tensor]:
        """The last map (B, C, H, W) of each view, after the final norm."""
        maps = self.backbone.each(view.image for view in views)
        self.show("maps", *maps)
        return maps

    def show(self, name: str, *views: Tensor) -> None:
        """Keep, without gradient, what health measures of the views, large crops first; at most steps nothing.

        ``name``: "global", embeddings (B, D); "local", those (B, P, D) of a map's places, where there is a head for
        them; "prototypes", scores (B, K) whose softmax a picture is assigned by.
        """
        if self.shown is not None:
            self.shown[name] = [view.detach() for view in views]

    @abstractmethod
    def forward(self, views: Views) -> dict[str, Tensor]:
        """Weighted scalar terms; their sum is the loss.

        A term's mean over processes is its true value, and so is the mean over processes of its gradient. Changes
        nothing that stays but running statistics of BatchNorm: what the method remembers waits for `update`.
        """

    def update(self) -> None:
        """Called after each optimiser step; not after a step that was skipped, since it was not finite."""
