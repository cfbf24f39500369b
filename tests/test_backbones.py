"""The contract of a backbone, and what timm hides."""

import shutil

import pytest
import timm
import torch

from densessl.backbones import Backbone, pooled
from densessl.errors import UserError
from densessl.timm_names import check_name, network_names

NAMES = ["convnext_atto", "convnextv2_atto", "resnet18", "resnet50", "test_resnet"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [64, 97])
def test_maps_have_the_channels_and_strides_they_say(name: str, size: int) -> None:
    backbone = Backbone(name).eval()
    maps = backbone(torch.randn(1, 3, size, size))
    assert [m.shape[1] for m in maps] == list(backbone.channels)
    for features, stride in zip(maps, backbone.strides, strict=True):
        assert features.shape[2] in (size // stride, -(-size // stride))
    assert pooled(maps[-1]).shape == (1, backbone.channels[-1])
    assert backbone.strides == (4, 8, 16, 32)


@pytest.mark.parametrize("name", ["convnext_atto", "convnext_tiny"])
def test_convnext_has_no_layer_scale(name: str) -> None:
    """Were it left at timm's 1e-6, the blocks would do next to nothing and the maps of two stages be nearly linear."""
    backbone = Backbone(name)
    assert not [key for key in backbone.state_dict() if "gamma" in key]
    reference = timm.create_model(name, num_classes=0)
    state = {key.replace("norm_pre", "head.norm"): value for key, value in backbone.net.state_dict().items()}
    gammas = {key: torch.ones_like(value) for key, value in reference.state_dict().items() if key.endswith("gamma")}
    reference.load_state_dict(state | gammas)
    image = torch.randn(1, 3, 64, 64)
    expected = reference.eval().forward_intermediates(image, intermediates_only=True)
    for ours, theirs in zip(backbone.eval().stages(image), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_the_final_norm_stands_before_the_mean() -> None:
    backbone = Backbone("convnext_atto").eval()
    torch.nn.init.normal_(backbone.net.norm_pre.weight)
    image = torch.randn(2, 3, 64, 64)
    raw = backbone.stages(image)[-1].permute(0, 2, 3, 1)
    weight, bias = backbone.net.norm_pre.weight, backbone.net.norm_pre.bias
    normed = torch.nn.functional.layer_norm(raw, (raw.shape[-1],), weight, bias, 1e-6)
    torch.testing.assert_close(pooled(backbone(image)[-1]), normed.mean((1, 2)))


def test_resnet_maps_are_torchvisions() -> None:
    torchvision = pytest.importorskip("torchvision")
    backbone = Backbone("resnet18").eval()
    reference = torchvision.models.resnet18().eval()
    reference.fc = torch.nn.Identity()
    reference.load_state_dict(backbone.net.state_dict())
    image = torch.randn(2, 3, 97, 97)
    torch.testing.assert_close(pooled(backbone(image)[-1]), reference(image))


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto"])
def test_output_stride_8_keeps_the_weights_and_refines_the_maps(name: str) -> None:
    backbone = Backbone(name, output_stride=8)
    assert backbone.strides == (4, 8, 8, 8)
    backbone.load_state_dict(Backbone(name).state_dict())
    assert backbone.stages(torch.randn(1, 3, 64, 64))[-1].shape[2:] == (8, 8)


def test_dilations_of_resnet50_at_output_stride_8() -> None:
    """Strides 1, 2, 1, 1 and dilations 1, 1, 2, 4, as VICRegL's segmentation has them."""
    net = Backbone("resnet50", output_stride=8).net
    assert [getattr(net, f"layer{n}")[-1].conv2.dilation[0] for n in (1, 2, 3, 4)] == [1, 1, 2, 4]


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet18d", "resnetblur18", "test_resnet"])
def test_a_small_stem_keeps_the_size_of_the_picture(name: str) -> None:
    backbone = Backbone(name, stem="small", in_chans=4)
    maps = backbone.eval()(torch.randn(2, 4, 32, 32))
    assert backbone.strides == (1, 2, 4, 8)
    assert [m.shape[2] for m in maps] == [32, 16, 8, 4]
    assert [m.shape[1] for m in maps] == list(backbone.channels) == list(Backbone(name).channels)
    conv = backbone.net.conv1
    assert (conv.kernel_size, conv.stride, conv.padding, conv.bias) == ((3, 3), (1, 1), (1, 1), None)
    assert conv.weight.std().item() == pytest.approx((2 / (9 * conv.out_channels)) ** 0.5, rel=0.1)


def test_a_small_stem_is_torchvisions_resnet_as_papers_change_it() -> None:
    torchvision = pytest.importorskip("torchvision")
    reference = torchvision.models.resnet18().eval()
    reference.conv1 = torch.nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
    reference.maxpool = reference.fc = torch.nn.Identity()
    backbone = Backbone("resnet18", stem="small").eval()
    backbone.net.load_state_dict(reference.state_dict())
    image = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(pooled(backbone(image)[-1]), reference(image))


def test_output_stride_8_is_that_of_a_small_stem() -> None:
    assert Backbone("resnet18", stem="small", output_stride=8).strides == (1, 2, 4, 8)
    with pytest.raises(UserError, match="small stem: its output stride is 8 as it is, and can't be 16"):
        Backbone("resnet18", stem="small", output_stride=16)


@pytest.mark.parametrize(
    ("name", "stem", "message"),
    [
        ("convnext_atto", "small", "convnext_atto begins with patches; only a ResNet can have a small stem"),
        ("resnet18", "tiny", "'tiny' is neither imagenet nor small"),
    ],
)
def test_other_stems_are_refused(name: str, stem: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Backbone(name, stem=stem)  # type: ignore[arg-type]


def test_drop_path_and_channels() -> None:
    backbone = Backbone("convnext_atto", drop_path=0.3, in_chans=5)
    assert backbone.net.stages[-1].blocks[-1].drop_path.drop_prob == pytest.approx(0.3)
    assert backbone(torch.randn(1, 5, 64, 64))[0].shape[1] == 40


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("convnext_smal", "nearest: convnext_small"),
        ("vit_tiny_patch16_224", "is a vision transformer; densessl pretrains ConvNeXts and ResNets"),
        ("swin_tiny_patch4_window7_224", "no ConvNeXt or ResNet"),
        ("", "see timm"),
    ],
)
def test_other_networks_are_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Backbone(name)


def test_names_read_in_timms_source_are_those_of_its_registry() -> None:
    families = {"timm.models.convnext", "timm.models.resnet"}
    truth = {name for name in timm.list_models() if timm.model_entrypoint(name).__module__ in families}
    assert set(network_names()) == {name for name in truth if name.startswith(("convnext", "resnet", "test_"))}
    for name in ("resnet50.a1_in1k", "convnext_tiny_in22k"):  # a tag, and a name that timm has given up
        assert timm.is_model(name)
        assert check_name(name) == name
    with pytest.raises(ValueError, match="'resnetv2_50' is no ConvNeXt or ResNet of timm; nearest: "):
        check_name("resnetv2_50")


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("name", ["convnext_atto", "test_resnet"])
def test_compiled_blocks_train_on_maps_of_several_sizes(name: str) -> None:
    """Of a block each of two stages, which share their code: the second has other sizes, as small crops have too."""
    torch.manual_seed(0)
    net = (backbone := Backbone(name)).net
    convnext = "convnext" in name
    first, second = (stage.blocks for stage in net.stages[:2]) if convnext else (net.layer1, net.layer2)
    widths = backbone.channels[:2] if convnext else (32, 32)
    backbone.eval().compile_blocks()
    for block, width, side in zip((first[0], second[-1]), widths, (4, 2), strict=True):
        image = torch.randn(4, width, side, side, requires_grad=True)
        made = block(image)
        (compiled,) = torch.autograd.grad(made.square().sum(), image)
        with torch.compiler.set_stance("force_eager"):
            expected = block(image)
            torch.testing.assert_close(made, expected)
            torch.testing.assert_close(compiled, torch.autograd.grad(expected.square().sum(), image)[0])
