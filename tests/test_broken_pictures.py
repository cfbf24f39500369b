"""A run on a folder where a picture in forty is broken, in ten ways: it trains through and names all 50 once."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import socket
import subprocess
import sys
import tarfile
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from picture_forms import by_numpy, by_pillow, huge

from densessl.config import CropsConfig, PhotometricConfig, ViewsConfig, load_config
from densessl.data import loader as loader_module
from densessl.data.check import survey
from densessl.data.findings import odd_names
from densessl.data.loader import Loader
from densessl.data.pictures import Pictures, open_pictures
from densessl.data.sources import index_file
from densessl.training.log import Log
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


def make(root: Path) -> tuple[dict[str, str], dict[str, str]]:
    """2,000 pictures and folders, 50 of them bad: name and reason of those that can't be read, and of odd names."""
    reasons: dict[str, str] = {}
    odd: dict[str, str] = {}
    files = [(ending, as_file(good(seed), ending)) for seed in range(20) for ending in FORMS]
    for i in range(PICTURES - 50):
        ending, data = files[i % len(files)]
        (root / f"{i:04d}.{ending}").write_bytes(data)

    def add(number: int, ending: str, what: str, data: bytes, reason: str, said: dict[str, str] = reasons) -> None:
        name = f"{397 * number % PICTURES:04d}-{what}.{ending}"  # among the others
        (root / name).write_bytes(data)
        said[name] = reason

    bombs, empty = huge(), huge(0) | {"npy": by_numpy(np.zeros((0, 40, 3), np.uint8))}
    empty["WebP"] = empty["PNG"]  # which can't say so
    for i, (ending, form) in enumerate(FORMS.items()):
        whole = as_file(good(i), ending)
        add(i, ending, "cut", whole[: len(whole) // 2], "cut short|broken")
        add(i + 5, ending, "empty", b"", "empty file")
        add(i + 10, list(FORMS)[i - 1], "other ending", whole, form, odd)  # what is in a file counts
        add(i + 15, ending, "html", HTML, "not a picture")
        add(i + 20, ending, "no size", empty[form], "nothing is in it|broken|not a picture")
        add(i + 25, ending, "bomb", bombs[form], "cut it into tiles")
        add(i + 30, ending, "one pixel", as_file(good(i, 1), ending), "1 x [13] pixels")  # .npy might be three by one
        folder = root / f"{i} folder.{ending}"  # searched like others
        folder.mkdir()
        (folder / f"inside.{ending}").write_bytes(whole)
        link = root / f"{i} link.{ending}"
        link.symlink_to(root / "nowhere")
        circle = root / f"{i} circle.{ending}"  # can't be opened, not even by root, who may read anything
        circle.symlink_to(circle)
        reasons |= {link.name: "No such file", circle.name: "Too many levels"}
        odd[folder.name] = "a folder"
    return reasons, odd


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str], dict[str, str]]:
    root = tmp_path_factory.mktemp("pictures")
    return root, *make(root)


def test_a_run_trains_through_and_names_each_once(folder, tmp_path, caplog, capfd):
    root, reasons, odd = folder
    cfg = tmp_path / "tiny.yaml"
    cfg.write_text(yaml.safe_dump(TINY | {"data": {"path": str(root), "workers": 2}}))
    with caplog.at_level(logging.WARNING, "densessl"):
        pretrain(load_config(str(cfg), [f"run={tmp_path / 'run'}"]))
    assert len(reasons) + len(odd) == 50
    said = [line.partition(" ")[2] for line in (tmp_path / "run/log.txt").read_text().splitlines()]
    for start, truth in (("unreadable picture skipped: ", reasons), ("odd name: ", odd)):
        named = [record.args for record in caplog.records if record.getMessage().startswith(start)]
        assert sorted(os.path.basename(path) for path, _ in named) == sorted(truth)
        for path, reason in named:
            assert re.search(truth[os.path.basename(path)], reason)
            assert said.count(f"{start}{path}: {reason}") == 1
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 30
    assert np.isfinite(losses).all()
    assert "lib" not in capfd.readouterr().err  # libpng, libjpeg


def test_check_finds_the_same(folder):
    root, reasons, odd = folder
    images = open_pictures(str(root))
    found = survey(images, tiny=32)
    assert found.pictures == PICTURES
    assert {os.path.basename(images.path(row)) for row in found.corrupt} == reasons.keys()
    assert not len(found.tiny)
    assert not len(found.misfits())
    assert {os.path.basename(name.rpartition(": ")[0]) for name in odd_names(images, found)} == odd.keys()
    assert all(odd[os.path.basename(images.path(row))] == form for row, form in found.odd.items())
    for row, reason in found.corrupt.items():
        assert re.search(reasons[os.path.basename(images.path(row))], reason)


def names(images: Pictures, caplog: pytest.LogCaptureFixture, rank: int = 0) -> list[str]:
    """What an epoch of it says."""
    caplog.clear()
    views = ViewsConfig(large=CropsConfig(count=1, size=16, scale=(0.5, 1)))
    loader = Loader(images, views, PhotometricConfig(), batch=2, seed=0, workers=0, rank=rank, world_size=2)
    for _ in range(2):
        list(loader.from_step(0, 2 * loader.steps_per_epoch))
    return [record.getMessage() for record in caplog.records]


def test_odd_folders_are_named_from_a_cached_index_by_one_process(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("DENSESSL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(index_file, "SMALL", 1)
    root = tmp_path / "pictures"
    (root / "a" / "b.PNG").mkdir(parents=True)
    for name in ("a/b.PNG/c.png", "d.png"):
        (root / name).write_bytes(as_file(good(0), "png"))
    for path in [*root.rglob("*"), root]:
        os.utime(path, (1_500_000_000, 1_500_000_000))
    said = [names(open_pictures(str(root)), caplog) for _ in range(2)]
    assert list((tmp_path / "cache").glob("*.index"))
    assert said == [[f"odd name: {root}/a/b.PNG: a folder, and searched like any other"]] * 2
    assert names(open_pictures(str(root)), caplog, rank=1) == []


def test_odd_names_in_shards_are_named_up_to_a_limit(tmp_path, monkeypatch, caplog):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for i in range(6):
            data = as_file(good(i), "webp" if i else "png")
            entry = tarfile.TarInfo(f"{i}.png")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    images = open_pictures(str(tmp_path / "a.tar"))
    one, other = names(images, caplog), names(images, caplog, rank=1)
    assert [len(one), len(other)] == [len(set(one)), len(set(other))]
    assert sorted({*one, *other}) == [
        f"odd name: {tmp_path}/a.tar/{i}.png: WebP, and read as that" for i in range(1, 6)
    ]
    assert survey(images).odd == dict.fromkeys(range(1, 6), "WebP")
    monkeypatch.setattr(loader_module, "NAMED", 1)
    one = names(images, caplog)
    assert len(one) == 2
    assert one[1].startswith("more odd names than 1;")


def test_a_run_that_is_resumed_names_none_again(tmp_path):
    log = logging.getLogger("densessl")
    for _ in range(2):
        with closing(Log(tmp_path, done=0, steps=4, batch=1)):
            log.warning("unreadable picture skipped: %s: %s", "a b.jpg", "empty file")
            log.warning("odd name: %s: %s", "c.png", "JPEG, and read as that")
            log.warning("worker 1 died")
    said = [line.partition(" ")[2] for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert said.count("unreadable picture skipped: a b.jpg: empty file") == 1
    assert said.count("odd name: c.png: JPEG, and read as that") == 1
    assert said.count("worker 1 died") == 2


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
