"""To detectron2: its ResNet, and the ports of ConvNeXt that keep the original names."""

from __future__ import annotations

import pickle
from pathlib import Path

from timm.models.convnext import ConvNeXt
from torch import Tensor

from densessl.backbones import Backbone
from densessl.errors import UserError
from densessl.export.exporter import NotInstalled, Stages, first_norms, installed, plain, plain_convnext, renamed
from densessl.export.mmpretrain import DEPTHS
from densessl.export.values import of_stored
from densessl.foreign import layouts
from densessl.foreign.state_file import read_state

SUFFIX = ".pkl"
NEEDS: tuple[str, ...] = ()
AUTHOR = "densessl"  # any but Caffe2, whose names detectron2 would change


def write(backbone: Backbone, file: Path) -> None:
    arrays = {key: tensor.numpy() for key, tensor in _tensors(backbone).items()}
    content = {"model": arrays, "__author__": AUTHOR, "matching_heuristics": True}
    file.write_bytes(pickle.dumps(content, protocol=4))


def open(backbone: Backbone, file: Path) -> Stages:
    if isinstance(backbone.net, ConvNeXt):
        raise NotInstalled("detectron2 itself has no ConvNeXt")
    config, modeling = installed("detectron2.config"), installed("detectron2.modeling")
    layers = installed("detectron2.layers")
    cfg = config.get_cfg()
    cfg.merge_from_list(_settings(backbone))
    net = modeling.build_resnet_backbone(cfg, layers.ShapeSpec(channels=3)).eval()
    net.load_state_dict(read_state(file)["model"])
    return lambda image: list(net(image).values())


def snippet(backbone: Backbone, file: Path) -> str:
    mean, std, remark = of_stored(backbone)
    lines = "".join(f"cfg.INPUT.{key} = {value!r}\n" for key, value in (("FORMAT", "RGB"),))
    lines += f"# Mean and std are {remark}.\n" if remark else ""
    lines += f"cfg.MODEL.PIXEL_MEAN = {mean}\ncfg.MODEL.PIXEL_STD = {std}\n"
    if isinstance(backbone.net, ConvNeXt):
        return f"""\
from detectron2.config import get_cfg

cfg = get_cfg()  # detectron2 has no ConvNeXt: this is for ports that keep the authors' names, with norm0 to norm3
cfg.MODEL.WEIGHTS = {str(file)!r}
# Its defaults are BGR and a std of 1.
{lines}"""
    settings = _settings(backbone)
    pairs = zip(settings[::2], settings[1::2], strict=True)
    chosen = "".join(f"cfg.{key} = {value!r}\n" for key, value in pairs)
    return f"""\
from detectron2.config import get_cfg

cfg = get_cfg()
cfg.MODEL.WEIGHTS = {str(file)!r}
# Its defaults are BGR, a std of 1 and a stride in the first 1x1, and nothing fails with them.
{lines}{chosen}cfg.MODEL.BACKBONE.FREEZE_AT = 0  # 2, the default, is of use for supervised weights
"""


def _settings(backbone: Backbone) -> list[object]:
    settings: list[object] = ["MODEL.RESNETS.DEPTH", DEPTHS[backbone.name], "MODEL.RESNETS.STRIDE_IN_1X1", False]
    settings += ["MODEL.RESNETS.NORM", "BN", "MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]]
    if DEPTHS[backbone.name] < 50:
        settings += ["MODEL.RESNETS.RES2_OUT_CHANNELS", 64]
    return settings


def _tensors(backbone: Backbone) -> dict[str, Tensor]:
    plain(backbone, "detectron2")
    if backbone.in_chans != 3:
        raise UserError(f"detectron2 reads 3 channels, this {backbone.name} {backbone.in_chans}; --to timm takes it")
    if not isinstance(backbone.net, ConvNeXt):
        if backbone.name not in DEPTHS:
            raise UserError(f"detectron2 has no {backbone.name}, only {', '.join(DEPTHS)}; --to timm takes it")
        return renamed(backbone, layouts.detectron2_resnet)
    if backbone.name.startswith("convnextv2"):
        raise UserError(f"there is no known port of {backbone.name} to detectron2; --to timm takes it")
    return plain_convnext(backbone, layouts.dense_convnext, "detectron2") | first_norms(backbone)
