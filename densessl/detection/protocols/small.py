"""densessl's own protocol: minutes on a processor, comparable only with itself."""

from densessl.detection.protocols.base import FPN

DET_SMALL = FPN(
    name="det_small",
    source="densessl: Mask R-CNN for pictures of 100 to 300 pixels, minutes on a processor without GPU; comparable "
    "only with itself",
    masks=True,
    channels=64,
    box_head="2fc",
    hidden=256,
    norm="batch",  # "group" leaves the constants that raw maps have, and two thirds of the box head die of them
    roi_scale=112,
    difficult=True,
    sides=(160,),
    longest=320,
    flip=0.5,
    anchors=(16, 32, 64, 128, 256),
    anchors_drawn=128,
    pre_nms=(500, 500),
    post_nms=(200, 200),
    rois=32,
    rpn_weight=1.0,
    score=0.05,
    detections=100,
    batch_norm="trained",
    precise=0,
    optimizer="adamw",
    lr=5e-4,
    backbone_lr=2e-4,
    weight_decay=1e-4,
    warmup=50,
    warmup_start=0.1,
    steps=(800,),
    iterations=1000,
    batch=4,
)
