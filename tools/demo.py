"""The whole way in one go: pretrain on scenes, compare with random weights, export, report. Called by make demo."""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from densessl.outcomes import LEVEL, cell, spread_over_seeds

ROOT = Path(__file__).parents[1]
NETWORK = "convnext_atto"  # as in configs/demo.yaml
REPORT = "checkpoints/demo.html"


def run(*words: str) -> None:
    """Each step is a command of the README, shown before it runs."""
    print(f"\n$ python {' '.join(words)}", flush=True)
    if code := subprocess.run([sys.executable, *words], cwd=ROOT).returncode:
        raise SystemExit(code)


def score(folder: Path) -> float:
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))["scores"]["miou"]["mean"]


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--seeds", type=int, default=1, metavar="N", help="repeat with seeds 0 to N-1")
args = parser.parse_args()
began = time.monotonic()
pairs = []
for seed in range(args.seeds):
    name, results = f"demo-seed{seed}", Path(f"checkpoints/demo-seed{seed}/segmentation")
    run("tools/pretrain.py", "--cfg", "demo", f"seed={seed}", f"run=checkpoints/{name}", "--overwrite")
    scenes = ["--data", "scenes", "--protocol", "linear_small", "--seed", str(seed), "--out", str(results)]
    run("tools/eval_seg.py", NETWORK, f"checkpoints/{name}", *scenes)
    pairs.append((score(ROOT / results / f"{NETWORK}-random"), score(ROOT / results / name)))
run("tools/export.py", "checkpoints/demo-seed0", "--to", "timm")
run("tools/report.py", *(f"checkpoints/demo-seed{seed}" for seed in range(args.seeds)), "--out", REPORT)

print(f"\nmIoU on scenes, {NETWORK} frozen under a linear head:\n")
print("| seed | random weights | VICRegL | minus random |\n|---|---:|---:|---:|")
for seed, (random, trained) in enumerate(pairs):
    print(f"| {seed} | {100 * random:.1f} | {100 * trained:.1f} | {100 * (trained - random):+.1f} |")
gain = spread_over_seeds([trained - random for random, trained in pairs])
over = "one seed: another may differ by more than the interval over images above; make demo SEEDS=3 shows how much"
if args.seeds > 1:
    over = f"mean ± standard deviation [{LEVEL:.0%} interval] over {args.seeds} seeds, paired, Student's t"
print(f"\nVICRegL minus random weights: {cell(gain, interval=True, sign='+')} points, without a label ({over}).")
print(f"{(time.monotonic() - began) / 60:.0f} minutes in all.")
print("Input, truth and prediction side by side:")
for picture in sorted(p for s in range(args.seeds) for p in ROOT.glob(f"checkpoints/demo-seed{s}/**/pictures.png")):
    print(f"  {picture.relative_to(ROOT)}")
print(f"All of it on one page, for a browser: {REPORT}")
