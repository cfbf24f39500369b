"""Run folders as pretraining leaves them, made up."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from densessl.backbone_file import save_backbone
from densessl.backbones import Backbone
from densessl.config import load_config, resolved_yaml

NETWORK = "test_convnext"
BEGAN = "2026-01-02T03:04:05+00:00"
ENDED = "2026-01-02T04:04:05+00:00"


def made_run(
    folder: Path,
    records: Sequence[dict[str, Any]],
    *overrides: str,
    steps: int | None = None,
    said: Sequence[str] = (),
    end: str | None = "",
    backbone: bool = True,
) -> Path:
    """``end`` is the last line of the log, by default that of a run that has ended; None leaves it out."""
    folder.mkdir(parents=True)
    steps = steps or records[-1]["step"]
    words = [f"run={json.dumps(str(folder))}", f"steps={steps}", f"backbone.name={NETWORK}", *overrides]
    cfg = load_config("demo", words)
    (folder / "config.yaml").write_text(resolved_yaml(cfg))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    first = f"{folder}: {cfg.method.name}, {NETWORK} from random weights; {steps} steps of {cfg.batch} of 2000 pictures"
    lines = [f"{BEGAN} {first}; 1 process(es) on cpu, fp32", f"{BEGAN} step 1/{steps}  left 0:00:01  loss 1"]
    lines += [f"{BEGAN} {line}" for line in said]
    if end is not None:
        lines.append(f"{ENDED} {end or f'{folder}/backbone.safetensors after {steps} of {steps} steps'}")
    (folder / "log.txt").write_text("\n".join(lines) + "\n")
    if backbone:
        file = folder / "backbone.safetensors"
        facts: dict[str, Any] = {"mean": cfg.data.mean, "std": cfg.data.std, "method": cfg.method.name, "step": steps}
        save_backbone(file, Backbone(NETWORK), **facts)
    return folder
