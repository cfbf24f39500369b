"""Pretrain a backbone on pictures without labels."""

from __future__ import annotations

import argparse

from densessl.config import CONFIGS, load_with_sources, resolved_yaml


def main(argv: list[str] | None = None) -> int:
    names = ", ".join(sorted(path.stem for path in CONFIGS.glob("*.yaml")))
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Example: pretrain --cfg vicregl_cnx_s_1gpu data.path=my/pictures epochs=50. Start it with deepspeed, "
        "torchrun, srun or python alike.",
    )
    parser.add_argument("--cfg", required=True, metavar="NAME", help=f"a path to a YAML file, or one of {names}")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="replaces a value of the configuration")
    parser.add_argument(
        "--print",
        action="store_true",
        help="show the resolved configuration, as YAML that --cfg takes, and where each value is from",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--resume", action="store_true", help="continue the run of this folder")
    length.add_argument("--overwrite", action="store_true", help="delete the run of this folder first")
    parser.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher adds it
    args = parser.parse_intermixed_args(argv)
    config, sources = load_with_sources(args.cfg, args.overrides)
    if args.print:
        print(resolved_yaml(config, sources), end="")
        return 0
    from densessl.training.pretrain import pretrain

    pretrain(config, resume=args.resume, overwrite=args.overwrite)
    return 0
