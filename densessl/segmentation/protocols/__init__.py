"""Protocols of segmentation by their names.

mIoU of the same weights differs by several points between protocols, so a number without its protocol means nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import densessl.protocol
from densessl.errors import UserError
from densessl.protocol import digest as digest
from densessl.segmentation.protocols.base import Clusters as Clusters
from densessl.segmentation.protocols.base import Fast as Fast
from densessl.segmentation.protocols.base import Linear as Linear
from densessl.segmentation.protocols.base import Protocol as Protocol
from densessl.segmentation.protocols.base import Retrieval as Retrieval
from densessl.segmentation.protocols.decoders import DEEPLABV3PLUS, FPN, LINEAR_FINETUNED, UPERNET
from densessl.segmentation.protocols.leopart import LEOPART
from densessl.segmentation.protocols.small import LINEAR_FAST, LINEAR_SMALL
from densessl.segmentation.protocols.transformers import DINOV2, DINOV3, IBOT
from densessl.segmentation.protocols.untrained import HUMMINGBIRD, OVERCLUSTERING
from densessl.segmentation.protocols.vicregl import VICREGL_CONVNEXT, VICREGL_RESNET

PROTOCOLS: dict[str, Protocol] = {
    p.name: p
    for p in (
        VICREGL_CONVNEXT,
        VICREGL_RESNET,
        IBOT,
        DINOV2,
        DINOV3,
        LEOPART,
        LINEAR_SMALL,
        LINEAR_FAST,
        HUMMINGBIRD,
        OVERCLUSTERING,
        LINEAR_FINETUNED,
        FPN,
        UPERNET,
        DEEPLABV3PLUS,
    )
}

# Published data sets, whose scores are compared with published ones; with data of one's own any protocol may be used.
STANDARD = ("voc2012", "voc2012aug", "cityscapes", "ade20k", "coco_panoptic", "coco_instances", "coco_stuff")


def deviations(protocol: Protocol) -> list[str]:
    """``key=value`` of every setting that differs from the protocol of that name."""
    known = PROTOCOLS.get(protocol.name, protocol)
    return densessl.protocol.deviations(protocol, known.settings() | known.on.get(protocol.data, {}))


def label(protocol: Protocol) -> str:
    """Name and hash, and the settings that deviate from the name."""
    return densessl.protocol.label(protocol, deviations(protocol))


def find_protocol(name: str, changes: Sequence[str] = (), data: str | None = None) -> Protocol:
    """The protocol of a name as it is on ``data`` (a data set's title), with ``key=value`` settings changed.

    Raises UserError for what doesn't exist or fit, and for a protocol that knows only other data sets.
    """
    protocol = densessl.protocol.named(PROTOCOLS, name)
    if data in STANDARD and protocol.on and data not in protocol.on:
        others = ", ".join(p.name for p in PROTOCOLS.values() if not p.on or data in p.on)
        raise UserError(f"protocol {name} was defined for {', '.join(protocol.on)}, not for {data}; there: {others}")
    return densessl.protocol.changed(protocol, changes, data=data or "", **protocol.on.get(data or "", {}))
