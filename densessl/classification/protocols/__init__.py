"""Protocols of classification by their names."""

from __future__ import annotations

from collections.abc import Sequence

import densessl.protocol
from densessl.classification.protocols.base import Augmented as Augmented
from densessl.classification.protocols.base import FineTune as FineTune
from densessl.classification.protocols.base import Neighbours as Neighbours
from densessl.classification.protocols.base import Probe as Probe
from densessl.classification.protocols.base import Protocol as Protocol
from densessl.classification.protocols.base import Sweep as Sweep
from densessl.classification.protocols.frozen import KNN, LINEAR_AUGMENTED, LINEAR_FEATURES, LINEAR_SWEEP
from densessl.classification.protocols.semi import SEMI_1, SEMI_10
from densessl.protocol import digest as digest

PROTOCOLS: dict[str, Protocol] = {
    p.name: p for p in (LINEAR_FEATURES, LINEAR_SWEEP, LINEAR_AUGMENTED, KNN, SEMI_1, SEMI_10)
}


def find_protocol(name: str, changes: Sequence[str] = ()) -> Protocol:
    """The protocol of a name with ``key=value`` settings changed. Raises UserError for what doesn't exist or fit."""
    return densessl.protocol.changed(densessl.protocol.named(PROTOCOLS, name), changes)


def deviations(protocol: Protocol) -> list[str]:
    """``key=value`` of every setting that differs from the protocol of that name."""
    return densessl.protocol.deviations(protocol, PROTOCOLS.get(protocol.name, protocol).settings())


def label(protocol: Protocol) -> str:
    """Name and hash, and the settings that deviate from the name."""
    return densessl.protocol.label(protocol, deviations(protocol))
