"""Where each project keeps the backbone: the right one of several, and no other."""

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor
from torch.nn import DataParallel
from torch.optim.swa_utils import AveragedModel
from weights import image, renamed, scatter, timm_maps

from densessl.backbone_file import init_backbone, load_backbone
from densessl.backbones import Backbone
from densessl.colours import IMAGENET
from densessl.errors import UserError

State = dict[str, Tensor]
RED_STD = (0.228, 0.224, 0.225)


@pytest.fixture(scope="module")
def net() -> Any:
    return scatter(timm.create_model("test_resnet", num_classes=3))


def other(state: State) -> State:
    """Equal names and shapes, other values: an average, or a queue's encoder."""
    return {key: tensor + 1 for key, tensor in state.items()}


def body(state: State) -> State:
    return {key: tensor for key, tensor in state.items() if not key.startswith("fc.")}


def at(prefix: str, state: State) -> State:
    return renamed(state, [(r"^", prefix)])


def some(*names: str) -> State:
    return {name: torch.ones(2) for name in names}


def training(state: dict[str, Any], entry: str = "state_dict") -> dict[str, Any]:
    return {
        "epoch": 3,
        "arch": "resnet50",
        entry: state,
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(1)}}, "param_groups": [{"lr": 0.1}]},
    }


SOURCES: dict[str, tuple[Callable[[State], Any], str]] = {
    "flat": (body, r"\(ResNet\)"),
    "VICReg": (
        lambda s: training({**at("module.backbone.", body(s)), **some("module.projector.0.weight")}, "model"),
        r"in model, backbone; dropped projector\.\* \(1\)",
    ),
    "Barlow Twins": (
        lambda s: training(
            {
                **at("module.backbone.", body(s)),
                **some("module.projector.0.weight", "module.bn.running_mean", "module.bn.running_var"),
            },
            "model",
        ),
        r"projector\.\* \(1\), bn\.\* \(2\)",
    ),
    "DINO": (
        lambda s: {
            "student": at("module.backbone.", other(body(s))) | some("module.head.mlp.0.weight"),
            "teacher": at("module.backbone.", body(s)) | some("module.head.last_layer.weight_g"),
            "optimizer": {},
            "args": argparse.Namespace(arch="resnet50"),
            "dino_loss": some("center"),
        },
        r"in teacher, backbone; dropped head\.\* \(1\)",
    ),
    "MoCo v2": (
        lambda s: training(
            at("module.encoder_k.", other(s))
            | at("module.encoder_q.", body(s))
            | some("module.encoder_q.fc.0.weight", "module.encoder_q.fc.2.bias", "module.queue", "module.queue_ptr")
        ),
        r"in state_dict, encoder_q; dropped encoder_k\.\* \(92\), queue, queue_ptr, fc\.\* \(2\)",
    ),
    "MoCo v3": (
        lambda s: training(
            at("module.momentum_encoder.", other(s)) | at("module.base_encoder.", s) | some("module.predictor.0.weight")
        ),
        r"base_encoder; dropped momentum_encoder\.\* \(92\), predictor\.\* \(1\), fc\.\* \(2\)",
    ),
    "MoCo's linear evaluation": (lambda s: training(at("module.", s)), r"in state_dict; dropped fc\.\* \(2\)"),
    "SimSiam": (
        lambda s: training(at("module.encoder.", s) | some("module.predictor.0.weight")),
        r"in state_dict, encoder; dropped predictor",
    ),
    "DenseCL": (
        lambda s: {
            "state_dict": at("backbone.", body(s))
            | at("encoder_q.0.", body(s))
            | at("encoder_k.0.", other(body(s)))
            | some("encoder_q.1.mlp.0.weight", "neck.mlp.0.weight", "queue", "queue2", "queue2_ptr", "head.w"),
            "meta": {"epoch": 200},
        },
        r"in state_dict, backbone; dropped encoder_q\.\* \(91\), encoder_k",
    ),
    "mmselfsup": (
        lambda s: {
            "state_dict": at("backbone.", body(s))
            | at("encoder_k.module.0.", other(body(s)))
            | some("data_preprocessor.mean", "steps", "target_net.0.conv1.weight")
        },
        "target_net",
    ),
    "PixPro": (
        lambda s: {
            "model": at("module.encoder.", body(s))
            | at("module.encoder_k.", other(body(s)))
            | some(
                "module.projector.linear1.weight", "module.projector_k.linear1.weight", "module.value_transform.bias"
            ),
            "opt": argparse.Namespace(lr=1),
        },
        "in model, encoder;",
    ),
    "PixPro of old": (lambda s: {"model": at("module.base.", body(s))}, r"in model, base\)"),
    "solo-learn": (
        lambda s: training(
            at("momentum_backbone.", other(body(s)))
            | at("backbone.", body(s))
            | some("classifier.weight", "projector.0.weight", "momentum_projector.0.weight", "momentum_classifier.bias")
        ),
        r"in state_dict, backbone; dropped momentum_backbone\.\* \(90\)",
    ),
    "lightly": (
        lambda s: training(
            at("backbone_momentum.", other(body(s)))
            | at("backbone.", body(s))
            | some("local_projection_head.layers.0.weight", "online_classifier.weight", "prediction_head.w")
        ),
        r"backbone_momentum\.\* \(90\)",
    ),
    "byol-pytorch": (
        lambda s: (
            at("target_encoder.net.", other(s))
            | at("online_encoder.net.", s)
            | at("net.", s)
            | some("online_encoder.projector.net.0.weight", "online_predictor.net.0.weight")
        ),
        r"in online_encoder\.net; dropped target_encoder\.\* \(92\), net\.\* \(92\)",
    ),
    "W-MSE": (lambda s: at("model.module.", body(s)) | some("head.0.weight", "whitening.running_mean"), "in model;"),
    "DeepSpeed": (
        lambda s: {
            "module": at("backbone.", body(s)),
            "buffer_names": ["bn1.running_mean"],
            "optimizer": None,
            "ds_config": {"zero_optimization": {"stage": 1}},
            "global_steps": 10,
        },
        "in module, backbone",
    ),
    "OBoW": (lambda s: {"network": body(s), "epoch": 3, "meters": {"loss": 1.0}}, r"in network\)"),
    "wrapped twice": (lambda s: at("_orig_mod.module._orig_mod.backbone._orig_mod.", body(s)), "in backbone"),
    "averages beside": (
        lambda s: {"model": s, "model_ema": other(s), "args": argparse.Namespace()},
        r"\(ResNet in model; dropped",
    ),
}


def save(content: Any, folder: Path) -> Path:
    path = folder / "w.pth"
    torch.save(content, path)
    return path


def same_as(net: Any, backbone: Backbone) -> None:
    state = net.state_dict()
    for key, tensor in backbone.net.state_dict().items():
        assert torch.equal(tensor, state[key]), key


@pytest.mark.parametrize("case", SOURCES)
def test_the_right_backbone_is_taken(case: str, net: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    build, remark = SOURCES[case]
    path = save(build(net.state_dict()), tmp_path)
    backbone = load_backbone(f"test_resnet={path}")
    same_as(net, backbone)
    with torch.inference_mode():
        for ours, theirs in zip(backbone.stages(image(64, 96)), timm_maps(net, image(64, 96)), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    assert re.search(remark, caplog.messages[0]), caplog.messages
    facts = backbone.metadata
    assert (facts["method"], facts["file"], facts["std"]) == ("imported", str(path), IMAGENET["std"])
    init = Backbone("test_resnet")
    assert init_backbone(init, path) in caplog.messages[0]
    same_as(net, init)


def test_wrappers_of_torch_itself_come_off(net: Any, tmp_path: Path) -> None:
    for wrapped in (torch.compile(net), DataParallel(net), AveragedModel(DataParallel(net))):
        state = wrapped.state_dict()
        assert not state.keys() & net.state_dict().keys()
        same_as(net, load_backbone(f"test_resnet={save({'model': state}, tmp_path)}"))


@pytest.mark.parametrize(
    ("build", "origin"),
    [
        (lambda s: at("module.backbone.", body(s)) | some("module.maps_projector.0.weight"), "vicregl"),
        (
            lambda s: at("module.", body(s)) | some("module.projection_head.0.weight", "module.prototypes.weight"),
            "swav",
        ),
        (
            lambda s: (
                at("module.", body(s)) | some("module.projection_head.0.weight", "module.prototypes.prototypes0.weight")
            ),
            "deepcluster_v2",
        ),
    ],
)
def test_a_file_that_shows_its_project_has_its_red_std(build: Any, origin: str, net: Any, tmp_path: Path) -> None:
    facts = load_backbone(f"test_resnet={save(training(build(net.state_dict())), tmp_path)}").metadata
    assert (facts["method"], facts["mean"], facts["std"]) == (origin, IMAGENET["mean"], RED_STD)


def test_another_part_is_taken_when_it_is_asked_for(net: Any, tmp_path: Path) -> None:
    state = net.state_dict()
    path = save({"student": at("backbone.", state), "teacher": at("backbone.", other(state))}, tmp_path)
    same_as(net, load_backbone(f"test_resnet={path}:student"))
    path = save({"model": other(state), "model_ema": at("module.", state)}, tmp_path)
    same_as(net, load_backbone(f"test_resnet={path}:model_ema"))
    path = save({"state_dict": at("encoder_q.", other(state)) | at("module.encoder_k.", state)}, tmp_path)
    same_as(net, load_backbone(f"test_resnet={path}:encoder_k"))
    same_as(
        net, load_backbone(f"test_resnet={save(at('mine.net.', state) | some('decode_head.w'), tmp_path)}:mine.net")
    )
    backbone = Backbone("test_resnet")
    init_backbone(backbone, f"{path}:mine.net")
    same_as(net, backbone)
    with pytest.raises(UserError, match=r"under yours\. there is no backbone of a known layout"):
        load_backbone(f"test_resnet={path}:yours")


def refused(content: Any, folder: Path, message: str, spec: str = "test_resnet={}") -> None:
    path = save(content, folder)
    with pytest.raises(UserError, match=message) as error:
        load_backbone(spec.format(path))
    assert str(path) in str(error.value)


DETECTOR = some("res2.0.conv1.weight")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda s: at("module.encoder_k.", s) | some("module.queue"),
            r"holds no backbone of a known layout; its keys begin encoder_k\.c.*there is one at .*w\.pth:encoder_k$",
        ),
        (lambda s: {"state_dict": at("momentum_backbone.", s)}, "holds no backbone .*keys begin momentum_backbone"),
        (
            lambda s: renamed(s, [("^layer", "backbone.layer")]),
            "beside the backbone .backbone.. are .*: conv1.0.weight",
        ),
        (lambda s: {k: v for k, v in body(s).items() if "layer3.0" not in k}, r"missing: layer3\.0\.conv1\.weight"),
        (lambda s: s | {k.replace("layer4.0", "layer4.1"): v for k, v in s.items()}, r"unexpected: layer4\.1\.conv1"),
        (lambda s: {k: v for k, v in s.items() if k != "layer2.0.bn1.running_var"}, r"1 missing: layer2\.0\.bn1\.run"),
        (lambda s: s | {"module.bn1.bias": s["bn1.bias"]}, "two keys are called 'bn1.bias' once 'module.'"),
        (
            lambda s: at("encoder_q.", s) | some("encoder_q.module.conv1.0.weight"),
            "two keys are called 'conv1.0.weight'",
        ),
        (
            lambda s: at("backbone.", body(s)) | some("decode_head.conv.weight"),
            r"left out: decode_head.*w\.pth:backbone takes it",
        ),
        (lambda s: at("backbone.", body(s)) | at("encoder_q.0.", other(body(s))), "is no copy of backbone.conv1.0"),
        (
            lambda s: {"state_dict": s, "model": other(s)},
            r"holds state_dict and model: /\S+/w\.pth:state_dict or /\S+/w\.pth:model says",
        ),
        (lambda s: {"module": {key: torch.ones(0) for key in s}}, "is empty: a part of a ZeRO-3 or sharded checkpoint"),
        (lambda s: s | {"extra.weight": torch.ones(1)}, "1 unexpected: extra.weight"),
        (lambda s: some("rpn.head.conv.weight", "roi_heads.box_predictor.cls_score.weight"), "holds no backbone"),
        (
            lambda s: {"optimizer": {"state": {}, "param_groups": []}, "epoch": 3},
            "no state dict.*has: optimizer, epoch",
        ),
        (lambda s: {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []}, "no state dict.*has: state, param_"),
        (lambda s: timm.create_model("test_convnext").state_dict(), "0 of 90 tensors fit; 90 missing"),
        (lambda s: at("backbone.bottom_up.", DETECTOR), r"BGR from 0 to 255.*w\.pth:backbone\.bottom_up says so"),
        (lambda s: {"model": DETECTOR, "__author__": "Caffe2"}, "weights of Caffe2"),
        (lambda s: {"state_dict": s, "meta": {"config": "dict(depth=50, style='caffe')"}}, "mmpretrain's style caffe"),
    ],
)
def test_what_leaves_a_doubt_is_refused(build: Any, message: str, net: Any, tmp_path: Path) -> None:
    refused(build(net.state_dict()), tmp_path, message)


def test_a_detector_that_reads_rgb_has_to_be_declared(tmp_path: Path) -> None:
    net = scatter(timm.create_model("resnet18", num_classes=0))
    rules = [
        (r"^(conv1|bn1)\.", r"stem.\1."),
        *((rf"^layer{i}\.", f"res{i + 1}.") for i in (1, 2, 3, 4)),
        (r"\bbn(\d)\.", r"conv\1.norm."),
        (r"downsample\.0\.", "shortcut."),
        (r"downsample\.1\.", "shortcut.norm."),
    ]
    state = {key: tensor for key, tensor in net.state_dict().items() if "num_batches" not in key}
    detector = at("backbone.bottom_up.", renamed(state, rules))
    path = save({"model": detector | some("proposal_generator.rpn_head.conv.weight", "pixel_mean")}, tmp_path)
    with pytest.raises(UserError, match=r"w\.pth:backbone\.bottom_up says so"):
        load_backbone(path)
    backbone = load_backbone(f"{path}:backbone.bottom_up")
    for key, tensor in state.items():
        assert torch.equal(backbone.net.state_dict()[key], tensor), key
    assert "20 num_batches_tracked set to 0" in str(backbone.metadata["import"])
