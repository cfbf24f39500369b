"""The backbone as it is now, in a network of its own."""

from __future__ import annotations

from typing import Any

import torch

from densessl.backbones import Backbone


def frozen_copy(backbone: Backbone, metadata: dict[str, Any]) -> Backbone:
    """A copy of the weights and statistics in a new network on the same device, in eval mode and without gradients.

    The backbone that is trained is only read: its modes, hooks, layout in memory and compiled blocks stay as they are,
    and a copy has none of them. No random number is drawn.
    """
    with torch.device("meta"):  # weights that are replaced at once need no memory and no values
        copy = Backbone(backbone.name, in_chans=backbone.in_chans, stem=backbone.stem)
    state = {
        key: value.detach().clone(memory_format=torch.contiguous_format)
        for key, value in backbone.net.state_dict().items()
    }
    copy.net.load_state_dict(state, assign=True)
    copy.metadata = dict(metadata)
    return copy.requires_grad_(False).eval()
