"""Compute a step again that pretraining skipped since it was not finite."""

from __future__ import annotations

import argparse
from pathlib import Path

from densessl.config import load_config


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Example: replay checkpoints/my_run/skipped/step0000421 precision=fp32. The run's configuration holds, "
        "but for overrides; as many processes are needed as the run had. Exits with 1 if it is not finite again.",
    )
    parser.add_argument("folder", type=Path, metavar="STEP", help="RUN/skipped/stepNNNNNNN")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="replaces a value of the configuration")
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)  # launchers add it
    args = parser.parse_intermixed_args(argv)
    from densessl.training import distributed, skipped
    from densessl.training.replay import replay

    facts = skipped.facts(args.folder)
    cfg = load_config(str(args.folder.absolute().parents[1] / "config.yaml"), args.overrides)
    values, why = replay(args.folder, facts, cfg)
    if distributed.is_first():
        print(f"step {facts['step'] + 1}, when it was skipped: {facts['why']}\nnow: {why or 'all of it is finite'}")
        for name, value in values.items():
            print(f"  {name:24} {value:.6g}")
    return int(bool(why))
