"""Protocols: every setting of an evaluation under a name, frozen, with a hash that stands beside each number.

mIoU of the same weights differs by several points between protocols, so a number without its protocol means nothing.
A named protocol never changes; a better one gets another name.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import yaml
from pydantic import ValidationError

from densessl.errors import UserError
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


def digest(protocol: Protocol) -> str:
    """Eight hexadecimal digits of the SHA-256 of all settings; name and source don't count."""
    text = json.dumps(protocol.hashed(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def deviations(protocol: Protocol) -> list[str]:
    """``key=value`` of every setting that differs from the protocol of that name."""
    named: dict[str, Any] = {}
    if protocol.name in PROTOCOLS:
        named = PROTOCOLS[protocol.name].settings() | protocol.on.get(protocol.data, {})
    return [f"{key}={value}" for key, value in protocol.settings().items() if named.get(key, value) != value]


def label(protocol: Protocol) -> str:
    """Name and hash, and the settings that deviate from the name."""
    changed = deviations(protocol)
    return " ".join([protocol.name, *([f"with {', '.join(changed)}"] if changed else []), f"[{digest(protocol)}]"])


def find_protocol(name: str, changes: Sequence[str] = (), data: str | None = None) -> Protocol:
    """The protocol of a name as it is on ``data`` (a data set's title), with ``key=value`` settings changed.

    Raises UserError for what doesn't exist or fit, and for a protocol that knows only other data sets.
    """
    if name not in PROTOCOLS:
        raise UserError(f"protocol {name!r} doesn't exist; there are {', '.join(PROTOCOLS)}")
    protocol = PROTOCOLS[name]
    if data in STANDARD and protocol.on and data not in protocol.on:
        others = ", ".join(p.name for p in PROTOCOLS.values() if not p.on or data in p.on)
        raise UserError(f"protocol {name} was defined for {', '.join(protocol.on)}, not for {data}; there: {others}")
    now = protocol.settings()
    values = {}
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or key not in now:
            near = difflib.get_close_matches(key, now, n=1, cutoff=0.4)
            hint = f"; nearest: {near[0]}" if near else f"; settings: {', '.join(now)}"
            raise UserError(f"--set {change}: key=value with a setting of the protocol is needed{hint}")
        try:
            values[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(f"--set {change}: the value can't be read") from None
    try:
        return dataclasses.replace(protocol, data=data or "", **(protocol.on.get(data or "", {}) | values))
    except ValidationError as error:
        wrong = (
            f"{'.'.join(map(str, e['loc'])) or name}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors()
        )
        raise UserError(f"--set {' '.join(changes)}: {'; '.join(wrong)}") from None
