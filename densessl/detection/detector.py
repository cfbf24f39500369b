"""torchvision's detectors on our backbones: which maps go where; all else is theirs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from timm.models.resnet import ResNet
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import (
    FasterRCNN,
    FastRCNNConvFCHead,
    FastRCNNPredictor,
    TwoMLPHead,
)
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from densessl.backbone_file import IMAGENET
from densessl.backbones import Backbone
from densessl.data.decoding import RGB
from densessl.detection.draws import DrawnSides, Draws
from densessl.detection.protocols.base import C4, FPN, LEVELS, Protocol
from densessl.errors import UserError
from densessl.reading import described, pixels_of

STRIDES = (4, 8, 16, 32)
RATIOS = (0.5, 1.0, 2.0)
MAPS = ["0", "1", "2", "3"]
NORMS: dict[str, Callable[[int], nn.Module] | None] = {
    "none": None,
    "batch": nn.BatchNorm2d,
    "group": partial(nn.GroupNorm, 32),
}


class Pyramid(nn.Module):
    """Pictures (B, 3, H, W) to maps of strides 4 to 64, all of ``out_channels``. Lin et al. 2017, arXiv:1612.03144."""

    def __init__(self, body: Backbone, channels: int, norm: Callable[[int], nn.Module] | None) -> None:
        super().__init__()
        self.body = body
        self.fpn = FeaturePyramidNetwork(list(body.channels), channels, LastLevelMaxPool(), norm)
        self.out_channels = channels

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return self.fpn(OrderedDict(zip(MAPS, self.body.stages(image), strict=True)))


class StageThree(nn.Module):
    """Pictures (B, 3, H, W) to the map of stride 16 of a ResNet, whose stage 4 is not in it any more."""

    def __init__(self, body: Backbone) -> None:
        super().__init__()
        body.net.layer4 = nn.Identity()
        self.body = body
        self.out_channels = body.channels[2]

    def forward(self, image: Tensor) -> Tensor:
        return self.body.stages(image)[2]


class StageFour(nn.Module):
    """What was pooled in proposals (R, C, 14, 14) to vectors (R, channels)."""

    def __init__(self, stage: nn.Module, channels: int, norm: bool) -> None:
        super().__init__()
        self.stage = stage
        self.norm = nn.BatchNorm2d(channels) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.stage(x)).mean((2, 3))


def check_backbone(backbone: Backbone, protocol: Protocol) -> None:
    """Raises UserError for a backbone that the protocol's detector can't be built on."""
    if backbone.strides != STRIDES:
        raise UserError(
            f"{backbone.name}: its maps have strides {', '.join(map(str, backbone.strides))}; detectors need "
            f"{', '.join(map(str, STRIDES))}: a ConvNeXt or ResNet with its usual stem and output stride 32"
        )
    if (pixels := pixels_of(backbone)) != RGB:
        raise UserError(
            f"{backbone.name}: detectors read RGB pictures; this backbone takes {described(pixels)}; segmentation and "
            "classification read such pictures"
        )
    if isinstance(protocol, C4) and not isinstance(backbone.net, ResNet):
        raise UserError(
            f"protocol {protocol.name} takes stage 4 of a ResNet for its box head; for {backbone.name} take one with a "
            "pyramid: coco_1x, coco_2x, det_small"
        )


def build(backbone: Backbone, classes: int, protocol: Protocol) -> FasterRCNN:
    """A detector of ``classes`` classes; ``backbone`` becomes a part of it, so hand in a copy. Raises UserError.

    Its pictures (3, H, W) have pixels from 0 to 1; they are normalised as the backbone's metadata say, with ImageNet's
    mean and std where they don't. In training its draws need a seed for each picture: ``Draws.seeds``.
    """
    check_backbone(backbone, protocol)
    detector = _fpn(backbone, classes, protocol) if isinstance(protocol, FPN) else _c4(backbone, classes, protocol)
    for part in backbone_parts(detector):
        if not protocol.backbone_lr:
            part.requires_grad_(False)
        elif protocol.batch_norm == "frozen":
            for norm in _batch_norms(part):
                norm.requires_grad_(False)
    return detector


def backbone_parts(detector: FasterRCNN) -> list[nn.Module]:
    """What of the detector was the backbone."""
    head = detector.roi_heads.box_head
    return [detector.backbone.body, *([head.stage] if isinstance(head, StageFour) else [])]


def training_mode(detector: FasterRCNN, protocol: Protocol) -> None:
    """All of it, save for what the protocol leaves as it was."""
    detector.train()
    for part in backbone_parts(detector):
        if not protocol.backbone_lr:
            part.eval()
        elif protocol.batch_norm == "frozen":
            for norm in _batch_norms(part):
                norm.eval()


def draws_of(detector: FasterRCNN) -> tuple[Draws, Draws]:
    """Those of anchors and those of proposals."""
    return detector.rpn.fg_bg_sampler, detector.roi_heads.fg_bg_sampler


def seed_pictures(detector: FasterRCNN, seeds: list[int]) -> None:
    """Before each batch of training: what each of its pictures draws from."""
    detector.transform.seeds = iter(seeds)
    for draws in draws_of(detector):
        draws.seeds = seeds


def _batch_norms(module: nn.Module) -> list[nn.Module]:
    return [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def _fpn(backbone: Backbone, classes: int, protocol: FPN) -> FasterRCNN:
    channels, norm = protocol.channels, NORMS[protocol.norm]
    parts: dict[str, Any] = {
        "rpn_anchor_generator": AnchorGenerator([(a,) for a in protocol.anchors], [RATIOS] * LEVELS)
    }
    parts["box_roi_pool"] = _pool(MAPS, 7, protocol)
    if protocol.box_head == "2fc":
        parts["box_head"] = TwoMLPHead(channels * 7 * 7, protocol.hidden)
    else:
        parts["box_head"] = FastRCNNConvFCHead((channels, 7, 7), [channels] * 4, [protocol.hidden], norm)
    parts["box_predictor"] = FastRCNNPredictor(protocol.hidden, 1 + classes)
    detector = _detector(Pyramid(backbone, channels, norm), protocol, **parts)
    if protocol.masks:  # as torchvision's MaskRCNN does
        detector.roi_heads.mask_roi_pool = _pool(MAPS, 14, protocol)
        detector.roi_heads.mask_head = MaskRCNNHeads(channels, [channels] * 4, 1, norm)
        detector.roi_heads.mask_predictor = MaskRCNNPredictor(channels, channels, 1 + classes)
    return detector


def _pool(maps: list[str], side: int, protocol: FPN) -> MultiScaleRoIAlign:
    return MultiScaleRoIAlign(maps, side, sampling_ratio=2, canonical_scale=protocol.roi_scale, canonical_level=4)


def _c4(backbone: Backbone, classes: int, protocol: Protocol) -> FasterRCNN:
    assert isinstance(protocol, C4)
    stage, channels = backbone.net.layer4, backbone.channels[3]
    assert isinstance(stage, nn.Module)
    return _detector(
        StageThree(backbone),
        protocol,
        rpn_anchor_generator=AnchorGenerator([protocol.anchors], [RATIOS]),
        box_roi_pool=MultiScaleRoIAlign(["0"], 14, sampling_ratio=2),
        box_head=StageFour(stage, channels, protocol.extra_norm),
        box_predictor=FastRCNNPredictor(channels, 1 + classes),
    )


def _detector(features: Pyramid | StageThree, protocol: Protocol, **parts: Any) -> FasterRCNN:
    detector = FasterRCNN(
        features,
        rpn_pre_nms_top_n_train=protocol.pre_nms[0],
        rpn_pre_nms_top_n_test=protocol.pre_nms[1],
        rpn_post_nms_top_n_train=protocol.post_nms[0],
        rpn_post_nms_top_n_test=protocol.post_nms[1],
        box_score_thresh=protocol.score,
        box_detections_per_img=protocol.detections,
        **parts,
    )
    facts: dict[str, Any] = {**IMAGENET, **features.body.metadata}
    detector.transform = DrawnSides(protocol.sides, protocol.longest, list(facts["mean"]), list(facts["std"]))
    detector.rpn.fg_bg_sampler = Draws(protocol.anchors_drawn, 0.5)
    detector.roi_heads.fg_bg_sampler = Draws(protocol.rois, 0.25)
    return detector


def detect(detector: FasterRCNN, picture: Tensor) -> dict[str, Tensor]:
    """Of a picture (3, H, W): ``boxes`` (D, 4) in its pixels, ``labels``, ``scores``, ``masks`` (D, 1, H, W)."""
    with torch.no_grad():
        return detector([picture])[0]
