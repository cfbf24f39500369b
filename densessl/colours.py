"""Mean and standard deviation of pictures, per channel, pixels 0 to 1."""

from __future__ import annotations

import timm

from densessl.errors import UserError

IMAGENET: dict[str, tuple[float, ...]] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
GREY = {"mean": 0.449, "std": 0.226}  # their means over the colours, for any other number of channels
RED_STD = 0.228  # in these projects' code
OF_RED_STD = ("swav", "deepcluster_v2", "vicregl")


def colours(in_chans: int, origin: str = "") -> dict[str, tuple[float, ...]]:
    """ImageNet's, as the project ``origin`` has them."""
    if in_chans != 3:
        return {key: (value,) * in_chans for key, value in GREY.items()}
    return {**IMAGENET, "std": (RED_STD, *IMAGENET["std"][1:])} if origin in OF_RED_STD else IMAGENET


def colours_of_tag(name: str) -> dict[str, tuple[float, ...]]:
    """Those of timm's weights NAME.TAG. Raises UserError for a tag that timm doesn't have."""
    try:
        weights = timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError:
        weights = None
    if weights is None:
        plain = name.partition(".")[0]
        tags = ", ".join(full.partition(".")[2] for full in timm.list_pretrained(f"{plain}.*"))
        raise UserError(f"timm has no weights {name}; its tags of {plain}: {tags or 'none'}")
    return {"mean": tuple(weights.mean), "std": tuple(weights.std)}
