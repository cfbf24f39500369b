"""eval-cls: measure pooled features by nearest neighbours, linear layers and fine-tuning on few labels."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from densessl.commands.evaluation import evaluation_parser, finder, parsed, print_protocols
from densessl.commands.naming import comparison_folders, make_folder, result_folders, short_names

EXAMPLES = """
Pictures are read with the channels and values that the backbone was pretrained on, from TIFFs or .npy too. A timm name
beside it gives random weights for such pictures, comes first, and the others are compared with it.

examples:
  eval-cls resnet18 checkpoints/mine --data MY_FOLDER
  eval-cls checkpoints/mine --data cifar10 --train 5000 --test 2000 --seed 1
  eval-cls checkpoints/mine --data cifar10 --protocol linear_sweep epochs=50
  eval-cls checkpoints/mine --data imagenet --protocol semi_1 --subset 1percent.txt
"""


def main(argv: list[str] | None = None) -> int:
    args = _arguments(argv)
    from densessl.classification.protocols import PROTOCOLS, digest, find_protocol

    if args.list:
        return print_protocols(PROTOCOLS)
    protocol = find_protocol(args.protocol, args.changes)  # a wrong word is refused before anything heavy is imported

    from densessl.classification.evaluation import evaluate
    from densessl.classification.labelled import held_out, open_labelled
    from densessl.classification.report import table, write, write_comparison
    from densessl.classification.subset import list_title, listed

    data = {"name": args.data.resolve().name, "train": "train", "test": held_out(args.data)}
    train, test = (open_labelled(args.data, data[split]) for split in ("train", "test"))
    rows = listed(train, args.subset) if args.subset else None
    if args.subset:
        data["subset"] = list_title(args.subset)
    names = short_names(args.backbone)
    parts = [data["name"], protocol.name, digest(protocol), f"seed{args.seed}"]
    parts += [f"{split}{n}" for split, n in (("train", args.train), ("test", args.test)) if n]
    parts += [f"subset-{args.subset.stem}"] if args.subset else []
    folders = result_folders(names, args.out, "classification", "-".join(parts))
    find = finder(args.backbone)
    for spec in args.backbone:  # all that can be refused is refused before hours of work
        find(spec, args.seed)
        make_folder(folders[spec])

    results = {}
    for spec in args.backbone:
        results[names[spec]] = evaluate(
            find(spec, args.seed),
            train,
            test,
            protocol,
            seed=args.seed,
            device=args.device,
            workers=args.workers,
            most=(args.train, args.test),
            rows=rows,
        )
        write(folders[spec], names[spec], results[names[spec]], data)

    print(table(results, data))
    for folder in folders.values():
        print(f"results: {folder}")
    if len(results) > 1:
        for folder in comparison_folders(folders, args.out):
            write_comparison(folder, results, data)
            print(f"comparison: {folder}")
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    from densessl.classification.protocols import PROTOCOLS

    parser = evaluation_parser(
        "eval-cls",
        "Pooled features of train classify the pictures of val or test: by nearest neighbours and by "
        "linear layers, the backbone frozen, or by fine-tuning a copy of it on few labels.",
        EXAMPLES,
        protocol="linear_features",
        folder="classification",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="PATH",
        help="train/ and val/ or test/ with a folder a class, or train-*.tar and val-*.tar or test-*.tar",
    )
    parser.add_argument(
        "--subset",
        type=Path,
        metavar="FILE",
        help="only the training pictures of a list, a file name a line, as SimCLR's imagenet_subsets/1percent.txt; "
        "without it fraction=0.01 draws them",
    )
    parser.add_argument("--train", type=int, metavar="N", help="only the first N training pictures of a shuffle")
    parser.add_argument("--test", type=int, metavar="N", help="only the first N test pictures of a shuffle")
    args = parsed(parser, argv, PROTOCOLS)
    if args.subset and (args.train or any(change.startswith("fraction=") for change in args.changes)):
        parser.error("--subset says which training pictures count, and so do --train and fraction=...")
    if min(n for n in (args.train, args.test, 2) if n is not None) < 2:
        parser.error("--train and --test must be at least 2")
    return args
