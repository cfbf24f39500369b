"""The detectors are torchvision's, and what they get is our backbone's."""

import copy

import pytest
import torch
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign
from weights import scatter

from densessl.backbone_file import load_backbone
from densessl.backbones import Backbone
from densessl.detection.detector import Pyramid, backbone_parts, build, detect, draws_of, seed_pictures, training_mode
from densessl.detection.draws import DrawnSides, Draws
from densessl.detection.protocols import PROTOCOLS, digest, find_protocol, label
from densessl.errors import UserError

# A named protocol never changes: where one of these differs, give the new settings a new name.
FROZEN = {
    "coco_1x": "f8833285",
    "coco_2x": "d28021ba",
    "voc0712_24k": "cd3a15bb",
    "det_small": "9d38673a",
}
SMALL = ["sides=[96]", "channels=32", "hidden=32"]
C4 = find_protocol("voc0712_24k", ["sides=[64]", "pre_nms=[200, 100]", "post_nms=[50, 30]", "rois=16"])


def backbone(name="test_resnet", **metadata):
    net = scatter(load_backbone(name))
    assert isinstance(net, Backbone)
    net.metadata |= metadata
    return net


def target(*boxes, label=1, masks=None):
    corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    found = {"boxes": corners, "labels": torch.full((len(corners),), label)}
    return found | ({} if masks is None else {"masks": masks})


def test_named_protocols_are_frozen():
    assert {name: digest(protocol) for name, protocol in PROTOCOLS.items()} == FROZEN


def test_settings_are_shown_and_change_the_hash():
    changed = find_protocol("det_small", ["lr=0.5", "masks=false"])
    assert digest(changed) != FROZEN["det_small"]
    assert label(changed) == f"det_small with lr=0.5, masks=False [{digest(changed)}]"
    assert label(PROTOCOLS["det_small"]) == f"det_small [{FROZEN['det_small']}]"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["iteration=3"], "did you mean iterations"),
        (["iterations=100"], r"steps=\[800\] must rise and stay below iterations=100: set both"),
        (["steps=[9, 5]"], "must rise"),
        (["warmup=1000"], "warmup=1000 must be below iterations=1000"),
        (["sides=[400]"], "must not exceed longest=320"),
        (["channels=40"], "channels: .*multiple of 32"),
        (["anchors=[8, 16]"], "anchors: .*at least 5"),
        (["norm=layer"], "'none', 'batch' or 'group'"),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        find_protocol("det_small", changes)
    with pytest.raises(UserError, match="doesn't exist; there are coco_1x, coco_2x, voc0712_24k, det_small"):
        find_protocol("coco_3x")


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_the_pyramid_gets_our_maps_of_the_picture_normalised_as_metadata_say(name):
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    body = backbone(name, mean=mean, std=std)
    detector = build(copy.deepcopy(body), 3, find_protocol("det_small", SMALL)).eval()
    got = []
    detector.backbone.fpn.register_forward_pre_hook(lambda module, inputs: got.append(inputs[0]))
    picture = torch.rand(3, 96, 128, generator=torch.Generator().manual_seed(0))
    detect(detector, picture)
    normal = (picture - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    with torch.no_grad():
        want = body.stages(normal[None])
    assert list(got[0]) == ["0", "1", "2", "3"]
    for one, other in zip(got[0].values(), want, strict=True):
        assert one.abs().mean() > 1e-3
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_without_metadata_pictures_are_normalised_as_imagenet():
    body = Backbone("test_resnet")
    transform = build(body, 3, find_protocol("det_small", SMALL)).transform
    assert transform.image_mean == [0.485, 0.456, 0.406]
    assert transform.image_std == [0.229, 0.224, 0.225]


def test_the_detector_is_torchvisions_mask_rcnn():
    """Theirs, put together by its own constructor, takes the weights strictly and finds and loses the same."""
    protocol = find_protocol("det_small", [*SMALL, "norm=none", "score=0.01", "rois=500", "anchors_drawn=100000"])
    ours = build(backbone(), 3, protocol)
    torch.manual_seed(0)
    theirs = MaskRCNN(
        Pyramid(backbone(), 32, None),
        min_size=96,
        max_size=320,
        rpn_anchor_generator=AnchorGenerator(((16,), (32,), (64,), (128,), (256,)), ((0.5, 1.0, 2.0),) * 5),
        rpn_pre_nms_top_n_train=500,
        rpn_pre_nms_top_n_test=500,
        rpn_post_nms_top_n_train=200,
        rpn_post_nms_top_n_test=200,
        rpn_batch_size_per_image=100_000,
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2, canonical_scale=112, canonical_level=4),
        box_head=TwoMLPHead(32 * 49, 32),
        box_predictor=FastRCNNPredictor(32, 4),
        box_score_thresh=0.01,
        box_batch_size_per_image=500,
        mask_roi_pool=MultiScaleRoIAlign(["0", "1", "2", "3"], 14, 2, canonical_scale=112, canonical_level=4),
        mask_head=MaskRCNNHeads(32, (32,) * 4, 1),
        mask_predictor=MaskRCNNPredictor(32, 32, 4),
    )
    ours.load_state_dict(theirs.state_dict())
    picture = torch.rand(3, 80, 120, generator=torch.Generator().manual_seed(0))
    found, want = detect(ours.eval(), picture), theirs.eval()([picture])[0]
    assert len(want["boxes"]) > 5
    for key, value in want.items():
        torch.testing.assert_close(found[key], value.detach(), rtol=1e-5, atol=1e-5)
    masks = torch.zeros(1, 80, 120, dtype=torch.uint8)
    masks[0, 10:50, 20:70] = 1
    targets = [target((20, 10, 70, 50), masks=masks)]
    seed_pictures(ours.train(), [5])
    losses, wanted = ours([picture], targets), theirs.train()([picture], targets)  # all anchors and proposals are drawn
    assert losses.keys() == wanted.keys()
    for key, value in wanted.items():
        torch.testing.assert_close(losses[key], value, rtol=1e-4, atol=1e-5)


def test_c4_is_stage_three_and_then_stage_four_as_box_head():
    body = backbone()
    detector = build(copy.deepcopy(body), 3, C4).eval()
    picture = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        maps = body.stages(picture)
        found = detector.backbone(picture)
        torch.testing.assert_close(found, maps[2])
        head = detector.roi_heads.box_head
        torch.testing.assert_close(head.stage(found), maps[3])
        vectors = head(found)
        torch.testing.assert_close(vectors, (maps[3] / (1 + 1e-5) ** 0.5).mean((2, 3)))  # a new BatchNorm
    keys = [key for key in detector.state_dict() if "layer4" in key]
    assert not keys
    parts = {id(p) for part in backbone_parts(detector) for p in part.parameters()}
    assert len(parts) == len(list(body.parameters()))
    detector.train()
    seed_pictures(detector, [1, 2])
    losses = detector(list(picture), [target((5, 5, 40, 50)), target((20, 9, 60, 60))])
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters())


@pytest.mark.parametrize(
    ("make", "protocol", "message"),
    [
        (lambda: load_backbone("test_vit"), PROTOCOLS["det_small"], r"test_vit: .*strides 16, .*need 4, 8, 16, 32"),
        (
            lambda: Backbone("resnet18", stem="small"),
            PROTOCOLS["det_small"],
            r"have strides 1, 2, 4, 8; detectors need",
        ),
        (lambda: Backbone("test_resnet", output_stride=8), PROTOCOLS["coco_1x"], r"output stride 32"),
        (lambda: Backbone("test_resnet", in_chans=1), PROTOCOLS["coco_1x"], r"RGB pictures; this backbone takes 1"),
        (lambda: Backbone("test_convnext"), PROTOCOLS["voc0712_24k"], r"stage 4 of a ResNet .* for test_convnext"),
    ],
)
def test_backbones_that_do_not_fit_are_refused(make, protocol, message):
    with pytest.raises(UserError, match=message):
        build(make(), 3, protocol)


@pytest.mark.parametrize("box_head", ["2fc", "4conv1fc"])
@pytest.mark.parametrize("norm", ["none", "batch", "group"])
def test_heads_and_norms(box_head, norm):
    protocol = find_protocol("det_small", [*SMALL, f"box_head={box_head}", f"norm={norm}"])
    detector = build(backbone("test_convnext"), 3, protocol)
    kinds = {"batch": torch.nn.BatchNorm2d, "group": torch.nn.GroupNorm}
    found = {name.split(".")[0] for name, m in detector.named_modules() if isinstance(m, tuple(kinds.values()))}
    assert found == (set() if norm == "none" else {"backbone", "roi_heads"})
    counts = sum(isinstance(m, kinds[norm]) for m in detector.modules()) if norm in kinds else 0
    assert counts == (0 if norm == "none" else 8 + 4 + 4 * (box_head == "4conv1fc"))


def test_what_is_frozen_stays_in_eval_mode_and_without_gradient():
    def modes(*changes):
        detector = build(backbone(), 3, find_protocol("det_small", [*SMALL, *changes]))
        training_mode(detector, find_protocol("det_small", changes))
        body = detector.backbone.body
        norms = [m for m in body.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        others = [m for m in body.modules() if isinstance(m, torch.nn.Conv2d)]
        assert detector.roi_heads.training
        assert detector.rpn.head.training
        return [{m.training and m.weight.requires_grad for m in kind} for kind in (norms, others)]

    assert modes() == [{True}, {True}]
    assert modes("batch_norm=frozen") == [{False}, {True}]
    assert modes("backbone_lr=0") == [{False}, {False}]


def test_draws_are_torchvisions_and_each_pictures_own():
    labels = [torch.randint(-1, 2, (400,), generator=torch.Generator().manual_seed(i)) for i in range(3)]
    draws = Draws(60, 0.25)
    draws.seeds = [7, 8, 9]
    positive, negative = draws(labels)
    assert (draws.positive, draws.drawn) == (45, 180)
    for own, yes, no in zip(labels, positive, negative, strict=True):
        assert (yes.sum(), no.sum()) == (15, 45)
        assert (own[yes.bool()] == 1).all()
        assert (own[no.bool()] == 0).all()
    draws.seeds = [9, 7]
    again, _ = draws([labels[2], labels[0]])
    assert torch.equal(again[0], positive[2])
    assert torch.equal(again[1], positive[0])
    assert not torch.equal(positive[0], positive[1])


def test_sides_are_drawn_from_the_pictures_seed():
    transform = DrawnSides((64, 96, 128), 500, [0.0] * 3, [1.0] * 3).train()

    def side(seed):
        transform.seeds = iter([seed])
        return transform([torch.zeros(3, 40, 50)])[0].image_sizes[0][0]

    drawn = [side(seed) for seed in range(30)]
    assert set(drawn) == {64, 96, 128}
    assert drawn == [side(seed) for seed in range(30)]
    assert transform.eval()([torch.zeros(3, 40, 50)])[0].image_sizes[0][0] == 128  # the last one for tests


def test_pictures_without_objects_are_background():
    detector = build(backbone(), 3, find_protocol("det_small", [*SMALL, "norm=group"])).train()
    seed_pictures(detector, [1])
    masks = torch.zeros(0, 96, 96, dtype=torch.uint8)
    losses = detector([torch.rand(3, 96, 96)], [target(masks=masks)])
    assert all(value.isfinite() for value in losses.values())
    assert losses["loss_box_reg"] == losses["loss_mask"] == 0
    anchors, proposals = draws_of(detector)
    assert anchors.positive == proposals.positive == 0
