"""Protocols of detection by their names."""

from __future__ import annotations

from collections.abc import Sequence

import densessl.protocol
from densessl.detection.protocols.base import C4 as C4
from densessl.detection.protocols.base import FPN as FPN
from densessl.detection.protocols.base import Protocol as Protocol
from densessl.detection.protocols.published import COCO_1X, COCO_2X, VOC0712_24K
from densessl.detection.protocols.small import DET_SMALL
from densessl.protocol import digest as digest

PROTOCOLS: dict[str, Protocol] = {p.name: p for p in (COCO_1X, COCO_2X, VOC0712_24K, DET_SMALL)}


def find_protocol(name: str, changes: Sequence[str] = ()) -> Protocol:
    """The protocol of a name with ``key=value`` settings changed. Raises UserError for what doesn't exist or fit."""
    return densessl.protocol.changed(densessl.protocol.named(PROTOCOLS, name), changes)


def deviations(protocol: Protocol) -> list[str]:
    """``key=value`` of every setting that differs from the protocol of that name."""
    return densessl.protocol.deviations(protocol, PROTOCOLS.get(protocol.name, protocol).settings())


def label(protocol: Protocol) -> str:
    """Name and hash, and the settings that deviate from the name."""
    return densessl.protocol.label(protocol, deviations(protocol))
