"""What the commands that evaluate have in common: their arguments, and the list of protocols."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densessl.backbone_spec import parse_spec
from densessl.commands.naming import is_random

if TYPE_CHECKING:
    from densessl.backbones import Backbone
    from densessl.protocol import Protocol

BACKBONE = (
    "a run folder, a backbone file, any checkpoint of a ConvNeXt or ResNet, TIMM_NAME=CHECKPOINT, or a timm name: "
    "random weights"
)
FAMILIES = ("convnext", "resnet", "vit_", "deit", "test_")  # how timm's names of networks that are measured begin


def evaluation_parser(
    prog: str, description: str, examples: str, *, protocol: str, folder: str
) -> argparse.ArgumentParser:
    """BACKBONE, KEY=VALUE, --protocol, --list, --seed, --out, --workers and --device; ``folder`` is that of a run."""
    parser = argparse.ArgumentParser(
        prog=f"densessl {prog}",
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", metavar="BACKBONE", help=BACKBONE)
    parser.add_argument(  # for --help alone: "words" takes all of them
        "changes", nargs="*", metavar="key=value", help="change settings of the protocol, and so the hash; see --list"
    )
    parser.add_argument("--protocol", default=protocol, metavar="NAME", help=f"see --list; default {protocol}")
    parser.add_argument("--list", action="store_true", help="print the protocols: hash, source, settings")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of all that is drawn and of random weights; default 0"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"default: {folder}/ in the run folder")
    parser.add_argument(
        "--workers",
        type=int,
        default=max(1, min(4, (os.cpu_count() or 1) // 2)),
        metavar="N",
        help="processes that read pictures",
    )
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1, ...; of several processes: auto or cpu"
    )
    return parser


def several(parser: argparse.ArgumentParser) -> None:
    """--seeds, and what launchers add."""
    parser.add_argument("--seeds", type=int, metavar="N", help="seeds 0 to N-1, reported as mean ± standard deviation")
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)


def parsed(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None, protocols: Mapping[str, Protocol]
) -> argparse.Namespace:
    """The arguments, where they are possible; ``backbone`` and ``changes`` are the positional ones."""
    args = parser.parse_intermixed_args(argv)
    settings = protocols[args.protocol].settings() if args.protocol in protocols else {}
    args.changes = [word for word in args.words if changes_setting(word, settings)]
    args.backbone = [word for word in args.words if word not in args.changes]
    if not args.list and not (args.backbone and args.data):
        parser.error("a BACKBONE and --data are needed, or --list")
    if args.seed < 0 or args.workers < 0:
        parser.error("--seed and --workers must be at least 0")
    if len(set(args.backbone)) < len(args.backbone):
        parser.error("a BACKBONE stands twice")
    args.backbone.sort(key=lambda spec: not is_random(spec))  # random weights come first: all else is measured by them
    if (seeds := getattr(args, "seeds", None)) is not None:
        if seeds < 1:
            parser.error("--seeds must be at least 1")
        if args.seed:
            parser.error("--seed is one seed, --seeds their number: give one of them")
    return args


def changes_setting(word: str, settings: Collection[str]) -> bool:
    """Whether a word is key=value, meant for one of ``settings``, rather than a backbone.

    A key of the settings wins over all else: ./crop=3 is a file of such a name. NAME=FILE is a backbone if NAME is one
    of timm's families, or FILE is there or looks like a file. Anything else is a key, so that a misspelt one is
    answered with the right one.
    """
    key, equals, value = word.partition("=")
    if equals and key in settings:
        return True
    if os.sep in key or os.path.exists(word):
        return False
    return not key.startswith(FAMILIES) and parse_spec(value).path is None if equals else word in settings


def finder(specs: Sequence[str], **how: Any) -> Callable[[str, int], Backbone]:
    """``load_backbone(spec, seed=..., **how)`` of backbones that are compared.

    Where the first that is no mere name reads other pictures than RGB of 8 bits, random weights are for such pictures
    too. Raises UserError.
    """
    from densessl.backbone_file import load_backbone
    from densessl.data.decoding import RGB
    from densessl.reading import pixels_of, read_alike

    first = next((load_backbone(spec, **how) for spec in specs if parse_spec(spec).path), None)
    others = first is not None and pixels_of(first) != RGB
    channels, facts = (first.in_chans, first.metadata) if first else (3, {})

    def find(spec: str, seed: int) -> Backbone:
        if not others or parse_spec(spec).path:
            return load_backbone(spec, seed=seed, **how)
        backbone = load_backbone(spec, seed=seed, in_chans=channels, **how)
        read_alike(backbone, facts)
        return backbone

    return find


def seeds_of(args: argparse.Namespace) -> tuple[list[int], str]:
    """The seeds, and what a folder of their results is called by them."""
    if args.seeds:
        return list(range(args.seeds)), f"seeds{args.seeds}"
    return [args.seed], f"seed{args.seed}"


def print_protocols(protocols: Mapping[str, Protocol]) -> int:
    """Hash, source and settings of each; the exit code."""
    from densessl.protocol import digest

    for protocol in protocols.values():
        print(f"{protocol.name} [{digest(protocol)}]\n  {protocol.source}")
        print("  " + ", ".join(f"{key}={value}" for key, value in protocol.settings().items()) + "\n")
    return 0
