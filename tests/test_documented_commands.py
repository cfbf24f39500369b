"""Every command of README.md and docs/ runs as it stands there, on small pictures and with smaller sizes."""

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tifffile
import timm
import torch
from safetensors.torch import save_file

from densessl.__main__ import MODULES, run
from densessl.commands import data as data_command
from densessl.commands import pretrain as pretrain_command
from densessl.training.launch import alone

ROOT = Path(__file__).parents[1]
SECONDS = 300
TINY = "backbone.name=test_convnext batch=4 steps=2 log_every=1 views.large.size=64 data.workers=0 threads=1"
HEADS = "method.expander=[16,16] method.projector=[16,16] method.num_matches=[4,2]"
# What makes a command small, by what is in it: words that are added to it, for each pattern that is found.
SMALLER = (
    (r"(pretrain|plan|replay|data\.py views).*--cfg vicregl", f"{TINY} {HEADS}"),
    (r"align_uniform", TINY),
    (r"--cfg vicregl\w+_1gpu|micro_batch", "micro_batch=2"),
    (r"pretrain(?!.*--(resume|print))", "--overwrite"),
    (r"probes\.", "probes.every=1"),
    (r"plan\.py", "--seconds 1"),
    (r"eval_seg.*(--protocol linear_small|=dino.pth)", "iterations=2 crop=[32,32] batch=2"),
    (r"--protocol linear_fast", "iterations=2 crops=2 scale=[64,32] crop=[32,32] window=32 stride=32"),
    (r"--protocol vicregl_resnet", "iterations=1 scale=[64,32] crop=[32,32] batch=2"),
    (r"--protocol linear_sweep", "epochs=1"),
    (r"--protocol semi_1\b", "epochs=1 batch=2 size=32"),
    (r"eval_det", "iterations=2 steps=[1] warmup=1 batch=1 --seeds 1"),
    (r"visualize", "--size 64 --pictures 2 --search 4"),
    (r"report\.py", "--pictures 2 --size 64"),
    (r"compare", f"--seeds 1 --budget steps=2 {TINY.replace(' steps=2', '')}"),
    (r"compare.*cifar", "backbone.name=test_resnet"),
    (r"compare.*vicregl", f"{HEADS} seg.iterations=2 seg.crop=[32,32]"),
    (r"compare.*--cls", "--cls-train 4 --cls-test 2"),
)
# What would be long or large whatever is added: fourteen rows, eight processes, two hundred pictures with boxes.
INSTEAD = (
    ("--cfg all", "--cfg vicreg_cifar"),
    ("nproc_per_node 8", "nproc_per_node 2"),
    ("--nnodes 2 --nproc-per-node 8", "--nnodes 1 --nproc-per-node 2"),
    ("node01:29400", "localhost:0"),
    ("--data scenes --init", "--data my/boxes --init"),
)


class Command(NamedTuple):
    document: str
    line: int
    text: str


def documented() -> list[Command]:
    """Each once, from where it stands first. A shell block holds commands alone: what they print is in other blocks."""
    found: dict[str, Command] = {}
    for document in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        shell, waiting = False, ""
        for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), 1):
            if line.startswith("```"):
                shell = line == "```sh"
            elif shell:
                waiting += line.removesuffix("\\")
                if not line.endswith("\\"):
                    text = shlex.join(shlex.split(waiting, comments=True))
                    found.setdefault(text, Command(document.name, number, text))
                    waiting = ""
    return list(found.values())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the documents take for granted, small."""
    place = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        Path("tools").symlink_to(ROOT / "tools")
        Path("my").mkdir()
        labelled = {"my/masks": "folder", "my/labelled": "folder", "my/boxes": "coco", "voc": "voc"}
        layouts = {"my/pictures": "pictures", **{out: f"{layout} --val 2" for out, layout in labelled.items()}}
        for out, layout in layouts.items():
            assert data_command.main(f"scenes {out} --layout {layout} --count 8 --size 64".split()) == 0
        Path("VOCdevkit").symlink_to("voc/VOCdevkit")
        cells = np.random.default_rng(0).integers(0, 4000, (4, 48, 48, 2), dtype=np.uint16)
        Path("my/cells").mkdir()
        for i, values in enumerate(cells):
            tifffile.imwrite(f"my/cells/{i}.tif", values)
        shards()
        example = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "adding_a_method.md").read_text(), re.DOTALL)
        Path("align_uniform.py").write_text(example[1])
        Path("hosts").write_text("localhost slots=2\n")
        Path("bin").mkdir()
        (ssh := Path("bin", "ssh")).write_text("#!/bin/sh\necho 127.0.0.1\n")  # answers `hostname` and `hostname -I`
        ssh.chmod(0o755)
        for name, network in (("moco_v2_800ep.pth.tar", "resnet50"), ("dino.pth", "vit_small_patch16_224")):
            torch.save(timm.create_model(network, num_classes=0).state_dict(), name)
        torch.save(timm.create_model("test_convnext").state_dict(), "convnext_small.pth")
        save_file(timm.create_model("resnet50", num_classes=0).state_dict(), "timm.safetensors")
        words = f"--cfg vicregl_cnx_s_1gpu data.path=my/pictures run=checkpoints/mine {TINY} {HEADS} micro_batch=2"
        assert pretrain_command.main(words.split()) == 0
        shutil.copytree("checkpoints/mine", "checkpoints/other")
    return place


def shards() -> None:
    """cifar10/*.tar, with a class beside each picture, and imagenet/ with a folder a class; a list of some of it."""
    files = sorted(Path("my/pictures").iterdir())
    Path("cifar10").mkdir()
    for split in ("train", "test"):
        with tarfile.open(f"cifar10/{split}-000.tar", "w") as tar:
            for i, file in enumerate(files):
                tar.add(file, f"{i}.png")
                (label := Path("label")).write_text(str(i % 2))
                tar.add(label, f"{i}.cls")
    for i, file in enumerate(files):
        for split in ("train", "val"):
            (folder := Path("imagenet", split, f"n{i % 2}")).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, folder / f"n{i % 2}_{i}.png")
    Path("1percent.txt").write_text("\n".join(f"n{i % 2}_{i}.png" for i in range(4)))


def shortened(text: str) -> list[str]:
    for long, short in INSTEAD:
        text = text.replace(long, short)
    return shlex.split(" ".join([text, *(words for pattern, words in SMALLER if re.search(pattern, text))]))


@pytest.mark.parametrize("command", documented(), ids=lambda c: f"{c.document}:{c.line}")
def test_it_runs(command: Command, place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(place)
    program, *words = shortened(command.text)
    for option, out in pairwise(words):
        if option == "--out" and Path(out).is_dir():
            shutil.rmtree(out)
    match program:
        case "make":
            assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        case "pip":
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            assert words[0] == "install"
            assert words[1] == "." or words[1][:-1].removeprefix("densessl[") in extras
        case "python":
            name = Path(words[0]).stem
            assert Path(words[0]) == Path("tools", f"{name}.py")
            module = importlib.import_module(f"densessl.commands.{MODULES.get(name, name)}")
            monkeypatch.setattr(sys, "argv", words)
            assert run(lambda: module.main(words[1:])) == 0, capfd.readouterr().err
        case _:
            ended = launched([program, *words])
            assert ended.returncode == 0, ended.stdout + ended.stderr
            assert "Warning: " not in ended.stdout + ended.stderr  # nothing that a user could act on


def launched(words: list[str]) -> subprocess.CompletedProcess[str]:
    """By the real launchers on this machine; srun is the two processes that it would have started."""
    launchers = {"deepspeed": "deepspeed.launcher.runner", "torchrun": "torch.distributed.run"}
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PATH": f"bin:{os.environ['PATH']}"}
    if words[0] in launchers:  # in a session of its own: it signals its process group when it ends
        return subprocess.run(
            [sys.executable, "-m", launchers[words[0]], *words[1:]],
            env=environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            start_new_session=True,
        )
    assert words[0] == "srun"
    words = words[words.index("python") + 1 :]
    job = {"SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "2"}
    job["SLURM_JOB_ID"] = str(int(alone()["MASTER_PORT"]) - 20000)
    processes = [
        subprocess.Popen(
            [sys.executable, *words],
            env=environment | job | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in "01"
    ]
    said = [process.communicate(timeout=SECONDS)[0] for process in processes]
    return subprocess.CompletedProcess(words, max(abs(p.returncode) for p in processes), "".join(said), "")
