"""eval-seg: measure feature maps by segmentation."""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from densessl.commands.evaluation import evaluation_parser, finder, parsed, print_protocols, seeds_of, several
from densessl.commands.naming import comparison_folders, make_folder, result_folders, short_names

if TYPE_CHECKING:
    from torch import Tensor

EXAMPLES = """
your own checkpoint on your own masks:
  eval-seg my_model.pth --data MY_FOLDER --protocol linear_fast
  MY_FOLDER has images/{train,val}/NAME.jpg, masks/{train,val}/NAME.png and classes.txt. A mask has 8 bits; value n is
  the class on line n of classes.txt, counted from 0, and 255 is ignored. TIMM_NAME=my_model.pth names the network
  where the checkpoint doesn't show it.

Pictures are read with the channels and values that the backbone was pretrained on: one of other channels than colours,
or of more than 8 bits, reads TIFFs or .npy of MY_FOLDER. A timm name beside it gives random weights for such pictures.

Several backbones are compared with the first, which is the one of random weights if there is one: differences with
intervals, over the validation images or with --seeds over the seeds. Several processes train the same head and share
the validation pictures; the numbers are those of one process.

examples:
  eval-seg checkpoints/demo --data scenes
  eval-seg resnet50 checkpoints/mine --data MY_FOLDER --seeds 3
  eval-seg resnet50 --data VOCdevkit --protocol vicregl_resnet iterations=4000 batch=8
  torchrun --nproc_per_node 8 tools/eval_seg.py checkpoints/mine --data VOCdevkit --protocol vicregl_resnet
"""


def main(argv: list[str] | None = None) -> int:
    args = _arguments(argv)
    from densessl.segmentation.protocols import PROTOCOLS, deviations, digest, find_protocol

    if args.list:
        return print_protocols(PROTOCOLS)
    find_protocol(args.protocol, args.changes)  # a wrong word is refused before anything heavy is imported

    from densessl.device import find_device
    from densessl.segmentation.datasets import open_dataset
    from densessl.segmentation.evaluation import check, evaluate
    from densessl.segmentation.report import write, write_comparison
    from densessl.segmentation.result import Outcome
    from densessl.segmentation.scoring import Processes
    from densessl.segmentation.table import table
    from densessl.training import distributed

    train, val = open_dataset(args.data, "train"), open_dataset(args.data, "val")
    protocol = find_protocol(args.protocol, args.changes, train.title)
    seeds, which = seeds_of(args)
    names = short_names(args.backbone)
    setting = f"{train.title}-{protocol.name}-{digest(protocol)}-{which}"
    folders = result_folders(names, args.out, "segmentation", setting)
    find = finder(args.backbone, output_stride=protocol.output_stride)
    shown = {}  # the validation pictures as each backbone reads them
    for spec in args.backbone:  # all that can be refused is refused before hours of work
        _, shown[spec] = check(find(spec, 0), train, val, protocol)

    outcomes = []
    with distributed.connected(args.device) as device:
        place, first = find_device(device), distributed.is_first()
        for folder in folders.values():
            distributed.on_first(make_folder, folder)

        def total(counts: Tensor) -> Tensor:
            return distributed.gather(counts[None].to(place)).sum(0).cpu()

        processes = Processes(distributed.rank(), distributed.world_size(), distributed.from_first, total)
        common: dict[str, Any] = {"device": str(place), "workers": args.workers, "processes": processes}
        # The progress of the first is that of all.
        with contextlib.nullcontext() if first else contextlib.redirect_stderr(io.StringIO()):
            for spec in args.backbone:
                results = []
                for seed in seeds:
                    results.append(evaluate(find(spec, seed), train, val, protocol, seed=seed, **common))
                outcomes.append(Outcome(names[spec], results))
                if first:
                    write(folders[spec], outcomes[-1], shown[spec])
    if not first:
        return 0
    print(table(outcomes))
    if deviations(protocol):
        print(f"not {protocol.name} itself: {', '.join(deviations(protocol))}\n")
    for folder in folders.values():
        print(f"results and pictures: {folder}")
    if len(outcomes) > 1:
        for folder in comparison_folders(folders, args.out):
            write_comparison(folder, outcomes)
            print(f"comparison: {folder}")
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    from densessl.segmentation.protocols import PROTOCOLS

    parser = evaluation_parser(
        "eval-seg",
        "A head is made from the train split, linear on the frozen backbone unless the protocol says "
        "otherwise, and scored on val.",
        EXAMPLES,
        protocol="linear_small",
        folder="segmentation",
    )
    parser.add_argument(
        "--data",
        metavar="PATH",
        help="images/, masks/ and classes.txt of your own; VOC 2012, Cityscapes, ADE20K, COCO or CamVid as published, "
        "PATH:WORD where there is a choice (VOC2012:train, coco:panoptic); or the word scenes",
    )
    several(parser)
    return parsed(parser, argv, PROTOCOLS)
