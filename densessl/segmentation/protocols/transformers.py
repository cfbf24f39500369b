"""Linear segmentation as the papers of self-supervised vision transformers report it, on ADE20K first of all."""

from densessl.segmentation.protocols.base import Linear
from densessl.segmentation.protocols.mmseg import ADAMW, PICTURES, SLIDE

IBOT = Linear(
    name="ibot",
    source="iBOT and BEiT, linear head on ADE20K (https://github.com/bytedance/ibot): four maps, no BatchNorm, the "
    "rate of ViT-B; mmsegmentation 0.x, 8 GPUs x 2 pictures. The four stage maps stand for the four blocks",
    on={"ade20k": {}},
    features="stages",
    output_stride=32,
    norm=False,
    dropout=0.0,
    lr=7e-4,
    weight_decay=0.05,
    iterations=160_000,
    **ADAMW,
    **SLIDE,
    **PICTURES,
)

DINOV2 = Linear(
    name="dinov2",
    source="DINOv2, dinov2_vitb14_ade20k_linear (https://github.com/facebookresearch/dinov2): last map, "
    "BatchNorm; 8 GPUs x 2 pictures; the long side is not bounded",
    on={"ade20k": {}},
    features="last",
    output_stride=32,
    dropout=0.0,
    lr=1e-3,
    weight_decay=1e-4,
    iterations=40_000,
    **ADAMW,
    **SLIDE,
    **PICTURES | {"scale": (1_000_000, 512)},
)

DINOV3 = Linear(
    name="dinov3",
    source="DINOv3, linear head on ADE20K (https://github.com/facebookresearch/dinov3): last map after the backbone's "
    "norm, BatchNorm, dropout; 8 GPUs x 2 pictures. Its one-cycle cosine is a cosine after the warm-up here",
    on={"ade20k": {}},
    features="last",
    output_stride=32,
    final_norm=True,
    dropout=0.1,
    lr=1e-3,
    weight_decay=1e-3,
    schedule="cosine",
    iterations=40_000,
    **ADAMW,
    **SLIDE,
    **PICTURES,
)
