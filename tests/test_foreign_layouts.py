"""Each layout, spelled out here from its definition: the same network, tensor by tensor and map by map."""

import math
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from weights import image, renamed, scatter, timm_maps

from densessl.backbone_file import init_backbone, load_backbone
from densessl.backbones import Backbone
from densessl.errors import UserError
from densessl.export import detectron2 as detectron2_export
from densessl.export import mmpretrain
from densessl.export import torchvision as torchvision_export

State = dict[str, Tensor]

# From the names of timm's ConvNeXt, final norm in the head, and of its ResNet, to those of others.
ORIGINAL = [
    (r"^stem\.", "downsample_layers.0."),
    (r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
    (r"^stages\.(\d)\.blocks\.", r"stages.\1."),
    (r"\.conv_dw\.", ".dwconv."),
    (r"\.mlp\.fc(\d)\.", r".pwconv\1."),
    (r"\.mlp\.grn\.weight", ".grn.gamma"),
    (r"\.mlp\.grn\.bias", ".grn.beta"),
    (r"^head\.norm\.", "norm."),
    (r"^head\.fc\.", "head."),
]
MMPRETRAIN = [
    *ORIGINAL[:3],
    (r"\.conv_dw\.", ".depthwise_conv."),
    (r"\.mlp\.fc(\d)\.", r".pointwise_conv\1."),
    *ORIGINAL[5:7],
    (r"^head\.norm\.", "norm3."),
    (r"^(?!head)", "backbone."),
]
TORCHVISION = [
    (r"^stem\.", "features.0."),
    *((rf"^stages\.{i}\.downsample\.", f"features.{2 * i}.") for i in (1, 2, 3)),
    *((rf"^stages\.{i}\.blocks\.", f"features.{2 * i + 1}.") for i in range(4)),
    (r"^(features\.\d\.\d+)\.conv_dw\.", r"\1.block.0."),
    (r"^(features\.[1357]\.\d+)\.norm\.", r"\1.block.2."),
    (r"\.mlp\.fc1\.", ".block.3."),
    (r"\.mlp\.fc2\.", ".block.5."),
    (r"\.gamma$", ".layer_scale"),
    (r"^head\.norm\.", "classifier.0."),
    (r"^head\.fc\.", "classifier.2."),
]
HUGGING_FACE = [
    (r"^(stages\.\d\.blocks\.\d+)\.norm\.", r"\1.layernorm."),
    (r"^stem\.0\.", "embeddings.patch_embeddings."),
    (r"^stem\.1\.", "embeddings.layernorm."),
    (r"^stages\.(\d)\.downsample\.", r"encoder.stages.\1.downsampling_layer."),
    (r"^stages\.(\d)\.blocks\.", r"encoder.stages.\1.layers."),
    (r"\.conv_dw\.", ".dwconv."),
    (r"\.mlp\.fc(\d)\.", r".pwconv\1."),
    (r"\.mlp\.grn\.", ".grn."),
    (r"\.gamma$", ".layer_scale_parameter"),
    (r"^head\.norm\.", "layernorm."),
    (r"^head\.fc\.", "classifier."),
]
HUGGING_FACE_DINOV3 = [
    (r"^(stages\.\d\.blocks\.\d+)\.norm\.", r"\1.layer_norm."),
    (r"^stem\.", "stages.0.downsample_layers."),
    (r"^stages\.(\d)\.downsample\.", r"stages.\1.downsample_layers."),
    (r"\.blocks\.", ".layers."),
    (r"\.conv_dw\.", ".depthwise_conv."),
    (r"\.mlp\.fc(\d)\.", r".pointwise_conv\1."),
    (r"^head\.norm\.", "layer_norm."),
]
FEATURES_ONLY = [(r"^stem\.", "stem_"), (r"^stem_", "stem_"), (r"^stages\.", "stages_")]
DETECTRON2 = [
    (r"^conv1\.", "stem.conv1."),
    (r"^bn1\.", "stem.conv1.norm."),
    *((rf"^layer{i}\.", f"res{i + 1}.") for i in (1, 2, 3, 4)),
    (r"\.bn(\d)\.", r".conv\1.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
]
HUGGING_FACE_RESNET = [
    (r"^conv1\.", "embedder.embedder.convolution."),
    (r"^bn1\.", "embedder.embedder.normalization."),
    *((rf"^layer{i}\.", f"encoder.stages.{i - 1}.layers.") for i in (1, 2, 3, 4)),
    *((rf"\.conv{k}\.", f".layer.{k - 1}.convolution.") for k in (1, 2, 3)),
    *((rf"\.bn{k}\.", f".layer.{k - 1}.normalization.") for k in (1, 2, 3)),
    (r"\.downsample\.0\.", ".shortcut.convolution."),
    (r"\.downsample\.1\.", ".shortcut.normalization."),
    (r"^fc\.", "classifier.1."),
]
SEQUENTIAL = [(r"^conv1\.", "0."), (r"^bn1\.", "1."), *((rf"^layer{i}\.", f"{i + 3}.") for i in (1, 2, 3, 4))]


def under(prefix: str) -> list[tuple[str, str]]:
    return [(r"^(?!head|classifier|fc)", prefix)]


def without(begin: str, state: State) -> State:
    return {key: tensor for key, tensor in state.items() if not key.startswith(begin)}


def with_axes(state: State) -> State:
    """GRN's vectors of V2 as (1, 1, 1, C)."""
    return {key: tensor.view(1, 1, 1, -1) if ".grn." in key else tensor for key, tensor in state.items()}


def linear(state: State) -> State:
    """1 x 1 convolutions as linear layers."""
    return {
        key: tensor.flatten(1) if ".mlp.fc" in key and tensor.ndim == 4 else tensor for key, tensor in state.items()
    }


def convolved(state: State) -> State:
    return {k: v[..., None, None] if ".mlp.fc" in k and v.ndim == 2 else v for k, v in state.items()}


def with_scale_axes(state: State) -> State:
    return {key: tensor.view(-1, 1, 1) if key.endswith("layer_scale") else tensor for key, tensor in state.items()}


def sparse(state: State) -> State:
    """MinkowskiEngine's kernels, place by place: the place of row y and column x is x * side + y."""
    found = {}
    for key, tensor in state.items():
        if key.startswith(("stages", "downsample_layers")) and not key.startswith("downsample_layers.0."):
            if tensor.ndim == 4:
                side = tensor.shape[-1]
                kernel = torch.empty(side * side, *([] if tensor.shape[1] == 1 else [tensor.shape[1]]), len(tensor))
                for y in range(side):
                    for x in range(side):
                        kernel[x * side + y] = tensor[:, :, y, x].T.squeeze(0)
                key, tensor = key.replace(".weight", ".kernel"), kernel
            elif "grn" in key:
                tensor = tensor[None]
            elif "pwconv" in key:
                key = key.replace(".weight", ".linear.weight").replace(".bias", ".linear.bias")
            elif ".norm." in key or ".0." in key[:21]:
                key = key.replace(".weight", ".ln.weight").replace(".bias", ".ln.bias")
            elif key.endswith("bias"):
                tensor = tensor[None]
        found[f"encoder.{key}"] = tensor
    return found


CONVNEXTS: dict[str, tuple[str, Callable[[State], Any], str]] = {
    "ConvNeXt V1": (
        "test_convnext",
        lambda s: {"model": renamed(s, ORIGINAL)},
        r"original.* in model.*dropped head\.\* ",
    ),
    "VICRegL": ("test_convnext", lambda s: without("head.", renamed(no_gamma(s), ORIGINAL)), "original ConvNeXt\\)"),
    "ConvNeXt V2": (
        "convnextv2_atto",
        lambda s: {"model": with_axes(renamed(linear(s), ORIGINAL))},
        "dropped head",
    ),
    "FCMAE": (
        "convnextv2_atto",
        lambda s: {
            "model": {
                **without("encoder.head", without("encoder.norm", sparse(renamed(linear(s), ORIGINAL)))),
                "mask_token": torch.ones(1, 8, 1, 1),
                "proj.weight": torch.ones(8, 8, 1, 1),
                "decoder.0.dwconv.weight": torch.ones(8, 1, 7, 7),
                "pred.bias": torch.ones(8),
            }
        },
        r"sparse ConvNeXt V2 in model, encoder; dropped mask_token, proj\.\* \(1\).*no final norm there",
    ),
    "SparK": (
        "test_convnext",
        lambda s: without("head.", without("norm.", renamed(s, ORIGINAL))),
        "layer scale of 9 blocks folded in; no final norm there: its weight set to 1, its bias to 0",
    ),
    "SparK with its decoder": (
        "test_convnext",
        lambda s: {
            "module": {
                **renamed(without("head.", s), [*ORIGINAL, (r"^", "sparse_encoder.sp_cnn.")]),
                "dense_decoder.proj.weight": torch.ones(2),
                "densify_norms.0.weight": torch.ones(2),
                "densify_projs.0.weight": torch.ones(2),
                "mask_tokens.0": torch.ones(2),
                "imn_m": torch.ones(2),
                "imn_s": torch.ones(2),
                "norm_black": torch.ones(2),
                "config": {"mask_ratio": 0.6},
            },
            "optimizer": {"state": {}},
            "args": "Namespace()",
            "is_pretrain": True,
        },
        "in module, sparse_encoder.sp_cnn; .*, config; no final norm",
    ),
    "ConvNeXt for dense tasks": (
        "test_convnext",
        lambda s: {
            **renamed(without("head.fc", s), [*ORIGINAL, (r"^norm\.", "norm3.")]),
            **{f"norm{i}.{kind}": torch.ones(8 * (i + 3)) for i in range(3) for kind in ("weight", "bias")},
        },
        r"a norm for each map; layer scale of 9 blocks folded in; dropped norm0\.\* \(2\), norm1\.\* \(2\), norm2",
    ),
    "DINOv3": (
        "test_convnext",
        lambda s: {
            **renamed(without("head.fc", s), ORIGINAL),
            "norms.3.weight": s["head.norm.weight"],
            "norms.3.bias": s["head.norm.bias"],
        },
        r"dropped norms\.\* \(2\)",
    ),
    "DINOv3 of Hugging Face": (
        "test_convnext",
        lambda s: renamed(without("head.fc", s), [*HUGGING_FACE_DINOV3, (r"^", "model.")]),
        "Face DINOv3 ConvNeXt in model; layer scale",
    ),
    "DINOv3 of transformers 5": (
        "test_convnext",
        lambda s: renamed(without("head.fc", s), [*HUGGING_FACE_DINOV3, (r"^stages", "model.stages")]),
        "Face DINOv3 ConvNeXt in model; layer scale",
    ),
    "Hugging Face": ("test_convnext", lambda s: renamed(without("head.fc", s), HUGGING_FACE), "Hugging Face ConvNeXt;"),
    "Hugging Face, classifier": (
        "test_convnext",
        lambda s: renamed(s, [*HUGGING_FACE, *under("convnext.")]),
        r"in convnext;.*classifier\.\* \(2\)",
    ),
    "Hugging Face V2": (
        "convnextv2_atto",
        lambda s: with_axes(renamed(linear(s), [*HUGGING_FACE, *under("convnextv2.")])),
        "in convnextv2;",
    ),
    "Hugging Face backbone": (
        "test_convnext",
        lambda s: {**renamed(without("head.", s), HUGGING_FACE), "hidden_states_norms.stage1.weight": torch.ones(24)},
        r"dropped hidden_states_norms\.\* \(1\); no final norm",
    ),
    "torchvision": ("test_convnext", lambda s: with_scale_axes(renamed(s, TORCHVISION)), "dropped classifier"),
    "mmpretrain": (
        "test_convnext",
        lambda s: {
            "state_dict": {**renamed(s, MMPRETRAIN), "backbone.norm0.weight": torch.ones(24)},
            "meta": {"epoch": 300},
        },
        r"mmpretrain ConvNeXt in state_dict, backbone;.*dropped head\.\* \(2\), norm0\.\* \(1\)",
    ),
    "mmpretrain, convolutions": (
        "test_convnext",
        lambda s: {"state_dict": renamed(convolved(s), MMPRETRAIN)},
        "mmpretrain",
    ),
    "timm": ("test_convnext", lambda s: s, r"\(timm ConvNeXt; layer scale of 9 blocks folded in; dropped head\.\*"),
    "open_clip": (
        "test_convnext",
        lambda s: {
            "state_dict": {
                **renamed(without("head.fc", s), [(r"^", "module.visual.trunk.")]),
                "module.visual.head.proj.weight": torch.ones(2, 2),
                "module.text.transformer.resblocks.0.ln_1.weight": torch.ones(2),
                "module.logit_scale": torch.ones(()),
            }
        },
        "in state_dict, visual.trunk;",
    ),
    "timm, features only": (
        "test_convnext",
        lambda s: renamed(without("head.", s), FEATURES_ONLY),
        "features only; layer scale of 9 blocks folded in; no final norm",
    ),
}
RESNETS: dict[str, tuple[Callable[[State], Any], str]] = {
    "detectron2": (lambda s: renamed(without("fc", s), DETECTRON2), "detectron2 ResNet; taken to read RGB"),
    "Hugging Face": (lambda s: renamed(s, [*HUGGING_FACE_RESNET, *under("resnet.")]), "Hugging Face ResNet in resnet;"),
    "Sequential": (
        lambda s: {"state_dict": renamed(without("fc", s), [*SEQUENTIAL, (r"^", "backbone.")])},
        "sequential ResNet in state_dict, backbone",
    ),
    "VISSL": (
        lambda s: {
            "classy_state_dict": {
                "base_model": {
                    "model": {"trunk": renamed(without("fc", s), [(r"^", "_feature_blocks.")]), "heads": {}},
                    "meters": {},
                }
            }
        },
        "in classy_state_dict, base_model, model, trunk, _feature_blocks",
    ),
}


def no_gamma(state: State) -> State:
    return {key: tensor for key, tensor in state.items() if not key.endswith("gamma")}


def folded(state: State) -> State:
    """Our own form of timm's: gamma in fc2, the final norm before the mean, no classifier."""
    found = {}
    for key, tensor in without("head.fc", state).items():
        gamma = state.get(key.partition(".mlp.fc2.")[0] + ".gamma") if ".mlp.fc2." in key else None
        if gamma is not None:
            tensor = (tensor.double() * gamma.double().view(-1, *[1] * (tensor.ndim - 1))).float()
        if not key.endswith("gamma"):
            found[key.replace("head.norm", "norm_pre")] = tensor
    return found


def equal_maps(backbone: Backbone, net: Any) -> None:
    with torch.inference_mode():
        for size in ((64, 96), (97, 75)):
            for ours, theirs in zip(backbone.stages(image(*size)), timm_maps(net, image(*size)), strict=True):
                assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("case", CONVNEXTS)
def test_a_convnext_of_each_layout_is_the_same_network(
    case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name, build, remark = CONVNEXTS[case]
    net = scatter(timm.create_model(name))
    if case == "VICRegL":
        for key, tensor in net.named_parameters():
            if key.endswith("gamma"):
                torch.nn.init.ones_(tensor)
    state = net.state_dict()
    torch.save(build(state), tmp_path / "w.pth")
    backbone = load_backbone(f"{name}={tmp_path / 'w.pth'}")
    wanted = folded(state)
    if "no final norm" in remark:
        wanted |= {"norm_pre.weight": torch.ones_like(wanted["norm_pre.weight"])}
        wanted |= {"norm_pre.bias": torch.zeros_like(wanted["norm_pre.bias"])}
    found = backbone.net.state_dict()
    assert found.keys() == wanted.keys()
    for key, tensor in wanted.items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-6, atol=0, msg=key)
    equal_maps(backbone, net)
    assert len(caplog.messages) == 1
    assert re.search(remark, caplog.messages[0]), caplog.messages
    assert (backbone.training, backbone.metadata["method"], backbone.metadata["step"]) == (False, "imported", 0)


@pytest.mark.parametrize("case", RESNETS)
@pytest.mark.parametrize("name", ["resnet18", "resnet26"])
def test_a_resnet_of_each_layout_is_the_same_network(
    case: str, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build, remark = RESNETS[case]
    net = scatter(timm.create_model(name, num_classes=2))
    torch.save(build(net.state_dict()), tmp_path / "w.pth")
    backbone = load_backbone(tmp_path / "w.pth")
    assert backbone.name == name  # from the shapes
    for key, tensor in backbone.net.state_dict().items():
        assert torch.equal(tensor, net.state_dict()[key]), key
    if name == "resnet18":
        equal_maps(backbone, net)
    assert remark in caplog.messages[0]


ATTO = {"hidden_sizes": [40, 80, 160, 320], "depths": [2, 2, 6, 2]}
TRANSFORMERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ConvNextModel": ("convnext_atto", ATTO),
    "ConvNextForImageClassification": ("convnext_atto", ATTO),
    "ConvNextBackbone": ("convnext_atto", ATTO),
    "DINOv3ConvNextModel": ("convnext_atto", ATTO),
    "ConvNextV2Model": ("convnextv2_atto", ATTO),
    "ResNetModel": ("resnet26", {"depths": [2, 2, 2, 2]}),
    "ResNetForImageClassification": ("resnet18", {"depths": [2, 2, 2, 2], "layer_type": "basic"}),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_networks_of_transformers_give_their_own_maps(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="its own classes confirm the layouts of Hugging Face")
    name, sizes = TRANSFORMERS[kind]
    if "layer_type" in sizes:
        sizes = {**sizes, "hidden_sizes": [64, 128, 256, 512]}
    build = getattr(transformers, kind)
    net = scatter(build(build.config_class(**sizes)))
    for key, tensor in net.named_parameters():
        if "grn" in key:
            torch.nn.init.normal_(tensor)
        if key.endswith(".gamma"):
            torch.nn.init.uniform_(tensor, 0.1, 0.3)
    torch.save(net.state_dict(), tmp_path / "w.pth")
    backbone = load_backbone(f"{name}={tmp_path / 'w.pth'}")
    x = image(64, 96)
    with torch.inference_mode():
        for ours, theirs in zip(backbone.stages(x), net(x, output_hidden_states=True).hidden_states[-4:], strict=True):
            assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_features_only_are_timms_own(tmp_path: Path) -> None:
    net = scatter(timm.create_model("test_convnext", features_only=True))
    torch.save(net.state_dict(), tmp_path / "w.pth")
    backbone = load_backbone(f"test_convnext={tmp_path / 'w.pth'}")
    with torch.inference_mode():
        for ours, theirs in zip(backbone.stages(image(64, 64)), net(image(64, 64)), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_the_two_norms_of_dinov3_must_be_one(tmp_path: Path) -> None:
    state = renamed(timm.create_model("test_convnext", num_classes=0).state_dict(), ORIGINAL)
    torch.save({**state, "norms.3.weight": torch.zeros(64)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"w\.pth: norms\.3\.weight is no copy of norm\.weight"):
        init_backbone(Backbone("test_convnext"), tmp_path / "w.pth")


def test_only_layouts_that_have_none_may_lack_the_final_norm(tmp_path: Path) -> None:
    state = timm.create_model("test_convnext").state_dict()
    for file in (without("head.norm", state), renamed(without("head.norm", state), ORIGINAL)):  # a classifier needs one
        torch.save(file, tmp_path / "w.pth")
        with pytest.raises(UserError, match=r"2 missing: norm_pre\.weight, norm_pre\.bias"):
            load_backbone(f"test_convnext={tmp_path / 'w.pth'}")


def test_a_sparse_kernel_runs_down_the_columns() -> None:
    """Seen by the convolution itself: a kernel that looks one place to the right does so after the import."""
    from densessl.foreign.layouts import dense

    kernel = torch.zeros(9, 1)
    kernel[2 * 3 + 1] = 1  # column 2, row 1
    weight = dense({"stages.0.0.dwconv.kernel": kernel})["stages.0.0.dwconv.weight"]
    picture = torch.arange(12.0).view(1, 1, 3, 4)
    shifted = torch.nn.functional.conv2d(picture, weight, padding=1)
    assert torch.equal(shifted[..., :-1], picture[..., 1:])
    assert math.prod(weight.shape) == 9


class OpenMMLabResNet(torchvision.models.ResNet):
    """Its ResNetV1c and V1d as its configurations define them, on torchvision's blocks."""

    def __init__(self, depths: list[int], nested: bool, pooled: bool) -> None:
        super().__init__(torchvision.models.resnet.Bottleneck, depths)
        del self.conv1, self.bn1, self.fc
        layers: list[nn.Module] = []
        for a, b, stride in ((3, 32, 2), (32, 32, 1), (32, 64, 1)):
            conv, bn = nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b)
            if nested:
                layers.append(nn.Sequential(OrderedDict(conv=conv, bn=bn, activate=nn.ReLU())))
            else:
                layers += [conv, bn, nn.ReLU()]
        self.stem = nn.Sequential(*layers)
        for layer in (self.layer2, self.layer3, self.layer4) if pooled else ():
            conv, bn = layer[0].downsample
            conv.stride = (1, 1)
            pool = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)
            layer[0].downsample = nn.Sequential(pool, conv, bn)

    def forward(self, x: Tensor) -> list[Tensor]:  # type: ignore[override]
        maps = [self.layer1(self.maxpool(self.stem(x)))]
        for layer in (self.layer2, self.layer3, self.layer4):
            maps.append(layer(maps[-1]))
        return maps


@pytest.mark.parametrize("nested", [False, True])  # mmsegmentation and mmdetection, and mmpretrain
@pytest.mark.parametrize(("name", "depths"), [("resnet50c", [3, 4, 6, 3]), ("resnet50d", [3, 4, 6, 3])])
def test_deep_stems_of_openmmlab_are_the_same_network(
    name: str, depths: list[int], nested: bool, tmp_path: Path
) -> None:
    net = scatter(OpenMMLabResNet(depths, nested, name.endswith("d")))
    state = renamed(net.state_dict(), [("^", "backbone.")])
    torch.save({"meta": {}, "state_dict": state}, tmp_path / "w.pth")
    backbone = load_backbone(tmp_path / "w.pth")
    assert backbone.name == name
    with torch.inference_mode():
        for ours, theirs in zip(backbone.stages(image(97, 75)), net(image(97, 75)), strict=True):
            assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()
    init_backbone(Backbone(name), tmp_path / "w.pth")
    net.load_state_dict(mmpretrain.tensors(backbone, "mmpretrain" if nested else "mmdet"))  # strictly
    deep = {"deep_stem": True, "avg_down": name == "resnet50d"}
    assert mmpretrain.facts(backbone) == {"depth": 50, "out_indices": (0, 1, 2, 3), "style": "pytorch", **deep}
    for target in (torchvision_export, detectron2_export):
        with pytest.raises(UserError, match=rf"has no {name}, only .*--to timm takes it"):
            target.write(backbone, tmp_path / "x")


@pytest.mark.parametrize("name", ["resnet50c", "resnet50d"])
def test_deep_stems_of_timm_import_and_train(name: str, tmp_path: Path) -> None:
    net = scatter(timm.create_model(name, num_classes=2))
    torch.save(net.state_dict(), tmp_path / "w.pth")
    backbone = load_backbone(tmp_path / "w.pth")
    assert backbone.name == name
    equal_maps(backbone, net)
    backbone.train()(image(32, 32))[-1].square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())
