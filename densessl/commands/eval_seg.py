"""eval-seg: measure frozen feature maps by linear segmentation."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from densessl.commands.naming import make_folder, result_folders, short_names

EXAMPLES = """
examples:
  eval-seg checkpoints/demo --data scenes
  eval-seg checkpoints/mine/backbone.safetensors resnet50 --data MY_FOLDER --seeds 3
  eval-seg resnet50 --data VOCdevkit --protocol vicregl_resnet --set iterations=4000 batch=8
"""


def main(argv: list[str] | None = None) -> int:
    args = _arguments(argv)
    from densessl.segmentation.protocols import PROTOCOLS, deviations, digest, find_protocol

    if args.list:
        for protocol in PROTOCOLS.values():
            print(f"{protocol.name} [{digest(protocol)}]\n  {protocol.source}")
            print("  " + ", ".join(f"{key}={value}" for key, value in protocol.settings().items()) + "\n")
        return 0
    protocol = find_protocol(args.protocol, args.set)

    from densessl.backbone_file import find_backbone
    from densessl.segmentation.datasets import open_dataset
    from densessl.segmentation.linear import Result, evaluate, find_device
    from densessl.segmentation.report import table, write

    find_device(args.device)
    train, val = open_dataset(args.data, "train"), open_dataset(args.data, "val")
    seeds = list(range(args.seeds)) if args.seeds else [args.seed]
    names = short_names(args.backbone)
    setting = f"{train.title}-{protocol.name}-{digest(protocol)}-" + (
        f"seeds{len(seeds)}" if args.seeds else f"seed{args.seed}"
    )
    folders = result_folders(names, args.out, "segmentation", setting)
    for spec in args.backbone:  # all that can be refused is refused before hours of work
        find_backbone(spec, output_stride=protocol.output_stride)
        make_folder(folders[spec])

    results: dict[str, list[Result]] = {}
    for spec in args.backbone:
        found = []
        for seed in seeds:
            backbone = find_backbone(spec, output_stride=protocol.output_stride, seed=seed)
            found.append(evaluate(backbone, train, val, protocol, seed=seed, device=args.device, workers=args.workers))
            if seed == seeds[0]:
                shown = backbone
        results[names[spec]] = found
        write(folders[spec], names[spec], found, shown, val)

    print(table(results))
    if deviations(protocol):
        print(f"not {protocol.name} itself: {', '.join(deviations(protocol))}\n")
    for folder in folders.values():
        print(f"results and pictures: {folder}")
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="eval-seg",
        description="The backbone is frozen, a linear head is trained on the train split and scored on val.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "backbone", nargs="*", metavar="BACKBONE", help="a run folder, a backbone file, or a timm name: random weights"
    )
    parser.add_argument(
        "--data", metavar="PATH", help="images/, masks/ and classes.txt; VOCdevkit or VOC2012; or the word scenes"
    )
    parser.add_argument("--protocol", default="linear_small", metavar="NAME", help="see --list; default linear_small")
    parser.add_argument(
        "--set", nargs="+", default=[], action="extend", metavar="KEY=VALUE", help="change settings, and so the hash"
    )
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument("--seed", type=int, default=0, metavar="N", help="of the head and of random weights; default 0")
    seeds.add_argument("--seeds", type=int, metavar="N", help="seeds 0 to N-1, reported as mean ± standard deviation")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: segmentation/ in the run folder")
    parser.add_argument(
        "--workers",
        type=int,
        default=max(1, min(4, (os.cpu_count() or 1) // 2)),
        metavar="N",
        help="processes that read pictures",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    parser.add_argument("--list", action="store_true", help="print the protocols: hash, source, settings")
    args = parser.parse_args(argv)
    if not args.list and not (args.backbone and args.data):
        parser.error("a BACKBONE and --data are needed, or --list")
    if (args.seeds is not None and args.seeds < 1) or args.seed < 0 or args.workers < 0:
        parser.error("--seeds must be at least 1, --seed and --workers at least 0")
    if len(set(args.backbone)) < len(args.backbone):
        parser.error("a BACKBONE stands twice")
    return args
