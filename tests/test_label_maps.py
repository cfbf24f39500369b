"""Label maps among images are said, as published data sets have them; drawings and gray images are none."""

from collections.abc import Callable
from pathlib import Path

import made_datasets
import numpy as np
import pytest
import yaml
from PIL import Image
from test_data_command import picture
from test_shards import write
from test_training import TINY

from densessl.config import load_config
from densessl.data.check import survey
from densessl.data.findings import report
from densessl.data.label_maps import find_label_maps
from densessl.data.layouts import write_scenes
from densessl.data.pictures import open_pictures
from densessl.plan import loading
from densessl.training.pretrain import pretrain


def photo(seed: int, mode: str = "RGB", size: int = 64) -> Image.Image:
    noise = np.random.default_rng(seed).normal(0, 6, (size, size, 3))
    return Image.fromarray((picture(seed, size, size) + noise).clip(0, 255).astype(np.uint8)).convert(mode)


def drawing(seed: int, size: int = 64) -> Image.Image:
    """A few areas of one value each, as cartoons, icons and label maps have."""
    coarse = np.random.default_rng(seed).integers(0, 5, (3, 3), dtype=np.uint8)
    return Image.fromarray(np.kron(coarse, np.ones((size // 3 + 1, size // 3 + 1), np.uint8))[:size, :size])


def fill(root: Path, images: str, maps: str, count: int = 8) -> Path:
    for number in range(count):
        for place, image in ((images, photo(number)), (maps, drawing(number))):
            file = root / place.format(number)
            file.parent.mkdir(parents=True, exist_ok=True)
            image.save(file)
    return root


@pytest.mark.parametrize(
    ("images", "maps", "said"),
    [
        ("images/train/{}.jpg", "masks/train/{}.png", "those of masks; the images alone are data.path={0}/images"),
        ("a/rgb/{}.png", "a/gt/{}.png", "those of gt; the images alone are data.path={0}/a/rgb"),
        ("x/{:03}.jpg", "y/{:03}.png", "those of y; the images alone are data.path={0}/x"),
        ("VOC/JPEGImages/{}.jpg", "VOC/SegmentationClass/{}.png", "data.path={0}/VOC/JPEGImages"),
        ("left8/u/{:04}_left8.png", "gtFine/u/{:04}_gtFine_labelIds.png", "data.path={0}/left8"),
        ("{:03}.jpg", "{:03}_L.png", "those of _L.png; the others are the images: data.path also takes a list"),
        ("{:03}.png", "{:03}_mask.png", "those of _mask.png; the others are the images"),
    ],
)
def test_label_maps_are_found_by_places_names_and_pixels(images: str, maps: str, said: str, tmp_path: Path) -> None:
    found = find_label_maps(open_pictures(str(fill(tmp_path, images, maps))))
    assert found.startswith("about 50% of these images look like label maps")
    assert said.format(tmp_path) in found


def test_published_layouts_and_our_own_are_known(tmp_path: Path) -> None:
    made_datasets.MADE["folder"](tmp_path / "few")  # three images are too few to tell
    assert not find_label_maps(open_pictures(str(tmp_path / "few")))
    write_scenes(tmp_path / "scenes", "folder", 6, 2, 64, 0)
    assert f"data.path={tmp_path}/scenes/images" in find_label_maps(open_pictures(str(tmp_path / "scenes")))
    files = {str(f.relative_to(tmp_path / "scenes")): f for f in (tmp_path / "scenes").rglob("*.png")}
    shard = write(tmp_path / "a.tar", {name: file.read_bytes() for name, file in files.items()})
    assert find_label_maps(open_pictures(shard)).endswith("those of masks")


def cartoons(root: Path) -> None:
    for n in range(20):
        drawing(n).save(root / f"{n:03}.png")
        photo(n).save(root / f"x{n:03}.jpg")


def classes(root: Path) -> None:
    """A class that is drawn, and one that is called as masks are, with photographs under the same numbers."""
    for n in range(9):
        for name, image in {
            "logo": drawing(n, 48),
            "cat": photo(n),
            "mask": photo(n + 9),
            "dog": photo(n + 20),
        }.items():
            (root / name).mkdir(exist_ok=True)
            image.save(root / name / f"{n:03}.{'png' if name == 'logo' else 'jpg'}")


def digits(root: Path) -> None:
    """Binary and gray ones, in folders called as masks are."""
    for n in range(20):
        (root / "train" / f"seg_{n % 2}").mkdir(exist_ok=True, parents=True)
        (photo(n, "L") if n % 3 else photo(n, "1")).save(root / "train" / f"seg_{n % 2}" / f"{n}.png")


def drawn(root: Path) -> None:
    """Nothing else, half of them beside the others."""
    fill(root, "images/{}.jpg", "masks/{}.png")
    for n, file in enumerate((root / "images").glob("*.jpg")):
        file.unlink()
        drawing(n).save(file.with_suffix(".png"))


@pytest.mark.parametrize("make", [cartoons, classes, digits, drawn])
def test_drawings_gray_images_and_classes_are_none(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path)
    assert find_label_maps(open_pictures(str(tmp_path))) == ""


def test_check_plan_and_a_run_say_so(tmp_path: Path) -> None:
    root = fill(tmp_path / "all", "images/{}.png", "masks/{}.png")
    said = f"the images alone are data.path={root}/images"
    images = open_pictures(str(root))
    assert said in report(images, survey(images), 8)
    recipe = {**TINY, "steps": 1, "watched": 0, "health_every": 0, "data": {"path": str(root), "workers": 0}}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(recipe), "utf-8")
    config = load_config(f"{tmp_path}/tiny.yaml", [f"run={tmp_path}/run"])
    assert said in loading.measure(config, 0.01).beware
    pretrain(config)
    lines = (tmp_path / "run/log.txt").read_text("utf-8").splitlines()
    assert lines[1].endswith(f"data.path={root}: 16 .png")
    assert said in lines[2]
