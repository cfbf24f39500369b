"""A run on a folder where a picture in forty is broken, in ten ways: it trains through and names each once."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from picture_forms import by_numpy, by_pillow, huge

from densessl.config import load_config
from densessl.data.check import survey
from densessl.data.pictures import open_pictures
from densessl.training.pretrain import pretrain

PICTURES = 2000
FORMS = {"jpg": "JPEG", "png": "PNG", "webp": "WebP", "tif": "TIFF", "npy": "npy"}
TINY = {
    "method": {"name": "vicreg", "expander": [16, 16]},
    "backbone": {"name": "test_resnet"},
    "views": {"large": {"count": 2, "size": 32, "scale": [0.3, 1.0]}},
    "optim": {"name": "adamw", "base_lr": 0.03, "weight_decay": 0.05, "warmup": 0.2},
    "batch": 100,
    "steps": 30,  # all pictures, and half of them again
    "log_every": 1,
    "threads": 1,
    "precision": "fp32",
}
HTML = b"<!DOCTYPE html><html><body>404</body></html>"


def good(seed: int, side: int = 40) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)


def as_file(picture: np.ndarray, ending: str) -> bytes:
    if ending == "npy":
        return by_numpy(picture)
    return by_pillow(picture, FORMS[ending].upper())


def make(root: Path) -> tuple[dict[str, str], set[str]]:
    """2,000 pictures and folders, 50 of them bad; name and reason of those that can't be read, and the tiny ones."""
    reasons: dict[str, str] = {}
    files = [(ending, as_file(good(seed), ending)) for seed in range(20) for ending in FORMS]
    for i in range(PICTURES - 50):
        ending, data = files[i % len(files)]
        (root / f"{i:04d}.{ending}").write_bytes(data)

    def add(number: int, ending: str, what: str, data: bytes, reason: str = "") -> None:
        name = f"{397 * number % PICTURES:04d}-{what}.{ending}"  # among the others
        (root / name).write_bytes(data)
        if reason:
            reasons[name] = reason

    bombs, empty = huge(), huge(0) | {"npy": by_numpy(np.zeros((0, 40, 3), np.uint8))}
    empty["WebP"] = empty["PNG"]  # which can't say so
    for i, (ending, form) in enumerate(FORMS.items()):
        whole = as_file(good(i), ending)
        add(i, ending, "cut", whole[: len(whole) // 2], "cut short|broken")
        add(i + 5, ending, "empty", b"", "empty file")
        add(i + 10, list(FORMS)[i - 1], "other ending", whole)  # what is in a file counts
        add(i + 15, ending, "html", HTML, "not a picture")
        add(i + 20, ending, "no size", empty[form], "nothing is in it|broken|not a picture")
        add(i + 25, ending, "bomb", bombs[form], "cut it into tiles")
        add(i + 30, ending, "one pixel", as_file(good(i, 1), ending))
        folder = root / f"{i} folder.{ending}"  # searched like others
        folder.mkdir()
        (folder / f"inside.{ending}").write_bytes(whole)
        link = root / f"{i} link.{ending}"
        link.symlink_to(root / "nowhere")
        circle = root / f"{i} circle.{ending}"  # can't be opened, not even by root, who may read anything
        circle.symlink_to(circle)
        reasons |= {link.name: "No such file", circle.name: "Too many levels"}
    return reasons, {name for name in os.listdir(root) if "one pixel" in name}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str], set[str]]:
    root = tmp_path_factory.mktemp("pictures")
    return root, *make(root)


def test_a_run_trains_through_and_names_each_once(folder, tmp_path, caplog, capfd):
    root, reasons, _ = folder
    cfg = tmp_path / "tiny.yaml"
    cfg.write_text(yaml.safe_dump(TINY | {"data": {"path": str(root), "workers": 2}}))
    with caplog.at_level(logging.WARNING, "densessl"):
        pretrain(load_config(str(cfg), [f"run={tmp_path / 'run'}"]))
    named = [record.args for record in caplog.records if record.msg.startswith("unreadable picture")]
    assert sorted(os.path.basename(path) for path, _ in named) == sorted(reasons)
    for path, reason in named:
        assert re.search(reasons[os.path.basename(path)], reason)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 30
    assert np.isfinite(losses).all()
    assert "lib" not in capfd.readouterr().err  # libpng, libjpeg


def test_check_finds_the_same(folder):
    root, reasons, tiny = folder
    images = open_pictures(str(root))
    found = survey(images, tiny=32)
    assert found.pictures == PICTURES
    assert {os.path.basename(images.path(row)) for row in found.corrupt} == reasons.keys()
    assert {os.path.basename(images.path(row)) for row in found.tiny} == tiny
    assert not len(found.misfits())
    for row, reason in found.corrupt.items():
        assert re.search(reasons[os.path.basename(images.path(row))], reason)


READ = """
import resource, sys
from densessl.data.decoding import Unreadable
from densessl.data.pictures import open_pictures

with open("/proc/self/status") as file:
    room = next(int(line.split()[1]) for line in file if line.startswith("VmSize")) * 1024 + (300 << 20)
resource.setrlimit(resource.RLIMIT_AS, (room, room))
images = open_pictures(sys.argv[1])
for i in range(len(images)):
    try:
        print(images.read(i).shape)
    except Unreadable as error:
        print(error.reason)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is told by Linux")
@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("what", ["pipe", "device", "socket"])
def test_what_is_no_file_is_not_waited_for(what, listed, tmp_path):
    """A pipe is opened when somebody writes to it, and /dev/zero never ends."""
    (tmp_path / "a.png").write_bytes(as_file(good(0), "png"))
    odd = tmp_path / "b.png"
    if what == "pipe":
        os.mkfifo(odd)
    elif what == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(odd))
    else:
        odd.symlink_to("/dev/zero")
    (tmp_path / "list.txt").write_text("a.png\nb.png\n")
    path = tmp_path / "list.txt" if listed else tmp_path
    done = subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == "(40, 40, 3)"
    assert "pipe or a device" in second or what == "socket"
