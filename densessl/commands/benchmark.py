"""benchmark: what criterion, step, processes, larger batches, views, saving and watching cost on this machine."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from densessl.commands.kinds import Parser, chosen
from densessl.config import load_config
from densessl.errors import UserError

KINDS = {
    "criterion": "VICRegL's criterion, forward and backward, against the naive form and lightly's",
    "step": "the whole training step against the bare timm backbone",
    "scale": "criterion and communication of a process among 1 to 512",
    "memory": "the largest batch, with and without micro-batches and checkpointing",
    "data": "views of pictures, by one core, against a plain PIL pipeline",
    "save": "a state of the run: bytes, seconds, share of an hour",
    "watch": "measures of health and probes, as shares of the time that steps take",
}
ABOUT = {
    "criterion": """\
Ours, the naive form (pair of crops by pair of crops, with full covariance matrices) and lightly's where it is
installed, on made-up embeddings, in turns; the memory of each in a process of its own. Then ours by one process with
the whole batch and by two with half of it each, with one thread of the CPU a process.""",
    "step": """\
A step as pretraining takes it (forward, criterion, backward, optimiser, slow targets) and forward and backward of the
timm backbone alone, on the same made-up views at the same precision, in turns. Then the step's parts, by hooks that
wait for the device at each turn. The batch is 16 unless batch= says. Under torchrun the processes share it.""",
    "scale": """\
The criterion of one process, which has --batch pictures of its own, for growing numbers of processes: two are
started, for more everyone's rows are made up, so that the work is true and nothing is sent. With the bytes that each
receives. The configuration tells no more than how many weights are averaged.""",
    "memory": """\
Peaks of a step at some batches, each in a process of its own, and the largest batch that fits: on a GPU by trying, in
RAM by a line through the two largest batches.""",
    "data": """\
What a loader's worker does for a batch of 8, by one core: ours with colour and blur in the worker, ours with them left
to the device, and the same views by Pillow and torchvision alone, in turns over up to 100 pictures of data.path. Then
the parts of ours; on a GPU also what is left to it.""",
    "save": """\
The whole state after a step, saved in --folder as pretraining saves it: collected, written aside, flushed, hashed,
renamed. The step waits for it. Nothing is left in the folder.""",
    "watch": """\
Steps of the configuration on made-up views, what its health measures, and, with probes.masks= or probes.classes=, its
probes; then their shares of the time at the configuration's intervals, for epochs of --pictures.""",
}
EXAMPLES = {
    "criterion": "benchmark criterion --repeats 9 --naive-repeats 2",
    "step": "benchmark step --cfg vicregl_cnx_s batch=32 precision=bf16",
    "scale": "benchmark scale --batch 16",
    "memory": "benchmark memory --cfg vicregl_cnx_s --batches 16 256 --micro 16 --variants plain micro",
    "data": "benchmark data --cfg vicregl_cnx_s data.path=MY_PICTURES",
    "save": "benchmark save --cfg vicregl_cnx_s --folder checkpoints",
    "watch": "benchmark watch --cfg vicregl_cnx_s batch=16 probes.masks=MY_FOLDER --pictures 100000",
}


def main(argv: Sequence[str] | None = None) -> int:
    kind, words = chosen("benchmark", __doc__, KINDS, argv)
    if not kind:
        return 0
    args = _arguments(kind, words)
    if args.device == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    figures, tables = RUNS[kind](args)

    from densessl.benchmark.report import LOG, append, entry, hardware
    from densessl.training import distributed

    if not distributed.is_first():
        return 0
    line = entry(kind, {k: v for k, v in vars(args).items() if k not in ("log", "no_log", "folder")}, figures)
    print(f"{_machine(hardware())}\n\n{tables(figures)}")
    for note in figures.get("notes", []):
        print(f"- {note}")
    log = args.log or (LOG if LOG.parent.is_dir() else None)
    if args.no_log or log is None:
        return 0
    append(log, line)
    print(f"added to {log}")
    return 0


def _machine(hardware: dict[str, Any]) -> str:
    gpus = f", {len(hardware['gpus'])} x {hardware['gpus'][0]}" if hardware["gpus"] else ""
    return f"{hardware['processor']} ({hardware['instructions']}), {hardware['cores']} cores{gpus}"


Run = tuple[dict[str, Any], Callable[[dict[str, Any]], str]]  # the figures, and what makes tables of them


def _criterion(args: argparse.Namespace) -> Run:
    from densessl.benchmark import criterion

    figures = criterion.compare(_sizes(args), args.device, repeats=args.repeats, naive_repeats=args.naive_repeats)
    return figures, criterion.tables


def _step(args: argparse.Namespace) -> Run:
    cfg = load_config(args.cfg, ["batch=16", *args.overrides])
    from densessl.benchmark import step
    from densessl.device import find_device

    find_device(args.device)  # raises UserError for a GPU that is not there
    return step.measure(cfg, repeats=args.repeats, compile_bare=args.compile_bare), step.tables


def _scale(args: argparse.Namespace) -> Run:
    cfg = load_config(args.cfg, args.overrides)
    from densessl.benchmark import scale

    return scale.measure(cfg, _sizes(args), args.device, repeats=args.repeats), scale.tables


def _memory(args: argparse.Namespace) -> Run:
    load_config(args.cfg, [*args.overrides, f"batch={args.batches[0]}"])
    from densessl.benchmark import memory

    figures = memory.measure(
        args.cfg,
        args.overrides,
        args.device,
        variants=args.variants,
        batches=args.batches,
        micro=args.micro,
        limit=args.limit,
        most=args.most,
    )
    return figures, memory.tables


def _data(args: argparse.Namespace) -> Run:
    cfg = load_config(args.cfg, args.overrides)
    from densessl.benchmark import data

    return data.measure(cfg, args.device, repeats=args.repeats), data.tables


def _save(args: argparse.Namespace) -> Run:
    cfg = load_config(args.cfg, ["batch=2", *args.overrides])
    from densessl.benchmark import save

    return save.measure(cfg, args.folder, repeats=args.repeats), save.tables


def _watch(args: argparse.Namespace) -> Run:
    cfg = load_config(args.cfg, args.overrides)
    from densessl.benchmark import watch

    return watch.measure(cfg, args.pictures, repeats=args.repeats), watch.tables


RUNS = {
    "criterion": _criterion,
    "step": _step,
    "scale": _scale,
    "memory": _memory,
    "data": _data,
    "save": _save,
    "watch": _watch,
}


def _sizes(args: argparse.Namespace) -> Any:
    from densessl.benchmark.made import Sizes

    names = ("batch", "large", "large_map", "small", "small_map", "width", "embedding", "seed")
    return Sizes(**{name: getattr(args, name) for name in names}, num_matches=tuple(args.num_matches))


def _arguments(kind: str, words: Sequence[str]) -> argparse.Namespace:
    parser = Parser(f"benchmark {kind}", ABOUT[kind], EXAMPLES[kind])
    add, number = parser.add_argument, parser.number
    if kind != "criterion":
        required = {"required": True} if kind != "scale" else {"default": "vicregl_cnx_s"}
        add("--cfg", metavar="NAME", help="a path to a YAML file, or a name of configs", **required)
        add("overrides", nargs="*", metavar="key=value", help="replaces a value of the configuration")
    if kind in ("criterion", "scale"):
        number(
            "batch",
            16 if kind == "criterion" else 8,
            "pictures, " + ("in all" if kind == "criterion" else "of a process"),
            2,
        )
        number("large", 2, "large crops, matched with all others")
        number("large-map", 7, "places a side of their maps")
        number("small", 6, "small crops", 0)
        number("small-map", 3, "places a side of their maps")
        number("width", 512, "of the embedding of a place")
        number("embedding", 8192, "width of the embedding of a crop")
        add("--num-matches", type=int, nargs=2, default=[20, 4], metavar="N", help="from a large, a small map; 20 4")
        number("seed", 0, "of the made-up embeddings", 0)
    if kind != "memory":
        number("repeats", 5, "times that each is measured; the median counts")
    if kind == "criterion":
        number("naive-repeats", 1, "the same for the naive form and lightly's, which are slow")
    if kind == "save":
        add("--folder", type=Path, default=Path(), metavar="PATH", help="on the disk to measure; default: here")
    if kind == "watch":
        number("pictures", 10_000, "of an epoch, between whose ends there are probes")
    if kind == "step":
        add("--compile-bare", action="store_true", help="compile the bare backbone, as compile=true does both")
    if kind == "memory":
        add("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME", help=", ".join(VARIANTS))
        add("--batches", type=int, nargs="+", default=[8, 16], metavar="N", help="batches to measure; default 8 16")
        number("micro", 4, "pictures that go through the network at a time, where they are cut")
        add("--limit", type=float, metavar="GIB", help="RAM of the process; default: 90 %% of what is free now")
        number("most", 4096, "look for no larger batch", 2)
    add("--device", choices=["auto", "cpu", "cuda"], default="auto", help="default auto: a GPU if there is one")
    add("--log", type=Path, metavar="FILE", help="default: tools/benchmarks.jsonl of a checkout")
    add("--no-log", action="store_true", help="only print")
    args = parser.parsed(words)
    for name, smallest in (("num_matches", 1), ("batches", 2)):
        if min(getattr(args, name, [smallest])) < smallest:
            raise UserError(f"--{name.replace('_', '-')}: at least {smallest} is needed")
    if kind == "memory" and args.limit is not None and args.limit <= 0:
        raise UserError(f"--limit {args.limit}: it is GiB, and positive")
    return args


VARIANTS = ("plain", "checkpointing", "micro", "both")
