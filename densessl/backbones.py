"""Convolutional networks behind one contract: four stage maps, their channels and strides."""

from __future__ import annotations

import difflib
from typing import Any, Literal

import timm
import torch
from timm.models.convnext import ConvNeXt
from timm.models.resnet import ResNet
from torch import Tensor, nn

from densessl.errors import UserError

VIT = ("vit_", "deit", "test_vit")  # how timm's names of vision transformers begin


class Backbone(nn.Module):
    """Any timm ConvNeXt or ResNet with random weights and without a classifier.

    ``name`` is timm's. ``net`` is the timm module, so keys are timm's. A ConvNeXt has no layer scale and its final
    LayerNorm stands at every location, before the mean, as in VICRegL (https://arxiv.org/abs/2210.01571).
    ``output_stride`` 8 or 16 dilates the last stages instead of striding: finer maps with the same weights.
    ``stem="small"`` begins a ResNet with one 3 x 3 convolution of stride 1 and without pooling, so that its strides are
    1, 2, 4, 8: what is customary for pictures of 32 pixels (SimCLR, appendix B.9, https://arxiv.org/abs/2002.05709).
    ``metadata`` says where the weights came from; a backbone file fills it.

    Raises UserError for a name that timm does not have or that is neither family, and for what a small stem excludes.
    """

    def __init__(
        self,
        name: str,
        *,
        in_chans: int = 3,
        drop_path: float = 0.0,
        output_stride: int = 32,
        stem: Literal["imagenet", "small"] = "imagenet",
    ) -> None:
        super().__init__()
        net = self._network(name, in_chans, drop_path, output_stride, stem)
        self.name = name
        self.in_chans = in_chans
        self.output_stride = output_stride
        self.stem = stem
        self.net: Any = net
        stages: list[Any] = net.feature_info[-4:]
        self.channels: tuple[int, ...] = tuple(stage["num_chs"] for stage in stages)
        self.strides: tuple[int, ...] = tuple(stage["reduction"] for stage in stages)
        self.batch_norm = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in net.modules())
        self.metadata: dict[str, object] = {}

    def _network(self, name: str, in_chans: int, drop_path: float, output_stride: int, stem: str) -> Any:
        if name.startswith(VIT) and timm.is_model(name):
            raise UserError(
                f"backbone.name: {name!r} is a vision transformer; densessl pretrains ConvNeXts and ResNets, and only "
                "measures others"
            )
        family: dict[str, Any] = {"head_norm_first": True, "head_hidden_size": 0} if "convnext" in name else {}
        if not timm.is_model(name) or not name.startswith(("convnext", "resnet", "test_convnext", "test_resnet")):
            raise UserError(f"backbone.name: {name!r} is no ConvNeXt or ResNet of timm{_nearest(name)}")
        if stem not in ("imagenet", "small"):
            raise UserError(f"backbone.stem: {stem!r} is neither imagenet nor small")
        if stem == "small" and output_stride == 16:
            raise UserError(f"{name} with a small stem: its output stride is 8 as it is, and can't be 16")
        net = timm.create_model(
            name,
            num_classes=0,
            in_chans=in_chans,
            drop_path_rate=drop_path,
            output_stride=output_stride if stem == "imagenet" else 32,
            **family,
        )
        if not isinstance(net, ConvNeXt | ResNet):
            raise UserError(f"backbone.name: {name!r} is a {type(net).__name__}, not a ConvNeXt or ResNet")
        if stem == "small":
            if not isinstance(net, ResNet):
                raise UserError(f"backbone.stem: {name} begins with patches; only a ResNet can have a small stem")
            _make_stem_small(net)
        for module in net.modules():
            # create_model drops arguments that are None, so layer scale can't be switched off there: it stays at 1e-6.
            if getattr(module, "gamma", None) is not None:
                module.register_parameter("gamma", None)
        return net

    def stages(self, image: Tensor) -> list[Tensor]:
        """Raw stage maps, fine to coarse, each (B, C, H, W): what dense heads read. Never with the final norm."""
        maps = self.net.forward_intermediates(image, intermediates_only=True)
        assert isinstance(maps, list)
        return maps[-4:]

    def forward(self, image: Tensor) -> list[Tensor]:
        """Stage maps with the last one after the final norm, where the network has one: what methods read."""
        maps = self.stages(image)
        if isinstance(self.net, ConvNeXt):
            maps[-1] = self.net.norm_pre(maps[-1])
        return maps


def pooled(maps: list[Tensor]) -> Tensor:
    """(B, C): the mean over all places of the last map."""
    return torch.mean(maps[-1], dim=(2, 3))


def _make_stem_small(net: Any) -> None:
    """One convolution, drawn as timm draws them all, in the place of any stem."""
    net.conv1 = nn.Conv2d(net.in_chans, net.feature_info[0]["num_chs"], 3, padding=1, bias=False)
    nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    net.maxpool = nn.Identity()
    for stage in net.feature_info:
        stage["reduction"] = max(1, stage["reduction"] // 4)


def backbone_names() -> list[str]:
    """Every name that Backbone takes."""
    return timm.list_models(["convnext*", "resnet*"], exclude_filters=["resnetv2*", "*clip*"])


def _nearest(name: str) -> str:
    near = difflib.get_close_matches(name, backbone_names(), n=3)
    return (
        f"; nearest: {', '.join(near)}"
        if near
        else "; see timm.list_models('convnext*') and timm.list_models('resnet*')"
    )
