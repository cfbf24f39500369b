"""Decoders on our maps, and a backbone that is fine-tuned with its head."""

import copy

import pytest
import segmentation_models_pytorch as smp
import torch
from test_segmentation_linear import Blocks
from torch import nn
from torch.nn import functional as F

from densessl.backbone_file import load_backbone
from densessl.errors import UserError
from densessl.segmentation import evaluation, linear
from densessl.segmentation.decoders import DecoderHead
from densessl.segmentation.evaluation import evaluate
from densessl.segmentation.heads import LinearHead
from densessl.segmentation.protocols import find_protocol

SHORT = ["iterations=3", "batch=2", "crop=[64, 64]"]
WHOLE = {"fpn": (smp.FPN, 32), "upernet": (smp.UPerNet, 32), "deeplabv3plus": (smp.DeepLabV3Plus, 16)}


@pytest.mark.parametrize("name", WHOLE)
def test_a_decoder_says_what_the_librarys_whole_network_says(name: str) -> None:
    """Our ResNet-18 and head against smp's ResNet-18 with the same weights: features in the same order and scale."""
    network, stride = WHOLE[name]
    torch.manual_seed(0)
    backbone = load_backbone("resnet18", output_stride=stride)
    theirs = network("resnet18", encoder_weights=None, classes=5).eval()
    theirs.encoder.load_state_dict(backbone.net.state_dict())
    head = DecoderHead(name, backbone.channels, backbone.strides, 5).eval()
    head.decoder.load_state_dict(theirs.decoder.state_dict())
    head.classify.load_state_dict(theirs.segmentation_head[0].state_dict())
    image = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        ours = head(backbone.stages(image))
        assert ours.shape == (2, 5, 24, 16)
        up = theirs.segmentation_head[1]
        torch.testing.assert_close(up(ours), theirs(image), rtol=1e-4, atol=1e-5)


def test_strides_a_decoder_is_not_made_for_are_refused() -> None:
    backbone = load_backbone("test_resnet", output_stride=8)
    with pytest.raises(UserError, match=r"decoder=fpn reads maps of strides \(4, 8, 16, 32\); this backbone's are"):
        DecoderHead("fpn", backbone.channels, backbone.strides, 3)


def test_a_linear_head_passes_the_gradient_of_batch_statistics_on() -> None:
    """Against maps enlarged, concatenated and given to torch's own BatchNorm and convolution."""
    torch.manual_seed(0)
    maps = [torch.randn(2, c, s, s, dtype=torch.float64, requires_grad=True) for c, s in ((3, 8), (4, 4))]
    head = LinearHead([3, 4], 5).double()
    norm = nn.BatchNorm2d(7).double()
    weights = torch.randn(2, 5, 8, 8, dtype=torch.float64)
    ours = torch.autograd.grad((head(maps) * weights).sum(), maps)
    whole = torch.cat([F.interpolate(m, (8, 8), mode="bilinear") for m in maps], 1)
    theirs = torch.autograd.grad((F.conv2d(norm(whole), head.classify.weight) * weights).sum(), maps)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(head.norm.running_var, norm.running_var)


@pytest.mark.parametrize("name", ["test_convnext", "test_resnet"])
def test_fine_tuning_trains_a_copy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def fit(backbone, *rest):
        seen.append(backbone)
        return linear.fit(backbone, *rest)

    monkeypatch.setitem(evaluation.FITS, type(find_protocol("linear_small")), fit)
    backbone = load_backbone(name)
    before = copy.deepcopy(backbone.state_dict())
    protocol = find_protocol("linear_small", [*SHORT, "backbone_lr=1e-3"])
    evaluate(backbone, Blocks("train"), Blocks("val", count=2), protocol)
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert all(p.grad is None for p in backbone.parameters())
    (copied,) = seen
    assert not copied.training
    moved = [key for key, value in copied.net.named_parameters() if not torch.equal(value, before[f"net.{key}"])]
    assert set(moved) >= {key for key, _ in copied.net.named_parameters() if not key.startswith("norm_pre.")}


def test_one_fine_tuning_step_is_plain_sgd(monkeypatch: pytest.MonkeyPatch) -> None:
    """One step against the same written out: head at lr, backbone at backbone_lr, one loss."""
    changes = [*SHORT, "iterations=1", "optimizer=sgd", "lr=0.5", "backbone_lr=0.1", "weight_decay=0", "flip=0"]
    protocol = find_protocol("linear_small", changes)
    data, device = Blocks("train"), torch.device("cpu")
    backbone = load_backbone("test_resnet")
    twin = copy.deepcopy(backbone).train()
    torch.manual_seed(0)
    head, _ = linear.fit(backbone, data, protocol, 0, device, 0)
    torch.manual_seed(0)
    own = LinearHead(twin.channels, 3)
    samples = linear.TrainingSamples(data, protocol, 0, *linear.normalisation(twin))
    images, masks = (torch.stack(part) for part in zip(samples[0], samples[1], strict=True))
    logits = F.interpolate(own(twin.stages(images)), masks.shape[1:], mode="bilinear")
    F.cross_entropy(logits, masks, ignore_index=255).backward()
    for module, lr, found in ((own, 0.5, head), (twin, 0.1, backbone)):
        for key, parameter in module.named_parameters():
            moved = parameter.detach() - (0 if parameter.grad is None else lr * parameter.grad)
            torch.testing.assert_close(found.get_parameter(key).detach(), moved, rtol=1e-4, atol=1e-6, msg=key)
