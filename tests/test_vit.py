"""Vision transformers of timm as far as their maps go."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from torch import nn
from weights import image, scatter

from densessl.backbone_file import IMAGENET, load_backbone, save_backbone
from densessl.backbones import Backbone, pooled
from densessl.commands import export as export_command
from densessl.errors import UserError
from densessl.methods import METHODS
from densessl.segmentation.inference import dense_logits
from densessl.vit import ViT, network

NAMES = ["test_vit", "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "vit_small_patch14_reg4_dinov2"]


def blockwise(net: Any, x: torch.Tensor) -> list[torch.Tensor]:
    """Tokens after each block, by hand, without those that stand for no place."""
    height, width = x.shape[2] // net.patch_embed.patch_size[0], x.shape[3] // net.patch_embed.patch_size[1]
    tokens = net.patch_embed.proj(x).flatten(2).transpose(1, 2)
    first = [net.cls_token] + ([net.dist_token] if hasattr(net, "dist_token") else [])
    count = 0 if net.no_embed_class else len(first)
    grid = net.patch_embed.grid_size
    places = resample_abs_pos_embed(net.pos_embed, [height, width], grid, num_prefix_tokens=count)
    places = nn.functional.pad(places, (0, 0, len(first) - count, 0)) if not count else places
    tokens = torch.cat([*(token.expand(len(x), -1, -1) for token in first), tokens], 1) + places
    if net.reg_token is not None:
        tokens = torch.cat([tokens[:, :1], net.reg_token.expand(len(x), -1, -1), tokens[:, 1:]], 1)
    maps = []
    for block in net.blocks:
        tokens = block(tokens)
        maps.append(tokens[:, -height * width :].transpose(1, 2).unflatten(2, (height, width)))
    return maps


@pytest.mark.parametrize("name", NAMES)
def test_four_maps_of_one_stride_are_those_after_each_quarter_of_the_blocks(name: str) -> None:
    backbone = load_backbone(name)
    scatter(backbone.net)
    assert isinstance(backbone, ViT)
    patch = backbone.net.patch_embed.patch_size[0]
    assert backbone.strides == (patch,) * 4
    assert backbone.channels == (backbone.net.embed_dim,) * 4
    assert (backbone.output_stride, backbone.batch_norm, backbone.metadata["method"]) == (32, False, "random")
    x = image(6 * patch, 9 * patch)
    with torch.inference_mode():
        maps, truth = backbone.stages(x), blockwise(backbone.net, x)
        quarter = len(backbone.net.blocks) / 4
        for ours, index in zip(maps, (int(quarter * n) - 1 for n in (1, 2, 3, 4)), strict=True):
            torch.testing.assert_close(ours, truth[index], rtol=0, atol=1e-4)
        normed = nn.functional.layer_norm(
            maps[-1].permute(0, 2, 3, 1), maps[-1].shape[1:2], *backbone.net.norm.parameters(), backbone.net.norm.eps
        )
        last = backbone(x)
        torch.testing.assert_close(last[-1], normed.permute(0, 3, 1, 2))
        torch.testing.assert_close(pooled(last[-1]), normed.mean((1, 2)))
        torch.testing.assert_close(last[:3], maps[:3])


@pytest.mark.parametrize(
    "name", ["vit_small_patch16_dinov3", "vit_base_patch16_siglip_gap_224", "vit_tiny_r_s16_p8_224"]
)
def test_other_kinds_have_maps_as_well(name: str) -> None:
    backbone = network(name).eval()
    step = backbone.strides[0]
    with torch.inference_mode():
        maps = backbone(image(2 * step, 3 * step))
    assert [tuple(m.shape) for m in maps] == [(2, backbone.channels[0], 2, 3)] * 4
    assert maps[-1].square().mean() == pytest.approx(1, abs=0.1)  # normed


@pytest.mark.parametrize("name", NAMES[:2])
def test_pictures_of_any_size_get_logits(name: str) -> None:
    class Head(nn.Module):
        def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
            return maps[0][:, :5]

    for height, width in ((33, 50), (16, 16), (97, 64)):
        logits = dense_logits(load_backbone(name), Head(), image(height, width))
        assert logits.shape == (2, 5, height, width)
    with pytest.raises(UserError, match="sides are multiples of 16, not 50x33"):
        load_backbone(name).stages(image(33, 50))


def test_a_file_of_a_named_vit_is_that_network(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    net = scatter(timm.create_model("test_vit", num_classes=10, dynamic_img_size=True))
    net.cls_token.data.normal_()
    x = image(64, 96)
    with torch.inference_mode():
        truth = net.norm(net.forward_intermediates(x, indices=1, intermediates_only=True)[0].permute(0, 2, 3, 1))
    state = net.state_dict()
    save_file(state, tmp_path / "w.safetensors")
    teacher = {f"module.backbone.{key}": value for key, value in state.items()}
    student = {key: value + 1 for key, value in teacher.items()}
    torch.save({"student": student, "teacher": teacher, "epoch": 1}, tmp_path / "w.pth")
    for name in ("w.safetensors", "w.pth"):
        backbone = load_backbone(f"test_vit={tmp_path / name}")
        assert backbone.metadata["mean"] == IMAGENET["mean"]
        with torch.inference_mode():
            torch.testing.assert_close(backbone(x)[-1].permute(0, 2, 3, 1), truth, rtol=0, atol=1e-4)
    assert "dropped head.* (2)): test_vit" in caplog.messages[0]
    assert "(ViT in teacher, backbone; dropped head" in caplog.messages[1]


def test_timms_tag_tells_the_mean_and_std(tmp_path: Path) -> None:
    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "w.safetensors")
    assert load_backbone(f"test_vit.r160_in1k={tmp_path / 'w.safetensors'}").metadata["std"] == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("size", [96, 224])
def test_a_position_embedding_of_another_size_is_resampled_by_timm(
    size: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    net = timm.create_model("test_vit", img_size=size, num_classes=0)
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    backbone = load_backbone(f"test_vit={tmp_path / 'w.safetensors'}")
    assert f"position embedding resampled from {size // 16}x{size // 16} to 10x10" in caplog.messages[0]
    resampled = resample_abs_pos_embed(net.pos_embed, [10, 10])
    assert torch.equal(backbone.net.pos_embed, resampled)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("blocks.3.attn.qkv.weight"), r"1 missing: blocks\.3\.attn\.qkv\.weight"),
        (lambda state: state.update(extra=torch.ones(1)), "1 unexpected: extra"),
        (lambda state: state.update(pos_embed=torch.ones(1, 7, 64)), "pos_embed is 1x7x64 instead of 1x101x64"),
        (lambda state: state.update({"norm.weight": torch.ones(3)}), "norm.weight is 3 instead of 64"),
    ],
)
def test_a_vit_that_does_not_fit_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    state = timm.create_model("test_vit", num_classes=0).state_dict()
    change(state)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=message):
        load_backbone(f"test_vit={tmp_path / 'w.safetensors'}")


def test_what_a_vit_cannot_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(timm.create_model("test_vit").state_dict(), path)
    with pytest.raises(UserError, match="a ViT, whose number of heads no shape shows: NAME=FILE"):
        load_backbone(path)
    with pytest.raises(UserError, match="the stride of a ViT is its patch; output stride 8 is for Conv"):
        load_backbone(f"test_vit={path}", output_stride=8)
    for name, message in {
        "vit_base_patch16_xyz": "is no vision transformer of timm",
        "vit_relpos_small_patch16_224": "is a VisionTransformerRelPos, not a|can't take pictures of any size",
    }.items():
        with pytest.raises(UserError, match=message):
            load_backbone(name)
    with pytest.raises(UserError, match="only ConvNeXts and ResNets are exported"):
        export_command.main([f"test_vit={path}", "--to", "timm"])


@pytest.mark.parametrize("method", ["vicreg", "vicregl"])
def test_densessl_pretrains_no_vit(method: str) -> None:
    with pytest.raises(UserError, match="densessl pretrains ConvNeXts and ResNets"):
        METHODS[method](Backbone("test_vit"))


def test_a_vit_can_be_kept_as_a_backbone_file(tmp_path: Path) -> None:
    backbone = load_backbone("test_vit")
    save_backbone(tmp_path / "b.safetensors", backbone, **IMAGENET, method="random", step=0)
    again = load_backbone(tmp_path / "b.safetensors")
    assert torch.equal(again(image(32, 32))[-1], backbone(image(32, 32))[-1])
