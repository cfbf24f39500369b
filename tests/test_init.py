"""Weights that come from elsewhere: equal to their own network's maps, or refused with the keys."""

import argparse
import os
import pickle
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from weights import image, scatter, timm_maps

from densessl.backbone_file import IMAGENET, init_backbone, save_backbone
from densessl.backbones import Backbone
from densessl.errors import UserError


def torchvision_maps(net: nn.Module, x: Tensor) -> list[Tensor]:
    """Stage maps of torchvision's networks by their own children, one after the other."""
    maps = []
    if isinstance(net, torchvision.models.ConvNeXt):
        for index, layer in enumerate(net.features):
            x = layer(x)
            if index % 2:
                maps.append(x)
        return maps
    for name, child in net.named_children():
        if name == "avgpool":
            return maps
        x = child(x)
        if name.startswith("layer"):
            maps.append(x)
    raise AssertionError("no avgpool")


FOREIGN: dict[str, tuple[str, Callable[[], nn.Module], Callable[[Any, Tensor], list[Tensor]], str]] = {
    "torchvision ConvNeXt": (
        "convnext_tiny",
        torchvision.models.convnext_tiny,
        torchvision_maps,
        "18 blocks.*dropped cl",
    ),
    "torchvision ResNet": ("resnet18", torchvision.models.resnet18, torchvision_maps, r"dropped fc\.\* \(2\)"),
    "timm ConvNeXt": (
        "convnext_atto",
        lambda: timm.create_model("convnext_atto"),
        timm_maps,
        "12 blocks.*dropped head",
    ),
    "timm ConvNeXt, norm first": (
        "convnext_atto",
        lambda: timm.create_model("convnext_atto", num_classes=0, head_norm_first=True),
        timm_maps,
        "12 blocks",
    ),
    "timm ResNet": (
        "resnet18d",
        lambda: timm.create_model("resnet18d", num_classes=7),
        timm_maps,
        r"dropped fc\.\* \(2\)",
    ),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_foreign_weights_give_the_maps_of_their_own_network(case: str, tmp_path: Path) -> None:
    name, build, stages, remark = FOREIGN[case]
    net = scatter(build())
    torch.save(
        {
            "epoch": 3,
            "args": argparse.Namespace(lr=1),
            "state_dict": {f"module._orig_mod.{k}": v for k, v in net.state_dict().items()},
        },
        tmp_path / "w.pth",
    )
    backbone = Backbone(name)
    with pytest.raises(AssertionError):  # so that the equality below says something
        torch.testing.assert_close(backbone.eval().stages(image(64, 64)), stages(net, image(64, 64)), rtol=0, atol=1e-2)
    report = init_backbone(backbone, tmp_path / "w.pth")
    assert len(report.splitlines()) == 1
    assert re.search(remark, report), report
    with torch.inference_mode():
        for size in ((64, 64), (97, 75)):
            for ours, theirs in zip(backbone.stages(image(*size)), stages(net, image(*size)), strict=True):
                assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_init_takes_safetensors_a_model_entry_and_a_backbone_file(tmp_path: Path) -> None:
    source, path = Backbone("convnext_atto"), tmp_path / "backbone.safetensors"
    state = scatter(source.net).state_dict()
    save_backbone(path, source, **IMAGENET, method="vicregl", step=12)
    save_file(state, tmp_path / "w.safetensors")
    torch.save({"model": state}, tmp_path / "w.pt")
    for file in (path, tmp_path / "w.safetensors", tmp_path / "w.pt"):
        backbone = Backbone("convnext_atto")
        init_backbone(backbone, file)
        for key, tensor in state.items():
            assert torch.equal(backbone.net.state_dict()[key], tensor), key


def test_counters_that_old_files_lack_are_filled_and_named(tmp_path: Path) -> None:
    state = torchvision.models.resnet18().state_dict()
    torch.save({key: value for key, value in state.items() if "num_batches" not in key}, tmp_path / "w.pth")
    assert "20 num_batches_tracked set to 0" in init_backbone(Backbone("resnet18"), tmp_path / "w.pth")


@cache
def resnet18() -> Backbone:
    return Backbone("resnet18")


def resnet_state(**changes: Any) -> dict[str, Any]:
    return {**resnet18().net.state_dict(), **changes}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: timm.create_model("resnet34").state_dict(), "96 unexpected: layer1.2.conv1.weight"),
        (
            lambda: timm.create_model("convnext_atto").state_dict(),
            "0 of 120 tensors fit; 120 missing: conv1.weight.*unexp",
        ),
        (
            lambda: resnet_state(**{"conv1.weight": torch.ones(64, 1, 7, 7)}),
            "conv1.weight is 64x1x7x7 instead of 64x3x7x7",
        ),
        (lambda: {k: v for k, v in resnet_state().items() if "layer3.1" not in k}, "missing: layer3.1.conv1.weight"),
        (
            lambda: {k.replace("layer1", "layerX"): v for k, v in resnet_state().items()},
            "no backbone of a known layout.*conv1.weight",
        ),
        (lambda: resnet_state(extra=torch.ones(1)), "1 unexpected: extra"),
        (lambda: resnet_state(**{"module.conv1.weight": torch.ones(1)}), "two keys are called 'conv1.weight'"),
        (lambda: resnet_state(step=3), "'step' is a int"),
        (lambda: {}, "holds no state dict"),
        (lambda: [1, 2], "holds no state dict"),
    ],
)
def test_weights_that_do_not_fit_are_refused_with_their_keys(
    content: Callable[[], Any], message: str, tmp_path: Path
) -> None:
    torch.save(content(), tmp_path / "w.pth")
    backbone = resnet18()
    before = {key: value.clone() for key, value in backbone.net.state_dict().items()}
    with pytest.raises(UserError, match=message):
        init_backbone(backbone, tmp_path / "w.pth")
    assert all(torch.equal(before[key], value) for key, value in backbone.net.state_dict().items())


def test_layer_scale_of_part_of_the_blocks_is_refused(tmp_path: Path) -> None:
    state = timm.create_model("convnext_atto", num_classes=0).state_dict()
    state["stages.0.blocks.0.gamma"] = torch.ones(3)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"1 unexpected: stages\.0\.blocks\.0\.gamma"):
        init_backbone(Backbone("convnext_atto"), tmp_path / "w.pth")


def test_a_backbone_file_of_another_network_with_the_same_keys_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "b.safetensors"
    other = Backbone("resnetblur18")
    assert other.net.state_dict().keys() == resnet_state().keys()
    save_backbone(path, other, **IMAGENET, method="m", step=0)
    with pytest.raises(UserError, match="a resnetblur18; the backbone to fill is a resnet18"):
        init_backbone(resnet18(), path)


class Trap:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["TRAP"],)


@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_no_code_of_a_pickle_runs(save: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAP", str(tmp_path / "sprung"))
    save({"state_dict": resnet_state(), "hook": Trap()}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="can run code"):
        init_backbone(resnet18(), tmp_path / "w.pth")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("length", [0, 100, 5000])
def test_a_cut_state_dict_is_refused(length: int, tmp_path: Path) -> None:
    torch.save(resnet_state(), tmp_path / "w.pth")
    (tmp_path / "w.pth").write_bytes((tmp_path / "w.pth").read_bytes()[:length])
    with pytest.raises(UserError, match=r"no whole file of torch\.save|the file is empty"):
        init_backbone(resnet18(), tmp_path / "w.pth")
