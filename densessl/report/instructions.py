"""The exact commands to run it again and to use what it made."""

from __future__ import annotations

import json
import re
import shlex
from typing import NamedTuple

from densessl.report.facts import best
from densessl.report.records import BACKBONE, BEST, CONFIG, Run

PLAIN = re.compile(r"[\w./-]+")  # a value that YAML reads as it stands


class Instruction(NamedTuple):
    title: str
    text: str


def instructions(run: Run) -> list[Instruction]:
    """Shell commands of densessl, and the lines of Python that load the backbone."""
    folder, network = shlex.quote(str(run.folder)), shlex.quote(str(run.values.get("backbone.name", "")))
    cfg = shlex.quote(str(run.folder / CONFIG))
    processes = run.begun.processes if run.begun else 1
    start = "densessl pretrain" if processes == 1 else f"torchrun --nproc_per_node {processes} -m densessl pretrain"
    again = _word("run", f"{run.folder}-again")
    found = [Instruction("Run it again, in a folder of its own", f"{start} --cfg {cfg} {again}")]
    if run.states and (run.steps is None or run.done < run.steps):
        found.append(Instruction("Go on with it", f"{start} --resume {folder}"))
    for place in sorted((run.folder / "skipped").glob("step*"))[:2]:
        found.append(Instruction("Compute a skipped step again", f"densessl replay {shlex.quote(str(place))}"))
    if not (run.folder / BACKBONE).is_file():
        return found
    channels = run.values.get("backbone.in_chans", 3)
    load = (
        "import densessl\n"
        "import torch\n\n"
        f"backbone = densessl.load_backbone({str(run.folder)!r})\n"
        'mean, std = (torch.tensor(backbone.metadata[key]).view(-1, 1, 1) for key in ("mean", "std"))\n'
        f"pictures = torch.rand(1, {channels}, 224, 224)  # yours, with values from 0 to 1\n"
        "with torch.no_grad():\n"
        "    maps = backbone((pictures - mean) / std)  # of the four stages, finest first"
    )
    chosen = best(run)
    load_best = Instruction(
        f"Or the best one by its probe: {chosen}",
        f"import densessl\n\nbackbone = densessl.load_backbone({str(run.folder / BEST)!r})",
    )
    data = shlex.quote(str(run.values.get("data.path", "MY_PICTURES")))
    return [
        *found,
        Instruction("Load the backbone", load),
        *([load_best] if chosen else []),
        Instruction("Measure its maps, random weights beside", f"densessl eval-seg {folder} {network} --data MY_MASKS"),
        Instruction("Measure its pooled vectors", f"densessl eval-cls {folder} {network} --data MY_CLASSES"),
        Instruction("See what it sees", f"densessl visualize {folder} {network} --data {data} --out seen"),
        Instruction("Hand it on", f"densessl export {folder} --to timm"),
    ]


def _word(key: str, value: str) -> str:
    return shlex.quote(f"{key}={value if PLAIN.fullmatch(value) else json.dumps(value)}")
