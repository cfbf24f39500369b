"""Each layout as it lies on disk, and everything in it that would spoil a score."""

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from picture_forms import chunk, in_png, turned
from PIL import Image, ImageOps

from densessl.data.decoding import RGB
from densessl.data.palette import palette
from densessl.data.pixels import Pixels
from densessl.errors import UserError
from densessl.probes.few import Few
from densessl.segmentation.datasets import DATASETS, open_dataset
from densessl.segmentation.datasets.files import read_mask
from densessl.segmentation.datasets.voc import CLASSES

SIZE = (12, 8)  # width, height
BACK = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180}
BACK |= {6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE}


def picture(path: Path, size=SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 120, 30)).save(path)


def mask(path: Path, values=((0, 1), (2, 255)), mode="L", size=SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.asarray(values, np.uint8)
    image = Image.fromarray(np.kron(small, np.ones((size[1] // len(small), size[0] // small.shape[1]), np.uint8)))
    if mode == "P":
        image.putpalette([part for i in range(256) for part in palette(i)])
    image.save(path)


def folder(root: Path, classes="sky\nroad\ncar\n", names=("a", "b")) -> Path:
    for split in ("train", "val"):
        for name in names:
            picture(root / "images" / split / f"{name}.jpg")
            mask(root / "masks" / split / f"{name}.png")
    (root / "classes.txt").write_text(classes)
    return root


def voc(root: Path, val="2007_000033\n", train="2007_000032", augmented: str | None = None) -> Path:
    base = root / "VOCdevkit" / "VOC2012"
    lists = base / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for name in ("2007_000032", "2007_000033"):
        picture(base / "JPEGImages" / f"{name}.jpg")
        mask(base / "SegmentationClass" / f"{name}.png", ((0, 15), (20, 255)), mode="P")
    (lists / "train.txt").write_text(train)
    (lists / "val.txt").write_text(val)
    if augmented is not None:
        for name in ("2007_000032", "2008_000002"):
            picture(base / "JPEGImages" / f"{name}.jpg")
            mask(base / "SegmentationClassAug" / f"{name}.png", ((0, 7), (7, 20)))
        (lists / "trainaug.txt").write_text(augmented)
    return root


def test_folder(tmp_path):
    data = open_dataset(folder(tmp_path / "mine", names=("b", "a", "deep/c")), "val")
    assert (data.title, data.split, data.classes, len(data)) == ("mine", "val", ("sky", "road", "car"), 3)
    assert [data.name(i) for i in range(3)] == ["a", "b", "c"]
    image, labels = data[1]
    assert image.shape == (8, 12, 3)
    assert image.dtype == labels.dtype == np.uint8
    np.testing.assert_array_equal(labels[[0, 0, -1, -1], [0, -1, 0, -1]], [0, 1, 2, 255])
    assert len(set(data.colors)) == 3
    data.check()


@pytest.mark.parametrize("name", ["unlabelled", "Void", "ignore"])
def test_a_class_to_ignore_leaves_the_classes_and_those_after_it_move_up(tmp_path, name):
    data = open_dataset(folder(tmp_path, classes=f"sky\n{name}\ncar"), "train")
    assert data.classes == ("sky", "car")
    np.testing.assert_array_equal(np.unique(data[0][1]), [0, 1, 255])
    assert data[0][1][0, -1] == 255  # file value 1
    assert data[0][1][-1, 0] == 1  # file value 2


def test_palette_masks_are_read_as_indices(tmp_path):
    data = open_dataset(folder(tmp_path), "train")
    mask(tmp_path / "masks" / "train" / "a.png", mode="P")
    np.testing.assert_array_equal(np.unique(data[0][1]), [0, 1, 2, 255])


@pytest.mark.parametrize("turn", [1, 2, 3, 6, 7])
def test_image_and_mask_are_turned_as_each_says(tmp_path, turn):
    data, (height, width) = open_dataset(folder(tmp_path), "train"), (36, 24) if turn > 4 else (24, 36)
    image, label = tmp_path / "images/train/a.jpg", tmp_path / "masks/train/a.png"
    labels = np.random.default_rng(0).integers(0, 3, (height, width), np.uint8)
    stored = Image.fromarray(labels).transpose(BACK[turn]) if turn > 1 else Image.fromarray(labels)
    for name, content in turned(turn).items():
        image.write_bytes(content)
        Image.fromarray(labels).save(label)  # as a program draws it that shows the image upright
        picture, found = data[0]
        truth = np.array(ImageOps.exif_transpose(Image.open(image)))
        np.testing.assert_array_equal(picture, truth, name)
        np.testing.assert_array_equal(found, labels)
        np.testing.assert_array_equal(data.mask(0), labels)
    exif = Image.Exif()
    exif[0x0112] = turn
    stored.save(label, exif=exif)
    np.testing.assert_array_equal(data[0][1], np.array(ImageOps.exif_transpose(Image.open(label))))
    np.testing.assert_array_equal(data[0][1], labels)
    stored.save(label)
    for name in ("JPEG, EXIF", "TIFF, XMP element") if turn > 4 else ():
        image.write_bytes(turned(turn)[name])
        what = (
            rf"mask is 36x24 pixels, its picture a\.jpg is 24x36 \(stored as 36x24, turned as the orientation {turn} "
        )
        for look in (data.check, lambda: data[0]):
            with pytest.raises(UserError, match=what):
                look()


def test_what_stands_around_the_pixels_breaks_no_image_or_mask(tmp_path):
    png = io.BytesIO()
    Image.fromarray(np.full((8, 12), 2, np.uint8)).save(png, "PNG")
    data = open_dataset(folder(tmp_path), "train")
    for behind in (False, True):
        odd = in_png(png.getvalue(), chunk(b"gAMA", b""), behind)
        for file in ("images/train/a.jpg", "masks/train/a.png"):
            (tmp_path / file).write_bytes(odd)
        assert (data[0][0] == 2).all()
        assert (data.mask(0) == 2).all()


def test_masks_of_less_than_8_bits_keep_their_numbers(tmp_path):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 4, 1, 4, 0, 0, 0, 0)  # 4x1 pixels of 4 bits, grey
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes([0, 0x01, 0x2F]))) + chunk(b"IEND", b"")
    (tmp_path / "m.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    assert read_mask(tmp_path / "m.png").tolist() == [[0, 1, 2, 15]]


def spoil(root: Path, how: str) -> None:
    images, masks = root / "images" / "train", root / "masks" / "train"
    if how == "size":
        mask(masks / "a.png", size=(24, 8))
    if how == "small":
        picture(images / "a.jpg", size=(12, 4))
    if how == "value":
        mask(masks / "a.png", ((0, 1), (9, 255)))
    if how == "rgb":
        picture(masks / "a.png")
    if how == "16 bit":
        Image.fromarray(np.full((8, 12), 300, np.uint16)).save(masks / "a.png")
    if how == "broken mask":
        (masks / "a.png").write_bytes((masks / "a.png").read_bytes()[:50])
    if how == "no picture at all":
        (images / "a.jpg").write_text("hello")
    if how == "no mask":
        for name in "pqrstuv":
            picture(images / f"{name}.jpg")
    if how == "no picture":
        mask(masks / "z.png")
    if how == "twice":
        picture(images / "a.PNG")
    if how == "empty line":
        (root / "classes.txt").write_text("sky\n\ncar\n")
    if how == "same class":
        (root / "classes.txt").write_text("sky\nroad\nsky\n")
    if how == "no classes":
        (root / "classes.txt").write_text("\n")
    if how == "no list":
        (root / "classes.txt").unlink()
    if how == "half unpacked":
        for file in (root / "masks").rglob("*.png"):
            file.unlink()
        (masks.parent / "val").rmdir()
        masks.rmdir()
    if how == "empty":
        for file in [*images.iterdir(), *masks.iterdir()]:
            file.unlink()


def rewrite(root: Path, change, file_format: str = "PNG", ending: str = ".png", split: str = "*") -> Path:
    """Every mask of a folder as ``change`` makes it of its values (H, W) uint8."""
    for file in sorted(root.glob(f"masks/{split}/*.png")):
        values = change(np.asarray(Image.open(file)))
        file.unlink()
        Image.fromarray(np.asarray(values, np.uint8)).save(file.with_suffix(ending), file_format)
    return root


def through_jpeg(values: np.ndarray) -> np.ndarray:
    stored = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(stored, "JPEG", quality=90)
    return np.asarray(Image.open(stored))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda v: (v == 1) * 255,
            r"one class alone, sky, and 25% of their .* masks of 0 and 255, as drawing programs",
        ),
        (
            lambda v: np.where(v == 1, 1, 255),
            "one class alone, road, and 75% of their pixels are ignored, so that road",
        ),
        (lambda v: v * 0, "one class alone, sky, and 0% of their pixels"),
        (lambda v: np.repeat((v == 1)[..., None] * 255, 3, 2), "mode RGB; .* the same number: keep one of them"),
        (lambda v: np.dstack([v, v * 0, v * 0]), "mode RGB; .* It has 4 colors, which only show labels"),
    ],
)
@pytest.mark.parametrize("split", ["train", "val"])
def test_masks_that_teach_nothing_are_refused(tmp_path, change, message, split):
    root = rewrite(folder(tmp_path), change, split=split)
    with pytest.raises(UserError, match=message):
        open_dataset(root, split).check()
    with pytest.raises(UserError, match=message):  # as probes read it
        Few(open_dataset(root, split), 2).read()


def test_what_no_mask_holds_and_what_is_ignored_is_said_once(tmp_path, caplog):
    rewrite(folder(tmp_path / "mine", "sky\nroad\ncar\nbus\n"), lambda v: np.where(v == 2, 1, v), split="val")
    for split in ("train", "val"):
        data = open_dataset(tmp_path / "mine", split)
        for pixels in (RGB, RGB, Pixels(1)):
            data.read_as(pixels).check()
    assert caplog.messages == [
        "mine train: no mask holds bus, of 4 classes; 25.0% of the pixels are ignored",
        "mine val: no mask holds bus, car, of 4 classes; 25.0% of the pixels are ignored",
    ]


@pytest.mark.parametrize(
    ("file_format", "ending", "message"),
    [
        ("JPEG", ".png", r"a\.png: a mask in JPEG, which changes values; take it as PNG"),
        ("WEBP", ".png", r"a\.png: a mask in WEBP, which"),
        ("JPEG", ".jpg", r"2 pictures without mask .*; 2 of the masks are JPEG or WebP, which change values"),
    ],
)
def test_lossy_masks_are_refused(tmp_path, file_format, ending, message):
    root = rewrite(folder(tmp_path), lambda v: v, file_format, ending)
    with pytest.raises(UserError, match=message):
        open_dataset(root, "train").check()


def resized_smoothly(values: np.ndarray) -> np.ndarray:
    size = values.shape[::-1]
    large = cv2.resize(values, None, fx=1.5, fy=1.5, interpolation=cv2.INTER_NEAREST)
    return cv2.resize(large, size, interpolation=cv2.INTER_LINEAR)


@pytest.mark.parametrize("change", [through_jpeg, resized_smoothly])
def test_masks_that_were_lossy_are_recognised_by_their_values(tmp_path, change, caplog):
    root = folder(tmp_path / "mine", "".join(f"class {i}\n" for i in range(200)), names=("a",))
    discs = np.zeros((240, 320), np.uint8)
    for label, x in enumerate(range(40, 320, 40), 20):
        cv2.circle(discs, (x, 3 * x % 240), 35, label, -1)
    Image.new("RGB", (320, 240)).save(root / "images/train/a.jpg")
    rewrite(root, lambda _: discs, split="train")
    open_dataset(root, "train").check()
    assert not [line for line in caplog.messages if "JPEG" in line]
    rewrite(root, change, split="train")
    open_dataset(root, "train").check()
    assert [line for line in caplog.messages if "as where masks were saved as JPEG or resized smoothly" in line]
    (root / "classes.txt").write_text("".join(f"class {i}\n" for i in range(25)))
    with pytest.raises(UserError, match=r"a\.png: the mask holds the value \d+, .*\. .*% of the pixels have another"):
        open_dataset(root, "train").check()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("size", r"a\.png: the mask is 24x8 pixels, its picture a\.jpg is 12x8"),
        ("small", r"a\.png: the mask is 12x8 pixels, its picture a\.jpg is 12x4; they must be equal"),
        ("value", r"a\.png: the mask holds the value 9, .* labels 0 to 2, and 255"),
        ("rgb", r"a\.png: a mask of mode RGB; one 8-bit channel is needed"),
        ("16 bit", r"a\.png: a mask of 16 or 32 bits"),
        ("broken mask", r"a\.png: "),
        ("no picture at all", r"a\.jpg: not a picture"),
        ("no mask", r"7 pictures without mask \(masks are \.png\): p, q, r, s, t and 2 more"),
        ("no picture", r"1 masks without picture: z"),
        ("twice", r"a\.\w+: a\.\w+ has the same name"),
        ("empty line", r"classes\.txt, line 2: an empty line"),
        ("same class", r"classes\.txt, line 3: 'sky' stands twice"),
        ("no classes", r"classes\.txt: 0 classes"),
        ("no list", r"(?s)classes\.txt is missing.expected:.*found:.*images/  train, val"),
        ("half unpacked", r"(?s)masks/train is missing.expected:.*masks/train/NAME\.png.*found:.*masks/  empty"),
        ("empty", r"(?s)no pictures and no masks in images/train.*expected:"),
    ],
)
def test_wrong_folders_are_refused(tmp_path, how, message):
    root = folder(tmp_path / "mine")
    spoil(root, how)
    with pytest.raises(UserError, match=message):
        open_dataset(root, "train").check()


def test_anything_else_is_answered_with_every_layout(tmp_path):
    (tmp_path / "holiday").mkdir()
    with pytest.raises(UserError, match=r"(?s)JPEGImages.*classes\.txt.*found:.*holiday/  empty") as error:
        open_dataset(tmp_path, "train")
    for dataset in DATASETS.values():
        assert all(line in str(error.value) for line in dataset.layout.splitlines())
    with pytest.raises(UserError, match="there is no such folder"):
        open_dataset(tmp_path / "nowhere", "train")


@pytest.mark.parametrize("given", [".", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_voc_in_its_own_layout(tmp_path, given):
    data = open_dataset(voc(tmp_path) / given, "val")
    assert (data.title, data.split, data.classes, len(data)) == ("voc2012", "val", CLASSES, 1)
    assert len(CLASSES) == 21
    assert data.name(0) == "2007_000033"
    np.testing.assert_array_equal(np.unique(data[0][1]), [0, 15, 20, 255])
    assert len(open_dataset(tmp_path / given, "train")) == 1  # its list has no newline at the end


def test_voc_palette():
    published = {
        **{0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 8: (64, 0, 0)},
        **{15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)},
    }
    assert {i: palette(i) for i in published} == published


def test_voc_augmented_bare_names_keep_vocs_own_masks(tmp_path):
    data = open_dataset(voc(tmp_path, augmented="2007_000032\r\n\r\n2008_000002"), "train")
    assert (data.split, len(data)) == ("trainaug", 2)
    np.testing.assert_array_equal(np.unique(data[0][1]), [0, 15, 20, 255])  # SegmentationClass, with its border
    np.testing.assert_array_equal(np.unique(data[1][1]), [0, 7, 20])  # SegmentationClassAug


def test_voc_augmented_two_columns(tmp_path):
    lines = [f"/JPEGImages/{n}.jpg /SegmentationClassAug/{n}.png" for n in ("2007_000032", "2008_000002")]
    data = open_dataset(voc(tmp_path, augmented="\n".join(lines)), "train")
    assert [data.name(i) for i in range(len(data))] == ["2007_000032", "2008_000002"]
    np.testing.assert_array_equal(np.unique(data[0][1]), [0, 7, 20])  # as the list says
    data.check()


@pytest.mark.parametrize(
    ("make", "split", "message"),
    [
        ({"augmented": "2007_000032\n2007_000033"}, "train", r"trainaug\.txt: 1 of its pictures stand in val\.txt"),
        ({"val": "a b c\n"}, "val", r"val\.txt, line 1: 3 columns"),
        ({"val": "2007_000033\n2007_000033"}, "val", r"val\.txt, line 2: 2007_000033 stands twice"),
        ({"val": "\n"}, "val", r"val\.txt: the list is empty"),
        (
            {"val": "2007_000099"},
            "val",
            r"(?s)1 pictures of val\.txt are missing: JPEGImages/2007_000099\.jpg.*expected",
        ),
    ],
)
def test_wrong_voc_lists_are_refused(tmp_path, make, split, message):
    with pytest.raises(UserError, match=message):
        open_dataset(voc(tmp_path, **make), split)


def test_half_unpacked_voc(tmp_path):
    root = voc(tmp_path)
    (root / "VOCdevkit/VOC2012/SegmentationClass/2007_000033.png").unlink()
    with pytest.raises(UserError, match=r"1 masks of val\.txt are missing"):
        open_dataset(root, "val")
    for file in (root / "VOCdevkit/VOC2012/ImageSets/Segmentation").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"(?s)train\.txt is missing.*expected:.*found:.*JPEGImages/"):
        open_dataset(root, "train")


def test_scenes():
    train, val = open_dataset("scenes", "train"), open_dataset("scenes", "val")
    assert train.classes == val.classes
    assert len(train.colors) == len(train.classes) == len(set(train.colors))
    image, labels = val[3]
    assert image.shape == (*labels.shape, 3)
    assert labels.max() < len(val.classes)
    assert not np.array_equal(image, train[3][0])
    np.testing.assert_array_equal(image, val[3][0])
