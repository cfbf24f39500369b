"""Pictures that are no RGB of 8 bits: training, evaluation and export see the same values of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import timm
import torch
import yaml
from made_datasets import camvid
from picture_forms import by_numpy
from PIL import Image
from torch import Tensor, nn

from densessl.backbone_file import load_backbone, save_backbone
from densessl.backbones import Backbone
from densessl.classification import evaluation as classification
from densessl.classification.crops import RandomCrops
from densessl.classification.features import centre_crop, normalised
from densessl.classification.labelled import open_labelled, read_as
from densessl.classification.protocols import find_protocol as classification_protocol
from densessl.commands.eval_cls import main as eval_cls
from densessl.commands.eval_seg import main as eval_seg
from densessl.commands.export import main as export
from densessl.commands.pretrain import main as pretrain
from densessl.config import ChannelsConfig, PhotometricConfig, load_config
from densessl.data.channel_photometric import ChannelPhotometric
from densessl.data.decoding import decode, read
from densessl.data.loader import Loader
from densessl.data.pictures import open_pictures
from densessl.data.pixels import Pixels
from densessl.data.to_device import ToDevice
from densessl.detection.detector import check_backbone as check_detector
from densessl.detection.protocols import find_protocol as detection_protocol
from densessl.errors import UserError
from densessl.segmentation.datasets import open_dataset
from densessl.segmentation.datasets import read_as as read_segmentation_as
from densessl.segmentation.evaluation import check, evaluate
from densessl.segmentation.protocols import find_protocol
from densessl.segmentation.transforms import inference_picture, training_sample

SIDE = 64
RANGE = ((0, 4095), (100, 900))
MEAN, STD = (0.45, 0.4), (0.15, 0.2)
CONFIG: dict[str, Any] = {
    "method": {"name": "vicreg", "expander": [16, 16]},
    "backbone": {"name": "test_convnext", "in_chans": 2},
    "data": {"workers": 0, "range": RANGE, "mean": MEAN, "std": STD},
    "views": {"large": {"count": 2, "size": 32, "scale": [0.3, 1.0]}},
    "optim": {"name": "adamw", "base_lr": 0.03, "weight_decay": 0.05, "warmup": 0.2},
    "batch": 8,
    "steps": 4,
    "threads": 1,
    "precision": "fp32",
}
PROTOCOL = ["iterations=80", "batch=4", "crop=[64, 64]", "lr=0.03", "ratio=[1, 1]"]


def two_channels(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture (64, 64, 2) uint16 and its mask: which channel is the brighter one is the class, the sum is noise."""
    rng = np.random.default_rng(seed)
    mask = np.kron(np.arange(4).reshape(2, 2) + seed, np.ones((32, 32), int)) % 2
    light = np.kron(rng.uniform(0.25, 0.6, (8, 8)), np.ones((8, 8)))
    tilt = np.where(mask, 1.4, 0.6)
    shares = np.stack([light * tilt, light * (2 - tilt)], -1)
    low, high = np.array(RANGE).T
    return (low + shares * (high - low)).round().astype(np.uint16), mask.astype(np.uint8)


def naive(picture: np.ndarray, bounds: Any = RANGE, mean: Any = MEAN, std: Any = STD) -> np.ndarray:
    """(2, H, W) float64 that the network has to see."""
    seen = np.empty((picture.shape[2], *picture.shape[:2]))
    for c, (low, high) in enumerate(bounds):
        share = (picture[..., c].astype(float) - low) / (high - low)
        seen[c] = (np.where(share < 0, 0, np.where(share > 1, 1, share)) - mean[c]) / std[c]
    return seen


def write_tiff(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, picture, photometric="minisblack", planarconfig="contig")


def write_masked(root: Path, train: int = 8, val: int = 4) -> Path:
    """The layout of MY_FOLDER."""
    for split, seeds in (("train", range(train)), ("val", range(50, 50 + val))):
        for seed in seeds:
            picture, mask = two_channels(seed)
            write_tiff(root / "images" / split / f"{seed}.tif", picture)
            (root / "masks" / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(root / "masks" / split / f"{seed}.png")
    (root / "classes.txt").write_text("left\nright\n")
    return root


def backbone_file(path: Path, backbone: Backbone, bounds: Any = RANGE, **more: Any) -> Path:
    facts: dict[str, Any] = {"mean": MEAN, "std": STD, "pixels": Pixels(2, bounds), **more}
    save_backbone(path, backbone, **facts, method="vicreg", step=1)
    return path


# --- from pretraining to export, by the commands ----------------------------------------------------------------------


def test_tiffs_of_two_channels_train_evaluate_and_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, run = write_masked(tmp_path / "data"), tmp_path / "run"
    cfg = tmp_path / "two.yaml"
    config = CONFIG | {"run": str(run), "data": {**CONFIG["data"], "path": str(data / "images" / "train")}}
    cfg.write_text(yaml.safe_dump(json.loads(json.dumps(config))))
    assert pretrain(["--cfg", str(cfg)]) == 0
    backbone = load_backbone(run / "backbone.safetensors")
    assert backbone.metadata["pixels"] == {"range": [list(pair) for pair in RANGE], "percentiles": None}
    assert (backbone.in_chans, backbone.metadata["mean"], backbone.metadata["std"]) == (2, MEAN, STD)

    args = ["--data", str(data), "--workers", "0", *PROTOCOL, "--out", str(tmp_path / "seg")]
    assert eval_seg([str(run), "test_resnet", *args]) == 0
    ours, random = (
        json.loads((tmp_path / "seg" / name / "results.json").read_text()) for name in ("run", "test_resnet-random")
    )
    assert ours["scores"]["miou"]["mean"] > 0.8
    assert (
        ours["backbone"]["pixels"]
        == random["backbone"]["pixels"]
        == {"range": [[0, 4095], [100, 900]], "percentiles": None}
    )
    assert random["backbone"]["mean"] == list(MEAN)
    page = np.array(Image.open(tmp_path / "seg" / "run" / "pictures.png").convert("RGB")).astype(int)
    shown, truth = page[40 : 40 + 320, 8 : 8 + 320], two_channels(50)[1]
    assert (shown[..., 2] < 20).mean() > 0.9  # two channels are red and green
    reds = [(shown[..., 0] - shown[..., 1])[np.kron(truth == c, np.ones((5, 5), bool))].mean() for c in (0, 1)]
    assert reds[0] < -50 < 50 < reds[1]

    capsys.readouterr()
    assert export([str(run), "--to", "timm"]) == 0
    printed = capsys.readouterr().out
    assert "(B, 2, H, W): (value - black) / (white - black) clipped to 0 and 1, where black is 0, 100," in printed
    assert "white 4095, 900; less mean [0.45, 0.4], by std [0.15, 0.2]:" in printed
    there = timm.create_model("test_convnext", in_chans=2, num_classes=0)
    timm.models.load_checkpoint(there, str(run / "test_convnext.timm.safetensors"))  # strict
    image = torch.from_numpy(naive(two_channels(50)[0])).float()[None]
    with torch.inference_mode():
        maps = there.eval().forward_intermediates(image, intermediates_only=True)[-4:]
        for mine, theirs in zip(backbone.stages(image), maps, strict=True):
            torch.testing.assert_close(theirs, mine, rtol=1e-5, atol=1e-5)


# --- every reader gives the network the same values -------------------------------------------------------------------


class Seen(Backbone):
    """Keeps what comes in."""

    def __init__(self, bounds: Any) -> None:
        nn.Module.__init__(self)
        self.name, self.in_chans, self.output_stride = "seen", 2, 32
        self.channels, self.strides = (2,), (4,)
        told = {"pixels": {"range": bounds, "percentiles": None}} if bounds else {}
        self.metadata = {"mean": MEAN, "std": STD, **told}
        self.anchor = nn.Parameter(torch.zeros(1))
        self.images: list[Tensor] = []

    def stages(self, image: Tensor) -> list[Tensor]:
        self.images += list(image)
        return [nn.functional.avg_pool2d(image, 4)]

    forward = stages


def stored(kind: str, seed: int) -> tuple[str, np.ndarray, Any]:
    """An ending, a picture that has it, and what of its values is black and white."""
    picture = two_channels(seed)[0]
    picture[:4, :4], picture[4:8, :4] = 0, 5000  # below and above the range
    if kind == "uint8":
        return "tif", (picture // 20).astype(np.uint8), ()
    if kind == "float32":
        return "npy", (picture / 1000).astype(np.float32) - 0.5, ((-0.5, 3.5), (-0.4, 0.4))
    return "tif", picture, RANGE


@pytest.mark.parametrize("kind", ["uint16", "uint8", "float32"])
def test_training_and_evaluations_give_the_network_the_same_values(kind: str, tmp_path: Path) -> None:
    expected = []
    for split in ("train", "val"):
        for seed in (0, 1):
            ending, picture, bounds = stored(kind, seed)
            for folder in ("images/{}", "{}/a"):
                path = tmp_path / folder.format(split) / f"{seed}.{ending}"
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, picture) if ending == "npy" else write_tiff(path, picture)
            (tmp_path / "masks" / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(two_channels(seed)[1]).save(tmp_path / "masks" / split / f"{seed}.png")
            if split == "train":
                expected.append(naive(picture, bounds or ((0, 255), (0, 255))))
    (tmp_path / "classes.txt").write_text("left\nright\n")

    def is_expected(image: Tensor) -> int:
        """Which of the pictures it is. 16 bits are steps of 1 / 65535 of the range, 8 bits are kept."""
        near = [np.abs(image.numpy() - one).max() < 0.51 / 65_535 / min(STD) + 1e-5 for one in expected]
        assert sum(near) == 1, [np.abs(image.numpy() - one).max() for one in expected]
        return near.index(True)

    whole = {"views": {"large": {"count": 2, "size": SIDE, "scale": [1.0, 1.0]}, "flip": 0.0}, "batch": 2}
    quiet = {"kind": "channels", "blur_p": [0, 0], "channels": {"p": 0.0, "noise_p": 0.0, "drop_p": 0.0}}
    read = {**CONFIG["data"], "path": str(tmp_path / "images" / "train"), "range": bounds}
    (tmp_path / "c.yaml").write_text(
        yaml.safe_dump(json.loads(json.dumps(CONFIG | whole | {"photometric": quiet, "data": read})))
    )
    cfg = load_config(str(tmp_path / "c.yaml"))
    pictures = open_pictures(cfg.data.path, Pixels.of(cfg))
    loader = Loader(pictures, cfg.views, cfg.photometric, batch=2, seed=0, workers=0)
    ((_, views),) = loader.from_step(0, 1)
    assert {is_expected(one) for view in ToDevice("cpu", MEAN, STD)(views).large for one in view.image} == {0, 1}

    backbone = Seen(bounds)
    protocol = find_protocol(
        "linear_small", ["iterations=2", "batch=2", "crop=[64, 64]", "ratio=[1, 1]", "flip=0", "features=last"]
    )
    evaluate(backbone, open_dataset(tmp_path, "train"), open_dataset(tmp_path, "val"), protocol)
    assert sorted(map(is_expected, backbone.images)) == [0, 0, 0, 1, 1, 1]

    backbone = Seen(bounds)
    splits = open_labelled(tmp_path, "train"), open_labelled(tmp_path, "val")
    classification.evaluate(backbone, *splits, classification_protocol("knn"))
    assert sorted(map(is_expected, backbone.images)) == [0, 0, 1, 1]


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_every_channel_is_scaled_cropped_and_flipped_as_if_it_were_alone(channels: int) -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 65_536, (50, 70, channels), dtype=np.uint16)
    mask, mean, std = np.zeros((50, 70), np.uint8), tuple(rng.random(channels)), tuple(rng.random(channels) + 0.1)
    protocol, step = find_protocol("linear_small", ["crop=[48, 48]", "scale=[60, 40]"]), 1.01 / 65_535 / min(std) + 1e-6
    for index in range(8):
        whole = training_sample(picture, mask, protocol, mean, std, seed=0, epoch=0, index=index)[0]
        assert whole.shape == (channels, 48, 48)
        for c in range(channels):
            one = picture[..., c : c + 1], mask, protocol, mean[c : c + 1], std[c : c + 1]
            alone = training_sample(*one, seed=0, epoch=0, index=index)[0]
            assert (whole[c : c + 1] - alone).abs().max() < step  # OpenCV rounds one channel otherwise than three
    seen = inference_picture(picture, protocol, mean, std)
    assert seen.shape == (channels, 40, 56)
    for c in range(channels):
        assert (seen[c] - inference_picture(picture[..., [c]], protocol, [mean[c]], [std[c]])[0]).abs().max() < step
    small = centre_crop(picture, 21)
    assert small.shape == (21, 21, channels)
    alone = np.dstack([centre_crop(picture[..., [c]], 21) for c in range(channels)])
    assert np.abs(small.astype(int) - alone).max() <= 1


def test_eight_bits_and_the_same_in_sixteen_are_one_picture() -> None:
    """65535 is 257 times 255, and bilinear steps of 8 bits are half a grey level off at most."""
    eight = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    protocol, colour = find_protocol("linear_small", ["scale=[75, 50]"]), ((0.4, 0.5, 0.6), (0.2, 0.3, 0.2))
    for changes, most in ((["scale=null"], 1e-6), ([], 1.1 / 255 / 0.2)):
        protocol = find_protocol("linear_small", ["scale=[75, 50]", *changes])
        a, b = (inference_picture(p, protocol, *colour) for p in (eight, eight.astype(np.uint16) * 257))
        assert (a - b).abs().max() < most
    backbone = load_backbone("test_resnet")
    images = torch.from_numpy(eight).permute(2, 0, 1)[None]
    sixteen = torch.from_numpy(eight.astype(np.uint16) * 257).permute(2, 0, 1)[None]
    torch.testing.assert_close(normalised(backbone, sixteen), normalised(backbone, images), rtol=1e-6, atol=1e-6)


# --- classification ---------------------------------------------------------------------------------------------------


def test_classes_that_differ_in_the_ratio_of_two_channels_are_told_apart(tmp_path: Path) -> None:
    for split, seeds in (("train", range(24)), ("val", range(50, 62))):
        for seed in seeds:
            half = two_channels(seed)[0][:32, :32]  # of one class
            write_tiff(tmp_path / "data" / split / ("left", "right")[seed % 2] / f"{seed}.tif", half)
    torch.manual_seed(0)
    run = backbone_file(tmp_path / "run" / "backbone.safetensors", Backbone("test_convnext", in_chans=2)).parent
    words = ["--data", str(tmp_path / "data"), "--workers", "0", "--protocol", "semi_10", "--out", str(tmp_path / "o")]
    assert eval_cls([str(run), "test_resnet", *words, "fraction=1", "epochs=2", "batch=8"]) == 0
    found = [json.loads(p.read_text()) for p in sorted((tmp_path / "o").glob("*/results.json"))]
    assert [one["backbone"]["in_chans"] for one in found] == [2, 2]
    torch.manual_seed(0)
    assert eval_cls([str(run), *words[:-3], "knn", "--out", str(tmp_path / "knn")]) == 0
    assert json.loads((tmp_path / "knn" / "results.json").read_text())["scores"]["knn5"] > 0.9
    split = read_as(open_labelled(tmp_path / "data", "train"), Pixels(2, RANGE))
    crop, label = RandomCrops(split, 16, classification_protocol("semi_10"), 0)[0, 3]  # type: ignore[misc]
    assert (crop.shape, crop.dtype, label) == ((2, 16, 16), torch.uint16, 0)


# --- data sets that are known to be RGB -------------------------------------------------------------------------------


def test_published_pictures_are_grey_for_one_channel_and_refused_for_others(tmp_path: Path) -> None:
    camvid(tmp_path)
    data = open_dataset(tmp_path, "train")
    colours, mask = data[0]
    protocol = find_protocol("linear_small")
    grey = check(Backbone("test_convnext", in_chans=1), data, data, protocol)[0]
    grey.check()
    picture, same = grey[0]
    luma = colours @ np.array([0.299, 0.587, 0.114])
    assert (picture.shape, picture.dtype) == ((*mask.shape, 1), np.uint8)
    assert np.abs(picture[..., 0] - luma).max() <= 0.51
    assert np.array_equal(same, mask)
    assert data[0][0].shape == colours.shape  # as it was
    stretched = read_segmentation_as(data, Pixels(3, percentiles=(0, 100)))[0][0]
    ends = colours.min((0, 1)), colours.max((0, 1))
    assert np.abs(stretched / 65_535 - (colours - ends[0]) / (ends[1] - ends[0])).max() < 1e-5
    for wrong in (Pixels(2), Pixels(3, ((0, 4095),)), Pixels(1, ((0, 4095),))):
        with pytest.raises(UserError, match="camvid has RGB pictures of 8 bits; this backbone takes"):
            read_segmentation_as(data, wrong)
    assert read_segmentation_as(data, Pixels(3, ((0, 255),)))[0][0].dtype == np.uint16


# --- what doesn't fit -------------------------------------------------------------------------------------------------


def test_what_cannot_be_read_or_distorted_is_refused_before_training(tmp_path: Path) -> None:
    data = write_masked(tmp_path / "data", 1, 1)
    train, val = open_dataset(data, "train"), open_dataset(data, "val")
    torch.manual_seed(0)
    path = backbone_file(tmp_path / "b.safetensors", Backbone("test_convnext", in_chans=2))
    words = [str(path), "--workers", "0", "--out", str(tmp_path / "out")]
    with pytest.raises(UserError, match=r"linear_fast distorts the colours.*2 channels.*photometric=false"):
        eval_seg([*words, "--data", str(data), "--protocol", "linear_fast"])
    with pytest.raises(UserError, match="scenes has RGB pictures of 8 bits; this backbone takes 2 channels, values fr"):
        eval_seg([*words, "--data", "scenes"])
    assert not (tmp_path / "out").exists()
    eight = backbone_file(tmp_path / "eight.safetensors", Backbone("test_convnext", in_chans=2), ())
    with pytest.raises(UserError, match=r"50\.tif: .*uint16.*as the backbone was trained, 2 channels of 8"):
        check(load_backbone(eight), train, val, find_protocol("linear_small"))[1].check()
    write_tiff(data / "images" / "val" / "50.tif", two_channels(0)[0][:, :60])
    with pytest.raises(UserError, match=r"50\.png: the mask is 64x64 pixels, its picture 50.tif is 60x64"):
        check(load_backbone(path), train, val, find_protocol("linear_small"))[1].check()
    with pytest.raises(
        UserError, match="detectors read RGB pictures; this backbone takes 2 channels, values from 0 to"
    ):
        check_detector(load_backbone(path), detection_protocol("det_small"))
    write_tiff(data / "images" / "val" / "50.tif", np.dstack([two_channels(0)[0]] * 2))
    with pytest.raises(UserError, match=r"50\.tif: 4 channels"):
        check(load_backbone(path), train, val, find_protocol("linear_small"))[1].check()


@pytest.mark.parametrize(
    ("shape", "axis"), [((48, 64, 200), 2), ((200, 48, 64), 0), ((64, 64, 200), 2), ((200, 64, 64), 0)]
)
def test_hundreds_of_channels_are_read_and_blurred(shape: tuple[int, ...], axis: int) -> None:
    """More than an image has lines, first or last: as many as are asked for, or the side beside two equal ones."""
    stored = np.random.default_rng(0).integers(0, 4001, shape, dtype=np.uint16)
    truth = np.moveaxis(stored, axis, 2)
    data, pixels = by_numpy(stored), Pixels(200, ((0, 4000),))
    seen = decode(data, "x.npy", pixels)
    assert seen.shape == truth.shape
    assert np.abs(seen - truth * (65_535 / 4000)).max() < 0.6
    if shape[1] in (shape[0], shape[2]):
        np.testing.assert_array_equal(read(data, "x.npy").picture, truth)
    blur = ChannelPhotometric(
        PhotometricConfig(blur_p=(1, 1), channels=ChannelsConfig(p=0, noise_p=0, drop_p=0)), 64, 0
    )
    blurred, _ = blur(truth, np.random.default_rng(1))
    for channel in (0, 63, 64, 199):
        alone, _ = blur(truth[..., channel : channel + 1], np.random.default_rng(1))
        assert np.abs(blurred[..., channel].astype(int) - alone[..., 0]).max() <= 1
