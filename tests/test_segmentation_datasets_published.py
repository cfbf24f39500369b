"""Readers of published data sets against hand-made truth, and what each of them must refuse."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from made_datasets import MADE, SIZE, coco_instances, coco_panoptic, coco_stuff, picture, pixels, save, voc
from PIL import Image

from densessl.data.palette import palette
from densessl.errors import UserError
from densessl.segmentation.datasets import DATASETS, class_table, open_dataset
from densessl.segmentation.datasets.class_table import read_table

# pycocotools 2.0.11 has not adapted its decode to NumPy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

CLASSES = {
    **{"voc2012": 21, "voc2012aug": 21, "cityscapes": 19, "ade20k": 150, "coco_panoptic": 133, "coco_instances": 81},
    **{"coco_stuff": 171, "camvid": 11, "camvid_rgb": 11, "folder": 2},
}


def made(kind: str, tmp_path: Path):
    root = tmp_path / kind.split()[0]
    return root, MADE[kind](root)


@pytest.mark.parametrize("kind", MADE)
def test_masks_are_the_truth(kind, tmp_path):
    root, truth = made(kind, tmp_path)
    for split, masks in truth.items():
        data = open_dataset(root, split)
        assert data.title == kind.split()[0]
        assert len(set(data.classes)) == len(data.classes) == len(data.colors) == CLASSES[data.title]
        assert [data.name(i) for i in range(len(data))] == list(masks)
        for i, labels in enumerate(masks.values()):
            image, mask = data[i]
            assert image.dtype == mask.dtype == np.uint8
            assert image.shape == (*SIZE, 3)
            np.testing.assert_array_equal(mask, labels)
        data.check()


def test_every_data_set_is_made():
    names = {open_name.split("_")[0].removesuffix("aug") for open_name in (kind.split()[0] for kind in MADE)}
    assert names | {"scenes"} == set(DATASETS)


@pytest.mark.parametrize("kind", MADE)
def test_pictures_and_masks_must_have_one_size(kind, tmp_path):
    root, _ = made(kind, tmp_path)
    data = open_dataset(root, "val")
    path = data.pair(0)[0]
    picture(path, size=(SIZE[0] + 2, SIZE[1]))
    with pytest.raises(UserError, match=rf"the mask is 32x24 pixels, its picture {path.name} is 32x26"):
        data.check()


@pytest.mark.parametrize("kind", MADE)
def test_masks_of_another_kind_are_refused(kind, tmp_path):
    root, _ = made(kind, tmp_path)
    data = open_dataset(root, "val")
    mask = data.pair(0)[1]
    if mask.suffix == ".json":
        pytest.skip("instances have no mask files")
    coded = kind in ("coco_panoptic", "camvid_rgb")
    for values in (
        np.full(SIZE, 300, np.uint16),
        np.full((*SIZE, 4), 255, np.uint8),
        np.full(SIZE, 1, np.uint8) if coded else np.full((*SIZE, 3), 1, np.uint8),
    ):
        save(mask, values)
        with pytest.raises(UserError, match=rf"{mask.name}: a mask of (mode|16 or 32 bits)"):
            data.check()
    save(mask, np.full((*SIZE, 3), 199, np.uint8) if coded else np.full(SIZE, 199, np.uint8))
    with pytest.raises(UserError, match=mask.name):  # a value, a segment or colours that nobody knows
        data.check()


@pytest.mark.parametrize("kind", MADE)
def test_splits_without_pictures_or_labels_show_both_trees(kind, tmp_path):
    root, _ = made(kind, tmp_path)
    data = open_dataset(root, "val")
    pictures, masks = ({path.parent for i in range(len(data)) for path in (data.pair(i)[side],)} for side in (0, 1))
    for folder in masks:
        shutil.move(folder, tmp_path / "aside")
    with pytest.raises(UserError, match=r"(?s)(missing|has no).*\nexpected:\n.*\nfound:\n"):
        open_dataset(root, "val")
    shutil.move(tmp_path / "aside", masks.pop())
    for folder in pictures:
        for file in [*folder.rglob("*.*")]:
            file.unlink()
    with pytest.raises(UserError, match=r"(?s)(missing|without picture|no pictures).*\nexpected:\n.*\nfound:\n"):
        open_dataset(root, "val")


@pytest.mark.parametrize("kind", MADE)
def test_a_split_that_is_ignored_altogether_is_refused(kind, tmp_path, monkeypatch):
    root, _ = made(kind, tmp_path)
    data = open_dataset(root, "val")
    monkeypatch.setattr(type(data), "values", lambda self, index: np.full(SIZE, 255, np.uint8))
    monkeypatch.setattr(type(data), "recognise", lambda self, counts, holds: "")
    with pytest.raises(UserError, match="every pixel of every mask of the split val is ignored"):
        data.check()


def test_tables_hold_the_published_codes():
    city = read_table("cityscapes")
    assert [v for v, label in city.labels.items() if label != 255] == [
        *(7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33),
    ]
    assert min(city.labels) == 0  # the license plate has -1, and would be entry 255 of a lookup
    assert (city.classes[0], city.classes[18], city.colors[13]) == ("road", "bicycle", (0, 0, 142))
    assert read_table("ade20k").labels == {0: 255, **{i + 1: i for i in range(150)}}
    coco = read_table("coco_panoptic")
    assert [coco.labels[i] for i in (1, 13, 90, 92, 200)] == [0, 11, 79, 80, 132]
    stuff = read_table("coco_stuff")
    assert set(range(182)) - stuff.labels.keys() == {i - 1 for i in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)}
    assert list(stuff.labels.values()) == list(range(171))
    with (Path(class_table.__file__).parent / "classes" / "camvid_rgb.csv").open() as file:
        for row in csv.DictReader(file):
            assert int(row["value"]) == int(row["r"]) + 256 * int(row["g"]) + 65536 * int(row["b"])


@pytest.mark.parametrize("extra", ["png", "mat"])
def test_voc_words_choose_the_training_list(extra, tmp_path):
    truth = voc(tmp_path, extra)
    own, augmented = open_dataset(f"{tmp_path}:train", "train"), open_dataset(f"{tmp_path}:trainaug", "train")
    assert (own.title, own.split, len(own)) == ("voc2012", "train", 1)
    assert (augmented.title, augmented.split, len(augmented)) == ("voc2012aug", "trainaug", 3)
    assert open_dataset(f"{tmp_path}:train", "val").title == "voc2012"
    np.testing.assert_array_equal(augmented[0][1], truth["train"]["2007_000032"])  # VOC's own mask, with its border
    assert 255 in augmented[0][1]
    names = {augmented.name(i) for i in range(3)}
    assert not names & {open_dataset(tmp_path, "val").name(0)}


@pytest.mark.parametrize("missing", ["SegmentationClassAug", "ImageSets/Segmentation/trainaug.txt"])
def test_half_a_trainaug_is_no_silent_train(missing, tmp_path):
    voc(tmp_path, "png")
    part = tmp_path / "VOCdevkit" / "VOC2012" / missing
    shutil.rmtree(part) if part.is_dir() else part.unlink()
    with pytest.raises(UserError, match=r"(?s)trainaug needs both .*VOC2012:train the 1,464 .*expected:.*found:"):
        open_dataset(tmp_path, "train")
    assert len(open_dataset(f"{tmp_path}:train", "train")) == 1


def test_voc_val_takes_no_mask_without_border(tmp_path):
    voc(tmp_path, "png")
    (tmp_path / "VOCdevkit" / "VOC2012" / "SegmentationClass" / "2007_000033.png").unlink()
    with pytest.raises(UserError, match=r"1 masks of val\.txt are missing: SegmentationClass/2007_000033\.png"):
        open_dataset(tmp_path, "val")


def test_voc_masks_with_a_palette_sorted_anew(tmp_path):
    voc(tmp_path)
    data = open_dataset(tmp_path, "val")
    with Image.open(data.pair(0)[1]) as image:
        image.quantize(16).save(data.pair(0)[1])  # it looks the same
    with pytest.raises(UserError, match=r"2007_000033\.png: the palette was sorted anew"):
        data.check()


def test_broken_sbd_masks(tmp_path):
    voc(tmp_path, "mat")
    data = open_dataset(tmp_path, "train")
    file = data.pair(1)[1]
    for content in (b"hello", file.read_bytes()[:150], b""):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"\.mat: not a class mask of SBD"):
            data.mask(1)


def test_cityscapes_test_and_other_labels_are_no_truth(tmp_path):
    root, _ = made("cityscapes", tmp_path)
    with pytest.raises(UserError, match=r"gtFine/test .* no ground truth; val"):
        open_dataset(root, "test")
    for file in (root / "gtFine" / "val").rglob("*_labelIds.png"):
        file.unlink()
    with pytest.raises(UserError, match=r"(?s)gtFine/val has no \*_labelIds\.png; colours, instance.*expected"):
        open_dataset(root, "val")
    shutil.rmtree(root / "gtFine")
    (root / "gtCoarse").mkdir()
    with pytest.raises(UserError, match=r"(?s)gtFine/val is missing.*found:.*gtCoarse/  empty"):
        open_dataset(root, "val")


def test_ade20k_masks_shifted_already(tmp_path):
    root, truth = made("ade20k", tmp_path)
    data = open_dataset(root, "val")
    for i in range(len(data)):
        file = data.pair(i)[1]
        values = np.asarray(Image.open(file)).copy()
        values[:8, :8] = 255  # beside 150 it is a pixel to ignore
        save(file, values)
    assert set(data[0][1][:8, :8].ravel()) == {255}
    data.check()
    for i, labels in enumerate(truth["val"].values()):
        save(data.pair(i)[1], labels)
    with pytest.raises(UserError, match=r"hold 255 and no 150, so their labels were shifted"):
        open_dataset(root, "val").check()


def rewrite(data, change) -> None:
    """Every mask of a data set as ``change`` makes it of its values (H, W) uint8."""
    for i in range(len(data)):
        save(data.pair(i)[1], change(np.asarray(Image.open(data.pair(i)[1]))))


def colored(values: np.ndarray) -> np.ndarray:
    return np.array([palette(i) for i in range(256)], np.uint8)[values]


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (
            "cityscapes",
            lambda v: np.array([(3 * i) % 19 for i in range(256)])[v],
            "labelIds.png has train ids, 0 to 18",
        ),
        ("cityscapes in train ids", lambda v: np.where(v == 13, 26, v), "labelTrainIds.png has label ids"),
        ("coco_stuff", lambda v: v + 1, r"hold 1\d*, which stuffthingmaps never hold, so they are label ids, 0 to 182"),
        ("coco_stuff", lambda v: np.where(v == 181, 170, v + (v == 10)), "so they are train ids, 0 to 170"),
        ("voc2012", lambda v: np.searchsorted([0, 1, 15, 20, 255], v) % 4, "as SegmentationObject numbers its objects"),
        ("voc2012", lambda v: np.asarray(Image.fromarray(colored(v)).convert("L")), "greys of VOC's colors"),
        ("voc2012", colored, r"\.png: a mask of mode RGB.* It has the colors of the labels, as convert\('RGB'\)"),
        ("camvid", lambda v: v * 2, "so they number the 32 classes of the original"),
        (
            "folder",
            lambda v: np.where(v == 255, 0, v + 1),
            "hold 3, and classes.txt names labels 0 to 2: if they count",
        ),
    ],
)
def test_masks_of_another_numbering_are_named(kind, change, message, tmp_path):
    root, _ = made(kind, tmp_path)
    if kind == "voc2012":  # of three objects numbers could be by chance
        lists = root / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "val.txt"
        base = lists.parents[2]
        for name in ("2007_000039", "2007_000061"):
            for folder, ending in (("JPEGImages", ".jpg"), ("SegmentationClass", ".png")):
                shutil.copy(base / folder / f"2007_000033{ending}", base / folder / f"{name}{ending}")
        lists.write_text("2007_000033\n2007_000039\n2007_000061\n")
    data = open_dataset(root, "val")
    data.check()
    rewrite(data, lambda values: np.asarray(change(values), np.uint8))
    with pytest.raises(UserError, match=message):
        open_dataset(root, "val").check()


@pytest.mark.parametrize("sign", ["index_ade20k.pkl", "images/ADE/training"])
def test_the_full_ade20k_is_refused(sign, tmp_path):
    (tmp_path / sign).mkdir(parents=True)
    with pytest.raises(UserError, match=r"full ADE20K, whose 3,688 categories .*ADEChallengeData2016"):
        open_dataset(tmp_path, "train")


def test_coco_of_several_kinds_needs_a_word(tmp_path):
    for make in (coco_panoptic, coco_instances, coco_stuff):
        make(tmp_path)
    with pytest.raises(UserError, match=rf"3 kinds; say which: {tmp_path}:panoptic, {tmp_path}:instances, "):
        open_dataset(tmp_path, "val")
    titles = [open_dataset(f"{tmp_path}:{word}", "val").title for word in ("panoptic", "instances", "stuff")]
    assert titles == ["coco_panoptic", "coco_instances", "coco_stuff"]
    with pytest.raises(UserError, match=r"behind the colon may be one of panoptic, instances, stuff"):
        open_dataset(f"{tmp_path}:things", "val")
    with pytest.raises(UserError, match=r"behind the colon has no meaning for scenes"):
        open_dataset("scenes:train", "val")


def test_coco_instances_are_those_of_pycocotools(tmp_path, capsys):
    """Random polygons and run lengths of both kinds, painted from the largest to the smallest."""
    from pycocotools import mask as rle
    from pycocotools.coco import COCO

    coco_instances(tmp_path)
    file = tmp_path / "annotations" / "instances_val2017.json"
    content = json.loads(file.read_text())
    rng = np.random.default_rng(0)
    for annotation, kind in zip(content["annotations"], ("polygon", "polygon", "list", "string"), strict=True):
        annotation["iscrowd"] = 0
        del annotation["bbox"]  # drawing needs none
        inside = np.asfortranarray(pixels((0, 1), annotation["id"]), np.uint8)
        runs = np.flatnonzero(np.diff(inside.ravel("F"), prepend=0, append=2))
        if kind == "polygon":
            annotation["segmentation"] = [(rng.random(10) * 24).tolist(), (rng.random(6) * 24).tolist()]
        if kind == "list":
            annotation["segmentation"] = {"size": list(SIZE), "counts": np.diff(runs, prepend=0).tolist()}
        if kind == "string":
            code = rle.encode(inside)
            annotation["segmentation"] = {"size": list(SIZE), "counts": code["counts"].decode()}
    file.write_text(json.dumps(content))

    theirs = COCO(str(file))
    capsys.readouterr()
    masks = [(theirs.annToMask(a), a["category_id"]) for a in theirs.loadAnns(theirs.getAnnIds(imgIds=[3]))]
    ids = sorted(theirs.getCatIds())
    expected = np.zeros(SIZE, np.uint8)
    for mask, category in sorted(masks, key=lambda m: -int(m[0].sum())):
        expected[mask == 1] = ids.index(category) + 1
    data = open_dataset(tmp_path, "val")
    assert data.classes[:3] == ("background", "person", "bicycle")
    np.testing.assert_array_equal(data[0][1], expected)


@pytest.mark.parametrize(
    ("word", "spoil", "message"),
    [
        (
            "instances",
            lambda c: c["annotations"][0].update(segmentation=[["a"] * 6]),
            "annotation 1: a polygon holds what is",
        ),
        (
            "instances",
            lambda c: c["annotations"][3]["segmentation"].update(size=[9, 9]),
            r"annotation 4: its runs are of the size \[9, 9\], height and width of its image \[24, 32\]",
        ),
        (
            "instances",
            lambda c: c["annotations"][3]["segmentation"]["counts"].pop(),
            "annotation 4: its runs don't fill the image",
        ),
        (
            "instances",
            lambda c: c["annotations"][0].update(category_id=12),
            "annotation 1: its category_id 12 is none of the 80 categories: 1, 2",
        ),
        ("instances", lambda c: c["annotations"][0].pop("segmentation"), "annotation 1: it has no segmentation"),
        ("instances", lambda c: c["categories"].pop(), r"its 79 categories are not COCO's 80 \(90 is missing\)"),
        ("instances", lambda c: c.pop("categories"), "not a file of COCO's: it has no categories"),
        ("instances", lambda c: c.update(images=[], annotations=[]), r"instances_val2017\.json names no pictures"),
        ("panoptic", lambda c: c["annotations"][0]["segments_info"].pop(), "the segment 16777215 isn't in the JSON"),
        (
            "panoptic",
            lambda c: c["annotations"][0].update(image_id=99),
            "annotation at place 0: its image_id 99 is none of the 1 images: 3",
        ),
        (
            "panoptic",
            lambda c: c["annotations"][0]["segments_info"][0].update(id="5"),
            "annotation at place 0: a segment has the id '5'; a number is right",
        ),
        (
            "panoptic",
            lambda c: c["annotations"][0]["segments_info"][0].update(category_id="1"),
            'its category_id "1" is none of the 133 .* a number and a text are not the same',
        ),
        ("panoptic", lambda c: c["annotations"][0].update(file_name=None), "at place 0: its file_name is None"),
        (
            "panoptic",
            lambda c: c["annotations"][0].update(file_name="x.png"),
            r"1 masks .* missing: panoptic_val2017/x",
        ),
        ("panoptic", lambda c: c["images"][0].update(file_name="x.jpg"), r"1 pictures .* missing: val2017/x\.jpg"),
    ],
)
def test_wrong_coco_annotations(word, spoil, message, tmp_path):
    MADE[f"coco_{word}"](tmp_path)
    file = tmp_path / "annotations" / f"{word}_val2017.json"
    content = json.loads(file.read_text())
    spoil(content)
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        open_dataset(tmp_path, "val").check()
    file.write_text("{")
    with pytest.raises(UserError, match=r"_val2017\.json: not a file of COCO's"):
        open_dataset(tmp_path, "val")


def test_mac_copies_are_left_out(tmp_path):
    root, truth = made("camvid", tmp_path)
    (root / "val" / "._Seq05VD_0003.png").write_text("not a picture")
    (root / "valannot" / ".DS_Store").write_text("")
    assert len(open_dataset(root, "val")) == len(truth["val"])


def test_a_part_of_a_data_set_is_said_to_be_one(tmp_path, caplog):
    root, _ = made("cityscapes", tmp_path)
    open_dataset(root, "train")
    assert caplog.messages == ["cityscapes: 2 of the 2975 pictures of train are here"]
