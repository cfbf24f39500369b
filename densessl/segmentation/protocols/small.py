"""densessl's own protocols: minutes on a processor, comparable only with themselves."""

from densessl.segmentation.protocols.base import Fast, Linear
from densessl.segmentation.protocols.mmseg import PICTURES, SLIDE

LINEAR_SMALL = Linear(
    name="linear_small",
    source="densessl: pictures of 100 to 500 pixels, minutes on a processor without GPU; comparable only with itself",
    features="stages",
    output_stride=32,
    dropout=0.0,
    optimizer="adamw",
    lr=1e-2,  # 1e-3 is far from converged after 300 iterations: 17 against 20 mIoU on CamVid
    weight_decay=1e-4,
    power=1.0,
    min_lr=0.0,
    warmup=0,
    iterations=300,
    batch=8,
    scale=None,
    ratio=(0.75, 1.5),
    crop=(192, 192),
    max_share=0.75,
    flip=0.5,
    photometric=False,
    inference="whole",
    window=None,
    stride=None,
)

LINEAR_FAST = Fast(
    name="linear_fast",
    source="densessl: pictures and predictions as in vicregl_convnext, but 4000 crops instead of 640,000, each seen "
    "once by the backbone",
    features="stages",
    output_stride=32,
    batch=16,
    crops=4000,
    places=200,
    lrs=(1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
    weight_decay=1e-3,
    iterations=2000,
    rows=2048,
    held_out=0.1,
    **SLIDE,
    **PICTURES,
)
