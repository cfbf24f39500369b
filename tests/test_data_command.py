"""The data command: what check finds in a collection made to be wrong in known places."""

import io
import json
import os
import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from picture_forms import by_numpy, turned
from PIL import Image

from densessl.__main__ import COMMANDS
from densessl.__main__ import run as run_command
from densessl.commands import data as command
from densessl.commands.data import main
from densessl.config import CropsConfig, PhotometricConfig, ViewsConfig
from densessl.config_file import parse_override
from densessl.data import check as check_module
from densessl.data.check import _duplicates, _Part, survey
from densessl.data.contact import COLUMNS, GAP, SIDE, as_rgb, contact_sheet, tiles
from densessl.data.layouts import LAYOUTS
from densessl.data.loader import Loader
from densessl.data.pictures import open_pictures
from densessl.data.raster import Kind
from densessl.data.stored import form_of
from densessl.errors import UserError


def picture(seed: int, height: int = 70, width: int = 90) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def encoded(image: np.ndarray | Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, form, **options)
    return buffer.getvalue()


def bomb() -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    size = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


GOOD = ("a/0.png", "a/1.webp", "b/2.tif", "b/3.bmp", "c 4.png")
BROKEN = ("cut.jpg", "empty.jpg", "page.jpg", "bomb.png", "gone.jpg")


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    """Five good pictures, two with the pixels of others in another format, two tiny ones, five broken ones."""
    root = tmp_path / "pictures"
    for number, name in enumerate(GOOD):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        options = {"lossless": True} if name.endswith("webp") else {}
        Image.fromarray(picture(number)).save(root / name, **options)
    Image.fromarray(picture(1)).save(root / "b/again.bmp")
    Image.fromarray(picture(0)).save(root / "z.png", compress_level=1)
    for name in ("tiny 1.png", "tiny 2.png"):
        Image.fromarray(picture(7, 20 + int(name[5]), 80)).save(root / name)
    (root / "cut.jpg").write_bytes(encoded(picture(8), "JPEG")[:-400])
    (root / "empty.jpg").touch()
    (root / "page.jpg").write_bytes(b"<html>not here</html>")
    (root / "bomb.png").write_bytes(bomb())
    (root / "gone.jpg").symlink_to(root / "nowhere.jpg")
    return root


def names(images, rows) -> list[str]:
    return [os.path.relpath(images.path(int(row)), images.source.root) for row in rows]


@pytest.mark.parametrize("workers", [0, 2])
def test_survey_finds_what_was_put_there(collection, monkeypatch, workers):
    monkeypatch.setattr(check_module, "CHUNK", 4)  # several chunks, the last not full
    images = open_pictures(str(collection))
    found = survey(images, tiny=64, workers=workers)
    assert found.pictures == 14
    assert sorted(names(images, found.corrupt)) == sorted(BROKEN)
    assert sorted(names(images, found.tiny)) == ["tiny 1.png", "tiny 2.png"]
    assert {tuple(names(images, pair)) for pair in found.duplicates} == {
        ("a/0.png", "z.png"),
        ("b/again.bmp", "a/1.webp"),
    }
    kept = sorted(names(images, np.flatnonzero(found.good())))
    assert kept == sorted({"z.png", "a/1.webp", "b/2.tif", "b/3.bmp", "c 4.png"})  # files come before folders
    reasons = {name: found.corrupt[row] for row, name in zip(found.corrupt, names(images, found.corrupt), strict=True)}
    assert "cut short" in reasons["cut.jpg"]
    assert "179 million" in reasons["bomb.png"]
    assert "No such file" in reasons["gone.jpg"]
    assert (found.width, found.height) == ((80, 90, 90), (21, 70, 70))
    assert found.frequent[0] == (90, 70, 7)
    assert found.forms["PNG RGB: 3 channels of uint8"] == 5
    assert found.forms.total() == 9


def test_turned_images_are_counted(tmp_path, capsys):
    for turn in (1, 3, 6):
        for number, data in enumerate(turned(turn).values()):
            (tmp_path / f"{turn}-{number}").write_bytes(data)
    (tmp_path / "list.txt").write_text("\n".join(sorted(path.name for path in tmp_path.iterdir())))
    found = survey(open_pictures(str(tmp_path / "list.txt")))
    assert (found.turned, found.pictures, found.corrupt) == (2 * len(turned(1)), 3 * len(turned(1)), {})
    main(["check", str(tmp_path / "list.txt"), "--workers", "0", "--out", str(tmp_path / "out")])
    assert f"turned  {found.turned}, as EXIF or XMP says; data.upright=false" in capsys.readouterr().out
    assert json.loads((tmp_path / "out/check.json").read_text())["turned"] == found.turned


def test_mean_and_deviation_are_those_of_all_pixels_in_float64(collection):
    images = open_pictures(str(collection))
    found = survey(images)
    readable = [images.read(i) for i in range(len(images)) if i not in found.corrupt]
    pixels = np.concatenate([p.reshape(-1, 3) for p in readable]).astype(np.float64) / 255
    assert found.advice.pictures == len(readable) == 9
    np.testing.assert_allclose(found.advice.mean, pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.advice.std, pixels.std(0), rtol=1e-12)
    assert found.advice.words().startswith("data.mean=[")  # nothing but these is needed


def test_memory_grows_by_a_few_bytes_a_picture(monkeypatch):
    def look(_, rows: range) -> _Part:  # of pictures of 500 sizes, no two alike
        sides = np.array([(70 + row % 20, 70 + row % 25) for row in rows], np.uint16)
        digests = np.arange(rows.start + 1, rows.stop + 1, dtype=np.uint64)
        return _Part(sides, digests, {}, {}, Counter(["PNG"]), [Kind(3, "uint8", False, False)] * len(rows), {})

    monkeypatch.setattr(check_module, "_look", look)

    def peak(count: int) -> int:
        tracemalloc.start()
        assert survey(range(count)).good().all()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(1000)  # what is made once
    assert (peak(110_000) - peak(10_000)) / 100_000 < 28


def test_duplicates_point_at_the_first():
    rng = np.random.default_rng(0)
    digests = rng.integers(0, 60, 200).astype(np.uint64)  # 0: unreadable, equal to nothing
    truth = []
    for row, digest in enumerate(digests.tolist()):
        first = digests.tolist().index(digest)
        if digest and first < row:
            truth.append((row, first))
    assert _duplicates(digests).tolist() == [list(pair) for pair in truth]
    assert _duplicates(np.zeros(3, np.uint64)).shape == _duplicates(np.arange(1, 3, dtype=np.uint64)).shape == (0, 2)


def test_forms_are_those_of_the_files():
    rgb = Image.fromarray(picture(0))
    half_clear = Image.fromarray(np.dstack([picture(0), picture(1)[..., :1]]))
    sixteen = cv2.imencode(".png", picture(0).astype(np.uint16))[1].tobytes()
    for data, form in [
        (encoded(rgb, "JPEG"), ("JPEG", "RGB")),
        (encoded(rgb.convert("L"), "JPEG"), ("JPEG", "L")),
        (encoded(rgb.convert("CMYK"), "JPEG"), ("JPEG", "CMYK")),
        (encoded(half_clear, "PNG"), ("PNG", "RGBA")),
        (encoded(half_clear, "WEBP"), ("WEBP", "RGBA")),
        (encoded(rgb.quantize(4), "PNG", bits=2), ("PNG", "P")),
        (encoded(rgb, "BMP"), ("BMP", "RGB")),
        (encoded(rgb, "TIFF"), ("TIFF", "")),
        (by_numpy(picture(0)), ("npy", "")),
        (sixteen, ("PNG", "RGB")),
        (b"", ("drawn", "")),
    ]:
        assert form_of(data) == form


def test_check_tells_lists_and_draws(collection, tmp_path, capsys):
    words = [
        "check",
        str(collection),
        "--workers",
        "0",
        "--out",
        str(tmp_path / "out"),
        "--list",
        str(tmp_path / "good.txt"),
    ]
    assert main([*words, "--sheet", str(tmp_path / "sheet.png")]) == 1
    told = capsys.readouterr().out
    assert "14 pictures, 9 readable" in told
    assert f"{collection}/cut.jpg: cut short" in told
    assert f"{collection}/a/0.png = {collection}/z.png" in told

    facts = json.loads((tmp_path / "out/check.json").read_text())
    assert (facts["pictures"], facts["corrupt"], facts["tiny"], facts["duplicates"]) == (14, 5, 2, 2)
    assert len((tmp_path / "out/corrupt.txt").read_text().splitlines()) == 5
    line = next(line for line in told.splitlines() if "data.mean=" in line)
    for word, key in zip(line.split(), ("mean", "std"), strict=True):
        value = parse_override(word)  # as the command line of pretrain reads it
        assert value.key == f"data.{key}"
        np.testing.assert_allclose(value.value, facts["advice"][key], rtol=5.1e-4)

    # 5 of 14: int(share x 14) must be 5, and the loader goes on with that and not with less.
    needed = next(float(word.split("=")[1]) for word in told.split() if word.startswith("data.unreadable="))
    assert int(needed * 14) == 5
    assert int((needed - 1e-4) * 14) == 4

    listed = open_pictures(str(tmp_path / "good.txt"))
    assert len(listed) == 5
    np.testing.assert_array_equal(listed.read(0), picture(4))
    assert main(["check", str(tmp_path / "good.txt"), "--workers", "0"]) == 0
    assert "corrupt: none" in capsys.readouterr().out
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > COLUMNS * SIDE
    assert sorted(os.listdir(tmp_path)) == ["good.txt", "out", "pictures", "sheet.png"]  # nothing half-written


def test_what_check_advises_is_what_the_loader_allows(tmp_path):
    for i in range(30):
        (tmp_path / f"{i:02d}.png").write_bytes(b"x" if i % 6 == 0 else encoded(picture(i), "PNG"))
    images = open_pictures(str(tmp_path))
    needed = survey(images).needed()
    views = ViewsConfig(large=CropsConfig(count=2, size=16, scale=(0.5, 1)))

    def run(unreadable: float) -> int:
        options = {"batch": 10, "seed": 0, "workers": 0, "unreadable": unreadable}
        return len(list(Loader(images, views, PhotometricConfig(), **options).from_step(0, 6)))

    assert run(needed) == 6
    with pytest.raises(UserError, match=r"data\.unreadable allows 4"):
        run(needed - 1e-4)


def test_contact_sheet_has_the_pictures_and_marks_the_bad(collection):
    images = open_pictures(str(collection))
    found = survey(images)
    shown = tiles(images, found, 100)
    assert [tile.name for tile in shown] == [os.path.basename(images.path(i)) for i in range(14)]
    faults = {tile.name: tile.fault for tile in shown if tile.fault}
    assert faults.keys() == {*BROKEN, "tiny 1.png", "tiny 2.png", "0.png", "again.bmp"}
    assert faults["tiny 1.png"] == "80 x 21"
    assert faults["0.png"] == "= z.png"
    few = tiles(images, found, 3)  # evenly spread, then the bad ones
    assert [tile.name for tile in few[:3]] == [shown[i].name for i in (0, 6, 13)]
    assert sum(bool(tile.fault) for tile in few) == 9
    page = np.array(contact_sheet(shown))
    good = next(number for number, tile in enumerate(shown) if tile.name == "c 4.png")
    small = cv2.resize(picture(4), (128, 100), interpolation=cv2.INTER_CUBIC)
    x, y = cv2.minMaxLoc(cv2.matchTemplate(page, small, cv2.TM_SQDIFF))[2]
    np.testing.assert_array_equal(page[y : y + 100, x : x + 128], small)
    assert x == GAP + good * (SIDE + GAP)


def test_channels_of_any_number_can_be_shown():
    values = np.random.default_rng(0).integers(0, 256, (4, 5, 6), dtype=np.uint8)
    assert (as_rgb(values[..., :1]) == values[..., :1]).all()
    assert (as_rgb(values[..., :2])[..., :2] == values[..., :2]).all()
    assert not as_rgb(values[..., :2])[..., 2].any()
    for channels in (3, 4, 6):
        assert (as_rgb(values[..., :channels]) == values[..., :3]).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["chekc"], "data chekc: there are check, pack, views, scenes"),
        (["check", "nowhere"], "data.path=nowhere: no such folder or file"),
        (["check", "scenes", "--tiny", "-1"], "--tiny -1: at least 0"),
        (["check", "scenes", "--sheet", "x.txt"], "--sheet x.txt: a picture's name is needed, such as x.png"),
        (["check", "scenes", "--list", "x.txt"], "--list x.txt: these pictures have no files"),
        (["pack", "scenes", "out", "--shard-size", "big"], "--shard-size big: a size is needed, such as 512MiB"),
        (["pack", "scenes", "out", "--shard-size", "0MB"], "--shard-size 0MB: a size is needed"),
        (["pack", "scenes", "out", "--name", "a/b"], "--name a/b: letters, digits"),
        (["views", "--cfg", "demo", "--out", "x"], "--out x: a picture's name is needed"),
    ],
)
def test_errors(words, message, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[1])
    with pytest.raises(UserError) as caught:
        main(words)
    assert message in str(caught.value)


def test_what_cannot_be_written_is_named(collection, tmp_path):
    for word in ("--sheet", "--list", "--out"):
        file = collection / "z.png" / f"x{'.png' * (word != '--out')}"  # below a file
        with pytest.raises(UserError, match=r"z\.png.*: can't be written"):
            main(["check", str(collection), "--workers", "0", word, str(file)])


def test_the_script_ends_as_told(collection):
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        script = Path(__file__).parents[1] / "tools/data.py"
        return subprocess.run([sys.executable, str(script), *words], capture_output=True, text=True)

    done = run("check", str(collection), "--workers", "2")
    assert (done.returncode, "corrupt: 5 of 14, 35.71%" in done.stdout) == (1, True), done.stderr
    assert "checked 1/1" in done.stderr
    assert run("sort").returncode == 2


def test_commands_are_listed(capsys, monkeypatch):
    assert "data" in COMMANDS
    assert command.RUNS.keys() == command.KINDS.keys() == command.ABOUT.keys() == command.EXAMPLES.keys()
    assert tuple(LAYOUTS) == command.LAYOUTS
    assert main([]) == 0
    told = capsys.readouterr().out
    assert all(kind in told for kind in command.KINDS)
    monkeypatch.setattr(sys, "argv", ["data"])
    assert run_command(lambda: main(["pack", "nowhere", "out"])) == 2
    assert "nowhere" in capsys.readouterr().err
