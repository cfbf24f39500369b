"""VICRegL's linear segmentation of frozen features, as its configurations for mmsegmentation 0.x have it."""

from densessl.segmentation.protocols.base import Linear
from densessl.segmentation.protocols.mmseg import ADAMW, CITYSCAPES, PICTURES, SLIDE

VICREGL_CONVNEXT = Linear(
    name="vicregl_convnext",
    source="VICRegL, segmentation/configs/linear_cnxt-s_public_512x512_40k_BN_voc12aug.py "
    "(https://github.com/facebookresearch/VICRegL): VOC 2012 aug, 8 GPUs x 2 pictures; ConvNeXt-XL used lr=8e-5",
    on={"voc2012aug": {}, "voc2012": {}, "ade20k": {"iterations": 160_000}, "cityscapes": CITYSCAPES},
    features="stages",
    output_stride=32,
    dropout=0.0,
    lr=1e-4,
    weight_decay=0.05,
    iterations=40_000,
    **ADAMW,
    **SLIDE,
    **PICTURES,
)

VICREGL_RESNET = Linear(
    name="vicregl_resnet",
    source="VICRegL, segmentation/configs/linear_r50_512x512_40k_voc12aug.py "
    "(https://github.com/facebookresearch/VICRegL) and mmsegmentation's schedule_40k: 8 GPUs x 4 pictures",
    on={"voc2012aug": {}, "voc2012": {}, "cityscapes": CITYSCAPES},
    features="last",
    output_stride=8,
    dropout=0.1,
    optimizer="sgd",
    lr=0.01,
    weight_decay=5e-4,
    power=0.9,
    min_lr=1e-4,
    warmup=0,
    iterations=40_000,
    batch=32,
    inference="whole",
    window=None,
    stride=None,
    **PICTURES,
)
