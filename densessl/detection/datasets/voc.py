"""Pascal VOC detection, 2007 and 2012, in its own layout."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from densessl.data.annotations import Annotation
from densessl.data.shapes import box_in
from densessl.detection.datasets.annotated import Annotated
from densessl.errors import UserError
from densessl.files import read_utf8
from densessl.segmentation.datasets.voc import CLASSES as WITH_BACKGROUND
from densessl.trees import incomplete

CLASSES = WITH_BACKGROUND[1:]
# word -> split -> the lists of it, as (year, list)
LISTS: dict[str, dict[str, tuple[tuple[str, str], ...]]] = {
    "0712": {"train": (("2007", "trainval"), ("2012", "trainval")), "val": (("2007", "test"),)},
    "07": {"train": (("2007", "trainval"),), "val": (("2007", "test"),)},
    "12": {"train": (("2012", "train"),), "val": (("2012", "val"),)},
}
COUNTS = {("0712", "train"): 16_551, ("0712", "val"): 4952, ("07", "train"): 5011, ("07", "val"): 4952}


class VOC(Annotated):
    """20 classes, boxes alone. Everingham et al. 2010.

    The word ``0712`` takes trainval of both years to train and test of 2007 to score, ``07`` and ``12`` one year;
    without a word all the years that are there. Objects marked difficult are not scored. Scores are COCO's: the areas
    are those of boxes, and recall has 101 points, not the 11 of 2007.
    """

    words = tuple(LISTS)
    layout = """
VOCdevkit/
  VOC2007/ and VOC2012/, or one of them, each with
    JPEGImages/NAME.jpg
    Annotations/NAME.xml
    ImageSets/Main/trainval.txt  test.txt    of 2007; the labels of its test come in an archive of their own
    ImageSets/Main/train.txt  val.txt  trainval.txt    of 2012
"""

    def __init__(self, path: str | Path, split: str, word: str = "") -> None:
        years = _years(Path(path))
        word = word or {("2007", "2012"): "0712", ("2007",): "07", ("2012",): "12"}.get(tuple(sorted(years)), "0712")
        rows, sources = [], []
        for year, name in LISTS[word][split]:
            if year not in years:
                raise incomplete(Path(path), f"VOC{year} is missing", self.layout)
            root = years[year]
            file = root / "ImageSets" / "Main" / f"{name}.txt"
            for needed in (file, root / "JPEGImages", root / "Annotations"):
                if not needed.exists():
                    raise incomplete(root, f"{needed.relative_to(root).as_posix()} is missing", self.layout)
            rows += [_row(root, stem) for stem in _stems(file)]
            sources.append(f"VOC{year} {name}.txt")
        super().__init__(
            Path(path),
            rows,
            title=f"voc{word}",
            split=split,
            classes=CLASSES,
            source=" and ".join(sources),
            layout=self.layout,
            published=COUNTS.get((word, split)),
        )

    @staticmethod
    def recognises(path: str | Path) -> bool:
        path = Path(path)
        parts = ("JPEGImages", "Annotations", "ImageSets", "VOC2007", "VOC2012", "VOCdevkit")
        return any((path / part).exists() for part in parts) or path.name in ("VOC2007", "VOC2012", "VOCdevkit")


def _years(path: Path) -> dict[str, Path]:
    """Year -> its folder, for VOCdevkit, the folder that holds it, or the folder of a year itself."""
    if path.name in ("VOC2007", "VOC2012"):
        return {path.name[3:]: path}
    root = path / "VOCdevkit" if (path / "VOCdevkit").is_dir() else path
    return {year: root / f"VOC{year}" for year in ("2007", "2012") if (root / f"VOC{year}").is_dir()}


def _stems(file: Path) -> list[str]:
    """The first column, as text: 000005 is a name."""
    stems = [line.split()[0] for line in read_utf8(file).splitlines() if line.strip()]
    if not stems:
        raise UserError(f"{file}: the list is empty")
    if len(set(stems)) < len(stems):
        twice = next(stem for place, stem in enumerate(stems) if stem in stems[:place])
        raise UserError(f"{file}: {twice} stands twice")
    return stems


def _row(root: Path, stem: str) -> tuple[Path, int, int, list[Annotation]]:
    file = root / "Annotations" / f"{stem}.xml"
    try:
        tree = ElementTree.parse(file).getroot()
        height, width = (int(_text(tree, f"size/{side}")) for side in ("height", "width"))
        objects = [_annotation(entry, width, height) for entry in tree.findall("object")]
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such file, though a list of ImageSets/Main names it") from None
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    except (ElementTree.ParseError, ValueError) as error:
        raise UserError(f"{file}: not an annotation of VOC: {error}") from None
    return root / "JPEGImages" / f"{stem}.jpg", height, width, objects


def _annotation(entry: ElementTree.Element, width: int, height: int) -> Annotation:
    """Of direct children alone: a person's ``part`` has a name and a box of its own."""
    name = _text(entry, "name").strip()
    if name not in CLASSES:
        raise UserError(f"an object called {name!r}; VOC's classes are {', '.join(CLASSES)}")
    corners = [round(float(_text(entry, f"bndbox/{corner}"))) for corner in ("xmin", "ymin", "xmax", "ymax")]
    left, top, right, bottom = corners  # pixels counted from 1, the last ones inside
    if right < left or bottom < top:
        raise UserError(f"the box of {name} has xmin, ymin, xmax, ymax of {corners}, the last first")
    box = box_in((left - 1, top - 1, right, bottom), width, height, clip=True)
    difficult = entry.findtext("difficult", "0").strip() == "1"
    return Annotation(CLASSES.index(name) + 1, box, None, False, difficult)


def _text(element: ElementTree.Element, path: str) -> str:
    text = element.findtext(path)
    if text is None:
        raise UserError(f"{path} is missing")
    return text
