"""Training: what is shared out or interrupted comes to the same, the backbone stays, and wrong numbers stop it."""

import dataclasses
import json
import math
import os

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as rle
from spawned import spawn
from weights import scatter

from densessl.backbone_file import load_backbone, save_backbone
from densessl.commands.eval_det import main
from densessl.detection import evaluation
from densessl.detection.datasets import Objects, open_dataset
from densessl.detection.detector import build
from densessl.detection.evaluation import evaluate
from densessl.detection.pictures import drawn
from densessl.detection.protocols import find_protocol
from densessl.detection.samples import TrainingSamples, batch_of
from densessl.detection.state import StateFile, load
from densessl.detection.training import build_optimizer, compute_statistics, learning_rate
from densessl.errors import UserError
from densessl.training import distributed, launch

QUICK = ["iterations=4", "steps=[3]", "warmup=2", "batch=4", "sides=[64]", "channels=32", "hidden=32", "rois=16"]
QUICK += ["pre_nms=[100, 50]", "post_nms=[40, 20]", "anchors_drawn=64"]
QUIET = find_protocol(
    "det_small", [*QUICK, "norm=group", "batch_norm=frozen", "optimizer=sgd", "lr=0.02", "backbone_lr=0.01"]
)
COLORS = ((220, 40, 40), (40, 220, 40))


class Squares:
    """Red and green rectangles on grey, 64 pixels square; the box is exact."""

    title, classes, colors, masks = "squares", ("red", "green"), COLORS, True

    def __init__(self, split="train", count=6, fails_at=None):
        self.split, self.count, self.fails_at, self.labelled = split, count, fails_at, range(count)
        self.read = 0

    def __len__(self):
        return self.count

    def size(self, index):
        return 64, 64

    def name(self, index):
        return f"{self.split}{index}"

    def boxes(self, index):
        rng = np.random.default_rng((index, len(self.split)))
        count = 1 + index % 2  # one on the left, one on the right
        start = rng.integers(2, 12, (count, 2)) + [[0, 0], [30, 20]][:count]
        return np.concatenate([start, start + rng.integers(12, 18, (count, 2))], 1), rng.integers(1, 3, count)

    def picture(self, index):
        self.read += 1
        if self.fails_at == self.read:
            raise RuntimeError("killed")
        image = np.random.default_rng(index).integers(90, 130, (64, 64, 3), dtype=np.uint8)
        for (left, top, right, bottom), label in zip(*self.boxes(index), strict=True):
            image[top:bottom, left:right] = COLORS[label - 1]
        return image

    def objects(self, index):
        boxes, labels = self.boxes(index)
        masks = np.zeros((64, 64, len(boxes)), np.uint8, order="F")
        for i, (left, top, right, bottom) in enumerate(boxes):
            masks[top:bottom, left:right, i] = 1
        shapes = rle.encode(masks)
        nothing = np.zeros(len(boxes), bool)
        return Objects(boxes.astype(float), labels, rle.area(shapes).astype(float), nothing, nothing, shapes)

    @classmethod
    def write(cls, root, count=6, shapes=True):
        for split in ("train", "val"):
            data = cls(split, count)
            (root / "images" / split).mkdir(parents=True)
            content = {
                "images": [],
                "annotations": [],
                "categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "green"}],
            }
            for index in range(count):
                Image.fromarray(data.picture(index)).save(root / "images" / split / f"{index}.png")
                content["images"].append({"id": index, "file_name": f"{index}.png", "height": 64, "width": 64})
                for (left, top, right, bottom), label in zip(*(x.tolist() for x in data.boxes(index)), strict=True):
                    polygon = [left, top, right, top, right, bottom, left, bottom]
                    content["annotations"].append(
                        {
                            **{"id": len(content["annotations"]), "image_id": index, "category_id": label},
                            **{"bbox": [left, top, right - left, bottom - top]},
                            **({"segmentation": [polygon]} if shapes else {}),
                        }
                    )
            (root / "annotations").mkdir(exist_ok=True)
            (root / "annotations" / f"{split}.json").write_text(json.dumps(content))
        return root


def weights(path):
    return torch.load(path, weights_only=True)


# --- schedule, optimiser, samples -------------------------------------------------------------------------------------


def test_learning_rate():
    protocol = find_protocol("coco_1x")
    rates = {i: learning_rate(protocol, i) for i in (0, 500, 1000, 59_999, 60_000, 79_999, 80_000, 89_999)}
    want = {0: 2e-5, 500: 0.02 * 0.5005, 1000: 0.02, 59_999: 0.02, 60_000: 2e-3, 79_999: 2e-3, 80_000: 2e-4}
    assert rates == pytest.approx(want | {89_999: 2e-4})


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_each_parameter_once_with_its_own_rate_and_decay(optimizer):
    protocol = dataclasses.replace(QUIET, optimizer=optimizer, backbone_lr=0.002)
    detector = build(load_backbone("test_convnext"), 2, protocol)
    own = {id(p) for p in detector.backbone.body.parameters()}
    found = {}
    for group in build_optimizer(detector, protocol).param_groups:
        for p in group["params"]:
            assert id(p) not in found
            found[id(p)] = (group["share"], group["weight_decay"])
    for p in detector.parameters():
        assert found[id(p)] == (pytest.approx(0.1) if id(p) in own else 1.0, 1e-4 if p.ndim > 1 else 0.0)


def test_samples_are_each_picture_once_an_epoch_whoever_has_them():
    data = Squares(count=6)
    whole = TrainingSamples(data, QUIET, 3, 0, 6)
    numbers = [whole.index(whole.number(place)) for place in range(len(whole))]
    assert len(whole) == 24
    for epoch in range(4):
        assert sorted(numbers[6 * epoch : 6 * epoch + 6]) == [(epoch, i) for i in range(6)]
    assert numbers[:6] != [(0, index) for _, index in numbers[6:12]]
    halves = [TrainingSamples(data, QUIET, 3, 2, 6, rank, 2) for rank in (0, 1)]
    together = [h.number(2 * i + j) for i in range(4) for h in halves for j in range(2)]
    assert together == list(range(8, 24))
    picture, target, seed = halves[1][1]
    again, wanted, its_seed = whole[11]
    assert torch.equal(picture, again)
    assert torch.equal(target["boxes"], wanted["boxes"])
    assert seed == its_seed != whole[12][2]


def test_boxes_and_masks_are_flipped_with_their_picture():
    data = Squares()
    flipped = 0
    samples = TrainingSamples(data, QUIET, 0, 0, 6)
    for place in range(len(samples)):
        picture, target, _ = samples[place]
        index = samples.index(place)[1]
        flipped += not np.array_equal(target["boxes"], data.boxes(index)[0])
        for box, label, mask in zip(target["boxes"].int(), target["labels"], target["masks"], strict=True):
            left, top, right, bottom = box.tolist()
            color = torch.tensor(COLORS[label - 1])[:, None, None] / 255
            assert (picture[:, top:bottom, left:right] == color).all()
            assert mask.sum() == mask[top:bottom, left:right].sum() == (bottom - top) * (right - left)
    assert 0 < flipped < len(samples)


# --- the same, however it is run --------------------------------------------------------------------------------------


# Statistics over pictures of one size. One iteration: BatchNorm makes much of the last digits of the one before.
SYNCHRONISED: dict = {"batch_norm": "trained", "iterations": 1, "steps": (), "warmup": 0}


def run_two(rank, folder):
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", DS_ACCELERATOR="cpu"
    )
    os.environ["MASTER_PORT"] = (folder / "port").read_text()
    with distributed.connected("cpu"):
        found = trained(folder / "two.pt")
        trained(folder / "two-bn.pt", **SYNCHRONISED)
        message = ""
        try:
            evaluate(load_backbone("test_resnet"), Squares(), Squares("val"), dataclasses.replace(QUIET, batch=3))
        except UserError as error:
            message = str(error)
        except SystemExit:
            message = "left"
    return {"scores": found.scores, "fitted": found.fitted, "shown": found.shown, "message": message}


def trained(path, **changes):
    protocol = dataclasses.replace(QUIET, **changes)
    state = StateFile(path, 2, False)
    return evaluate(scatter(load_backbone("test_resnet")), Squares(), Squares("val", 5), protocol, state=state)


def test_two_processes_train_and_score_as_one(tmp_path):
    """Each has other pictures, with one object or two; only the order of sums differs."""
    (tmp_path / "port").write_text(launch.alone()["MASTER_PORT"])
    first, second = spawn(run_two, tmp_path)
    assert sorted([first["message"], second["message"]])[1] == "left"
    assert "batch=3 can't be shared out evenly among 2 processes" in first["message"]
    one = trained(tmp_path / "one.pt")
    want, found = weights(tmp_path / "one.pt"), weights(tmp_path / "two.pt")
    begin = build(scatter(load_backbone("test_resnet")), 2, QUIET).state_dict()
    moved = 0.0
    for key, value in want["detector"].items():
        torch.testing.assert_close(found["detector"][key], value, rtol=1e-4, atol=1e-5)
        moved += float((value - begin[key]).abs().max()) if "body" in key else 0.0
    assert moved > 1e-3
    torch.testing.assert_close(found["terms"], want["terms"], rtol=1e-4, atol=1e-5)
    trained(tmp_path / "one-bn.pt", **SYNCHRONISED)
    synchronised, alone = (weights(tmp_path / f"{name}-bn.pt")["detector"] for name in ("two", "one"))
    for key, value in alone.items():
        torch.testing.assert_close(synchronised[key], value, rtol=1e-4, atol=1e-5)
    assert want["terms"].min() > 0
    assert first["scores"].keys() == one.scores.keys()
    for row, value in one.scores.items():
        assert first["scores"][row] == second["scores"][row] or math.isnan(value)
        assert first["scores"][row] == pytest.approx(value, abs=0.05, nan_ok=True)
    assert first["shown"].keys() == one.shown.keys()
    counts = [sum(map(len, shown.values())) for shown in (first["shown"], one.shown)]
    assert counts[0] == pytest.approx(counts[1], rel=0.1)


@pytest.mark.parametrize("changes", [{}, {"optimizer": "adamw", "lr": 1e-3, "batch_norm": "trained", "precise": 2}])
def test_a_resumed_training_ends_as_an_uninterrupted_one(tmp_path, changes):
    protocol = dataclasses.replace(QUIET, **changes)
    whole = trained(tmp_path / "whole.pt", **changes)
    body, path = scatter(load_backbone("test_resnet")), tmp_path / "state.pt"
    with pytest.raises(RuntimeError, match="killed"):
        evaluate(body, Squares(fails_at=4 * 3 + 2), Squares("val", 5), protocol, state=StateFile(path, 2, False))
    assert weights(path)["done"] == 2
    again = evaluate(body, Squares(), Squares("val", 5), protocol, state=StateFile(path, 2, True))
    assert again.scores == pytest.approx(whole.scores, nan_ok=True)
    assert again.fitted == whole.fitted
    want, found = weights(tmp_path / "whole.pt"), weights(path)
    assert all(torch.equal(found["detector"][key], value) for key, value in want["detector"].items())
    assert torch.equal(found["terms"], want["terms"])
    data = Squares()  # what is finished is not trained again, but for its statistics
    done = evaluate(body, data, Squares("val", 5), protocol, state=StateFile(path, 2, True))
    assert data.read == protocol.precise * protocol.batch
    assert done.scores == pytest.approx(whole.scores, nan_ok=True)


def test_a_state_is_whole_or_absent_and_of_its_own_training(tmp_path, monkeypatch):
    path, body = tmp_path / "state.pt", load_backbone("test_resnet")

    def half(content, file):
        file.write_bytes(b"PK half")
        raise RuntimeError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", half)
        with pytest.raises(UserError, match=r"state\.pt: the state can't be written there: disk full"):
            trained(path)
    assert list(tmp_path.iterdir()) == []
    trained(path)
    for data, protocol, seed, message in (
        (Squares(count=5), QUIET, 0, "pictures: 6 before, 5 now"),
        (Squares(), dataclasses.replace(QUIET, lr=0.3), 0, "protocol: .* before"),
        (Squares(), QUIET, 1, "seed: 0 before, 1 now.*weights: .* before"),
    ):
        with pytest.raises(UserError, match=rf"(?s)--resume: .*state\.pt is the state of another training:.*{message}"):
            evaluate(scatter(body), data, Squares("val"), protocol, seed=seed, state=StateFile(path, 2, True))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"--resume: .*state\.pt can't be read"):
        load(path, {}, body, torch.optim.SGD(body.parameters(), 0.1), torch.zeros(1, 5))


# --- what training changes and what it doesn't ------------------------------------------------------------------------


@pytest.mark.parametrize("backbone_lr", [0.0, 0.01])
def test_the_backbone_of_the_caller_stays_bitwise(tmp_path, backbone_lr):
    body = scatter(load_backbone("test_resnet")).train()
    before = {key: value.clone() for key, value in body.state_dict().items()}
    torch.manual_seed(3)
    random = torch.get_rng_state()
    protocol = dataclasses.replace(QUIET, iterations=4, backbone_lr=backbone_lr, batch_norm="trained")
    evaluate(body, Squares(), Squares("val", 2), protocol, state=StateFile(tmp_path / "s.pt", 4, False))
    assert torch.equal(torch.get_rng_state(), random)
    assert body.training
    assert all(p.requires_grad and p.grad is None for p in body.parameters())
    assert all(torch.equal(value, before[key]) for key, value in body.state_dict().items())
    copied = {
        key.removeprefix("backbone.body."): value
        for key, value in weights(tmp_path / "s.pt")["detector"].items()
        if key.startswith("backbone.body.")
    }
    same = [torch.equal(copied[key], value) for key, value in before.items()]
    assert all(same) if not backbone_lr else sum(same) < 3


def test_statistics_are_computed_anew_over_the_batches():
    protocol = dataclasses.replace(QUIET, batch_norm="trained")
    detector = build(load_backbone("test_resnet"), 2, protocol)
    detector.train()
    body = detector.backbone.body
    inputs = []
    body.net.conv1.register_forward_hook(lambda module, args, out: inputs.append(out))
    samples = TrainingSamples(Squares(), protocol, 0, 0, 2)
    loader = torch.utils.data.DataLoader(samples, 4, collate_fn=batch_of)
    compute_statistics(detector, loader, torch.device("cpu"))
    mean = torch.stack([x.mean((0, 2, 3)) for x in inputs]).mean(0)
    var = torch.stack([x.transpose(0, 1).flatten(1).var(1) for x in inputs]).mean(0)
    torch.testing.assert_close(body.net.bn1.running_mean, mean)
    torch.testing.assert_close(body.net.bn1.running_var, var)
    assert body.net.bn1.momentum == 0.1


def test_a_loss_that_is_not_finite_stops_it():
    protocol = dataclasses.replace(QUIET, lr=1e9, backbone_lr=1e30, warmup=0)
    with pytest.raises(
        UserError, match=r"iteration [23] of 4: not finite: loss_.*; no state was saved yet\. A lower lr"
    ):
        evaluate(load_backbone("test_resnet"), Squares(), Squares("val"), protocol)


def test_it_learns():
    """Two colours are soon told apart and found."""
    changes = ["iterations=60", "steps=[50]", "lr=0.003", "backbone_lr=0.001", "batch_norm=trained", "rois=32"]
    protocol = find_protocol("det_small", [*QUICK, *changes])
    result = evaluate(load_backbone("test_resnet"), Squares(count=24), Squares("val", 8), protocol)
    assert result.scores["box", "ap50"] > 0.5
    assert result.scores["mask", "ap50"] > 0.5


# --- the command ------------------------------------------------------------------------------------------------------


def test_command_end_to_end(tmp_path, capsys):
    """A backbone file beside random weights of its architecture, in one table, with all files."""
    data, body = Squares.write(tmp_path / "squares"), scatter(load_backbone("test_resnet"))
    (tmp_path / "mine").mkdir()
    colour = {"mean": (0.4, 0.4, 0.4), "std": (0.3, 0.3, 0.3)}
    save_backbone(tmp_path / "mine" / "backbone.safetensors", body, method="vicregl", step=5, **colour)
    words = [str(tmp_path / "mine"), "--data", str(data), *QUICK, "--workers", "0", "--device", "cpu"]
    assert main([*words, "--init", "random", "--seeds", "2", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert "train 4/4" in said.err
    assert "| | test_resnet (random) | mine | mine minus test_resnet (random) |" in said.out
    assert "not det_small itself: sides=(64,), " in said.out
    names = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    files = [f"results.{ending}" for ending in ("csv", "json", "md")] + ["pictures.png"]
    assert names == {f"{name}/{file}" for name in ("mine", "test_resnet-random") for file in files} | {
        f"comparison.{ending}" for ending in ("csv", "json", "md")
    }
    mine, random = (
        json.loads((tmp_path / "out" / name / "results.json").read_text()) for name in ("mine", "test_resnet-random")
    )
    assert (mine["backbone"]["method"], random["backbone"]["method"]) == ("vicregl", "random")
    assert mine["backbone"]["mean"] == random["backbone"]["mean"] == [0.4] * 3
    assert [seed["seed"] for seed in mine["seeds"]] == [0, 1]
    values = [seed["box"]["ap"] for seed in mine["seeds"]]
    assert mine["box"]["ap"]["mean"] == pytest.approx(np.mean(values))
    assert mine["box"]["ap"]["std"] == pytest.approx(np.std(values, ddof=1))
    assert mine["box"]["ap_large"] == dict.fromkeys(("mean", "std", "low", "high"))
    line = next(
        x for x in (tmp_path / "out" / "comparison.md").read_text().splitlines() if x.startswith("| box **AP**")
    )
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    for cell, about in zip(cells[1:], (random, mine), strict=False):
        assert cell == f"{100 * about['box']['ap']['mean']:.1f} ± {100 * about['box']['ap']['std']:.1f}"
    comparison = json.loads((tmp_path / "out" / "comparison.json").read_text())
    difference = np.subtract(values, [seed["box"]["ap"] for seed in random["seeds"]])
    found = comparison["differences"]["mine"]["box"]["ap"]
    assert found["mean"] == pytest.approx(difference.mean())
    half = 12.7062 * abs(difference[0] - difference[1]) / 2  # of two: the quantile of one degree of freedom
    assert [found["low"], found["high"]] == pytest.approx([found["mean"] - half, found["mean"] + half], rel=1e-4)
    assert f"{100 * found['mean']:+.1f} ± {100 * found['std']:.1f} [{100 * found['low']:+.1f}, " in cells[3]
    assert comparison["intervals"]["over"] == "seeds"
    assert "interval over seeds, Student's t; not covered: other images, another pretraining" in said.out
    with Image.open(tmp_path / "out" / "mine" / "pictures.png") as page:
        assert page.height > 4 * 400


def test_command_resumes_where_it_was_killed(tmp_path, monkeypatch, capsys):
    data = Squares.write(tmp_path / "squares", shapes=False)
    words = ["test_resnet", "--data", str(data), *QUICK, "masks=false", "--workers", "0", "--device", "cpu"]
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    out = [*words, "--save-every", "2", "--out", str(tmp_path / "out")]
    with pytest.raises(UserError, match=r"--resume: there is no state of a training, as .*state-seed0\.pt"):
        main([*out, "--resume"])
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "detections", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            main(out)
    with pytest.raises(UserError, match=r"state-seed0\.pt: a training was interrupted here; --resume continues it"):
        main(out)
    assert main([*out, "--resume"]) == 0
    whole, resumed = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("whole", "out"))
    assert (resumed["box"], resumed["class_box"]) == (whole["box"], whole["class_box"])
    assert "mask" not in whole
    assert not list((tmp_path / "out").glob("*.pt"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["test_vit"], "strides 16, 16, 16, 16; detectors need 4, 8, 16, 32"),
        (["test_convnext", "--protocol", "voc0712_24k"], "takes stage 4 of a ResNet"),
        (["resnet5O"], "resnet50"),
        (["test_resnet", "--protocol", "coco_3x"], "there are coco_1x, coco_2x, voc0712_24k, det_small"),
        (["test_resnet", "iteration=9"], r"iteration: det_small has no such setting; did you mean iterations\?"),
        (["test_resnet"], "learns masks, but not every object has a segmentation; masks=false"),
    ],
)
def test_what_cannot_work_is_refused_before_training(tmp_path, words, message):
    data = Squares.write(tmp_path / "squares", count=1, shapes=False)
    with pytest.raises(UserError, match=message):
        main([*words, "--data", str(data), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_categories_must_agree(tmp_path):
    data = Squares.write(tmp_path / "squares", count=1)
    file = data / "annotations" / "val.json"
    file.write_text(file.read_text().replace('"green"', '"blue"'))
    train, val = (open_dataset(data, split) for split in ("train", "val"))
    with pytest.raises(
        UserError, match="squares: the classes of train and val differ: train alone has green; val alone has blue"
    ):
        evaluate(load_backbone("test_resnet"), train, val, QUIET)


def test_protocols_are_listed(capsys):
    assert main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert "coco_1x [f8833285]" in listed
    assert "iterations=24000" in listed


def test_pictures_show_boxes_and_masks():
    grey = np.full((200, 400, 3), 100, np.uint8)
    mask = np.zeros((1, 200, 400), np.uint8)
    mask[0, 50:150, 100:300] = 1
    page = np.asarray(drawn(grey, np.array([[100.0, 50, 300, 150]]), ["red 0.90"], [(255, 0, 0)], mask)).astype(int)
    assert page.shape == (200, 400, 3)
    np.testing.assert_allclose(page[120, 200], (178, 50, 50), atol=2)  # half of the colour over grey
    np.testing.assert_array_equal(page[20, 20], (100, 100, 100))
    np.testing.assert_array_equal(page[100, 100], (255, 0, 0))  # the frame
    np.testing.assert_array_equal(np.asarray(drawn(grey, np.zeros((0, 4)), [], [], None)), grey)
