"""Each layout as it lies on disk, held against boxes and masks written by hand, and what would spoil a score."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_datasets import box, coco_categories, coco_instances, picture
from picture_forms import turned
from PIL import Image, ImageDraw, ImageOps
from pycocotools import mask as rle

from densessl.data.scenes import Scenes
from densessl.data.shapes import check_shape, run_lengths
from densessl.detection.datasets import DATASETS, open_dataset
from densessl.detection.datasets.scenes import SceneObjects
from densessl.detection.datasets.voc import CLASSES
from densessl.errors import UserError
from densessl.segmentation.datasets import open_dataset as open_labels
from densessl.trees import refuse_other_classes

SIZE = (24, 32)  # height, width


def filled(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    """(24, 32) uint8, 1 inside of boxes (left, top, right, bottom)."""
    mask = np.zeros(SIZE, np.uint8)
    for left, top, right, bottom in boxes:
        mask[top:bottom, left:right] = 1
    return mask


def entry(number: int, image: int, category: int, bbox: list[float], shape: Any, **others: Any) -> dict:
    about = {"id": number, "image_id": image, "category_id": category, "bbox": bbox, "area": 7.5, "iscrowd": 0}
    return {**about, "segmentation": shape, **others}


def coco(root: Path) -> Path:
    """Polygons, a person of two parts, a crowd in runs, compressed runs, an empty box, a picture of nothing."""
    for split, numbers in {"train": (9, 25), "val": (42,)}.items():
        content: dict = {"images": [], "annotations": [], "categories": coco_categories(things_only=True)}
        for number in numbers:
            picture(root / f"{split}2017" / f"{number:012d}.jpg", number)
            content["images"].append(
                {"id": number, "file_name": f"{number:012d}.jpg", "height": SIZE[0], "width": SIZE[1]}
            )
        dog = rle.encode(np.asfortranarray(filled((2, 12, 10, 20))))
        content["annotations"] = [
            entry(101, numbers[0], 90, [4, 4, 8, 6], [box(4, 4, 12, 10)]),
            entry(102, numbers[0], 1, [20, 2, 4, 12], [box(20, 2, 24, 8), [1, 1, 2, 2], box(20, 10, 24, 14)]),
            entry(103, numbers[0], 3, [22, 0, 4, 24], {"size": [24, 32], "counts": [528, 96, 144]}, iscrowd=1),
            entry(104, numbers[0], 18, [2, 12, 8, 8], {"size": [24, 32], "counts": dog["counts"].decode()}),
            entry(105, numbers[0], 18, [5, 5, 0, 3], [[5, 5, 5, 8]]),
        ]
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    return root


def test_coco(tmp_path):
    train, val = (open_dataset(coco(tmp_path) if split == "train" else tmp_path, split) for split in ("train", "val"))
    assert (train.title, train.split, len(train), len(val), train.masks) == ("coco", "train", 2, 1, True)
    assert len(train.classes) == 80
    assert [train.name(i) for i in range(2)] == ["000000000009", "000000000025"]
    assert list(train.labelled) == [0]
    found = train.objects(0)
    assert [train.classes[label - 1] for label in found.labels] == [f"category {i}" for i in (90, 1, 3, 18, 18)]
    assert found.labels.tolist() == [80, 1, 3, 17, 17]  # 12 is none of COCO's
    np.testing.assert_array_equal(
        found.boxes, [(4, 4, 12, 10), (20, 2, 24, 14), (22, 0, 26, 24), (2, 12, 10, 20), (5, 5, 5, 8)]
    )
    assert found.areas.tolist() == [7.5] * 5  # as the file says
    assert found.crowd.tolist() == [False, False, True, False, False]
    truth = [filled((4, 4, 12, 10)), filled((20, 2, 24, 8), (20, 10, 24, 14)), filled((22, 0, 26, 24))]
    np.testing.assert_array_equal(found.masks(*SIZE), [*truth, filled((2, 12, 10, 20)), filled()])
    assert found.learnable(True).tolist() == [True, True, False, True, False]
    assert train.picture(0).shape == (*SIZE, 3)
    assert len(train.objects(1).labels) == 0
    assert train.objects(1).masks(*SIZE).shape == (0, *SIZE)


def voc_object(name: str, corners: dict[str, object], extra: str = "") -> str:
    inside = "".join(f"<{key}>{value}</{key}>" for key, value in corners.items())
    return f"<object><name>{name}</name>{extra}<bndbox>{inside}</bndbox></object>"


PERSON = voc_object(
    "person",
    {"xmax": 20, "xmin": 11, "ymax": 16, "ymin": 5},  # another order
    "<pose>Left</pose><truncated>0</truncated><difficult>0</difficult><part><name>head</name><bndbox><xmin>1</xmin>"
    "<ymin>1</ymin><xmax>3</xmax><ymax>3</ymax></bndbox></part>",
)
DOG = voc_object("dog", {"xmin": "1", "ymin": "1.0", "xmax": "33", "ymax": "9.6"})  # a pixel too wide, no difficult
TV = voc_object("tvmonitor", {"xmin": 4, "ymin": 7, "xmax": 4, "ymax": 9}, "<difficult>1</difficult>")


def voc_picture(root: Path, year: int, stem: str, objects: str = PERSON + DOG + TV) -> None:
    base = root / "VOCdevkit" / f"VOC{year}"
    picture(base / "JPEGImages" / f"{stem}.jpg")
    (base / "Annotations").mkdir(parents=True, exist_ok=True)
    size = "<size><width>32</width><height>24</height><depth>3</depth></size>"
    text = f"<annotation><folder>VOC{year}</folder><filename>{stem}.jpg</filename>{size}{objects}</annotation>"
    (base / "Annotations" / f"{stem}.xml").write_text(text)


def voc(root: Path, years: tuple[int, ...] = (2007, 2012)) -> Path:
    lists = {2007: {"trainval": "000005", "test": "000001"}, 2012: {"train": "2008_000002", "val": "2011_000003"}}
    for year in years:
        main = root / "VOCdevkit" / f"VOC{year}" / "ImageSets" / "Main"
        main.mkdir(parents=True)
        for name, stem in lists[year].items():
            voc_picture(root, year, stem)
            (main / f"{name}.txt").write_text(f"{stem}\r\n\r\n")
            (main / f"dog_{name}.txt").write_text(f"{stem}  1\n")
        if year == 2012:
            (main / "trainval.txt").write_text("2008_000002\n2011_000003")
    return root


@pytest.mark.parametrize("given", ["", "VOCdevkit"])
def test_voc_of_both_years(tmp_path, given):
    root = voc(tmp_path) / given
    train, val = open_dataset(root, "train"), open_dataset(root, "val")
    assert (train.title, train.masks, train.classes) == ("voc0712", False, CLASSES)
    assert len(CLASSES) == 20
    assert [train.name(i) for i in range(len(train))] == ["000005", "2008_000002", "2011_000003"]
    assert [val.name(i) for i in range(len(val))] == ["000001"]
    found = val.objects(0)
    assert [CLASSES[label - 1] for label in found.labels] == ["person", "dog", "tvmonitor"]
    # pixels 11 to 20, counted from 1, are the ten from 10 to 20
    np.testing.assert_array_equal(found.boxes, [(10, 4, 20, 16), (0, 0, 32, 10), (3, 6, 4, 9)])
    assert found.areas.tolist() == [120, 320, 3]
    assert found.difficult.tolist() == [False, False, True]
    assert found.shapes is None
    assert found.learnable(True).tolist() == [True] * 3
    assert found.learnable(False).tolist() == [True, True, False]


def test_voc_of_one_year(tmp_path):
    voc(tmp_path)
    names = {
        word: [[data.name(i) for i in range(len(data))] for data in (open_dataset(path, s) for s in ("train", "val"))]
        for word, path in {
            "07": f"{tmp_path}:07",
            "12": f"{tmp_path}/VOCdevkit:12",
            "own": tmp_path / "VOCdevkit" / "VOC2012",
        }.items()
    }
    assert names["07"] == [["000005"], ["000001"]]
    assert names["12"] == names["own"] == [["2008_000002"], ["2011_000003"]]
    voc(tmp_path / "alone", (2007,))
    assert open_dataset(tmp_path / "alone", "train").title == "voc07"


def folder(root: Path, **changes: Any) -> Path:
    """Categories 7 and 3, an annotation with id 0, which ``changes`` are of, a picture in a sub-folder."""
    for split in ("train", "val"):
        picture(root / "images" / split / "deep" / "a.png")
        content = {
            "images": [{"id": 0, "file_name": "deep/a.png", "height": SIZE[0], "width": SIZE[1]}],
            "categories": [{"id": 7, "name": "nut"}, {"id": 3, "name": "bolt"}],
            "annotations": [
                {
                    **{"id": 0, "image_id": 0, "category_id": 7, "bbox": [2.5, 3, 4, 5]},
                    **{"segmentation": [box(2, 3, 6, 8)], **changes},
                },
                {"id": 1, "image_id": 0, "category_id": 3, "bbox": [0, 0, 32, 24], "segmentation": [box(0, 0, 32, 24)]},
            ],
        }
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"{split}.json").write_text(json.dumps(content))
    return root


def test_folder(tmp_path):
    data = open_dataset(folder(tmp_path / "parts"), "val")
    assert (data.title, data.classes, data.name(0)) == ("parts", ("bolt", "nut"), "a")
    found = data.objects(0)
    assert found.labels.tolist() == [2, 1]
    assert found.boxes.tolist() == [[2.5, 3, 6.5, 8], [0, 0, 32, 24]]
    assert found.areas.tolist() == [20, 768]  # of the shapes, since the file names none
    no_shape = open_dataset(folder(tmp_path / "boxes", segmentation=[]), "val")
    assert not no_shape.masks
    assert no_shape.objects(0).areas.tolist() == [20, 768]


def test_boxes_are_those_of_the_turned_image(tmp_path):
    data, file = open_dataset(folder(tmp_path), "train"), tmp_path / "images/train/deep/a.png"
    for turn in range(1, 9):
        image, exif = Image.open(io.BytesIO(turned(1)["JPEG, EXIF"])), Image.Exif()
        exif[0x0112] = turn
        image.resize(SIZE if turn > 4 else SIZE[::-1]).save(file, exif=exif)
        np.testing.assert_array_equal(data.picture(0), np.array(ImageOps.exif_transpose(Image.open(file))))
    image.resize(SIZE[::-1]).save(file, exif=exif)
    what = r"a\.png: the picture is 24x32 pixels \(stored as 32x24, turned as the orientation 8 .* says 32x24"
    with pytest.raises(UserError, match=what):
        data.picture(0)


RUNS = {"size": list(SIZE), "counts": [5, 5]}
SHORT = {"size": list(SIZE), "counts": "05"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"segmentation": [[10, 10, 1e8, 12, 12, 20]]},
            r"reach from \(10, 10\) to \(1e\+08, 20\), far out of the image",
        ),
        ({"segmentation": [box(40, 3, 44, 8)]}, r"reach from \(40, 3\) to \(44, 8\), outside the image of 32x24"),
        ({"segmentation": [box(20, 3, 24, 8)]}, r"to \(24, 8\), its box from \(4, 4\) to \(8, 10\)"),
        ({"segmentation": [[v / 24 for v in box(4, 4, 8, 10)]]}, "the polygons look divided by width and height"),
        ({"bbox": [0.125, 0.16, 0.125, 0.25]}, "the box looks divided by width and height"),
        ({"segmentation": [box(4, 4, 10, 8)]}, "x and y look swapped, COCO's polygons are x0, y0"),
        ({"segmentation": box(4, 4, 8, 10)}, r"no list of polygons; \[\[x0, y0, x1, y1, ...\]\] is right"),
        (
            {"segmentation": {"size": [24, 32], "counts": "100 5 3 60"}},
            "counts are a text that isn't COCO's compression",
        ),
        ({"segmentation": {"size": [24, 32], "counts": "`f0"}}, "its runs don't fill the image of 32x24: they were"),
        (
            {"segmentation": {"size": [24, 32], "counts": ["768"]}},
            "neither a list of whole numbers nor COCO's compressed",
        ),
        ({"segmentation": {"size": [24, 32], "counts": [-5, 773]}}, "its runs don't fill the image of 32x24"),
        (
            {"segmentation": {"size": [32, 24], "counts": [768]}},
            r"size \[32, 24\], height and width of its image \[24, 32\]",
        ),
        ({"segmentation": {"size": [24, 32], "counts": None}}, "neither a list of whole numbers"),
        ({"iscrowd": "0"}, 'its iscrowd is "0"; 0 or 1 is right, a number'),
        ({"iscrowd": None}, "its iscrowd is null"),
        ({"area": "7"}, 'its area is "7"; a number'),
        ({"bbox": ["4", "4", "4", "6"]}, r'its bbox is \["4", "4", "4", "6"\]; x, y, width, height'),
        ({"image_id": "3"}, 'its image_id "3" is none of the 1 images: 3; a number and a text are not the same'),
        ({"image_id": None}, "its image_id null is none of the 1 images: 3"),
        ({"category_id": [59]}, r"its category_id \[59\] is none of the 80 categories: 1, 2, "),
        ({"category_id": "59"}, 'its category_id "59" is none of the .* a number and a text are not the same'),
    ],
)
def test_both_evaluations_refuse_an_annotation_alike(tmp_path, wrong, message):
    coco_instances(tmp_path)
    file = tmp_path / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text())
    content["annotations"][0].update(bbox=[4, 4, 4, 6], segmentation=[box(4, 4, 8, 10)])
    file.write_text(json.dumps(content))
    open_labels(tmp_path, "val")
    content["annotations"][0].update(wrong)
    file.write_text(json.dumps(content))
    for opened, read in ((open_dataset, "objects"), (open_labels, "values")):
        with pytest.raises(UserError, match=rf"instances_val2017\.json: annotation 1: .*{message}"):
            getattr(opened(tmp_path, "val"), read)(0)


def test_polygons_that_reach_out_are_cut_and_a_cut_text_is_no_shape():
    """Pillow's polygon differs by the pixels of an edge alone."""
    rng = np.random.default_rng(1)
    for _ in range(6):
        points = (rng.random((5, 2)) * 2.2 - 0.6) * (320, 240)
        low, high = points.min(0), points.max(0)
        check_shape([points.ravel().tolist()], 240, 320, [*low.clip(0), *high.clip(max=(320, 240))])
        mask = rle.decode(run_lengths([points.ravel().tolist()], 240, 320))
        theirs = Image.new("1", (320, 240))
        ImageDraw.Draw(theirs).polygon([tuple(point) for point in points.tolist()], fill=1)
        assert (np.asarray(theirs) != mask).sum() < 1500  # of edges of up to 1,300 pixels
        text = rle.encode(mask)["counts"].decode()
        np.testing.assert_array_equal(rle.decode(run_lengths({"size": [240, 320], "counts": text}, 240, 320)), mask)
        for cut in range(0, len(text), 9):
            with pytest.raises(ValueError, match="its runs don't fill the image of 320x240"):
                run_lengths({"size": [240, 320], "counts": text[:cut]}, 240, 320)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bbox": [2, 3, 0, 5]}, r"annotation 0: its bbox \[2, 3, 0, 5\] has no extent"),
        ({"bbox": [2, 3, -4, 5]}, "has no extent; COCO's boxes are x, y, width, height"),
        ({"bbox": [40, 3, 4, 5]}, r"annotation 0: its box from \(40, 3\) to \(44, 8\) is outside the 32x24"),
        ({"bbox": [20, 12, 30, 22]}, r"reaches out of the 32x24; COCO's boxes are x, y, width, height"),
        ({"bbox": [2, 3, float("nan"), 5]}, r"is none"),
        ({"bbox": [2, 3, 4]}, r"annotation 0: its bbox is \[2, 3, 4\]; x, y, width, height are right, four numbers"),
        ({"bbox": None}, "annotation 0: its bbox is null; "),
        ({"category_id": 5}, r"annotation 0: its category_id 5 is none of the 2 categories: 3, 7"),
        ({"image_id": "a"}, r"annotation 0: its image_id \"a\" is none of the 1 images: 0"),
        ({"area": -1}, "its area is -1"),
        ({"segmentation": [[1, 2, 3, 4]]}, "a polygon is x0, y0, x1, y1"),
        ({"segmentation": [[1, 2, 3, 4, 5, "x"]]}, "a polygon holds what is no number"),
        ({"segmentation": RUNS}, "annotation 0: its runs don't fill the image of 32x24"),
        ({"segmentation": "mask.png"}, "neither a list of polygons nor run lengths"),
        ({"segmentation": SHORT}, "annotation 0: its runs don't fill the image of 32x24"),
    ],
)
def test_wrong_annotations_are_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as error:
        open_dataset(folder(tmp_path, **changes), "train").objects(0)
    assert "train.json" in str(error.value)


def spoil(root: Path, how: str) -> None:
    file = root / "annotations" / "train.json"
    content = json.loads(file.read_text())
    if how == "no json":
        file.write_text('{"images": [')
    elif how == "a list":
        file.write_text("[]")
    elif how == "nothing":
        file.write_text(json.dumps({**content, "annotations": []}))
    elif how == "crowds":
        file.write_text(json.dumps({**content, "annotations": [a | {"iscrowd": 1} for a in content["annotations"]]}))
    elif how == "from 0 to 1":
        small = [{**a, "bbox": [0.1, 0.2, 0.5, 0.4], "segmentation": []} for a in content["annotations"]]
        file.write_text(json.dumps({**content, "annotations": small}))
    elif how == "null":
        file.write_text(json.dumps({**content, "annotations": None}))
    elif how in ("mixed ids", "null id", "null name", "one name"):
        other = {
            "mixed ids": {"id": "3"},
            "null id": {"id": None},
            "null name": {"name": None},
            "one name": {"name": "nut"},
        }
        content["categories"][1].update(other[how])
        file.write_text(json.dumps(content))
    elif how in ("text size", "null file"):
        content["images"][0].update({"text size": {"width": "32"}, "null file": {"file_name": None}}[how])
        file.write_text(json.dumps(content))
    elif how == "no pictures":
        file.write_text(json.dumps({**content, "images": [], "annotations": []}))
    elif how == "no categories":
        file.write_text(json.dumps({**content, "categories": []}))
    elif how == "two ids":
        file.write_text(json.dumps({**content, "images": content["images"] * 2}))
    elif how == "two names":
        file.write_text(json.dumps({**content, "images": [*content["images"], {**content["images"][0], "id": 9}]}))
    elif how == "no size":
        file.write_text(json.dumps({**content, "images": [{**content["images"][0], "width": 0}]}))
    elif how == "missing":
        (root / "images" / "train" / "deep" / "a.png").unlink()
    elif how == "half":
        file.unlink()
    elif how == "size":
        picture(root / "images" / "train" / "deep" / "a.png", size=(32, 24))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no json", r"train\.json: not a file of COCO's: Expecting"),
        ("a list", r"train\.json: not a file of COCO's: it has no images; a list of objects"),
        (
            "nothing",
            r"annotations/train\.json has no object, there is nothing to learn or to score: it has no annotation",
        ),
        ("crowds", r"train\.json has no object, .*: of its 2 annotations 2 are crowds$"),
        (
            "from 0 to 1",
            r"of its 2 annotations 0 are crowds, and 2 are narrower than a pixel, as boxes from 0 to 1 are",
        ),
        ("null", r"train\.json: not a file of COCO's: annotations is null"),
        ("mixed ids", r'train\.json: category "3": ids have to be whole numbers, all of them, or texts'),
        ("null id", r"train\.json: category at place 1: ids have to be"),
        ("null name", r"train\.json: category 3: its name is null"),
        ("one name", r"train\.json: 'nut' stands twice among the categories"),
        ("text size", r'train\.json: image 0: a height or width of "32"; a whole number'),
        ("null file", r"train\.json: image 0: its file_name is null"),
        ("no pictures", r"(?s)annotations/train\.json names no pictures.expected:"),
        ("no categories", r"train\.json: there are no categories"),
        ("two ids", r"train\.json: image 0: another of the images has its id"),
        ("two names", r"train\.json: 'deep/a\.png' stands twice among the images"),
        ("no size", r"train\.json: .*a height or width of 0"),
        ("missing", r"(?s)1 pictures of annotations/train\.json are missing: deep/a\.png.expected:.*found:"),
        ("half", r"(?s)annotations/train\.json is missing.expected:.*FOLDER/.*found:.*annotations/  val\.json"),
        ("size", r"a\.png: the picture is 24x32 pixels, annotations/train\.json says 32x24"),
    ],
)
def test_wrong_folders_are_refused(tmp_path, how, message):
    spoil(folder(tmp_path), how)
    with pytest.raises(UserError, match=message):
        open_dataset(tmp_path, "train").picture(0)


@pytest.mark.parametrize(
    ("val", "message"),
    [
        (("car", "bus"), r"mine: the classes of train and val differ: train alone has sign$"),
        (("car", "sign", "bus", "tram"), "differ: val alone has tram"),
        (("car", "bus", "sign"), "their ids order the names otherwise: sign in train stands where val has bus"),
    ],
)
def test_other_classes_are_named(val, message):
    refuse_other_classes("mine", ("car", "sign", "bus"), ("car", "sign", "bus"))
    with pytest.raises(UserError, match=message):
        refuse_other_classes("mine", ("car", "sign", "bus"), val)


def test_categories_without_an_object_are_said(tmp_path, caplog):
    open_dataset(folder(tmp_path / "parts", category_id=3), "val")
    assert caplog.messages == ["parts val: no object is of nut, of 2 classes"]


def spoil_voc(root: Path, how: str) -> None:
    base = root / "VOCdevkit" / "VOC2007"
    file = base / "Annotations" / "000005.xml"
    text = file.read_text()
    if how == "no xml":
        file.write_text(text[:-5])
    elif how == "no file":
        file.unlink()
    elif how == "no size":
        file.write_text(text.replace("width", "breadth"))
    elif how == "class":
        file.write_text(text.replace("dog", "wolf"))
    elif how == "no corner":
        file.write_text(text.replace("<ymin>5</ymin>", ""))
    elif how == "no number":
        file.write_text(text.replace("<ymin>5</ymin>", "<ymin>five</ymin>"))
    elif how == "last first":
        file.write_text(text.replace("<xmin>11</xmin>", "<xmin>31</xmin>"))
    elif how == "outside":
        file.write_text(text.replace("<xmin>11</xmin>", "<xmin>41</xmin>").replace("<xmax>20<", "<xmax>50<"))
    elif how == "no picture":
        (base / "JPEGImages" / "000005.jpg").unlink()
    elif how == "no list":
        (base / "ImageSets" / "Main" / "trainval.txt").unlink()
    elif how == "twice":
        (base / "ImageSets" / "Main" / "trainval.txt").write_text("000005\n000005\n")
    elif how == "empty list":
        (base / "ImageSets" / "Main" / "trainval.txt").write_text("\n")
    elif how == "no year":
        (root / "VOCdevkit" / "VOC2012").rename(root / "elsewhere")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no xml", r"000005\.xml: not an annotation of VOC"),
        ("no file", r"000005\.xml: there is no such file, though a list"),
        ("no size", r"000005\.xml: size/width is missing"),
        ("class", r"000005\.xml: an object called 'wolf'; VOC's classes are aeroplane, "),
        ("no corner", r"000005\.xml: bndbox/ymin is missing"),
        ("no number", r"000005\.xml: not an annotation of VOC: .*five"),
        ("last first", r"000005\.xml: the box of person has xmin, ymin, xmax, ymax of \[31, 5, 20, 16\]"),
        ("outside", r"000005\.xml: its box from \(40, 4\) to \(50, 16\) is outside the 32x24"),
        ("no picture", r"(?s)1 pictures of VOC2007 trainval\.txt.* are missing: JPEGImages/000005\.jpg.expected:"),
        ("no list", r"(?s)ImageSets/Main/trainval\.txt is missing.expected:.*found:.*JPEGImages/"),
        ("twice", r"trainval\.txt: 000005 stands twice"),
        ("empty list", r"trainval\.txt: the list is empty"),
        ("no year", r"(?s)VOC2012 is missing.expected:"),
    ],
)
def test_wrong_voc_is_refused(tmp_path, how, message):
    spoil_voc(voc(tmp_path), how)
    with pytest.raises(UserError, match=message):
        open_dataset(f"{tmp_path}/VOCdevkit:0712", "train")


def test_voc_without_its_test_labels_is_half_unpacked(tmp_path):
    (voc(tmp_path) / "VOCdevkit/VOC2007/ImageSets/Main/test.txt").unlink()
    with pytest.raises(UserError, match=r"(?s)test\.txt is missing.expected:.*an archive of their own"):
        open_dataset(tmp_path, "val")


def test_half_unpacked_coco(tmp_path):
    file = coco(tmp_path) / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "categories": content["categories"][:-1], "annotations": []}))
    with pytest.raises(UserError, match="79 categories, COCO has 80; data of your own are a folder with annotations/"):
        open_dataset(tmp_path, "train")
    file.unlink()
    with pytest.raises(UserError, match=r"(?s)instances_train2017\.json is missing.expected:.*found:.*train2017/"):
        open_dataset(tmp_path, "train")


def test_anything_else_is_answered_with_every_layout(tmp_path):
    (tmp_path / "holiday").mkdir()
    with pytest.raises(UserError, match=r"(?s)no detection data set.*found:.*holiday/  empty") as error:
        open_dataset(tmp_path, "train")
    for dataset in DATASETS.values():
        assert all(line in str(error.value) for line in dataset.layout.splitlines())
    with pytest.raises(UserError, match="may be one of 0712, 07, 12 for voc"):
        open_dataset(f"{voc(tmp_path)}:2007", "train")
    with pytest.raises(UserError, match="has no meaning for folder"):
        open_dataset(f"{folder(tmp_path / 'mine')}:boxes", "train")


def test_compressed_runs_are_those_that_pycocotools_wrote():
    rng = np.random.default_rng(0)
    for share in (0, 0.02, 0.5, 1):
        mask = (rng.random(SIZE) < share).astype(np.uint8)
        code = rle.encode(np.asfortranarray(mask))
        text = {"size": list(SIZE), "counts": code["counts"].decode()}
        np.testing.assert_array_equal(rle.decode(run_lengths(text, *SIZE)), mask)


def test_scenes_have_the_exact_boxes_and_masks_of_what_is_seen():
    data, scenes = SceneObjects("scenes", "val", count=12, size=96), Scenes(12, 96, split="val")
    assert data.classes == scenes.classes[4:]
    for i in range(12):
        found, labels = data.objects(i), scenes.mask(i)
        np.testing.assert_array_equal(data.picture(i), scenes.read(i))
        masks = found.masks(96, 96).astype(bool)
        assert (masks.sum(0) <= 1).all()  # of two at a place one is seen
        for mask, box_, label, area in zip(masks, found.boxes, found.labels, found.areas, strict=True):
            assert (labels[mask] == 3 + label).all()
            rows, columns = np.nonzero(mask)
            assert box_.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert area == mask.sum() >= 16
        assert ((labels >= 4) & ~masks.any(0)).sum() < 6 * 16  # only what is nearly hidden is left out


def test_instances_are_the_labels_of_scenes_and_change_nothing():
    scenes, untouched = Scenes(6, 96, 3), Scenes(6, 96, 3)
    for i in range(6):
        numbers, names = scenes.instances(i)
        label = np.array([255, *(scenes.classes.index(name) for name in names)])[numbers]
        mask = untouched.mask(i)
        np.testing.assert_array_equal(label[numbers > 0], mask[numbers > 0])
        assert len(np.unique(mask[numbers == 0])) <= 1  # the ground
        np.testing.assert_array_equal(scenes.mask(i), mask)
        np.testing.assert_array_equal(scenes.read(i), untouched.read(i))
