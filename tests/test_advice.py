"""What check says of collections of any pictures: figures against NumPy, and lines that training reads them with."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from picture_forms import by_numpy, by_pillow, by_tifffile
from PIL import Image

from densessl.backbone_file import load_backbone, save_backbone
from densessl.backbones import Backbone
from densessl.commands.data import main
from densessl.commands.pretrain import main as pretrain
from densessl.config import Config, load_config
from densessl.data import values as values_module
from densessl.data.advice import Channel, _range, advise
from densessl.data.check import survey
from densessl.data.contact import tiles
from densessl.data.findings import report
from densessl.data.pictures import Pictures, open_pictures
from densessl.data.pixels import Pixels
from densessl.data.raster import Kind
from densessl.data.to_device import ToDevice
from densessl.data.values import Histogram, Sample, values_of
from densessl.data.views import View, Views
from densessl.errors import UserError
from densessl.export.values import zero_to_one
from densessl.reading import pixels_of
from densessl.segmentation.datasets import open_dataset, read_as

SHAPE = (48, 60)


def numbers(seed: int, channels: int, dtype: str = "uint16") -> np.ndarray:
    """(48, 60, channels): of 12 bits, or floats around each channel's own level, some no numbers."""
    rng = np.random.default_rng(seed)
    picture = rng.normal(1800, 700, (*SHAPE, channels)).clip(103, 4095)
    if np.dtype(dtype).kind == "f":
        picture = rng.normal(0.3, 0.002, (*SHAPE, channels)) + np.arange(channels)
        picture[0, :2, 0] = np.nan, np.inf
    return picture.astype(dtype)


def write(root: Path, files: dict[str, bytes]) -> Pictures:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return open_pictures(str(root))


def tiff(picture: np.ndarray) -> bytes:
    return by_tifffile(picture, photometric="minisblack", planarconfig="contig")


def rgb(seed: int) -> bytes:
    return by_pillow(np.random.default_rng(seed).integers(0, 256, (*SHAPE, 3), dtype=np.uint8), "PNG")


def configured(root: Path, words: str) -> Config:
    return load_config("demo", [f"data.path={root}", *words.split()])


def as_trained(cfg: Config) -> torch.Tensor:
    """(pictures, C, h, w): all of them as they enter the network, whole."""
    images = open_pictures(cfg.data.path, Pixels.of(cfg))
    read = np.stack([images.read(i) for i in range(len(images))])
    view = View(torch.from_numpy(read).permute(0, 3, 1, 2), torch.zeros(len(read), 2, 3))
    return ToDevice("cpu", cfg.data.mean, cfg.data.std)(Views([view], [])).large[0].image.double()


COLLECTIONS = {  # files, the configuration's channels, whether ranges are needed, and how near figures are
    "two channels of 12 bits": (lambda i: ("tif", tiff(numbers(i, 2))), 2, True, 1e-3),
    "sixteen of them": (lambda i: ("npy", by_numpy(numbers(i, 16))), 16, True, 1e-3),
    "grey of 12 bits": (lambda i: ("png", cv2.imencode(".png", numbers(i, 1))[1].tobytes()), 1, True, 1e-3),
    "below zero": (lambda i: ("tif", tiff(numbers(i, 2).astype(np.int16) - 2000)), 2, True, 1e-3),
    "floats": (lambda i: ("npy", by_numpy(numbers(i, 2, "float32"))), 2, True, 0.03),
    "double floats in TIFF": (lambda i: ("tif", tiff(numbers(i, 3, "float64"))), 3, True, 0.03),
    "whole numbers of 32 bits": (lambda i: ("npy", by_numpy(numbers(i, 1).astype(np.uint32) * 99_991)), 1, True, 0.03),
    "five channels of 8 bits": (lambda i: ("tif", tiff((numbers(i, 5) // 16).astype(np.uint8))), 5, False, 1e-3),
    "RGB of 8 bits": (lambda i: ("png", rgb(i)), 3, False, 1e-3),
    "RGB of 16 bits": (lambda i: ("png", cv2.imencode(".png", numbers(i, 3) * 15)[1].tobytes()), 3, True, 1e-3),
    "grey of 8 bits": (
        lambda i: ("png", by_pillow((numbers(i, 1)[..., 0] // 16).astype(np.uint8), "PNG")),
        3,
        False,
        1e-3,
    ),
}


@pytest.mark.parametrize("name", COLLECTIONS)
def test_the_lines_read_every_picture_with_the_moments_they_say(name, tmp_path, capsys):
    make, channels, ranged, near = COLLECTIONS[name]
    write(tmp_path, {f"{i}.{ending}": data for i, (ending, data) in ((i, make(i)) for i in range(24))})
    assert main(["check", str(tmp_path), "--workers", "0"]) == 0
    told = capsys.readouterr().out
    line = next(line for line in told.splitlines() if "data.mean=" in line)
    assert ("data.range=" in line) == ranged
    assert ("at random" in told) == (near > 0.01)
    assert pretrain(["--cfg", "demo", f"data.path={tmp_path}", *line.split(), "--print"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["backbone"]["in_chans"] == channels
    cfg = configured(tmp_path, line)
    seen = as_trained(cfg)
    assert seen.shape == (24, channels, *SHAPE)
    mean, std = seen.mean((0, 2, 3)), seen.std((0, 2, 3), correction=0)
    assert mean.abs().max() < near
    assert (std - 1).abs().max() < near
    if ranged:  # and hardly a pixel is cut off, and hardly any room left over
        for channel in range(channels):
            black, white = (
                -cfg.data.mean[channel] / cfg.data.std[channel],
                (1 - cfg.data.mean[channel]) / cfg.data.std[channel],
            )
            low, high = ((seen[:, channel].quantile(share) - black) / (white - black) for share in (0.003, 0.997))
            assert 0 <= low < 0.1
            assert 0.9 < high < 1


@pytest.mark.parametrize(
    ("numbers", "dtype", "told"),
    [
        ((-9999,), "float32", False),
        ((-3.4028234663852886e38, -9999), "float32", False),
        ((1e20,), "float64", False),
        ((-32768,), "int16", False),
        ((65535,), "uint16", False),
        ((-9999,), "int32", False),
        ((-5,), "float32", True),  # which looks like any other number, but the file says so
        ((), "float32", False),
    ],
)
def test_what_stands_for_nothing_is_found_and_leaves_the_proposal_as_with_nan(numbers, dtype, told, tmp_path, capsys):
    def made(seed: int, nodata: bool) -> bytes:
        rng = np.random.default_rng(seed)
        picture = (200 + 4000 * rng.random((*SHAPE, 2))).astype(dtype if nodata else np.result_type(dtype, np.float32))
        for place, number in enumerate(numbers):
            picture[10 * place : 10 * place + 10] = number if nodata else np.nan
        tags = [(42113, 2, 0, str(numbers[0]), True)] if told and nodata else []
        return by_tifffile(picture, photometric="minisblack", planarconfig="contig", extratags=tags)

    lines, figures = [], []
    for nodata in (True, False):
        write(tmp_path / str(nodata), {f"{i}.tif": made(i, nodata) for i in range(5)})
        main(["check", str(tmp_path / str(nodata)), "--workers", "0", "--out", str(tmp_path / "out")])
        lines += [line for line in capsys.readouterr().out.splitlines() if "data.mean=" in line or "no data" in line]
        figures.append(json.loads((tmp_path / "out/check.json").read_text())["advice"])
    words = lines[bool(numbers)]
    found = {part.partition("=")[0]: json.loads(part.partition("=")[2]) for part in words.split()}
    cfg = configured(tmp_path / "True", words)
    assert cfg.data.nodata == tuple(sorted(numbers))
    with_nan = configured(tmp_path / "False", lines[-1])
    np.testing.assert_allclose(cfg.data.range, with_nan.data.range, atol=2)
    np.testing.assert_allclose(found["data.mean"], with_nan.data.mean, atol=0.01)
    np.testing.assert_allclose(found["data.std"], with_nan.data.std, atol=0.01)
    ours, truth = (np.array([list(channel.values()) for channel in one["channels"]]) for one in figures)
    np.testing.assert_allclose(ours, truth, rtol=0.01)
    assert ("no data" in lines[0]) == bool(numbers)
    if numbers:
        named = " and ".join(f"{number:.9g}" for number in sorted(numbers))
        assert lines[0] == f"no data: {named}, {len(numbers) * 10 / 48:.2%} of the numbers, left out above"
    seen = as_trained(cfg)
    assert seen.mean((0, 2, 3)).abs().max() < 0.03
    assert (seen.std((0, 2, 3), correction=0) - 1).abs().max() < 0.03


def test_bright_and_dark_pixels_are_data(tmp_path):
    rng = np.random.default_rng(0)
    saturated = rng.normal(20_000, 15_000, (*SHAPE, 1)).clip(0, 65_535).astype(np.uint16)
    dark = np.where(rng.random((*SHAPE, 1)) < 0.3, 0, rng.integers(3000, 3100, (*SHAPE, 1))).astype(np.uint16)
    sea = rng.normal(-9000, 2000, (*SHAPE, 1)).clip(-20_000, 9000).astype(np.float32)
    sea[:3] = -9999
    for name, picture in {"saturated": saturated, "dark": dark, "sea": sea}.items():
        images = write(tmp_path / name, {"a.npy": by_numpy(picture)})
        assert survey(images).advice.pixels.nodata == (), name


def test_nodata_needs_a_range_and_is_kept_with_the_backbone(tmp_path):
    with pytest.raises(UserError, match=r"data: nodata=\[-9999\.0\] is of stored values that range or percentiles"):
        configured(tmp_path, "data.nodata=-9999")
    with pytest.raises(UserError, match=r"data\.nodata"):
        configured(tmp_path, "data.nodata=none data.range=[[0,1]]")
    words = "backbone.in_chans=2 data.mean=[0,0] data.std=[1,1] data.range=[[0,1]] data.nodata=[-9999,1e20]"
    pixels, file = Pixels.of(configured(tmp_path, words)), tmp_path / "b.safetensors"
    assert pixels == Pixels(2, ((0, 1),), nodata=(-9999, 1e20))
    facts = {"mean": (0, 0), "std": (1, 1), "pixels": pixels, "method": "m", "step": 0}
    save_backbone(file, Backbone("test_convnext", in_chans=2), **facts)
    backbone = load_backbone(file)
    assert pixels_of(backbone) == pixels
    assert zero_to_one(backbone).endswith(", white 1; NaN and -9999 and 1e+20 are 0")
    picture = np.random.default_rng(0).random((*SHAPE, 2)).astype(np.float32)
    picture[:9], picture[9:20] = -9999, 1e20
    for split in ("train", "val"):
        for folder in ("images", "masks"):
            (tmp_path / "data" / folder / split).mkdir(parents=True)
        (tmp_path / "data/images" / split / "a.tif").write_bytes(tiff(picture))
        Image.fromarray(np.eye(*SHAPE, dtype=np.uint8)).save(tmp_path / "data/masks" / split / "a.png")
    (tmp_path / "data/classes.txt").write_text("a\nb\n")
    evaluated = read_as(open_dataset(str(tmp_path / "data"), "val"), pixels_of(backbone))[0][0]
    trained = open_pictures(str(tmp_path / "data/images/train"), pixels).read(0)
    np.testing.assert_array_equal(evaluated, trained)
    assert not trained[:20].any()
    assert trained[20:].all()


def test_twelve_bits_are_told_to_be_nearly_black(tmp_path):
    images = write(tmp_path, {f"{i}.png": cv2.imencode(".png", numbers(i, 1))[1].tobytes() for i in range(5)})
    told = report(images, survey(images), 0)
    assert "5 have 16 bits but use 3,9" in told
    assert "of 65,535: without data.range they would be nearly black" in told
    assert max(images.read(i).max() for i in range(5)) < 16  # of 255
    (tmp_path / "full").mkdir()
    images = write(tmp_path / "full", {"a.png": cv2.imencode(".png", numbers(0, 1) * 16)[1].tobytes()})
    assert "nearly black" not in report(images, survey(images), 0)


def test_figures_of_what_is_stored_are_numpys(tmp_path):
    for dtype in ("uint16", "int16", "uint8", "int8"):
        info = np.iinfo(dtype)
        pictures = [
            np.random.default_rng(i).integers(info.min, info.max, (20 + i, 30, 4), dtype=dtype, endpoint=True)
            for i in range(3)
        ]
        images = write(tmp_path / dtype, {f"{i}.npy": by_numpy(picture) for i, picture in enumerate(pictures)})
        found = survey(images).advice
        pixels = np.concatenate([picture.reshape(-1, 4) for picture in pictures])
        ends = np.quantile(pixels, (0.001, 0.999), axis=0, method="inverted_cdf")
        truth = [pixels.min(0), *ends, pixels.max(0), pixels.mean(0, float), pixels.std(0, float)]
        np.testing.assert_allclose(np.array(found.channels).T, truth, rtol=1e-12)


def test_workers_find_the_same(tmp_path):
    files = {f"{i:03d}.npy": by_numpy(numbers(i, 2, "float32" if i % 2 else "float64")) for i in range(70)}
    images = write(tmp_path, files)
    one, other = survey(images), survey(images, workers=2)
    assert one.advice == other.advice
    assert one.advice.pictures == 70
    np.testing.assert_array_equal(one.kind, other.kind)


def test_a_histogram_counts_what_is_there_in_any_number_of_pieces(monkeypatch):
    for dtype in ("uint8", "int8", "uint16", "int16"):
        info = np.iinfo(dtype)
        picture = np.random.default_rng(0).integers(info.min, info.max, (37, 41, 6), dtype=dtype, endpoint=True)
        for counted in (1, 100, 1 << 24):
            monkeypatch.setattr(values_module, "COUNTED", counted)
            found = Histogram(6, np.dtype(dtype))
            found.add(picture, 0)
            found.merge(found)
            for channel, counts in enumerate(found.counts):
                shifted = picture[..., channel].astype(int).ravel() - info.min
                np.testing.assert_array_equal(counts, 2 * np.bincount(shifted, minlength=len(counts)))


def test_a_sample_weighs_pictures_by_their_size_and_keeps_a_few(monkeypatch):
    monkeypatch.setattr(values_module, "TAKEN", 500)
    monkeypatch.setattr(values_module, "KEPT", 4000)
    found = Sample(1, np.dtype(np.float32))
    levels, sizes = np.arange(100.0), np.random.default_rng(0).integers(20, 60, 100)
    for seed, (level, size) in enumerate(zip(levels, sizes, strict=True)):
        part = Sample(1, np.dtype(np.float32))
        part.add(np.full((size, size, 1), level, np.float32), seed)
        found.merge(part)
    assert found.pictures == 100
    assert len(found.keys) == len(found.values) == len(found.weights) == 4000
    assert found.ends().ravel().tolist() == [0, 99]
    truth = np.average(levels, weights=sizes**2)
    table = found.table()
    drawn = np.average(table.values, weights=table.weights)
    assert drawn == pytest.approx(truth, abs=3 * 29 / np.sqrt(4000 / 1.4))  # three deviations of a mean of so many
    unweighted = float(levels.mean())
    assert abs(truth - unweighted) < 5  # what is told apart by the next line is more than chance
    pair = Sample(1, np.dtype(np.float32))
    for seed, size in enumerate((30, 300)):
        pair.add(np.full((size, size, 1), seed, np.float32), seed)
    assert np.average(pair.table().values, weights=pair.table().weights) == pytest.approx(300**2 / (300**2 + 30**2))


@pytest.mark.parametrize(
    ("low", "high", "dtype", "truth"),
    [
        (103, 4011, "uint16", (100, 4020)),
        (3, 65_533, "uint16", (0, 65_535)),
        (-32_768, 32_000, "int16", (-32_768, 32_000)),
        (0.01234, 0.8768, "float32", (0.012, 0.877)),
        (273.1512, 310.9, "float64", (273.1, 310.9)),
        (5, 9, "uint8", (5, 9)),
        (7, 7, "uint16", (7, 8)),
        (0.0, 0.0, "float32", (0, 1)),
        (1e20, 1e20, "float32", (1e20, 1.01e20)),
        (-1e-7, 1e-7, "float32", (-1e-7, 1e-7)),
    ],
)
def test_ranges_are_rounded_outwards(low, high, dtype, truth):
    info = np.finfo(dtype) if dtype.startswith("f") else np.iinfo(dtype)
    found = _range(Channel(low, low, high, high, 0, 1), [info])
    assert found == pytest.approx(truth, rel=1e-9)
    assert found[0] <= low
    assert high <= found[1] or low == high


def test_words_are_numbers_for_yaml_however_small(tmp_path):
    tiny = np.full((*SHAPE, 1), 2e-9)
    tiny[:, ::2] = 1e-9
    images = write(tmp_path, {f"{i}.npy": by_numpy((tiny * 10.0**i).astype(np.float32)) for i in range(0, 40, 13)})
    cfg = configured(tmp_path, survey(images).advice.words())
    assert all(isinstance(value, float) for value in (*cfg.data.mean, *cfg.data.std, *cfg.data.range[0]))
    assert as_trained(cfg).isfinite().all()
    constant = {"a.npy": by_numpy(np.full((*SHAPE, 2), 7, np.uint16))}
    cfg = configured(tmp_path / "constant", survey(write(tmp_path / "constant", constant)).advice.words())
    assert min(cfg.data.std) > 0


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Twelve RGB, four grey, three of two channels, one of floats, one broken."""
    files = {f"a{i:02d}.png": rgb(i) for i in range(12)}
    files |= {f"b{i}.png": by_pillow(np.full(SHAPE, 40 * i, np.uint8), "PNG") for i in range(4)}
    files |= {f"c{i}.tif": tiff(numbers(i, 2)) for i in range(3)}
    files |= {"d.npy": by_numpy(numbers(0, 1, "float32")), "e.jpg": b"<html>"}
    write(tmp_path / "mixed", files)
    return tmp_path / "mixed"


def test_a_mixed_collection_is_told_apart(mixed, tmp_path, capsys):
    out, good = tmp_path / "out", tmp_path / "good.txt"
    assert main(["check", str(mixed), "--workers", "0", "--tiny", "0", "--out", str(out), "--list", str(good)]) == 1
    told = capsys.readouterr().out
    assert "corrupt: 1 of 21" in told
    assert "misfits (of another kind than most): 4 of 21, 19.05%" in told
    assert f"{mixed}/c0.tif: 2 channels of uint16: backbone.in_chans=2 would read them, not 3" in told
    assert f"{mixed}/d.npy: 1 channel of float32: data.range or data.percentiles" in told
    for line in ("12  PNG RGB: 3 channels of uint8", "4  PNG L: 1 channel of uint8", "3  TIFF: 2 channels of uint16"):
        assert line in told
    facts = json.loads((out / "check.json").read_text())
    assert (facts["corrupt"], facts["misfits"], facts["pictures"]) == (1, 4, 21)
    assert facts["kinds"] == {
        "3 channels of uint8": 12,
        "1 channel of uint8": 4,
        "2 channels of uint16": 3,
        "1 channel of float32": 1,
    }
    assert len((out / "misfits.txt").read_text().splitlines()) == 4
    needed = next(float(word.split("=")[1]) for word in told.split() if word.startswith("data.unreadable="))
    assert int(needed * 21) == 5
    images = open_pictures(str(good))
    assert len(images) == 16
    read = np.concatenate([images.read(i).reshape(-1, 3) for i in range(16)]) / 255
    np.testing.assert_allclose(facts["advice"]["mean"], read.mean(0), rtol=1e-12)
    np.testing.assert_allclose(facts["advice"]["std"], read.std(0), rtol=1e-12)


def test_what_most_pictures_are_decides():
    def chosen(**pictures: int) -> tuple[int, bool, int]:
        """Of so many pictures of kinds such as u2x5."""
        found = {}
        for name, count in pictures.items():
            dtype, channels = name.split("x")
            kind = Kind(int(channels), np.dtype(dtype).name, False, False)
            found[kind] = values_of(kind)
            found[kind].add(np.zeros((2, 2, int(channels)), dtype), 0)
            found[kind].pictures = count
        advice = advise(found)
        return advice.pixels.channels, advice.pixels.scaled, advice.pictures

    assert chosen(u1x3=5) == (3, False, 5)
    assert chosen(u1x1=5) == (3, False, 5)
    assert chosen(u1x3=1, u1x1=9) == (3, False, 10)
    assert chosen(u2x1=9, u1x3=1) == (1, True, 9)
    assert chosen(u2x1=4, u2x3=5) == (3, True, 9)
    assert chosen(u2x3=4, u1x3=5) == (3, False, 9)  # of 16 bits the upper 8 are read
    assert chosen(f4x3=4, u1x3=5) == (3, False, 5)
    assert chosen(u2x5=4, u1x3=2, u1x1=1) == (5, True, 4)
    assert chosen(u1x5=4, u1x3=2, u1x1=3) == (3, False, 5)
    assert chosen(u1x5=4, u2x5=4) == (5, False, 4)
    assert advise({}) is None


def test_alpha_grey_and_depth_are_told(tmp_path):
    def told(name: str, files: dict[str, bytes]) -> str:
        images = write(tmp_path / name, files)
        return report(images, survey(images), 0)

    clear = np.random.default_rng(0).integers(0, 256, (*SHAPE, 4), dtype=np.uint8)
    text = told("clear", {"a.png": by_pillow(clear, "PNG")})
    assert "PNG RGBA: 3 channels of uint8 and an alpha" in text
    assert "all have an alpha, left out here; backbone.in_chans=4 reads it as a channel" in text
    assert "alpha, left" not in told("some", {"a.png": by_pillow(clear, "PNG"), "b.png": rgb(0)})
    text = told("grey", {"a.png": by_pillow(clear[..., 0], "PNG")})
    one = next(line for line in text.splitlines() if "backbone.in_chans=1" in line)
    assert as_trained(configured(tmp_path / "grey", one)).mean().abs() < 1e-3
    text = told("deep", {"a.png": rgb(0), "b.png": rgb(1), "c.png": cv2.imencode(".png", numbers(0, 3))[1].tobytes()})
    assert "of the 16 bits of 1 of them the upper 8 are read" in text
    text = told("both", {"a.npy": by_numpy(numbers(0, 2)), "b.npy": by_numpy(numbers(1, 2, "float32"))})
    assert "one range for float32 and uint16; data.percentiles=[0.1,99.9]" in text
    assert "without these keys 2 of them could not be read" in text


def test_the_contact_sheet_shows_what_the_range_says(mixed, tmp_path):
    images = write(tmp_path / "deep", {f"{i}.tif": tiff(numbers(i, 2)) for i in range(3)})
    found = survey(images)
    (low, high), _ = found.advice.pixels.range
    truth = ((numbers(0, 2)[..., 0] - low) / (high - low)).clip(0, 1) * 255
    shown = tiles(images, found, 3)[0].picture
    assert np.abs(shown[..., 0] - truth).max() < 1.01
    assert not shown[..., 2].any()
    images = open_pictures(str(mixed))
    faults = {tile.name: (tile.fault, tile.picture) for tile in tiles(images, survey(images, tiny=0), 30)}
    fault, picture = faults["c0.tif"]
    assert fault == "2 channels of uint16"
    assert picture[..., 0].max() == 255
    assert picture[..., 0].min() == 0
    assert faults["e.jpg"][0].startswith("not a picture")
    assert faults["a00.png"][0] == ""
