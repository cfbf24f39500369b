"""The evaluation end to end: it learns, it leaves the backbone alone, and what it writes is whole."""

import copy
import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from densessl.backbone_file import load_backbone, save_backbone
from densessl.backbones import Backbone
from densessl.commands.eval_seg import main
from densessl.errors import UserError
from densessl.segmentation.datasets import open_dataset
from densessl.segmentation.evaluation import evaluate
from densessl.segmentation.linear import head_loss, learning_rate
from densessl.segmentation.protocols import PROTOCOLS, find_protocol
from densessl.segmentation.samples import TrainingSamples

QUICK = ["iterations=5", "batch=4", "crop=[32, 32]"]
RED, GREEN, BLUE = (220, 40, 40), (40, 220, 40), (40, 40, 220)


class Blocks:
    """Pictures of coloured blocks; the mask is the colour."""

    title, classes, colors = "blocks", ("red", "green", "blue"), (RED, GREEN, BLUE)

    def __init__(self, split, count=8, size=(64, 48)):
        self.split, self.count, self.size = split, count, size

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        rng = np.random.default_rng((index, len(self.split)))
        mask = np.kron(rng.integers(0, 3, (self.size[0] // 16, self.size[1] // 16)), np.ones((16, 16))).astype(np.uint8)
        return np.asarray(self.colors, np.uint8)[mask], mask

    def name(self, index):
        return f"{self.split}{index}"

    def check(self):
        pass

    def write(self, root):
        for split in ("train", "val"):
            for kind in ("images", "masks"):
                (root / kind / split).mkdir(parents=True)
            for index in range(self.count):
                image, mask = Blocks(split)[index]
                Image.fromarray(image).save(root / "images" / split / f"{index}.png")
                Image.fromarray(mask).save(root / "masks" / split / f"{index}.png")
        (root / "classes.txt").write_text("\n".join(self.classes))
        return root


class Colors(Backbone):
    """Maps that hold the picture's colours, so that a linear head can be right everywhere."""

    def __init__(self):
        nn.Module.__init__(self)
        self.name, self.in_chans, self.output_stride = "colors", 3, 32
        self.channels, self.strides, self.metadata = (3, 3), (4, 8), {}
        self.anchor = nn.Parameter(torch.zeros(1))

    def stages(self, image):
        return [nn.functional.avg_pool2d(image, stride) for stride in self.strides]


@pytest.mark.parametrize("changes", [[], ["inference=slide", "window=32", "stride=20", "optimizer=sgd", "lr=0.3"]])
def test_the_head_learns_what_the_features_hold(changes):
    protocol = find_protocol("linear_small", ["iterations=120", "batch=4", "lr=0.03", "crop=[64, 48]", *changes])
    result = evaluate(Colors(), Blocks("train"), Blocks("val"), protocol)
    assert result.miou > 0.93
    assert result.confusion.sum() == 8 * 64 * 48  # every pixel of the labels, once
    chance = evaluate(Colors(), Blocks("train"), Blocks("val"), dataclasses.replace(protocol, iterations=1, lr=1e-6))
    assert chance.miou < 0.6


@pytest.mark.parametrize("name", ["convnext_atto", "test_resnet"])
def test_the_backbone_is_left_exactly_as_it_was(name):
    backbone = load_backbone(name).train()
    before = copy.deepcopy(backbone.state_dict())
    gradients = [parameter.requires_grad for parameter in backbone.parameters()]
    random = torch.random.get_rng_state()
    evaluate(backbone, Blocks("train"), Blocks("val"), find_protocol("linear_small", QUICK))
    assert backbone.training
    assert [parameter.requires_grad for parameter in backbone.parameters()] == gradients
    assert all(parameter.grad is None for parameter in backbone.parameters())
    assert torch.equal(random, torch.random.get_rng_state())
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_seed_gives_one_result_with_any_number_of_workers():
    protocol = find_protocol("linear_small", QUICK)

    def run(seed, workers=0):
        return evaluate(
            load_backbone("test_resnet"), Blocks("train"), Blocks("val"), protocol, seed=seed, workers=workers
        )

    first = run(0)
    assert torch.equal(first.confusion, run(0, workers=2).confusion)
    assert not torch.equal(first.confusion, run(1).confusion)


def test_every_epoch_holds_every_picture_once_in_its_own_order():
    samples = TrainingSamples(
        Blocks("train", count=7), find_protocol("linear_small", ["batch=7"]), 0, (0,) * 3, (1,) * 3
    )
    epochs = [[samples.index(7 * e + i) for i in range(7)] for e in range(3)]
    for number, epoch in enumerate(epochs):
        assert sorted(epoch) == [(number, i) for i in range(7)]
    assert len({tuple(i for _, i in epoch) for epoch in epochs}) == 3


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_protocol_runs_shortened(name):
    few = [
        "batch=2",
        "scale=[96, 64]",
        "crop=[64, 64]",
        "iterations=2",
        "warmup=0",
        "crops=8",
        "places=9",
        "clusters=3",
    ]
    known = PROTOCOLS[name].settings()
    protocol = find_protocol(name, [change for change in few if change.split("=")[0] in known])
    backbone = load_backbone("test_resnet", output_stride=protocol.output_stride)
    result = evaluate(backbone, Blocks("train"), Blocks("val", count=2), protocol)
    assert 0 <= result.miou <= 1
    assert all(math.isfinite(value) for value in result.fitted.values())


def test_schedule():
    vicregl, resnet = PROTOCOLS["vicregl_convnext"], PROTOCOLS["vicregl_resnet"]
    assert learning_rate(vicregl, 0) == pytest.approx(1e-4 / 1501)
    assert learning_rate(vicregl, 20_000) == pytest.approx(0.5e-4)
    assert learning_rate(resnet, 0) == 0.01
    assert learning_rate(resnet, 20_000) == pytest.approx((0.01 - 1e-4) * 0.5**0.9 + 1e-4)
    dinov3, leopart = PROTOCOLS["dinov3"], PROTOCOLS["leopart"]
    assert learning_rate(dinov3, 10_000) == pytest.approx(1e-3 * (0.5 + 0.5 * math.cos(math.pi / 4)))
    assert [learning_rate(leopart, i) for i in (0, 3306, 3308)] == pytest.approx([0.1, 0.1, 0.01])


def test_loss_leaves_out_ignored_pixels():
    logits, mask = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randint(0, 3, (2, 8, 8))
    mask[:, 4:] = 255
    large = nn.functional.interpolate(logits, (8, 8), mode="bilinear", align_corners=False)
    want = -large.log_softmax(1)[:, :, :4].gather(1, mask[:, None, :4]).mean()
    torch.testing.assert_close(head_loss(logits, mask), want)
    nothing = head_loss(logits, torch.full_like(mask, 255))
    nothing.backward()
    assert nothing == 0
    assert logits.grad.abs().max() == 0


def test_command_writes_results_beside_a_run(tmp_path, capsys):
    data, run = Blocks("train").write(tmp_path / "blocks"), tmp_path / "mine"
    backbone = load_backbone("convnext_atto", seed=5)
    save_backbone(run / "backbone.safetensors", backbone, mean=(0.5,) * 3, std=(0.2,) * 3, method="vicregl", step=7)
    args = ["--data", str(data), *QUICK, "--seeds", "2", "--workers", "0", "--device", "cpu"]
    assert main([str(run), *args]) == 0
    printed = capsys.readouterr().out
    (folder,) = (run / "segmentation").iterdir()
    assert folder.name.startswith("blocks-linear_small-")
    tables = ["results.csv", "results.json", "results.md"]
    assert sorted(file.name for file in folder.iterdir()) == ["confusion.png", "pictures.png", *tables]

    results = json.loads((folder / "results.json").read_text())
    protocol = find_protocol("linear_small", QUICK)
    assert results["protocol"]["settings"] == json.loads(json.dumps(protocol.settings()))
    assert results["protocol"]["hash"] in folder.name
    assert results["protocol"]["deviations"] == ["crop=(32, 32)", "batch=4", "iterations=5"]
    assert results["backbone"]["method"] == "vicregl"
    assert results["backbone"]["step"] == 7
    assert results["backbone"]["mean"] == [0.5] * 3
    assert [r["seed"] for r in results["seeds"]] == [0, 1]
    assert results["scores"]["miou"]["mean"] == pytest.approx(np.mean([r["miou"] for r in results["seeds"]]))
    assert results["data"]["val"] == {"split": "val", "pictures": 8}
    again = evaluate(load_backbone(str(run)), open_dataset(data, "train"), open_dataset(data, "val"), protocol, seed=1)
    assert results["seeds"][1]["confusion"] == again.confusion.tolist()

    table = (folder / "results.md").read_text()
    assert table in printed
    mean, std, low, high = (100 * results["scores"]["miou"][key] for key in ("mean", "std", "low", "high"))
    assert f"| **mIoU** | {mean:.1f} ± {std:.1f} [{low:.1f}, {high:.1f}] |" in table
    assert results["protocol"]["hash"] in table
    assert "iterations=5" in table
    with Image.open(folder / "pictures.png") as page:
        colors = {color for _, color in page.convert("RGB").getcolors(10**6)}
    assert set(open_dataset(data, "val").colors) <= colors


def test_command_compares_backbones(tmp_path, capsys):
    data = Blocks("train").write(tmp_path / "blocks")
    out = tmp_path / "out"
    args = ["--data", str(data), *QUICK, "--workers", "0", "--out", str(out)]
    assert main(["convnext_atto", "test_resnet", *args]) == 0
    names = ["convnext_atto (random)", "test_resnet (random)"]
    printed = capsys.readouterr().out
    assert f"| | {names[0]} | {names[1]} | {names[1]} minus {names[0]} |" in printed
    assert (out / "comparison.md").read_text() in printed
    folders = ["convnext_atto-random", "test_resnet-random"]
    assert sorted(path.name for path in out.iterdir()) == [f"comparison.{s}" for s in ("csv", "json", "md")] + folders
    first, second = (json.loads((out / folder / "results.json").read_text()) for folder in folders)
    comparison = json.loads((out / "comparison.json").read_text())
    assert comparison["protocol"] == first["protocol"]
    assert comparison["minus"] == names[0]
    assert list(comparison["differences"]) == names[1:]
    for group in ("scores", "class_iou", "class_boundary_iou"):
        for key, found in comparison["differences"][names[1]][group].items():
            assert found["mean"] == pytest.approx(second[group][key]["mean"] - first[group][key]["mean"])
            assert found["low"] <= found["mean"] <= found["high"]


def test_command_lists_protocols(capsys):
    assert main(["--list"]) == 0
    printed = capsys.readouterr().out
    assert all(f"{p.name} [" in printed and p.source in printed for p in PROTOCOLS.values())


def test_wrong_input_is_refused_before_training(tmp_path):
    data = Blocks("train").write(tmp_path / "blocks")
    args = ["--data", str(data), *QUICK, "--workers", "0"]
    with pytest.raises(UserError, match="resnet18"):
        main(["resnet_18", *args])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="results can't be written"):
        main(["test_resnet", *args, "--out", str(tmp_path / "file" / "out")])
    with pytest.raises(UserError, match="--device"):
        main(["test_resnet", *args, "--device", "abacus"])
    Image.fromarray(np.full((64, 48), 200, np.uint8)).save(data / "masks" / "val" / "3.png")
    with pytest.raises(UserError, match=r"3\.png: the mask holds the value 200"):
        main(["test_resnet", *args, "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit):
        main(["test_resnet"])
    with pytest.raises(UserError, match="output stride 8"):
        evaluate(load_backbone("test_resnet"), Blocks("train"), Blocks("val"), PROTOCOLS["vicregl_resnet"])
    with pytest.raises(UserError, match="4 channels"):
        evaluate(Backbone("test_resnet", in_chans=4), Blocks("train"), Blocks("val"), PROTOCOLS["linear_small"])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_file_that_breaks_later_is_named_without_a_traceback(tmp_path, workers, split):
    data = Blocks("train").write(tmp_path / "blocks")
    train, val = open_dataset(data, "train"), open_dataset(data, "val")
    (data / "images" / split / "3.png").write_bytes((data / "images" / split / "3.png").read_bytes()[:60])
    with pytest.raises(UserError) as error:
        evaluate(load_backbone("test_resnet"), train, val, find_protocol("linear_small", QUICK), workers=workers)
    assert str(error.value).startswith(str(data / "images" / split / "3.png"))
    assert "\n" not in str(error.value)
