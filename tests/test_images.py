"""The index of pictures and the decoding of one."""

import io
import os
import pickle
import random
import struct
import tracemalloc
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from picture_forms import turned
from PIL import Image, ImageOps

from densessl.data.decoding import Unreadable, decode
from densessl.data.pictures import open_pictures
from densessl.data.pixels import Pixels
from densessl.data.sources import open_source
from densessl.data.sources.files import find_files
from densessl.errors import UserError


@pytest.fixture
def pixels():
    coarse = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return cv2.resize(coarse, (70, 50), interpolation=cv2.INTER_CUBIC)


def encoded(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def names(images):
    return [os.path.relpath(images.path(i), images.source.root) for i in range(len(images))]


def test_folder_is_searched_whole_in_an_order_of_its_own(tmp_path):
    wanted = ["B.JPG", "a.png", "b.Jpeg", "z.webp", "é.tif", "a/2.bmp", "a/10.tiff", "a/deep/x.jpg", "b/1.jpg"]
    others = [".hidden.jpg", "._a.png", "notes.txt", "jpg", ".thumbs/a.jpg", "a/._2.bmp"]
    files = wanted + others
    random.Random(0).shuffle(files)
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "c.jpg").mkdir()  # a folder, whatever its name
    by_bytes = sorted(wanted, key=lambda name: (os.fsencode(os.path.dirname(name)), os.fsencode(name)))
    assert names(open_pictures(str(tmp_path))) == by_bytes


def test_links_are_followed_but_not_in_circles(tmp_path):
    (tmp_path / "data/a").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for name in ("data/a/1.jpg", "elsewhere/2.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "data/a/up").symlink_to(tmp_path / "data")
    (tmp_path / "data/b").symlink_to(tmp_path / "elsewhere")
    assert names(open_pictures(str(tmp_path / "data"))) == ["a/1.jpg", "b/2.jpg"]


def test_list_of_paths(tmp_path, pixels):
    (tmp_path / "sub").mkdir()
    Image.fromarray(pixels).save(tmp_path / "sub/a b.png")
    Image.fromarray(pixels[:20]).save(tmp_path / "c.png")
    text = f"\ufeffsub/a b.png\r\n\r\n  \nmissing.jpg\n{tmp_path / 'c.png'}"
    (tmp_path / "list.txt").write_bytes(text.encode())
    images = open_pictures(str(tmp_path / "list.txt"))
    assert len(images) == 3
    np.testing.assert_array_equal(images.read(0), pixels)
    np.testing.assert_array_equal(images.read(2), pixels[:20])
    with pytest.raises(Unreadable, match=r"missing\.jpg: No such file"):
        images.read(1)


def test_a_list_has_one_hash_wherever_it_lies(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there" / "deep"
    for root in (here, there):
        (root / "b").mkdir(parents=True)
        for name in ("z.png", "b/a.png", "b/c.png"):
            (root / name).touch()
    (here / "list.txt").write_text("z.png\nb/a.png\nb/c.png\n")
    (there / "list.txt").write_text("b/a.png\nz.png\nb/c.png\n")

    def hashed(path) -> str:
        return open_source(str(path)).list_hash()

    same = {hashed(here), hashed(there), hashed(here / "list.txt")}
    assert len(same) == 1
    assert hashed(there / "list.txt") not in same  # another order
    (there / "b" / "a.png").rename(there / "a.png")
    assert hashed(there) not in same


def test_index_is_small_and_so_is_its_making(tmp_path):
    count = 50_000
    lines = "".join(f"class_{i % 1000:04d}/picture_{i:08d}.jpg\n" for i in range(count))
    (tmp_path / "list.txt").write_text(lines)
    (tmp_path / "class_0000").mkdir()
    (tmp_path / "class_0000/picture_00000000.jpg").touch()
    tracemalloc.start()
    images = open_pictures(str(tmp_path / "list.txt"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert images.path(count - 1).endswith("class_0999/picture_00049999.jpg")
    assert peak < 80 * count  # 40 bytes of path and 8 of place, growing by doubling at worst; strings are 90 more
    assert len(pickle.dumps(images)) < 50 * count
    assert pickle.loads(pickle.dumps(images)).path(7) == images.path(7)


def test_folder_with_many_files_needs_no_list_of_them(tmp_path):
    for i in range(2000):
        (tmp_path / f"{i * 7919 % 2000}.jpg").touch()
    images = open_pictures(str(tmp_path))
    assert names(images) == sorted(f"{i}.jpg" for i in range(2000))


def test_formats(pixels):
    picture = Image.fromarray(pixels)
    grey = np.asarray(picture.convert("L"))
    sixteen = cv2.imencode(".png", pixels[..., ::-1].astype(np.uint16) * 257)[1].tobytes()
    sixteen_grey = cv2.imencode(".png", grey.astype(np.uint16) * 257)[1].tobytes()
    half_clear = np.dstack([pixels, np.full(pixels.shape[:2], 100, np.uint8)])
    palette = picture.quantize(16)
    for data, truth, off in [
        (encoded(picture, "PNG"), pixels, 0),
        (encoded(picture, "BMP"), pixels, 0),
        (encoded(picture, "TIFF", compression="tiff_lzw"), pixels, 0),
        (encoded(picture, "WEBP", lossless=True), pixels, 0),
        (encoded(picture, "JPEG", quality=98, subsampling=0), pixels, 8),
        (encoded(picture, "JPEG", quality=98, subsampling=0, progressive=True), pixels, 8),
        (encoded(picture.convert("L"), "PNG"), np.dstack([grey] * 3), 0),
        (encoded(picture.convert("L"), "JPEG", quality=98), np.dstack([grey] * 3), 8),
        (encoded(Image.fromarray(half_clear), "PNG"), pixels, 0),
        (encoded(palette, "PNG"), np.asarray(palette.convert("RGB")), 0),
        (encoded(picture.convert("1"), "PNG"), np.asarray(picture.convert("1").convert("RGB")), 0),
        (encoded(picture.convert("CMYK"), "JPEG", quality=98), pixels, 8),
        (sixteen, pixels, 1),
        (sixteen_grey, np.dstack([grey] * 3), 1),
    ]:
        read = decode(data, "x")
        assert read.dtype == np.uint8
        assert read.shape == truth.shape
        assert read.flags.c_contiguous
        assert np.abs(read.astype(int) - truth).max() <= off


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("form", "wanted"), [("PNG", Pixels()), ("TIFF", Pixels()), ("TIFF", Pixels(range=((0, 255),)))]
)
def test_turn_in_exif_is_that_of_pillow(pixels, orientation, form, wanted):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(pixels), form, exif=exif)
    truth = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    factor = 257 if wanted.scaled else 1
    np.testing.assert_array_equal(decode(data, "x", wanted), truth.astype(int) * factor)
    stored = decode(data, "x", wanted._replace(upright=False))
    np.testing.assert_array_equal(stored, pixels.astype(int) * factor)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turn_is_that_of_pillow_wherever_it_is_told(orientation):
    for name, data in turned(orientation).items():
        truth = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
        assert (truth.shape[0] > truth.shape[1]) == (orientation > 4)
        read = decode(data, name).astype(int)
        assert read.shape == truth.shape, name
        assert np.abs(read - truth).max() <= 3 * name.startswith("JPEG"), name
        assert decode(data, name, Pixels(upright=False)).shape == (24, 36, 3)


IMAGES = {
    **{"a.JFIF": "JPEG", "b.jpe": "JPEG", "c.pgm": "PPM", "d.gif": "GIF", "e.dib": "BMP", "f.mpo": "JPEG"},
    **{"none": "PNG", "v1.2 final": "WEBP", "img.0001": "BMP", "img.0002": "TIFF", "x.dat": "GIF", "y.pnm": "PPM"},
}


def test_images_are_found_whatever_their_endings_and_what_is_left_out_is_counted(tmp_path: Path, pixels) -> None:
    """As they are read by Pillow."""
    gray = Image.fromarray(pixels).convert("L")
    for name, form in IMAGES.items():
        (tmp_path / name).write_bytes(encoded(gray, form))
    others = {
        **{"a.txt": encoded(gray, "PNG"), "b.txt": b"x", "c.NEF": encoded(gray, "TIFF"), "Thumbs.db": b"\xd0\xcf"},
        **{
            "sound": b"RIFF\x24\0\0\0WAVEfmt ",
            "letter": b"BMW is a car, and no image",
            "code.p": b"P6 is a chip",
            "e": b"",
        },
        **{".hidden.png": encoded(gray, "PNG"), "._a.jpg": b"\0\5\x16\7"},
    }
    for name, data in others.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / ".thumbnails").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")  # which isn't waited for
    found = open_pictures(str(tmp_path))
    assert names(found) == sorted(IMAGES)
    for row in range(len(found)):
        with Image.open(found.source.file(row)) as image:
            truth = np.array(image.convert("RGB"))
        assert np.abs(found.read(row).astype(int) - truth).max() <= 3
    assert found.source.contents.taken == {
        **{f".{name}": 1 for name in ("jfif", "jpe", "pgm", "gif", "dib", "mpo", "dat", "pnm")},
        "without an ending": 4,
    }
    assert str(found.source.contents).endswith("; left out: 5 without an ending, 3 hidden, 2 .txt, 1 .db, 1 .nef, 1 .p")


def test_endings_without_end_are_counted_together(tmp_path: Path, pixels) -> None:
    (tmp_path / "list.txt").write_text("".join(f"a.{n:x}x\n" for n in range(1000)))
    contents = find_files(str(tmp_path / "list.txt")).contents
    assert (len(contents.taken), contents.taken.total()) == (201, 1000)
    assert str(contents).count(",") == 8


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ("{cwd}a/1.png", "they are right from .*: write whole paths, or put the list there"),
        ("1.png 7", "a line is a path alone, without a class"),
        ('"1.png"', "paths stand without quotes"),
        (r"a\1.png", r"folders are parted by /, not by"),
        ("https://host/1.png", "a URL is no file"),
        ("gone/1.png", "paths are relative to the list's folder, or whole"),
    ],
)
def test_a_list_without_a_right_line_gets_advice_about_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, advice: str
) -> None:
    for folder in ("lists", "here/a"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "1.png").touch()
    monkeypatch.chdir(tmp_path / "here")
    file = tmp_path / "lists/list.txt"
    file.write_text(f"{line.format(cwd='')}\n" * 120)
    with pytest.raises(
        UserError, match=rf"none of 100 lines names a file that is there, looked for in .*lists; {advice}"
    ) as caught:
        open_pictures(str(file))
    assert str(caught.value).splitlines()[1:] == [f"  {line.format(cwd='')}"] * 3
    file.write_text(f"{line.format(cwd='')}\n1.png\n")
    assert len(open_pictures(str(file))) == 2  # one that is right is enough


def huge_png() -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    size = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def broken(picture: Image.Image) -> dict[str, bytes]:
    thumbnail = encoded(picture.resize((16, 16)), "JPEG")
    jpeg = encoded(picture, "JPEG", exif=b"Exif\0\0" + thumbnail)  # the end marker of the thumbnail comes first
    png = encoded(picture, "PNG")
    cut = {
        f"cut {form}": encoded(picture, form)[: len(encoded(picture, form)) * 2 // 3]
        for form in ("PNG", "WEBP", "TIFF", "BMP", "JPEG", "GIF", "PPM")
    }
    floats = cv2.imencode(".tif", np.zeros((4, 4), np.float32))[1].tobytes()
    return cut | {
        "empty": b"",
        "text": b"no picture at all",
        "noise": bytes(range(256)) * 20,
        "header": png[:20],
        "thumbnail": jpeg[:-20],
        "huge": huge_png(),
        "floats": floats,
    }


def test_broken_files_are_named(pixels, capfd):
    for name, data in broken(Image.fromarray(pixels)).items():
        with pytest.raises(Unreadable) as caught:
            decode(data, f"{name}.jpg")
        assert str(caught.value).startswith(f"{name}.jpg: ")
        assert caught.value.reason
        assert pickle.loads(pickle.dumps(caught.value)).reason == caught.value.reason
    with pytest.raises(Unreadable, match="cut it into tiles"):
        decode(huge_png(), "x")
    assert capfd.readouterr().err == ""  # OpenCV keeps quiet


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "none/such", "no such folder"),
        (lambda p: p, r"no pictures in this folder.*looked for .*\.jpeg.*found 2 \.txt, 1 \.tar"),
        (lambda p: p / "void", "found no files"),
        (lambda p: p / "empty.txt", "the list is empty"),
        (lambda p: p / "some.tar", "neither a folder nor a text file"),
    ],
)
def test_errors(tmp_path: Path, make, message):
    (tmp_path / "void").mkdir()
    (tmp_path / "empty.txt").write_text("\n \r\n")
    (tmp_path / "other.txt").write_text("x")
    (tmp_path / "some.tar").write_bytes(b"\0" * 100)
    with pytest.raises(UserError, match=message) as caught:
        find_files(str(make(tmp_path)))
    assert str(make(tmp_path)) in str(caught.value)
