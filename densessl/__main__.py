"""The command: densessl pretrain, eval-seg, export and so on; the scripts of tools are its parts."""

from __future__ import annotations

import errno
import importlib
import io
import os
import re
import sys
from collections.abc import Callable

from densessl.console import unbroken
from densessl.errors import UserError
from densessl.files import printable_lines

COMMANDS = {
    "plan": "measure this machine: what fits, how long it takes, what to change",
    "data": "check pictures, pack them, see the views of them, write the built-in ones",
    "pretrain": "train a backbone on pictures without labels",
    "replay": "compute a step again that pretraining skipped",
    "eval-seg": "measure its feature maps by segmentation",
    "eval-det": "measure its weights by detection, a copy of them fine-tuned",
    "eval-cls": "measure its pooled features by classification",
    "visualize": "pictures of what backbones see, on one page",
    "report": "one page about a run: health in words, curves, pictures, how to use it",
    "compare": "all of these for several methods under one budget, in one table",
    "benchmark": "what criterion, step, processes and large batches cost on this machine",
    "export": "hand it to timm, torchvision, detectron2, ..., verified",
    "import": "bring in the backbone of any checkpoint, every key accounted for",
}
RANKS = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK")  # as torch, srun and mpirun say it
MODULES = {"import": "import_checkpoint"}  # no module can be called import


def main() -> int:
    return run(lambda: _command(sys.argv[1:]))


def _command(words: list[str]) -> int:
    if words[:1] == ["--version"]:
        from densessl import __version__

        print(__version__)
        return 0
    if not words or words[0] not in COMMANDS:
        known = words in ([], ["-h"], ["--help"])
        lines = "\n".join(f"  {name:10} {text}" for name, text in COMMANDS.items())
        print(f"usage: densessl COMMAND [-h] ...\n\n{lines}", file=sys.stdout if known else sys.stderr)
        return 0 if known else 2
    module = importlib.import_module(f"densessl.commands.{MODULES.get(words[0], words[0].replace('-', '_'))}")
    sys.argv[0] = f"densessl {words[0]}"
    return module.main(words[1:])


def run(command: Callable[[], int]) -> int:
    """What a user can mend ends with one message and exit code 2; anything else with its traceback.

    Who stops reading what is printed, as `head` does, changes neither the work nor its exit code.
    """
    with unbroken() as errors:
        code = _run(command)
    if errors and not code:
        print(f"densessl: what was printed is not whole: {errors[0].strerror}", file=sys.stderr)
        return 1
    return code


def _run(command: Callable[[], int]) -> int:
    for stream in (sys.stdout, sys.stderr):  # of any locale: what it has no letter for is escaped
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # A shell leaves ~ alone within a word, and whoever starts processes in quotes or from Python has none.
    sys.argv[1:] = [re.sub(r"(?<![^=:])~(?=/|$)", lambda _: os.path.expanduser("~"), word) for word in sys.argv[1:]]
    try:
        return command()
    except UserError as error:
        # Before processes are connected all of them meet the same error; after that it may be one's own.
        distributed = sys.modules.get("densessl.training.distributed")
        connected = distributed is not None and distributed.world_size() > 1
        if connected or next((os.environ[name] for name in RANKS if name in os.environ), "0") == "0":
            print(f"densessl: {printable_lines(str(error))}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        print(f"densessl: {str(error.filename)[:80]}...: too long for the name of a file", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
