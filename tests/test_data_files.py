"""What the data command writes, read again by the project's own readers: shards, view sheets, the scenes as files."""

import io
import json
import logging
import os
import tarfile
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
from picture_forms import by_numpy, by_pillow, by_tifffile, values
from PIL import Image
from test_data_command import encoded, picture

from densessl.commands.data import main
from densessl.config import Config, PhotometricConfig, load_config
from densessl.data.decoding import Unreadable, decode
from densessl.data.layouts import VOC_NAMES, write_scenes
from densessl.data.loader import Loader
from densessl.data.multi_crop import MultiCrop
from densessl.data.pack import pack
from densessl.data.pictures import open_pictures
from densessl.data.pixels import Pixels
from densessl.data.scenes import Scenes
from densessl.data.shapes import counts
from densessl.data.sheet import LARGE, SMALL, Seen, corners, outlined, sheet, sources
from densessl.data.sources.shards import Shards, shard_files
from densessl.data.textures import GROUNDS, OBJECTS
from densessl.data.to_device import ToDevice
from densessl.detection.datasets import open_dataset as open_detection
from densessl.detection.datasets.scenes import SceneObjects
from densessl.errors import UserError
from densessl.segmentation.datasets import open_dataset as open_segmentation


@pytest.fixture
def packable(tmp_path: Path) -> Path:
    """Forms that shards hold, forms that they don't, names with dots and other letters, two broken ones."""
    root = tmp_path / "pictures"
    root.mkdir()
    for number, name in enumerate(("a.b.png", "ü 1.webp", "2.tif", "3.bmp", "4.jpg", "5.PNG", "wrong ending.jpg")):
        form = {"4": "JPEG", "2": "TIFF", "3": "BMP", "ü": "WEBP"}.get(name[0], "PNG")
        (root / name).write_bytes(encoded(picture(number, 40 + number), form))
    (root / "cut.jpg").write_bytes(encoded(picture(8), "JPEG")[:-400])
    (root / "x.png").write_bytes(b"")
    return root


def members(folder: Path) -> dict[str, bytes]:
    """All files of all shards as the standard library reads them."""
    found = {}
    for shard in sorted(folder.iterdir()):
        with tarfile.open(shard) as tar:
            for member in tar:
                assert member.name not in found
                found[member.name] = tar.extractfile(member).read()
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_packed_pictures_come_back_pixel_for_pixel(packable, tmp_path, caplog, workers):
    images = open_pictures(str(packable))
    with caplog.at_level(logging.WARNING, "densessl"):
        packed = pack(images, tmp_path / "out", seed=None, workers=workers)
    assert {line.split("/")[-1].split(":")[0] for line in caplog.messages} == {"cut.jpg", "x.png"}
    assert (packed.shards, packed.pictures, packed.unreadable) == (1, 7, 2)
    assert packed.bytes == (tmp_path / "out/train-000000.tar").stat().st_size
    readable = [i for i in range(9) if os.path.basename(images.path(i)) not in ("cut.jpg", "x.png")]
    shards = open_pictures(str(tmp_path / "out"))
    for i, row in enumerate(readable):
        np.testing.assert_array_equal(shards.read(i), images.read(row))
    files = members(tmp_path / "out")
    assert [name.partition(".")[0] for name in files] == sorted({name.partition(".")[0] for name in files})
    assert any(name.endswith("-pictures_a_b.png") for name in files)
    assert any(name.endswith("-pictures_wrong_ending.png") for name in files)  # what it is, not what it was called
    originals = {packable.joinpath(name).read_bytes() for name in ("a.b.png", "ü 1.webp", "4.jpg", "5.PNG")}
    assert originals < set(files.values())  # as they were
    assert packed.encoded == 1  # BMP


def test_order_is_shuffled_by_the_seed_and_shards_stay_below_their_size(tmp_path):
    root = tmp_path / "pictures"
    root.mkdir()
    for i in range(40):
        (root / f"{i:02d}.png").write_bytes(encoded(picture(i), "PNG"))
    images = open_pictures(str(root))

    def order(out: str, seed: int | None) -> list[int]:
        pack(images, tmp_path / out, seed=seed, shard_size=60_000, name="some")
        assert max(shard.stat().st_size for shard in (tmp_path / out).iterdir()) <= 60_000
        assert len(list((tmp_path / out).iterdir())) > 3
        return [int(name.split("_")[-1].split(".")[0]) for name in members(tmp_path / out)]

    assert order("a", None) == list(range(40))
    assert order("b", 0) == order("c", 0) == np.random.default_rng(0).permutation(40).tolist()
    assert order("d", 1) != order("b2", 0)
    assert (tmp_path / "b/some-000001.tar").read_bytes() == (tmp_path / "c/some-000001.tar").read_bytes()


def test_one_picture_may_be_larger_than_a_shard(tmp_path):
    packed = pack(Scenes(3, 64), tmp_path / "out", shard_size=1)
    assert (packed.shards, packed.pictures) == (3, 3)
    assert len(Shards(shard_files(str(tmp_path / "out")))) == 3


def test_size_shrinks_and_never_enlarges(tmp_path):
    root = tmp_path / "pictures"
    root.mkdir()
    for name, shape in {"wide.png": (100, 251), "high.png": (300, 120), "small.png": (60, 90)}.items():
        (root / name).write_bytes(encoded(picture(0, *shape), "PNG"))
    packed = pack(open_pictures(str(root)), tmp_path / "out", size=80, seed=None)
    files = members(tmp_path / "out")
    shapes = {name.split("_")[-1]: Image.open(io.BytesIO(data)).size for name, data in files.items()}
    assert shapes == {"high.jpg": (80, 200), "small.png": (90, 60), "wide.jpg": (201, 80)}
    assert packed.encoded == 2
    assert (root / "small.png").read_bytes() in files.values()
    shards = Shards(shard_files(str(tmp_path / "out")))
    truth = cv2.resize(picture(0, 300, 120), (80, 200), interpolation=cv2.INTER_AREA)
    assert np.abs(decode(shards.stored(0), "x").astype(int) - truth).mean() < 2


def test_pictures_of_any_kind_are_packed_byte_for_byte(tmp_path, capsys):
    """--size shrinks grey and RGB of 8 bits; nobody knows what the others may lose."""
    root = tmp_path / "pictures"
    root.mkdir()
    deep = {
        "five.tif": by_tifffile(values(5, "uint16"), photometric="minisblack", planarconfig="contig"),
        "floats.npy": by_numpy(values(2, "float32")),
        "deep.png": cv2.imencode(".png", values(3, "uint16"))[1].tobytes(),
        "two.npy": by_numpy(values(2)),
        "small.tiff": by_tifffile(values(1)[:10, :, 0]),
    }
    turned = Image.Exif()
    turned[0x0112] = 6
    shrunk = {
        "clear.png": by_pillow(values(4), "PNG"),
        "grey.tif": by_tifffile(values(1)[..., 0]),
        "turned.jpg": by_pillow(values(3), "JPEG", exif=turned),
    }
    for name, data in (deep | shrunk).items():
        (root / name).write_bytes(data)
    assert main(["pack", str(root), str(tmp_path / "as they are"), "--workers", "0"]) == 0
    capsys.readouterr()
    assert sorted(members(tmp_path / "as they are").values()) == sorted((deep | shrunk).values())
    assert main(["pack", str(root), str(tmp_path / "out"), "--size", "12", "--workers", "0", "--ordered"]) == 0
    assert "4 stay larger than 12 pixels: they aren't grey or RGB of 8 bits" in capsys.readouterr().out
    files = members(tmp_path / "out")
    assert sorted(set(files.values()) & set(deep.values())) == sorted(deep.values())
    small = {
        name.split("_")[1].split(".")[0]: Image.open(io.BytesIO(data)) for name, data in files.items() if ".jpg" in name
    }
    assert {name: (image.size, image.mode) for name, image in small.items()} == {
        "clear": ((18, 12), "RGB"),
        "grey": ((18, 12), "L"),
        "turned": ((12, 18), "RGB"),
    }
    for pixels in (Pixels(5, ((0, 65_535),)), Pixels(2, percentiles=(0, 100))):
        images, shards = open_pictures(str(root), pixels), open_pictures(str(tmp_path / "out"), pixels)
        read = {}
        for collection in (images, shards):
            for i in range(len(collection)):
                with suppress(Unreadable):
                    read.setdefault(collection.read(i).tobytes(), []).append(collection)
        assert list(map(len, read.values())) == [2] * (1 if pixels.channels == 5 else 2)


def test_classes_of_shards_go_along(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for i in range(6):
            for name, data in ((f"x/{i}.png", encoded(picture(i), "PNG")), (f"x/{i}.cls", str(i % 3).encode())):
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    pack(open_pictures(str(tmp_path / "a.tar")), tmp_path / "out", seed=3)
    again = Shards(shard_files(str(tmp_path / "out")))
    order = np.random.default_rng(3).permutation(6)
    assert again.labels().tolist() == (order % 3).tolist()
    for i, row in enumerate(order):
        np.testing.assert_array_equal(decode(again.stored(i), "x"), picture(int(row)))


def test_nothing_half_written_stays(packable, tmp_path, monkeypatch):
    def full(self, *_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "addfile", full)
    with pytest.raises(UserError, match=r"out: can't be written \(No space left"):
        pack(open_pictures(str(packable)), tmp_path / "out")
    monkeypatch.undo()
    for name in os.listdir(packable):
        (packable / name).write_bytes(b"")
    with pytest.raises(UserError, match="none of the 9 pictures is readable"):
        pack(open_pictures(str(packable)), tmp_path / "out")
    assert os.listdir(tmp_path) == ["pictures"]


def test_pack_by_words(packable, tmp_path, capsys):
    assert main(["pack", str(packable), str(tmp_path / "out"), "--workers", "0", "--shard-size", "0.5 MiB"]) == 0
    told = capsys.readouterr().out
    assert "7 pictures in 1 shards" in told
    assert "2 unreadable ones left out" in told
    assert len(open_pictures(told.split("'")[1].removeprefix("data.path="))) == 7
    with pytest.raises(UserError, match=r"out holds train-000000\.tar already: name an empty folder"):
        main(["pack", str(packable), str(tmp_path / "out"), "--workers", "0"])
    (tmp_path / "empty").mkdir()
    assert main(["pack", str(packable), str(tmp_path / "empty"), "--workers", "0", "--ordered"]) == 0


def configuration(path: Path | str, *more: str) -> Config:
    small = ["views.large.size=48", "views.large.count=2", "views.small={count: 3, size: 24, scale: [0.05, 0.3]}"]
    any_size = ["method={name: vicreg}", "backbone.name=test_resnet"]
    return load_config("demo", [f"data.path={path}", *any_size, *small, "batch=6", "seed=5", *more])


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    root = tmp_path / "photographs"
    root.mkdir()
    for i in range(9):
        (root / f"{i}.png").write_bytes(encoded(picture(i, 120 + 5 * i, 150), "PNG"))
    (root / "8.png").write_bytes(b"")
    return root


def place(page: np.ndarray, part: np.ndarray) -> tuple[int, int] | None:
    """Where a part stands in a page, pixel for pixel: left, top."""
    x, y = cv2.minMaxLoc(cv2.matchTemplate(page, part, cv2.TM_SQDIFF))[2]
    return (x, y) if np.array_equal(page[y : y + part.shape[0], x : x + part.shape[1]], part) else None


@pytest.mark.parametrize("where", ["workers", "device"])
def test_drawn_views_are_those_of_the_run(photographs, where):
    cfg = configuration(photographs, f"photometric.where={where}")
    images = open_pictures(cfg.data.path, Pixels.of(cfg))
    ((_, loaded),) = Loader(images, cfg.views, cfg.photometric, batch=cfg.batch, seed=5, workers=0).from_step(0, 1)
    truth = ToDevice("cpu", cfg.data.mean, cfg.data.std)(loaded)  # what the network sees
    found = sources(images, cfg, 4)
    page = np.array(sheet(found))
    assert len(found) == 4
    for row, source in enumerate(found):
        number = int(truth.pictures[row])
        stands_in = 0 if number == 8 else number  # 8.png is empty, and the next one after the last is the first
        assert source.path == images.path(stands_in)
        np.testing.assert_array_equal(source.picture, images.read(stands_in))
        assert [view.large for view in source.views] == [True] * 2 + [False] * 3
        places = []
        for seen, view in zip(source.views, truth.large + truth.small, strict=True):
            pixels = view.image[row].permute(1, 2, 0).numpy() * cfg.data.std + cfg.data.mean
            assert np.abs(seen.image / 255 - pixels).max() < (1e-5 if where == "workers" else 0.501 / 255)
            np.testing.assert_array_equal(seen.affine, view.affine[row].numpy())
            places.append(place(page, seen.image.repeat(4, 0).repeat(4, 1)))  # 48 px at 4 times their size
        assert None not in places
        assert len(set(places)) == 5
        assert [x for x, _ in places] == sorted(x for x, _ in places)  # as numbered


def test_the_corner_of_a_view_is_where_its_outline_begins():
    """By a picture whose pixels store their own coordinates."""
    unchanged = PhotometricConfig(jitter_p=0, grey_p=0, blur_p=(0, 0), solarize_p=(0, 0))
    views = configuration("scenes").views
    source = np.zeros((200, 240, 3), np.uint8)
    source[..., 0], source[..., 1] = np.mgrid[:200, :240]
    mirrored = 0
    for index in range(12):
        crops = MultiCrop(views, unchanged, seed=1)(source, 0, index)
        for number, (image, _, matrix) in enumerate(crops):
            seen = Seen(image, matrix, number < 2)
            page = outlined(source, [seen], 200, 240)
            size = len(image) - 1
            pixels = [image[0, 0], image[0, size], image[size, size], image[size, 0]]  # around the view
            step = np.abs(matrix[:, :2]).max() / len(image)
            ends = []
            for (y, x), pixel in zip(corners(matrix), pixels, strict=True):
                assert np.abs(pixel[:2] + 0.5 - (y, x)).max() <= step / 2 + 1.5  # half a pixel of the view inside
                ends.append(np.rint([min(max(y - 0.5, 0), 199), min(max(x - 0.5, 0), 239)]).astype(int))
            inward = np.sign(np.mean(ends, 0) - ends).astype(int)  # a dot, at the first corner alone
            assert [tuple(page[tuple(end)]) == seen.colour for end in ends] == [True] * 4
            assert [tuple(page[tuple(end)]) == seen.colour for end in ends + inward] == [True] + [False] * 3
            assert seen.colour == (LARGE if number < 2 else SMALL)
            assert seen.mirrored == (pixels[0][1] > pixels[1][1])
            mirrored += seen.mirrored
            assert (page != source).any(-1).mean() < 0.1
    assert 15 < mirrored < 45  # of 60


def test_outlines_are_scaled_with_the_picture():
    source = np.zeros((100, 160, 3), np.uint8)
    matrix = np.array([[40, 0, 20], [0, 60, 30]], np.float32)
    page = outlined(source, [Seen(source, matrix, True)], 200, 1000)
    assert page.shape == (200, 320, 3)
    ys, xs = np.nonzero((page == LARGE).all(-1))
    assert [ys.min(), ys.max(), xs.min(), xs.max()] == pytest.approx([40 - 2, 120, 60 - 2, 180], abs=1)  # 2 of the dot


def test_views_by_words(photographs, tmp_path, capsys):
    words = [
        "views",
        "--cfg",
        "demo",
        f"data.path={photographs}",
        "batch=4",
        "--out",
        str(tmp_path / "x.png"),
        "seed=5",
    ]
    assert main([*words, "--pictures", "2"]) == 0
    assert f"{tmp_path}/x.png: " in capsys.readouterr().out
    cfg = load_config("demo", [f"data.path={photographs}", "batch=4", "seed=5"])
    with Image.open(tmp_path / "x.png") as page:
        np.testing.assert_array_equal(
            np.array(page), np.array(sheet(sources(open_pictures(cfg.data.path, Pixels.of(cfg)), cfg, 2)))
        )
    with pytest.raises(UserError, match="no such key"):
        main([*words, "view.large.size=3"])


@pytest.mark.parametrize("out", ["out", "scenes"])  # "scenes" as data.path is the built-in ones
def test_scenes_as_a_folder_of_pictures(out, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["scenes", out, "--layout", "pictures", "--count", "3", "--size", "48"]) == 0
    images = open_pictures(capsys.readouterr().out.split("data.path=")[1].strip())
    assert len(images) == 3
    for i in range(3):
        np.testing.assert_array_equal(images.read(i), Scenes(3, 48).read(i))


def test_scenes_as_a_folder_of_masks(tmp_path):
    counts = write_scenes(tmp_path / "out", "folder", count=5, size=64, seed=2)
    assert counts == {"train": 5, "val": 1}
    for split, count in counts.items():
        data, scenes = open_segmentation(tmp_path / "out", split), Scenes(count, 64, 2, split)
        assert data.classes == scenes.classes
        assert len(data) == count
        data.check()
        for i in range(count):
            pixels, mask = data[i]
            np.testing.assert_array_equal(pixels, scenes.read(i))
            np.testing.assert_array_equal(mask, scenes.mask(i))


@pytest.mark.parametrize("layout", ["coco", "voc"])
def test_scenes_as_boxes(tmp_path, layout):
    counts = write_scenes(tmp_path / "out", layout, count=6, val=2, size=64, seed=2)
    for split, count in counts.items():
        data, truth = (
            open_detection(tmp_path / "out", split),
            SceneObjects("scenes", split, count=count, size=64, seed=2),
        )
        assert len(data) == count
        names = truth.classes if layout == "coco" else tuple(VOC_NAMES[name] for name in truth.classes)
        assert data.classes[: len(names)] == names
        for i in range(count):
            off = np.abs(data.picture(i).astype(int) - truth.picture(i))
            assert off.max() == 0 if layout == "coco" else off.mean() < 5  # JPEG, of noisy pictures
            found, wanted = data.objects(i), truth.objects(i)
            np.testing.assert_array_equal(found.boxes, wanted.boxes)
            np.testing.assert_array_equal(found.labels, wanted.labels)
            if layout == "coco":
                np.testing.assert_array_equal(found.masks(64, 64), wanted.masks(64, 64))
                np.testing.assert_array_equal(found.areas, wanted.areas)


def test_scenes_as_vocs_masks(tmp_path):
    write_scenes(tmp_path / "out", "voc", count=4, val=2, size=64)
    for path in (tmp_path / "out", tmp_path / "out/VOCdevkit/VOC2012"):
        for split, count in (("train", 4), ("val", 2)):
            data, scenes = open_segmentation(path, split), Scenes(count, 64, 0, split)
            data.check()
            for i in range(count):
                names = [scenes.classes[value] for value in range(len(scenes.classes))]
                wanted = [0 if name in GROUNDS else data.classes.index(VOC_NAMES[name]) for name in names]
                np.testing.assert_array_equal(data[i][1], np.array(wanted)[scenes.mask(i)])
    told = (tmp_path / "out/VOCdevkit/VOC2012/classes.txt").read_text()
    assert f"aeroplane: {next(iter(OBJECTS))}" in told


def test_runs_are_pycocotools():
    from pycocotools import mask as rle

    rng = np.random.default_rng(0)
    for density in (0.0, 0.1, 0.9, 1.0):
        mask = rng.random((7, 5)) < density
        runs = counts(rle.encode(np.asfortranarray(mask, np.uint8))["counts"])
        back = rle.decode(rle.frPyObjects({"size": [7, 5], "counts": runs}, 7, 5))
        np.testing.assert_array_equal(back, mask)


def test_scenes_leave_nothing_half_written(tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").touch()
    with pytest.raises(UserError, match=r"full holds mine\.txt already"):
        main(["scenes", str(tmp_path / "full"), "--layout", "coco"])

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(json, "dumps", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_scenes(tmp_path / "out", "coco", count=2, size=32)
    assert os.listdir(tmp_path) == ["full"]
    assert os.listdir(tmp_path / "full") == ["mine.txt"]
