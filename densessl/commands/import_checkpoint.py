"""Bring in the backbone of any checkpoint, as a backbone file; every key is accounted for."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from densessl.data.pixels import Pixels

EPILOG = """
examples:
  import vicregl_convnext_small_alpha0.75.pth
  import resnet50.a1_in1k=pytorch_model.bin --out checkpoints/a1
  import dino_full.pth:student --keys
  import two_channels.pth --range 0 4095 100 900 --mean 0.3 0.2 --std 0.1 0.1
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="densessl import", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="a file, or a folder of Hugging Face; TIMM_NAME=FILE where shapes can't show the network, FILE:PART for "
        "another part than usual",
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default: checkpoints/ and the file's name")
    parser.add_argument("--overwrite", action="store_true", help="replace a backbone file that is there")
    parser.add_argument("--licence", metavar="TEXT", help="of the weights, kept in the file and told by export")
    for name in ("mean", "std"):
        words = "of the pictures it was trained on, per channel, from 0 to 1, where its project isn't known to tell"
        parser.add_argument(f"--{name}", nargs="+", type=float, metavar="VALUE", help=words)
    parser.add_argument(
        "--range",
        nargs="+",
        type=float,
        metavar="VALUE",
        help="stored values that were 0 and 1, one pair for all channels or one for each; default: pictures of 8 bits",
    )
    parser.add_argument("--percentiles", nargs=2, type=float, metavar="P", help="or those of each picture's channel")
    parser.add_argument("--keys", action="store_true", help="print what became of each key")
    args = parser.parse_args(argv)

    from densessl.backbone_file import FILE_NAME, load_backbone, save_backbone
    from densessl.backbone_spec import parse_spec
    from densessl.errors import UserError
    from densessl.foreign.filling import read_foreign, to_ours
    from densessl.reading import COLOUR, pixels_of

    _, path, part = parse_spec(args.checkpoint)
    if path is None:
        raise UserError(f"{args.checkpoint}: no such file")
    file = (args.out or Path("checkpoints") / path.stem.removesuffix(".pth")) / FILE_NAME
    if file.exists() and not args.overwrite:
        raise UserError(f"{file} is there already: --out another folder, or --overwrite it")
    backbone = load_backbone(args.checkpoint)
    facts: dict[str, Any] = backbone.metadata
    if "format" in facts:
        raise UserError(f"{path}: a backbone file already, of a {backbone.name}; it needs no import")
    origin = {"source": path.name, "import": facts["import"]} | ({"licence": args.licence} if args.licence else {})
    facts |= {key: tuple(given) for key in COLOUR if (given := getattr(args, key))}
    pixels = _pixels(args, backbone.in_chans) if args.range or args.percentiles else pixels_of(backbone)
    read = {"mean": facts["mean"], "std": facts["std"], "pixels": pixels}
    save_backbone(file, backbone, **read, method=facts["method"], step=0, extra=origin)
    if args.keys:
        found = to_ours(read_foreign(path, part), backbone.net.state_dict())
        width = max(map(len, found.fates))
        for key, fate in found.fates.items():
            print(f"{key:{width}}  {fate}")
        for key in sorted(found.tensors.keys() - found.fates.values()):
            print(f"{'-':{width}}  {key}, filled in")
    print(f"{file}: {backbone.name}, mean {facts['mean']}, std {facts['std']}")
    return 0


def _pixels(args: argparse.Namespace, channels: int) -> Pixels:
    """Which stored values are black and white. Raises UserError."""
    from densessl.data.pixels import Pixels
    from densessl.errors import UserError

    bounds = tuple(zip(args.range[::2], args.range[1::2], strict=False)) if args.range else ()
    if args.range and (len(args.range) % 2 or any(low >= high for low, high in bounds)):
        raise UserError(f"--range {args.range}: pairs of black and white, black below white, are needed")
    low, high = args.percentiles or (0, 100)
    if not 0 <= low < high <= 100 or (args.range and args.percentiles):
        raise UserError("--percentiles: two from 0 to 100, the smaller first, and no --range")
    return Pixels(channels, bounds, tuple(args.percentiles) if args.percentiles else None)
