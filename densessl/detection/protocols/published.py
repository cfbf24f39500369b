"""The schedules that detection of pretrained backbones is published with, as detectron2 and MoCo configure them."""

import dataclasses
from typing import Any

from densessl.detection.protocols.base import C4, FPN

_LOSSES = (
    "Detectors are torchvision's, and so are their losses: smooth L1 with beta 1/9 for boxes, detectron2's has beta 0"
)
_SHARED: dict[str, Any] = {
    "difficult": True,
    "longest": 1333,
    "flip": 0.5,
    "anchors": (32, 64, 128, 256, 512),
    "anchors_drawn": 256,
    "rois": 512,
    "rpn_weight": 1.0,
    "score": 0.05,
    "detections": 100,
    "batch_norm": "trained",
    "precise": 200,
    "optimizer": "sgd",
    "lr": 0.02,
    "backbone_lr": 0.02,
    "weight_decay": 1e-4,
    "warmup_start": 0.001,
    "batch": 16,
}

COCO_1X = FPN(
    name="coco_1x",
    source="detectron2, Mask R-CNN R50-FPN 1x with the heads of mask_rcnn_R_50_FPN_3x_syncbn "
    "(https://github.com/facebookresearch/detectron2), as VICReg and MoCo have it; VICReg took lr=0.04 "
    f"backbone_lr=0.04 warmup=50. {_LOSSES}",
    masks=True,
    channels=256,
    box_head="4conv1fc",
    hidden=1024,
    norm="batch",
    roi_scale=224,
    sides=(640, 672, 704, 736, 768, 800),
    pre_nms=(2000, 1000),
    post_nms=(1000, 1000),
    warmup=1000,
    steps=(60_000, 80_000),
    iterations=90_000,
    **_SHARED,
)

COCO_2X = dataclasses.replace(
    COCO_1X,
    name="coco_2x",
    source=f"as coco_1x, twice as long (MoCo, coco_R_50_C4_2x.yaml). {_LOSSES}",
    steps=(120_000, 160_000),
    iterations=180_000,
)

VOC0712_24K = C4(
    name="voc0712_24k",
    source="MoCo, detection/configs/pascal_voc_R_50_C4_24k.yaml (https://github.com/facebookresearch/moco): trainval "
    "of 2007 and 2012, test of 2007. VICReg took lr=0.1 backbone_lr=0.1 rpn_weight=0.2 warmup=1000 warmup_start=0.333. "
    f"detectron2 scores 2007 at 11 points of recall, COCO's scores here take 101. {_LOSSES}",
    extra_norm=True,
    sides=tuple(range(480, 801, 32)),
    pre_nms=(12_000, 6000),
    post_nms=(2000, 1000),
    warmup=100,
    steps=(18_000, 22_000),
    iterations=24_000,
    **_SHARED,
)
