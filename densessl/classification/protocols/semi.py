"""Semi-supervised protocols: the whole network is trained on few labels."""

from typing import Any

from densessl.classification.protocols.base import FineTune

SHARED: dict[str, Any] = {
    "source": "VICReg, README and evaluate.py (https://github.com/facebookresearch/vicreg), which scores the best "
    "epoch on the test pictures; here the last one. For ImageNet it takes SimCLR's lists: --subset",
    "size": None,
    "momentum": 0.9,
    "weight_decay": 0.0,
    "epochs": 20,
    "batch": 256,
    "scale": (0.08, 1.0),
    "flip": 0.5,
}
SEMI_1 = FineTune(name="semi_1", fraction=0.01, lr_backbone=0.03, lr_head=0.08, **SHARED)
SEMI_10 = FineTune(name="semi_10", fraction=0.1, lr_backbone=0.01, lr_head=0.1, **SHARED)
