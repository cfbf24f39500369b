"""Pretrain a backbone on pictures without labels."""

from __future__ import annotations

import argparse
import re
import sys
from itertools import pairwise

from densessl.config import CONFIGS, resolved_yaml
from densessl.training.start import configure, start


def main(argv: list[str] | None = None) -> int:
    names = ", ".join(sorted(path.stem for path in CONFIGS.glob("*.yaml")))
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Example: pretrain --cfg vicregl_cnx_s_1gpu data.path=my/pictures epochs=50. Start it with deepspeed, "
        "torchrun, srun or python alike.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--cfg", metavar="NAME", help=f"a path to a YAML file, or one of {names}; not needed by --resume RUN"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="replaces a value of the configuration")
    parser.add_argument(
        "--print",
        action="store_true",
        help="show the resolved configuration, as YAML that --cfg takes, and where each value is from",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--resume",
        nargs="?",
        const=True,
        default=False,
        metavar="RUN|auto",
        help="continue the run of this folder, by default of run=RUN; auto: continue it if there is one, else start it",
    )
    length.add_argument("--overwrite", action="store_true", help="delete the run of this folder first")
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)  # launchers add it
    args = parser.parse_intermixed_args(_words(sys.argv[1:] if argv is None else argv))
    resume = args.resume or args.resume == ""
    config, sources = configure(args.cfg, args.overrides, resume)
    if args.print:
        print(resolved_yaml(config, sources), end="")
        return 0
    start(config, resume, args.overwrite)
    return 0


def _words(argv: list[str]) -> list[str]:
    """A key=value after --resume is an override, not the run."""
    return [
        "--resume=" if word == "--resume" and re.match(r"\w+(\.\w+)*=", after) else word
        for word, after in pairwise([*argv, ""])
    ]
