"""More than a linear head on frozen features: convolutional decoders, and the backbone fine-tuned."""

from typing import Any

from densessl.segmentation.protocols.base import Linear
from densessl.segmentation.protocols.mmseg import ADAMW, PICTURES, SLIDE

_OURS = "densessl: pictures and schedule as in vicregl_convnext"
_COMMON: dict[str, Any] = (
    {
        "features": "stages",
        "lr": 1e-4,
        "weight_decay": 0.05,
        "dropout": 0.1,
        "iterations": 40_000,
    }
    | ADAMW
    | SLIDE
    | PICTURES
)

LINEAR_FINETUNED = Linear(
    name="linear_finetuned",
    source=f"{_OURS}, the backbone trained with its head, as the fine-tuned column of VICRegL's table 1 "
    "(https://arxiv.org/abs/2210.01571) has it; its settings were not released",
    output_stride=32,
    backbone_lr=1e-4,
    **_COMMON | {"dropout": 0.0},
)

_DECODER = f"{_OURS}; decoder of segmentation-models-pytorch, the backbone frozen unless backbone_lr says otherwise"

FPN = Linear(name="fpn", source=_DECODER, decoder="fpn", output_stride=32, **_COMMON)
UPERNET = Linear(name="upernet", source=_DECODER, decoder="upernet", output_stride=32, **_COMMON)
DEEPLABV3PLUS = Linear(name="deeplabv3plus", source=_DECODER, decoder="deeplabv3plus", output_stride=16, **_COMMON)
