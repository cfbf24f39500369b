"""plan: what this machine makes of a recipe, and what to change so that it runs well there."""

from __future__ import annotations

import argparse
import os

from densessl.config import load_config
from densessl.errors import UserError

DESCRIPTION = """\
Measures for a minute how fast this machine loads pictures and takes training steps, and how much memory they need, and
says whether the recipe fits, how long it takes and what to change. Nothing is trained, and nothing written.
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="densessl plan",
        description=DESCRIPTION,
        epilog="Example: plan --cfg vicregl_cnx_s data.path=my/pictures. It takes the same words as pretrain.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cfg", required=True, metavar="NAME", help="as for pretrain")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="replaces a value of the configuration")
    parser.add_argument("--seconds", type=float, default=60, metavar="N", help="about how long to measure, default 60")
    args = parser.parse_intermixed_args(argv)
    if args.seconds <= 0:
        parser.error("--seconds must be above 0")
    cfg = load_config(args.cfg, args.overrides)

    from densessl.plan.advice import advise
    from densessl.plan.figures import measure
    from densessl.plan.report import report
    from densessl.training.launch import told

    if told(os.environ).get("WORLD_SIZE", "1") != "1":
        raise UserError("plan measures one process: start it with python alone, not with a launcher")

    figures = measure(cfg, args.seconds)
    print(report(figures, advise(figures), ["--cfg", args.cfg, *args.overrides]))
    return 0
