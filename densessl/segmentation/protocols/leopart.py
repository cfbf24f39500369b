"""Leopart's linear score, which NeCo and CrIBo report as well."""

from densessl.segmentation.protocols.base import Linear

LEOPART = Linear(
    name="leopart",
    source="Leopart, VOC 2012 aug (https://github.com/MkuuWaUjinga/leopart): 448 px, last map, no BatchNorm, 25 "
    "epochs, the rate of a dilated ResNet-50. SCORED AT 100x100 PIXELS, which is easier than full size. Batch 64 is "
    "ours",
    on={"voc2012aug": {}, "voc2012": {}},
    features="last",
    output_stride=8,
    norm=False,
    dropout=0.0,
    optimizer="sgd",
    lr=0.1,
    weight_decay=1e-4,
    schedule="step",
    power=0.0,
    min_lr=0.0,
    warmup=0,
    iterations=4134,  # 25 epochs of 10,582 pictures
    batch=64,
    scale=(1_000_000, 448),
    ratio=(1.0, 1.25),
    crop=(448, 448),
    max_share=1.0,
    flip=0.5,
    photometric=False,
    inference="whole",
    window=None,
    stride=None,
    scored=(100, 100),
)
