"""compare: pretrain methods on the same pictures, views, backbone and budget, evaluate them, and make one table."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from densessl.compare.rows import RANDOM, Row, Words, compose, read_words
from densessl.errors import UserError
from densessl.files import aside, printable_lines
from densessl.signals import answer

if TYPE_CHECKING:
    from densessl.compare.runs import Evaluation

DESCRIPTION = """\
Each configuration gives a row its method and optimiser; pictures, views, backbone, batch and all else are the first's.
The same command, given again, continues where it was interrupted and leaves out what is done.

words after --cfg:
  CFG, NAME=CFG     a configuration, and the name of its row
  all               every METHOD_cifar of configs, named METHOD
  key=value         for all rows
  NAME:key=value    for one row
  seg.key=value     a setting of eval-seg's protocol, cls.key=value of eval-cls'
"""
EXAMPLES = """
examples:
  compare --cfg all 'data.path=cifar10/train-*.tar' --budget epochs=200 --cls cifar10 --seeds 3 --random
  compare --cfg vicregl=demo simclr_l=demo simclr_l:method.criterion=simclr --budget steps=640 --seg scenes
"""


def main(argv: list[str] | None = None) -> int:
    args = _arguments(argv)
    words = read_words([*args.cfg, *args.words])
    for kind, changes in (("seg", words.seg), ("cls", words.cls)):
        if changes and not getattr(args, kind):
            raise UserError(f"{kind}.{changes[0]}: --{kind} DATA says what is measured by that")
    rows = compose(words, args.budget, args.like)
    first = rows[0].config
    if args.random:
        rows.insert(0, Row(RANDOM, first, "no pretraining"))

    from densessl.compare.plot import plot
    from densessl.compare.runs import Run, begin, network
    from densessl.compare.steps import Failed, fill
    from densessl.compare.table import summarise, table
    from densessl.data.pictures import open_pictures
    from densessl.data.pixels import Pixels

    # All that can be refused is refused before hours of work.
    pictures = {
        data: len(open_pictures(data.path, Pixels.of(config)))
        for data, config in {row.config.data: row.config for row in rows}.items()
    }
    backbones = {b: network(b) for b in dict.fromkeys(row.config.backbone for row in rows)}
    evaluations = _evaluations(args, rows, words)
    out = args.out or Path("checkpoints/compare") / _slug(first.data.path, first.backbone.name, args.budget)
    # The first seed of all rows is a table already.
    runs = [Run(row, seed, out) for seed in range(args.seeds) for row in rows]
    begin(runs, args.overwrite)
    facts = {
        "backbone_parameters": sum(p.numel() for p in backbones[first.backbone].parameters()),
        "pictures": pictures[first.data],
        "budget": args.budget,
        "changes": words.everyone,
        "jobs": args.jobs,
    }

    def write(failed: Failed) -> str:
        summary = summarise(runs, evaluations, failed, facts)
        files = {"results.json": json.dumps(summary, indent=1, allow_nan=False) + "\n", "table.md": table(summary)}
        if evaluations:
            files["plot.svg"] = plot(summary)
        for name, text in files.items():
            with aside(out / name) as part:
                part.write_text(printable_lines(text), encoding="utf-8")
        return f"{files['table.md']}\n{out}: {', '.join(files)}"

    answer(_stop)
    print(f"{len(rows)} rows, {args.seeds} seed(s); what each step says: {out}/ROW/SEED/*.log", flush=True)
    failed = fill(runs, evaluations, write, launch=shlex.split(args.launch), jobs=args.jobs)
    print(f"\n{write(failed)}")
    return 1 if failed else 0


def _stop(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)


def _evaluations(args: argparse.Namespace, rows: Sequence[Row], words: Words) -> list[Evaluation]:
    """Those asked for. Raises UserError where their data, settings or the backbones are not what they need."""
    from densessl.compare.runs import Evaluation, network

    asked = []
    if args.seg:
        from densessl.data.pixels import Pixels
        from densessl.reading import pixel_facts
        from densessl.segmentation.datasets import open_dataset
        from densessl.segmentation.evaluation import check
        from densessl.segmentation.protocols import find_protocol

        train, val = (open_dataset(args.seg, split) for split in ("train", "val"))
        protocol = find_protocol(args.seg_protocol, words.seg, val.title)
        for config, pixels in dict.fromkeys((row.config.backbone, Pixels.of(row.config)) for row in rows):
            backbone = network(config, protocol.output_stride)
            backbone.metadata |= pixel_facts(pixels)
            for data in check(backbone, train, val, protocol):
                data.check()
        given = ["--data", args.seg, "--protocol", args.seg_protocol, *words.seg]
        setting = _slug(args.seg, args.seg_protocol, *words.seg)
        asked.append(Evaluation("segmentation", "eval-seg", given, setting))
    if args.cls:
        from densessl.classification import protocols
        from densessl.classification.labelled import held_out, open_labelled

        protocols.find_protocol(protocols.LINEAR_FEATURES.name, words.cls)
        for split in ("train", held_out(args.cls)):
            open_labelled(args.cls, split)
        counts = [f"--{split}={n}" for split, n in (("train", args.cls_train), ("test", args.cls_test)) if n]
        given, setting = ["--data", args.cls, *counts, *words.cls], _slug(args.cls, *counts, *words.cls)
        asked.append(Evaluation("classification", "eval-cls", given, setting))
    return asked


def _slug(*words: str) -> str:
    """The name of a folder."""
    return re.sub(r"[^\w=.,]+", "-", " ".join(words)).strip("-.")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="densessl compare",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--cfg", nargs="+", action="extend", required=True, metavar="WORD", help="configurations and changes, as above")
    add("words", nargs="*", metavar="WORD", help="more of them")
    add("--like", metavar="CFG", help="pictures, views, backbone and all else from CFG instead of the first row")
    add("--budget", required=True, metavar="LENGTH", help="of each pretraining: steps=N or epochs=N")
    add("--seeds", type=int, default=1, metavar="N", help="seeds 0 to N-1, reported as mean ± standard deviation")
    add("--random", action="store_true", help="a first row of random weights, from which the others' differences are")
    add("--seg", metavar="DATA", help="evaluate by segmentation on DATA, as eval-seg does")
    add("--seg-protocol", default="linear_small", metavar="NAME", help="default linear_small")
    add("--cls", metavar="DATA", help="evaluate by classification on DATA, as eval-cls does")
    add("--cls-train", type=int, metavar="N", help="only N of its training pictures")
    add("--cls-test", type=int, metavar="N", help="only N of its test pictures")
    add("--out", type=Path, metavar="DIR", help="default: a folder of checkpoints/compare, by pictures and budget")
    add("--overwrite", action="store_true", help="delete the runs in DIR of rows whose configuration is now another")
    add("--launch", default="", metavar="WORDS", help="what starts pretraining, as 'torchrun --nproc_per_node 8'")
    add("--jobs", type=int, default=1, metavar="N", help="runs at a time, default 1; more makes their speed uncertain")
    args = parser.parse_intermixed_args(argv)
    if args.seeds < 1 or args.jobs < 1:
        parser.error("--seeds and --jobs must be at least 1")
    if not re.fullmatch(r"(steps|epochs)=[^=]+", args.budget):
        parser.error(f"--budget {args.budget}: steps=N or epochs=N is needed")
    if any(n is not None and n < 2 for n in (args.cls_train, args.cls_test)):
        parser.error("--cls-train and --cls-test must be at least 2")
    if args.random and not (args.seg or args.cls):
        parser.error("--random: nothing would measure random weights; add --seg DATA or --cls DATA")
    return args
