"""data: look at a collection of pictures, pack it, see the views of it, or draw one."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from densessl.commands.kinds import Parser, chosen
from densessl.config import load_config
from densessl.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

KINDS = {
    "check": "count and decode all pictures; list what is corrupt, tiny or there twice; what configuration reads them",
    "pack": "write tar shards, shuffled once, without what is unreadable",
    "views": "draw the views that training would see, outlined on their pictures",
    "scenes": "write the built-in scenes to disk, as a folder, as VOC or as COCO",
}
ABOUT = {
    "check": """\
Reads every picture of PATH once, as it is stored, and prints the configuration that reads them. Pictures with the same
pixels are duplicates, whatever the format and the metadata of their files; misfits are those that the configuration of
most can't read. Exit code 1 if any is corrupt or a misfit.""",
    "pack": """\
Writes OUT/NAME-000000.tar, NAME-000001.tar, ... in WebDataset's form, which data.path takes, each picture as it is
stored. What other readers of shards may not know, such as BMP, becomes PNG without loss, and --size shrinks grey and
RGB of 8 bits alone. OUT appears when all of it is written.""",
    "views": """\
Takes the first pictures of a run's first epoch through the run's own loader: each with its crops outlined on it, a dot
at the upper left corner of the view, then the views as they enter the network, but for the normalisation.""",
    "scenes": """\
Writes pictures with the class of every pixel, drawn from a seed:
  pictures  OUT/*.png, for data.path
  folder    OUT/{images,masks}/{train,val}/ and classes.txt, for eval-seg
  coco      OUT/images/{train,val}/ and annotations/{train,val}.json, boxes and shapes, for eval-det
  voc       OUT/VOCdevkit/VOC2012/, for both; the objects go by the names of VOC's first eight classes""",
}
EXAMPLES = {
    "check": "data check MY_PICTURES --sheet sheet.png --list good.txt",
    "pack": "data pack MY_PICTURES SHARDS --size 512",
    "views": "data views --cfg vicregl_cnx_s data.path=MY_PICTURES --out views.png",
    "scenes": "data scenes SCENES --layout folder --count 200",
}
LAYOUTS = ("pictures", "folder", "coco", "voc")
UNITS = {"": 1, "B": 1} | {f"{p}{u}": b**n for n, p in enumerate("KMGT", 1) for u, b in (("B", 1000), ("iB", 1024))}


def main(argv: Sequence[str] | None = None) -> int:
    kind, words = chosen("data", __doc__, KINDS, argv)
    if not kind:
        return 0
    args = _arguments(kind, words)
    try:
        return RUNS[kind](args)
    except OSError as error:  # of what is to be written; what can't be read has its own messages
        raise UserError(f"{error.filename}: can't be written ({error.strerror or error})") from error


def _check(args: argparse.Namespace) -> int:
    from densessl.data import findings
    from densessl.data.check import survey
    from densessl.data.contact import contact_sheet, tiles
    from densessl.data.pictures import open_pictures
    from densessl.data.sources.files import Files

    images = open_pictures(args.path)
    if args.list and not isinstance(getattr(images, "source", None), Files):  # before an hour of work
        raise UserError(f"--list {args.list}: these pictures have no files of their own; pack leaves corrupt ones out")
    found = survey(images, tiny=args.tiny, workers=args.workers)
    print(findings.report(images, found, args.tiny))
    if args.out:
        findings.write(args.out, images, found, args.path)
        print(f"lists and figures: {args.out}")
    if args.sheet:
        _save(contact_sheet(tiles(images, found, args.pictures)), args.sheet)
    if args.list:
        print(f"{args.list}: {findings.write_list(args.list, images, found):,} good pictures")
    return 1 if found.corrupt or len(found.misfits()) else 0


def _pack(args: argparse.Namespace) -> int:
    from densessl.data.pack import pack
    from densessl.data.pictures import open_pictures

    limit = _bytes(args.shard_size)
    packed = pack(
        open_pictures(args.path),
        args.out,
        name=args.name,
        shard_size=limit,
        size=args.size,
        seed=None if args.ordered else args.seed,
        workers=args.workers,
    )
    print(f"{args.out}: {packed.pictures:,} pictures in {packed.shards:,} shards, {packed.bytes / 1e9:.3g} GB")
    if packed.encoded:
        print(f"{packed.encoded:,} of them encoded anew, the others as they were")
    if packed.large:
        print(f"{packed.large:,} stay larger than {args.size} pixels: they aren't grey or RGB of 8 bits")
    if packed.unreadable:
        print(f"{packed.unreadable:,} unreadable ones left out")
    print(f"to train on them: 'data.path={args.out}/{args.name}-*.tar'")
    return 0


def _views(args: argparse.Namespace) -> int:
    cfg = load_config(args.cfg, args.overrides)
    from densessl.data.pictures import open_pictures
    from densessl.data.pixels import Pixels
    from densessl.data.sheet import sheet, sources

    _save(sheet(sources(open_pictures(cfg.data.path, Pixels.of(cfg)), cfg, args.pictures)), args.out)
    return 0


def _scenes(args: argparse.Namespace) -> int:
    from densessl.data.layouts import write_scenes

    counts = write_scenes(args.out, args.layout, args.count, args.val, args.size, args.seed)
    print(f"{args.out}: {' and '.join(f'{n:,} of {split}' for split, n in counts.items())}")
    # the bare name would be the built-in scenes
    print(NEXT[args.layout].format("./scenes" if str(args.out) == "scenes" else args.out))
    return 0


RUNS = {"check": _check, "pack": _pack, "views": _views, "scenes": _scenes}
NEXT = {
    "pictures": "to train on them: data.path={0}",
    "folder": "to measure on them: eval-seg BACKBONE --data {0}",
    "coco": "to measure on them: eval-det BACKBONE --data {0}",
    "voc": "to measure on them: eval-seg BACKBONE --data {0}, and eval-det; classes.txt tells which class is which",
}


def _save(page: Image, file: Path) -> None:
    from densessl.files import aside

    with aside(file) as part:
        page.save(part)
    print(f"{file}: {page.width} x {page.height}")


def _arguments(kind: str, words: Sequence[str]) -> argparse.Namespace:
    parser = Parser(f"data {kind}", ABOUT[kind], EXAMPLES[kind])
    add, number = parser.add_argument, parser.number
    if kind in ("check", "pack"):
        add("path", metavar="PATH", help="as data.path: a folder, a list, tar shards, or scenes")
        number("workers", os.cpu_count() or 1, "processes that read; default: one a core; 0: this one", 0)
    if kind == "check":
        number("tiny", 64, "pixels that the shorter side should have", 0)
        number("pictures", 60, "on the contact sheet")
        add("--out", type=Path, metavar="FOLDER", help="for check.json, which report shows, and lists of what is wrong")
        add("--sheet", type=Path, metavar="FILE.png", help="a contact sheet, what is bad in red")
        add("--list", type=Path, metavar="FILE", help="the paths of the good: no corrupt, odd, tiny or repeated one")
    if kind in ("pack", "scenes"):
        add("out", type=Path, metavar="OUT", help="a folder that is empty or not there yet")
        number("seed", 0, "of the order" if kind == "pack" else "of the scenes", 0)
    if kind == "pack":
        add("--name", default="train", metavar="NAME", help="of the shards; default train")
        add("--shard-size", default="512MiB", metavar="SIZE", help="at most; default 512MiB")
        number("size", None, "shrink pictures to this shorter side, as JPEG of quality 95; smaller ones stay")
        add("--ordered", action="store_true", help="keep the order, where it is shuffled otherwise")
    if kind == "views":
        add("--cfg", required=True, metavar="NAME", help="as for pretrain")
        add("overrides", nargs="*", metavar="key=value", help="replaces a value of the configuration")
        add("--out", required=True, type=Path, metavar="FILE.png", help="the sheet")
        number("pictures", 4, "a line each")
    if kind == "scenes":
        add("--layout", required=True, choices=LAYOUTS, metavar="NAME", help=", ".join(LAYOUTS))
        number("count", 400, "training pictures")
        number("val", None, "validation pictures; default a quarter of --count; none of the layout pictures")
        number("size", 160, "pixels a side", 32)
    args = parser.parsed(words)
    for name in ("sheet", "out"):
        file = getattr(args, name, None)
        if (name == "sheet" or kind == "views") and file and file.suffix.lower() not in (".png", ".jpg", ".webp"):
            better = file.with_suffix(".png") if file.name else "sheet.png"
            raise UserError(f"--{name} {file}: a picture's name is needed, such as {better}")
    return args


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(\w*)", text)
    if not found or found[2] not in UNITS or not (size := int(float(found[1]) * UNITS[found[2]])):
        raise UserError(f"--shard-size {text}: a size is needed, such as 512MiB or 1GB")
    return size
