"""What protocols that were run in mmsegmentation 0.x have in common."""

from typing import Any

# The base configurations of VOC aug and ADE20K: fit into (2048, 512), factor 0.5 to 2, crop 512, at most 75 % of one
# class, flip, photometric distortion; single scale test.
PICTURES: dict[str, Any] = {
    "scale": (2048, 512),
    "ratio": (0.5, 2.0),
    "crop": (512, 512),
    "max_share": 0.75,
    "flip": 0.5,
    "photometric": True,
}
CITYSCAPES = {"scale": (2048, 1024), "crop": (512, 1024)}

SLIDE: dict[str, Any] = {"inference": "slide", "window": 512, "stride": 341}

# Linear heads of frozen backbones: linear decay after a linear warm-up, 8 GPUs x 2 pictures.
ADAMW: dict[str, Any] = {
    "optimizer": "adamw",
    "power": 1.0,
    "min_lr": 0.0,
    "warmup": 1500,
    "batch": 16,
}
