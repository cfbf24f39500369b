"""Kills a short run again and again, resumes it, and compares its end with that of a run that was never killed.

    python tests/kill_runs.py --kills 100 --processes 2

Half of the kills wait until a state is being written. Prints how many hit a save, and fails where a completed state is
lost, nothing can be resumed, or a weight of the end differs in a bit. Not a part of the tests: it takes minutes.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import torch

from densessl.backbone_file import load_backbone
from densessl.training.launch import alone

ROOT = Path(__file__).parents[1]
WORDS = ["--cfg", "demo", "data.path=scenes", "backbone.name=test_convnext", "method.expander=[64, 64]"]
WORDS += ["method.projector=[32, 32]", "batch=8", "save_every=1", "log_every=1", "threads=1", "data.workers=1"]
WORDS += ["views.large.size=64", "backbone.drop_path=0.2"]


def start(folder: Path, processes: int, steps: int) -> subprocess.Popen[bytes]:
    words = ["tools/pretrain.py", *WORDS, f"steps={steps}", f"run={folder}"]
    if (folder / "config.yaml").exists():
        words.append("--resume" if completed(folder) else "--overwrite")
    command = [sys.executable]
    if processes > 1:
        port = alone()["MASTER_PORT"]
        command += ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", f"--master-port={port}"]
    with (folder.parent / "log").open("ab") as log:
        return subprocess.Popen(
            [*command, *words],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def completed(folder: Path) -> int:
    """The newest state that has its name."""
    return max((int(path.name[4:]) for path in (folder / "state").glob("step???????")), default=0)


def kill_all(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Launcher and processes at once: torchrun starts them in sessions of their own, where they outlive it."""
    word = f"run={folder}\0".encode()
    os.killpg(process.pid, signal.SIGKILL)
    for one in Path("/proc").glob("[0-9]*/cmdline"):
        if word in read(one):
            with suppress(ProcessLookupError):
                os.kill(int(one.parent.name), signal.SIGKILL)
    process.wait()
    while any(word in read(one) for one in Path("/proc").glob("[0-9]*/cmdline")):
        time.sleep(0.01)


def read(path: Path) -> bytes:
    with suppress(OSError):
        return path.read_bytes()
    return b""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--steps", type=int, default=400)
    args = parser.parse_args()
    rng, hits = random.Random(0), 0
    with tempfile.TemporaryDirectory() as name:
        killed, whole = Path(name) / "killed", Path(name) / "whole"
        killed.mkdir()
        for kill in range(args.kills):
            process, before = start(killed, args.processes, args.steps), completed(killed)
            while completed(killed) <= before and process.poll() is None:
                time.sleep(0.01)
            assert process.poll() is None, (Path(name) / "log").read_text()[-2000:]
            time.sleep(rng.uniform(0, 0.3))
            saving = False
            if kill % 2:
                end = time.monotonic() + 5
                while not (saving := any((killed / "state").glob(".step*.tmp"))) and time.monotonic() < end:
                    pass
            newest = completed(killed)
            kill_all(process, killed)
            hits += saving
            assert completed(killed) >= newest, f"{newest} was completed, {completed(killed)} is left"
            print(f"kill {kill + 1}: after step {completed(killed)}{', in a save' * saving}", flush=True)
        for folder in (killed, whole):
            assert start(folder, args.processes, args.steps).wait() == 0, (Path(name) / "log").read_text()[-2000:]
        ours, truth = (load_backbone(folder / "backbone.safetensors").state_dict() for folder in (killed, whole))
        assert all(torch.equal(ours[key], value) for key, value in truth.items()), "the weights differ"
    print(f"{args.kills} kills of {args.processes} process(es), {hits} in a save: nothing lost, the same weights")


if __name__ == "__main__":
    main()
