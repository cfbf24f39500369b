"""visualize: pictures of what backbones see, as PNG files and one page."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from densessl.commands.evaluation import BACKBONE, finder
from densessl.commands.kinds import Parser
from densessl.commands.naming import short_names
from densessl.errors import UserError

if TYPE_CHECKING:
    from densessl.backbones import Backbone
    from densessl.config import Config
    from densessl.visual.gallery import Gallery

ABOUT = """\
Draws what backbones see in the pictures of PATH, side by side, into OUT, which appears when all of it is written:
index.html, which needs no other file and no network, and each figure as a PNG.
  pca         the three main components of the features as colours, one basis for all pictures
  similarity  of all places to one place
  clusters    of the places (k-means), laid over the pictures
  neighbours  the places of the collection that are most similar to one place
  matches     of VICRegL between two views of a picture, by location and by feature
  filters     of the first layer"""
EXAMPLE = "visualize convnext_atto checkpoints/mine --data MY_PICTURES --out seen --size 224 448"
RECIPE = "vicregl_cnx_s"
SIDES = ("above", "below")


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else list(argv)
    args = _arguments(words)
    place = _place(args.place)
    from densessl.visual.gallery import KINDS

    if wrong := [kind for kind in args.kinds if kind not in KINDS]:
        raise UserError(f"--kinds {wrong[0]}: there are {', '.join(KINDS)}")
    cfg = _recipe(args.cfg, args.backbone)

    from densessl.data.new_folder import new_folder
    from densessl.device import find_device
    from densessl.visual.gallery import Wishes, gallery

    device = find_device(args.device)
    names, find = short_names(args.backbone), finder(args.backbone)
    with new_folder(args.out) as folder:  # which refuses what is in the way before anything is computed
        backbones = {names[spec]: find(spec, args.seed).to(device) for spec in args.backbone}
        wishes = Wishes(
            views=cfg.views,
            kinds=args.kinds,
            sizes=list(dict.fromkeys(args.size)),
            stages=list(dict.fromkeys(args.stage)),
            pictures=args.pictures,
            place=place,
            clusters=args.clusters,
            matches=args.num_matches,
            search=args.search,
            how=args.enlarge,
            scale=args.scale,
            side=args.foreground or "",
            raw=args.raw,
            seed=args.seed,
            photometric=cfg.photometric if args.photometric else None,
        )
        found = gallery(backbones, args.data, wishes)
        _write(folder, found, backbones, f"densessl visualize {shlex.join(words)}")
    for remark in found.remarks:
        print(remark, file=sys.stderr)
    print(f"{args.out / 'index.html'}: {len(found.figures)} figures of {len(found.shown)} pictures")
    return 0


def _write(folder: Path, found: Gallery, backbones: dict[str, Backbone], command: str) -> None:
    from densessl.visual.figure import sheet
    from densessl.visual.overview import overview

    for figure in found.figures:
        sheet(figure).save(folder / f"{figure.name}.png", compress_level=3)  # half the time, a tenth more bytes
    (folder / "index.html").write_text(overview(found, backbones, command), encoding="utf-8")


def _recipe(name: str | None, specs: Sequence[str]) -> Config:
    """The configuration whose views are drawn: --cfg, or that of the first run folder, or VICRegL's."""
    from densessl.backbone_spec import parse_spec
    from densessl.config import load_config

    if name:
        return load_config(name)
    paths = [path for spec in specs if (path := parse_spec(spec).path)]
    runs = [(path if path.is_dir() else path.parent) / "config.yaml" for path in paths]
    return load_config(next((str(file) for file in runs if file.is_file()), RECIPE))


def _place(text: str) -> tuple[float, float]:
    try:
        x, y = (float(part) for part in text.split(","))
        if not (0 <= x <= 1 and 0 <= y <= 1):
            raise ValueError
    except ValueError:
        raise UserError(
            f"--place {text}: two shares of the first picture's width and height are needed, from 0 to 1, such as "
            "0.5,0.5"
        ) from None
    return x, y


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    from densessl.visual.features import STAGES

    parser = Parser("visualize", ABOUT, EXAMPLE)
    add, number = parser.add_argument, parser.number
    add("backbone", nargs="+", metavar="BACKBONE", help=BACKBONE)
    add("--data", required=True, metavar="PATH", help="as data.path: a folder, a list, tar shards, or scenes")
    add("--out", required=True, type=Path, metavar="OUT", help="a folder that is empty or not there yet")
    add("--kinds", nargs="+", default=["pca", "similarity", "clusters", "neighbours", "matches", "filters"],
        metavar="KIND", help="which figures; default all")  # fmt: skip
    add("--size", nargs="+", type=int, default=[448], metavar="N",
        help="pixels of the short side, one or several; default 448")  # fmt: skip
    add("--stage", nargs="+", choices=STAGES, default=["last"], metavar="STAGE",
        help="1 to 4, or last: the fourth after the final norm, as methods read it; default last")  # fmt: skip
    number("pictures", 6, "shown, spread evenly over PATH")
    add("--place", default="0.5,0.5", metavar="X,Y",
        help="in shares of the first picture, for similarity and neighbours; default 0.5,0.5, the middle")  # fmt: skip
    number("clusters", 8, "of k-means", 2)
    number("search", 100, "pictures that are searched for neighbours, spread evenly")
    number("num-matches", 20, "lines between two views")
    add("--cfg", metavar="NAME",
        help=f"the recipe whose views are matched; default: that of the first run folder, or {RECIPE}")  # fmt: skip
    add("--photometric", action="store_true", help="views with the recipe's changes of colour, as training has them")
    add("--enlarge", choices=("nearest", "bilinear"), default="nearest",
        help="how a map becomes as large as its picture; default nearest, which shows its cells")  # fmt: skip
    add("--scale", choices=("each", "common"), default="each",
        help="of pca's colours: each stretched by itself, or one scale for all; default each")  # fmt: skip
    add("--foreground", choices=SIDES,
        help="pca of the foreground alone: places above or below Otsu's threshold of the first component")  # fmt: skip
    add("--raw", action="store_true", help="cosines of features as they are, where the mean is taken off otherwise")
    number("seed", 0, "of random weights, views and clusters", 0)
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    args = parser.parsed(words)
    if len(set(args.backbone)) < len(args.backbone):
        raise UserError("a BACKBONE stands twice")
    return args
