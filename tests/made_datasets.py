"""Small data sets in the exact layouts of the published ones: names, codes, lists and files that must not be read."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat
from scipy.sparse import csc_matrix

from densessl.data.palette import palette

Truth = dict[str, dict[str, np.ndarray]]  # split -> name -> labels (H, W) uint8
SIZE = (24, 32)  # height, width
NAMES = {"train": ("0001", "0002"), "val": ("0003",)}


def save(path: Path, values: np.ndarray, mode: str | None = None) -> None:
    """A file of pixels: (H, W) grey, (H, W, 3 or 4) colours, uint16 as 16 bits; mode P with Pascal VOC's palette."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    if mode == "P":
        image.putpalette([part for i in range(256) for part in palette(i)])
    image.save(path)


def pixels(values: tuple[int, ...], seed: int) -> np.ndarray:
    """(H, W) int64: squares of 8 pixels, every value in the first ones if there is room, then at random."""
    rows, columns = SIZE[0] // 8, SIZE[1] // 8
    rng = np.random.default_rng(seed)
    drawn = rng.choice(values, rows * columns)
    drawn[: len(values)] = values[: len(drawn)]
    return np.kron(drawn.reshape(rows, columns), np.ones((8, 8), np.int64))


def picture(path: Path, seed: int = 0, size: tuple[int, int] = SIZE) -> None:
    save(path, np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def labels_of(values: np.ndarray, known: dict[int, int]) -> np.ndarray:
    return np.vectorize(known.__getitem__)(values).astype(np.uint8)


def lines(path: Path, texts: tuple[str, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(texts))  # without the last newline


def voc(root: Path, extra: str = "") -> Truth:
    """``extra``: "" without, "png" with SegmentationClassAug, "mat" with SBD's release."""
    base = root / "VOCdevkit" / "VOC2012"
    own = {"train": ("2007_000032",), "val": ("2007_000033",)}
    known = {v: v for v in (0, 1, 15, 20, 255)}
    truth: Truth = {}
    for split, names in own.items():
        lines(base / "ImageSets" / "Segmentation" / f"{split}.txt", names)
        truth[split] = {}
        for name in names:
            values = pixels(tuple(known), int(name[-2:]))
            save(base / "SegmentationClass" / f"{name}.png", values.astype(np.uint8), "P")
            save(base / "SegmentationObject" / f"{name}.png", (values % 5).astype(np.uint8), "P")
            picture(base / "JPEGImages" / f"{name}.jpg")
            truth[split][name] = labels_of(values, known)
    if not extra:
        return truth
    for name in ("2008_000002", "2011_000003"):
        truth["train"][name] = pixels((0, 7, 12), int(name[-1])).astype(np.uint8)
        picture(base / "JPEGImages" / f"{name}.jpg")
    augmented = truth["train"] | truth["val"]  # of all pictures, those of val too, and without the border
    for name, labels in augmented.items():
        coarse = np.where(labels == 255, 0, labels)
        if extra == "png":
            save(base / "SegmentationClassAug" / f"{name}.png", coarse)
            continue
        boundaries = np.empty((20, 1), object)
        boundaries[:, 0] = [csc_matrix(SIZE, dtype=np.uint8) for _ in range(20)]
        file = root / "benchmark_RELEASE" / "dataset" / "cls" / f"{name}.mat"
        file.parent.mkdir(parents=True, exist_ok=True)
        savemat(file, {"GTcls": {"Segmentation": coarse, "Boundaries": boundaries}}, do_compression=True)
    if extra == "png":
        lines(base / "ImageSets" / "Segmentation" / "trainaug.txt", tuple(truth["train"]))
    else:  # their split is not VOC's: its train holds a picture of VOC's val
        lines(root / "benchmark_RELEASE" / "dataset" / "train.txt", ("2008_000002", "2007_000033", "2007_000032"))
        lines(root / "benchmark_RELEASE" / "dataset" / "val.txt", ("2011_000003",))
    return truth


def cityscapes(root: Path, train_ids: bool = False) -> Truth:
    known = {0: 255, 3: 255, 7: 0, 11: 2, 18: 255, 24: 11, 26: 13, 29: 255, 33: 18}
    truth: Truth = {}
    for split, cities in {"train": ("aachen", "ulm"), "val": ("munster",)}.items():
        truth[split] = {}
        for city in cities:
            name = f"{city}_000003_000019"
            values = pixels(tuple(known), len(city))
            labels = labels_of(values, known)
            mask = root / "gtFine" / split / city / f"{name}_gtFine"
            picture(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png")
            if train_ids:
                save(Path(f"{mask}_labelTrainIds.png"), labels)
            else:
                save(Path(f"{mask}_labelIds.png"), values.astype(np.uint8))
            instances = np.where(values >= 24, values * 1000 + 3, values).astype(np.uint16)
            save(Path(f"{mask}_instanceIds.png"), instances)
            save(Path(f"{mask}_color.png"), np.full((*SIZE, 4), 255, np.uint8))
            Path(f"{mask}_polygons.json").write_text('{"imgHeight": 24, "imgWidth": 32, "objects": []}')
            truth[split][name] = labels
    save(root / "gtFine" / "test" / "bonn" / "bonn_000000_000019_gtFine_labelIds.png", np.full(SIZE, 3, np.uint8))
    return truth


def ade20k(root: Path) -> Truth:
    known = {0: 255, 1: 0, 2: 1, 149: 148, 150: 149}
    truth: Truth = {}
    for split, folder in {"train": "training", "val": "validation"}.items():
        truth[split] = {}
        for number in (1, 2):
            name = f"ADE_{split}_{number:08d}"
            values = pixels(tuple(known), number)
            base = root / "ADEChallengeData2016"
            picture(base / "images" / folder / f"{name}.jpg")
            save(base / "annotations" / folder / f"{name}.png", values.astype(np.uint8))
            truth[split][name] = labels_of(values, known)
    (root / "ADEChallengeData2016" / "objectInfo150.txt").write_text(
        "Idx\tRatio\tTrain\tVal\tName\n1\t0.1\t1\t1\twall\n"
    )
    return truth


def coco_categories(things_only: bool) -> list[dict]:
    """The ids as COCO has them: 80 of 1 to 90, and 53 of 92 to 200."""
    no_thing = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    stuff = (92, 93, 95, 100, 107, 109, 112, 118, 119, 122, 125, 128, 130, 133, 138, 141, 144, 145, 147, 148, 149, 151)
    stuff += (154, 155, 156, 159, 161, 166, 168, 171, 175, 176, 177, 178, 180, 181, *range(184, 201))
    ids = [i for i in range(1, 91) if i not in no_thing] + ([] if things_only else list(stuff))
    return [{"id": i, "name": f"category {i}", "isthing": int(i <= 90), "color": [i, i, i]} for i in ids]


def coco_panoptic(root: Path) -> Truth:
    """Segment ids over all three bytes; 0 is void, and a crowd counts as its class."""
    known = {0: 255, 5: 0, 256 * 3: 11, 65536 * 2 + 1: 80, 16777215: 132}  # person, stop sign, banner, rug
    categories = {5: 1, 256 * 3: 13, 65536 * 2 + 1: 92, 16777215: 200}
    truth: Truth = {}
    for split, names in NAMES.items():
        part, truth[split] = f"{split}2017", {}
        content: dict = {"images": [], "annotations": [], "categories": coco_categories(things_only=False)}
        for name in names:
            stem = f"{int(name):012d}"
            values = pixels(tuple(known), int(name))
            picture(root / part / f"{stem}.jpg")
            coded = np.stack([values & 255, values >> 8 & 255, values >> 16], -1).astype(np.uint8)
            save(root / "annotations" / f"panoptic_{part}" / f"{stem}.png", coded)
            content["images"].append({"id": int(name), "file_name": f"{stem}.jpg", "height": 24, "width": 32})
            segments = [
                {"id": i, "category_id": c, "area": int((values == i).sum()), "iscrowd": int(i == 5)}
                for i, c in categories.items()
            ]
            content["annotations"].append(
                {"image_id": int(name), "file_name": f"{stem}.png", "segments_info": segments}
            )
            truth[split][stem] = labels_of(values, known)
        (root / "annotations" / f"panoptic_{part}.json").write_text(json.dumps(content))
    return truth


def box(left: int, top: int, right: int, bottom: int) -> list[int]:
    """A polygon that pycocotools fills from left and top to just before right and bottom."""
    return [left, top, right, top, right, bottom, left, bottom]


def coco_instances(root: Path) -> Truth:
    """A pizza listed before its table, a person of two parts, a crowd in column-major runs, a picture of nothing."""
    truth: Truth = {}
    for split, names in NAMES.items():
        part, truth[split] = f"{split}2017", {}
        content: dict = {"images": [], "annotations": [], "categories": coco_categories(things_only=True)}
        for name in names:
            stem, number = f"{int(name):012d}", int(name)
            picture(root / part / f"{stem}.jpg")
            content["images"].append({"id": number, "file_name": f"{stem}.jpg", "height": 24, "width": 32})
            labels = np.zeros(SIZE, np.uint8)
            truth[split][stem] = labels
            if name == "0002":
                continue
            person = [box(20, 2, 24, 8), box(20, 10, 24, 14), [1, 1, 2, 2]]  # the last has no area
            shapes: list[tuple[int, int, object, list[int]]] = [
                (59, 0, [box(4, 4, 8, 8)], [4, 4, 4, 4]),  # pizza
                (67, 0, [box(2, 2, 16, 12)], [2, 2, 14, 10]),  # dining table
                (1, 0, person, [20, 2, 4, 12]),
                (3, 1, {"size": [24, 32], "counts": [22 * 24, 4 * 24, 6 * 24]}, [22, 0, 4, 24]),  # cars
            ]
            for category, crowd, shape, bbox in shapes:
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]) + 1,
                        "image_id": number,
                        "category_id": category,
                        "iscrowd": crowd,
                        "segmentation": shape,
                        "bbox": bbox,
                        "area": 1,
                    }
                )
            labels[:, 22:26] = 255
            labels[2:12, 2:16] = 61  # 60 of the panoptic classes, behind the background
            labels[4:8, 4:8] = 54
            labels[2:8, 20:24] = labels[10:14, 20:24] = 1
        (root / "annotations").mkdir(exist_ok=True)
        (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(content))
    return truth


def coco_stuff(root: Path) -> Truth:
    known = {0: 0, 10: 10, 12: 11, 91: 80, 181: 170, 255: 255}
    truth: Truth = {}
    for split, names in NAMES.items():
        part, truth[split] = f"{split}2017", {}
        for name in names:
            stem = f"{int(name):012d}"
            values = pixels(tuple(known), int(name))
            picture(root / part / f"{stem}.jpg")
            save(root / "stuffthingmaps" / part / f"{stem}.png", values.astype(np.uint8))
            save(root / "stuffthingmaps" / part / f"{stem}_labelTrainIds.png", labels_of(values, known))
            truth[split][stem] = labels_of(values, known)
    return truth


def camvid(root: Path) -> Truth:
    known = {0: 0, 1: 1, 4: 4, 10: 10, 11: 255}
    truth: Truth = {}
    for split, names in NAMES.items():
        truth[split] = {}
        for name in names:
            values = pixels(tuple(known), int(name))
            picture(root / split / f"Seq05VD_{name}.png")
            save(root / f"{split}annot" / f"Seq05VD_{name}.png", values.astype(np.uint8))
            truth[split][f"Seq05VD_{name}"] = labels_of(values, known)
        lines(root / f"{split}.txt", tuple(f"/SegNet/CamVid/{split}/{n}.png /SegNet/x/{n}.png" for n in names))
    return truth


def camvid_rgb(root: Path) -> Truth:
    known = {(128, 128, 128): 0, (0, 128, 64): 1, (192, 0, 64): 3, (0, 0, 192): 4, (192, 192, 0): 5, (0, 0, 0): 255}
    truth: Truth = {}
    for split, names in NAMES.items():
        truth[split] = {}
        for name in names:
            values = pixels(tuple(range(len(known))), int(name))
            labels = np.array(list(known.values()), np.uint8)[values]
            colours = np.array(list(known), np.uint8)[values]
            colours[0, 0], labels[0, 0] = (1, 2, 3), 255  # a stray one
            picture(root / split / f"0001TP_{name}.png")
            save(root / f"{split}_labels" / f"0001TP_{name}_L.png", colours)
            truth[split][f"0001TP_{name}"] = labels
    return truth


def folder(root: Path) -> Truth:
    known = {0: 0, 1: 255, 2: 1, 255: 255}
    truth: Truth = {}
    for split, names in NAMES.items():
        truth[split] = {}
        for name in names:
            values = pixels(tuple(known), int(name))
            picture(root / "images" / split / f"{name}.jpg")
            save(root / "masks" / split / f"{name}.png", values.astype(np.uint8))
            truth[split][name] = labels_of(values, known)
    (root / "classes.txt").write_text("sky\nvoid\nroad\n")
    return truth


# title -> what makes it, which returns the truth
MADE: dict[str, Callable[[Path], Truth]] = {
    "voc2012": voc,
    "voc2012aug": lambda root: voc(root, "png"),
    "voc2012aug of SBD's release": lambda root: voc(root, "mat"),
    "cityscapes": cityscapes,
    "cityscapes in train ids": lambda root: cityscapes(root, train_ids=True),
    "ade20k": ade20k,
    "coco_panoptic": coco_panoptic,
    "coco_instances": coco_instances,
    "coco_stuff": coco_stuff,
    "camvid": camvid,
    "camvid_rgb": camvid_rgb,
    "folder": folder,
}
