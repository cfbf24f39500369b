"""eval-det: measure how much a backbone's weights help a detector."""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from densessl.commands.evaluation import evaluation_parser, parsed, print_protocols, seeds_of, several
from densessl.commands.naming import comparison_folders, is_random, make_folder, result_folders, short_names
from densessl.errors import UserError

EXAMPLES = """
Several backbones are compared with the first, which is the one of random weights if there is one. Several processes
share the pictures of each batch, and the gradient is that of the whole batch. A training that was killed continues from
its last state with --resume and the same words.

examples:
  eval-det checkpoints/demo --data scenes --init random --seeds 3
  eval-det checkpoints/mine --data MY_FOLDER iterations=2000 steps=[1600]
  eval-det checkpoints/mine --data VOCdevkit --protocol voc0712_24k --init random
  torchrun --nproc_per_node 8 tools/eval_det.py checkpoints/mine --data coco --protocol coco_1x
"""


def main(argv: list[str] | None = None) -> int:
    args = _arguments(argv)
    from densessl.detection.protocols import PROTOCOLS, deviations, digest, find_protocol

    if args.list:
        return print_protocols(PROTOCOLS)
    protocol = find_protocol(args.protocol, args.changes)  # a wrong word is refused before anything heavy is imported

    from densessl.backbone_file import load_backbone
    from densessl.detection.datasets import open_dataset
    from densessl.detection.evaluation import check, evaluate
    from densessl.detection.report import write, write_comparison
    from densessl.detection.result import Outcome
    from densessl.detection.state import StateFile
    from densessl.detection.table import table
    from densessl.device import find_device
    from densessl.training import distributed

    train, val = open_dataset(args.data, "train"), open_dataset(args.data, "val")
    colours: dict[str, dict[str, Any]] = {}  # of pictures, for random weights: those of the backbone they stand beside
    for spec in args.backbone:  # all that can be refused is refused before hours of work
        backbone = load_backbone(spec)
        check(backbone, train, val, protocol)
        if args.init == "random" and backbone.name not in args.backbone:
            colours.setdefault(backbone.name, {k: backbone.metadata[k] for k in ("mean", "std")})
    specs = sorted([*colours, *args.backbone], key=lambda spec: not is_random(spec))  # random weights come first
    seeds, which = seeds_of(args)
    names = short_names(specs)
    setting = f"{train.title}-{protocol.name}-{digest(protocol)}-{which}"
    folders = result_folders(names, args.out, "detection", setting)
    states = {(spec, seed): folders[spec] / f"state-seed{seed}.pt" for spec in specs for seed in seeds}

    outcomes = []
    with distributed.connected(args.device) as device:
        place, first = find_device(device), distributed.is_first()
        for folder in folders.values():
            distributed.on_first(make_folder, folder)
        distributed.on_first(_check_states, list(states.values()), args.resume)
        # The progress of the first is that of all.
        with contextlib.nullcontext() if first else contextlib.redirect_stderr(io.StringIO()):
            for spec in specs:
                results = []
                for seed in seeds:
                    backbone = load_backbone(spec, seed=seed)
                    backbone.metadata |= colours.get(spec, {})
                    state = StateFile(states[spec, seed], args.save_every, args.resume)
                    results.append(
                        evaluate(
                            backbone,
                            train,
                            val,
                            protocol,
                            seed=seed,
                            device=str(place),
                            workers=args.workers,
                            state=state,
                        )
                    )
                outcomes.append(Outcome(names[spec], results))
                if first:
                    write(folders[spec], outcomes[-1], val)
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
    for file in states.values():  # not before: a table that was interrupted begins with what is finished
        file.unlink(missing_ok=True)
    return 0


def _check_states(files: Sequence[Path], resume: bool) -> None:
    """Raises UserError where a training would be overwritten, or where there is none to continue."""
    there = [file for file in files if file.exists()]
    if there and not resume:
        raise UserError(
            f"{there[0]}: a training was interrupted here; --resume continues it, without that file it begins anew"
        )
    if resume and not there:
        raise UserError(f"--resume: there is no state of a training, as {files[0]} would be one")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    from densessl.detection.protocols import PROTOCOLS

    parser = evaluation_parser(
        "eval-det",
        "A detector of torchvision is trained on a copy of the backbone and scored on val as COCO does.",
        EXAMPLES,
        protocol="det_small",
        folder="detection",
    )
    parser.add_argument(
        "--data",
        metavar="PATH",
        help="images/{train,val}/ with annotations/{train,val}.json in COCO's form; COCO or VOC as published, "
        "VOCdevkit:07 or :12 for one year; or the word scenes",
    )
    several(parser)
    parser.add_argument(
        "--init", choices=["random"], help="random: beside each architecture a row with random weights of it"
    )
    parser.add_argument("--resume", action="store_true", help="continue what was interrupted")
    parser.add_argument(
        "--save-every", type=int, default=500, metavar="N", help="iterations between states; default 500"
    )
    args = parsed(parser, argv, PROTOCOLS)
    if args.save_every < 1:
        parser.error("--save-every must be at least 1")
    return args
