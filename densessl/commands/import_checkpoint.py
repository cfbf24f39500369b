"""Bring in the backbone of any checkpoint, as a backbone file; every key is accounted for."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

EPILOG = """
examples:
  import vicregl_convnext_small_alpha0.75.pth
  import resnet50.a1_in1k=pytorch_model.bin --out checkpoints/a1
  import dino_full.pth:student --keys
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="import", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
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
    parser.add_argument("--keys", action="store_true", help="print what became of each key")
    args = parser.parse_args(argv)

    from densessl.backbone_file import FILE_NAME, find_backbone, save_backbone
    from densessl.backbone_spec import parse_spec
    from densessl.errors import UserError
    from densessl.foreign.filling import read_foreign, to_ours

    _, path, part = parse_spec(args.checkpoint)
    if path is None:
        raise UserError(f"{args.checkpoint}: no such file")
    file = (args.out or Path("checkpoints") / path.stem.removesuffix(".pth")) / FILE_NAME
    if file.exists() and not args.overwrite:
        raise UserError(f"{file} is there already: --out another folder, or --overwrite it")
    backbone = find_backbone(args.checkpoint)
    facts: dict[str, Any] = backbone.metadata
    if "format" in facts:
        raise UserError(f"{path}: a backbone file already, of a {backbone.name}; it needs no import")
    origin = {"source": path.name, "import": facts["import"]} | ({"licence": args.licence} if args.licence else {})
    save_backbone(file, backbone, mean=facts["mean"], std=facts["std"], method=facts["method"], step=0, extra=origin)
    if args.keys:
        found = to_ours(read_foreign(path, part), backbone.net.state_dict())
        width = max(map(len, found.fates))
        for key, fate in found.fates.items():
            print(f"{key:{width}}  {fate}")
        for key in sorted(found.tensors.keys() - found.fates.values()):
            print(f"{'-':{width}}  {key}, filled in")
    print(f"{file}: {backbone.name}, mean {facts['mean']}, std {facts['std']}")
    return 0
