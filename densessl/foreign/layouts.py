"""The names that other libraries give to a backbone's tensors.

A layout is a function from our key (timm's name, ConvNeXt's final norm ``norm_pre``) to theirs. Export applies it,
import applies its inverse, so there is one rule for both.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from torch import Tensor


class Layout(NamedTuple):
    """``signs`` are keys that no layout before it in LAYOUTS has all; ``bare`` files may lack the final norm."""

    title: str
    family: Literal["ConvNeXt", "ResNet", "ViT"]
    signs: tuple[str, ...]
    name_of: Callable[[str], str]
    bare: bool = False


@dataclass(frozen=True)
class ConvNeXtNames:
    """How a library calls the parts of a ConvNeXt: {i} is the stage, {j} the block, {even} 2 i and {odd} 2 i + 1."""

    stem: tuple[str, str]
    between: str
    block: str
    parts: dict[str, str]
    norm: str

    def __call__(self, key: str) -> str:
        if block := re.fullmatch(r"stages\.(\d+)\.blocks\.(\d+)\.(.+?)(\.(?:weight|bias))?", key):
            part, kind = block.group(3), block.group(4) or ""
            name = self.parts.get(part + kind) or self.parts.get(part, part) + kind
            return self.block.format(i=block[1], j=block[2], odd=2 * int(block[1]) + 1) + name
        if between := re.fullmatch(r"stages\.(\d+)\.downsample\.(.+)", key):
            return self.between.format(i=between[1], even=2 * int(between[1])) + between[2]
        if stem := re.fullmatch(r"stem\.([01])\.(.+)", key):
            return f"{self.stem[int(stem[1])]}.{stem[2]}"
        return re.sub(r"^norm_pre\.", f"{self.norm}.", key)


@dataclass(frozen=True)
class ResNetNames:
    """How a library calls the parts of a ResNet: {j} is the block; {s0}, {k0} count stages, convolutions from 0 etc."""

    stem: tuple[str, str]
    block: str
    conv: str
    norm: str
    shortcut: tuple[str, str]

    def __call__(self, key: str) -> str:
        if stem := re.fullmatch(r"(conv1|bn1)\.(\w+)", key):
            return f"{self.stem[stem[1] == 'bn1']}.{stem[2]}"
        found = re.fullmatch(r"layer(\d)\.(\d+)\.(conv|bn|downsample\.)(\d)\.(\w+)", key)
        if not found:
            return key
        stage, part, number = int(found[1]) - 1, found[3], int(found[4])
        if part == "downsample.":
            name = self.shortcut[number] if number < 2 else f"downsample.{number}"
        else:
            name = (self.conv if part == "conv" else self.norm).format(k0=number - 1, k1=number)
        return f"{self.block.format(s0=stage, s2=stage + 2, s4=stage + 4, j=found[2])}{name}.{found[5]}"


@dataclass(frozen=True)
class DeepResNetNames:
    """OpenMMLab's ResNet-C and D: ``stem`` names convolution and norm of each of the stem's three layers.

    ``pooled`` is D, whose shortcuts pool; its first, which has nothing to pool, counts from 0 there and from 1 in timm.
    """

    stem: tuple[str, str, str, str, str, str]
    pooled: bool

    def __call__(self, key: str) -> str:
        module, _, kind = key.rpartition(".")
        if module in DEEP_STEM:
            return f"{self.stem[DEEP_STEM.index(module)]}.{kind}"
        if self.pooled and (first := re.fullmatch(r"layer1\.0\.downsample\.([12])", module)):
            return f"layer1.0.downsample.{int(first[1]) - 1}.{kind}"
        return key


DEEP_STEM = ("conv1.0", "conv1.1", "conv1.3", "conv1.4", "conv1.6", "bn1")  # of timm
_PLAIN = ("stem.0", "stem.1", "stem.3", "stem.4", "stem.6", "stem.7")
_MODULES = ("stem.0.conv", "stem.0.bn", "stem.1.conv", "stem.1.bn", "stem.2.conv", "stem.2.bn")
mmdet_resnet = {"c": DeepResNetNames(_PLAIN, False), "d": DeepResNetNames(_PLAIN, True)}  # and mmsegmentation's
mmpretrain_resnet = {"c": DeepResNetNames(_MODULES, False), "d": DeepResNetNames(_MODULES, True)}


def same(key: str) -> str:
    """ResNet and ViT: timm kept torchvision's and the authors' names."""
    return key


def timm_convnext(key: str) -> str:
    """timm's ConvNeXt as it is by default: the final norm stands in the head, after the mean."""
    return re.sub(r"^norm_pre\.", "head.norm.", key)


def timm_features(key: str) -> str:
    """timm's ``features_only``: stem and stages are entries of one flat module, and there is no final norm."""
    return re.sub(r"^(stem|stages)\.(\d)", r"\1_\2", key)


_TORCHVISION_BLOCK = {
    "conv_dw": "block.0",
    "norm": "block.2",
    "mlp.fc1": "block.3",
    "mlp.fc2": "block.5",
    "gamma": "layer_scale",
}
_POINTWISE = {"conv_dw": "dwconv", "mlp.fc1": "pwconv1", "mlp.fc2": "pwconv2"}
_SPELLED = {"conv_dw": "depthwise_conv", "mlp.fc1": "pointwise_conv1", "mlp.fc2": "pointwise_conv2"}
_GRN = {"mlp.grn.weight": "grn.gamma", "mlp.grn.bias": "grn.beta"}

torchvision_convnext = ConvNeXtNames(
    ("features.0.0", "features.0.1"),
    "features.{even}.",
    "features.{odd}.{j}.",
    _TORCHVISION_BLOCK,
    "classifier.0",
)
original_convnext = ConvNeXtNames(
    ("downsample_layers.0.0", "downsample_layers.0.1"),
    "downsample_layers.{i}.",
    "stages.{i}.{j}.",
    {**_POINTWISE, **_GRN},
    "norm",
)
dense_convnext = replace(original_convnext, norm="norm3")  # its authors' and others' for dense tasks, norm0 to norm3
mmpretrain_convnext = replace(original_convnext, parts={**_SPELLED, **_GRN}, norm="norm3")
huggingface_convnext = ConvNeXtNames(
    ("embeddings.patch_embeddings", "embeddings.layernorm"),
    "encoder.stages.{i}.downsampling_layer.",
    "encoder.stages.{i}.layers.{j}.",
    {**_POINTWISE, "norm": "layernorm", "gamma": "layer_scale_parameter", "mlp.grn": "grn"},
    "layernorm",
)
huggingface_dinov3 = ConvNeXtNames(
    ("stages.0.downsample_layers.0", "stages.0.downsample_layers.1"),
    "stages.{i}.downsample_layers.",
    "stages.{i}.layers.{j}.",
    {**_SPELLED, "norm": "layer_norm"},
    "layer_norm",
)
detectron2_resnet = ResNetNames(
    ("stem.conv1", "stem.conv1.norm"), "res{s2}.{j}.", "conv{k1}", "conv{k1}.norm", ("shortcut", "shortcut.norm")
)
huggingface_resnet = ResNetNames(
    ("embedder.embedder.convolution", "embedder.embedder.normalization"),
    "encoder.stages.{s0}.layers.{j}.",
    "layer.{k0}.convolution",
    "layer.{k0}.normalization",
    ("shortcut.convolution", "shortcut.normalization"),
)
sequential_resnet = ResNetNames(("0", "1"), "{s4}.{j}.", "conv{k1}", "bn{k1}", ("downsample.0", "downsample.1"))

LAYOUTS = (
    Layout("sparse ConvNeXt V2", "ConvNeXt", ("downsample_layers.1.1.kernel",), original_convnext, bare=True),
    Layout("mmpretrain ConvNeXt", "ConvNeXt", ("stages.0.0.depthwise_conv.weight",), mmpretrain_convnext),
    Layout(
        "original ConvNeXt, a norm for each map",
        "ConvNeXt",
        ("downsample_layers.0.0.weight", "norm3.weight"),
        dense_convnext,
    ),
    Layout("original ConvNeXt", "ConvNeXt", ("downsample_layers.0.0.weight",), original_convnext, bare=True),
    Layout("torchvision ConvNeXt", "ConvNeXt", ("features.0.0.weight",), torchvision_convnext),
    Layout(
        "Hugging Face ConvNeXt", "ConvNeXt", ("embeddings.patch_embeddings.weight",), huggingface_convnext, bare=True
    ),
    Layout("Hugging Face DINOv3 ConvNeXt", "ConvNeXt", ("stages.0.downsample_layers.0.weight",), huggingface_dinov3),
    Layout("timm ConvNeXt, features only", "ConvNeXt", ("stages_0.blocks.0.conv_dw.weight",), timm_features, bare=True),
    Layout("timm ConvNeXt, norm before the mean", "ConvNeXt", ("norm_pre.weight",), same),
    Layout("timm ConvNeXt", "ConvNeXt", ("stages.0.blocks.0.conv_dw.weight",), timm_convnext),
    *(
        Layout(f"{library} ResNet-{kind.upper()}", "ResNet", ("layer1.0.conv1.weight", *signs), names[kind])
        for library, names, stem in (
            ("mmsegmentation", mmdet_resnet, "stem.0.weight"),
            ("mmpretrain", mmpretrain_resnet, "stem.0.conv.weight"),
        )
        for kind, signs in (("d", (stem, "layer2.0.downsample.2.weight")), ("c", (stem,)))
    ),
    Layout("ResNet", "ResNet", ("layer1.0.conv1.weight",), same),
    Layout("detectron2 ResNet", "ResNet", ("res2.0.conv1.weight",), detectron2_resnet),
    Layout(
        "Hugging Face ResNet", "ResNet", ("encoder.stages.0.layers.0.layer.0.convolution.weight",), huggingface_resnet
    ),
    Layout("sequential ResNet", "ResNet", ("4.0.conv1.weight",), sequential_resnet),
    Layout("ViT", "ViT", ("blocks.0.norm1.weight", "patch_embed.proj.weight"), same),
)


def dense(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A sparse ConvNeXt V2 (MinkowskiEngine's, of FCMAE) under the names and in the shapes of the original, dense one.

    A kernel is (places, in, out), or (places, channels) of a depth-wise one, and its places run down the columns.
    """
    found = {}
    for key, tensor in tensors.items():
        if key.endswith(".kernel"):
            key, side = key.replace(".kernel", ".weight"), math.isqrt(len(tensor))
            tensor = tensor.reshape(side, side, -1, tensor.shape[-1]).permute(3, 2, 1, 0).contiguous()
        elif key.endswith(".bias"):
            tensor = tensor.flatten()
        found[re.sub(r"\.(linear|ln)\.(?=\w+$)", ".", key)] = tensor
    return found
