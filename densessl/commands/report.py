"""report: one page about a run, or about several side by side."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from densessl.commands.kinds import Parser
from densessl.commands.naming import short_names
from densessl.errors import UserError

ABOUT = """\
Writes one HTML page about a run folder, which needs no other file and no network: what was run and on what, whether it
is healthy, in words, all curves, what it said, how its features formed, the evaluations in its folder, and the commands
to do it again and to use it. Several RUNs are shown side by side with their differences. A run that still goes has a
page as well."""
EXAMPLE = "report checkpoints/mine checkpoints/other --data MY_PICTURES --out both.html"
NAME = "report.html"


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else list(argv)
    args = _arguments(words)
    from densessl.report.records import read_run

    labels = short_names(args.run)
    runs = {labels[spec]: read_run(Path(spec)) for spec in args.run}
    out = args.out or (Path(args.run[0]) / NAME if len(runs) == 1 else Path(NAME))
    if out.is_dir():
        raise UserError(f"--out {out}: a folder; name the file, such as {out / NAME}")

    from densessl.device import find_device
    from densessl.files import aside
    from densessl.report.collection import of_runs
    from densessl.report.evaluations import of_folder, read_results
    from densessl.report.page import report
    from densessl.report.pictures import Wanted, figures

    remarks: list[str] = []
    results = [result for run in runs.values() for result in of_folder(run.folder, remarks)]
    results += read_results(args.results)
    checks = of_runs(list(runs.values()), args.check, remarks)
    drawn = figures(runs, Wanted(args.data, args.size, args.pictures, find_device(args.device)), remarks)
    text = report(
        runs,
        now=time.time(),
        command=f"densessl report {shlex.join(words)}",
        results=results,
        checks=checks,
        figures=drawn,
        remarks=remarks,
    )
    try:
        with aside(out) as part:
            part.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out {out}: can't be written ({error.strerror or error})") from None
    print(f"{out}: {', '.join(runs)}")
    return 0


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = Parser("report", ABOUT, EXAMPLE)
    add, number = parser.add_argument, parser.number
    add("run", nargs="+", metavar="RUN", help="a run folder: what pretrain wrote to")
    add("--out", type=Path, metavar="FILE", help=f"default: {NAME} in the run folder; of several runs, here")
    add("--data", metavar="PICTURES", help="as data.path, to draw with; default: that of the first run, if it is here")
    add("--results", nargs="+", type=Path, default=[], metavar="FILE",
        help="more results.json of evaluations, or folders with such")  # fmt: skip
    add("--check", nargs="+", type=Path, default=[], metavar="FILE",
        help="check.json of data check --out FOLDER, or the FOLDER; one in a RUN is shown without")  # fmt: skip
    number("pictures", 4, "drawn; 0: none", 0)
    number("size", None, "pixels of their short side; default twice those of large views, and at least 224")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    args = parser.parsed(words)
    if len({Path(run).resolve() for run in args.run}) < len(args.run):
        raise UserError("a RUN stands twice")
    return args
