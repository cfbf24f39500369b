"""States that were cut, or changed in one byte, are never loaded; folders that can't be written lose nothing."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from test_checkpoint import Memory, names
from test_training import TINY, method_that

from densessl.backbone_file import FILE_NAME
from densessl.config import load_config
from densessl.errors import UserError
from densessl.training import checkpoint, run_folder
from densessl.training.pretrain import pretrain

ABOUT = {"pictures": 41, "parameters": 1234, "skipped": 0, "lr_scale": 1.0}
FILES = ("model.safetensors", "optimizer.safetensors", "manifest.json", "manifest.sha256")


class Two(Memory):
    """An engine with two files."""

    def state(self) -> dict[str, dict[str, torch.Tensor]]:
        return {FILES[0]: {"a.weight": self.value[:300]}, FILES[1]: {"a.weight/step": torch.tensor(3.0)}}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for step in (12, 15):
        assert not checkpoint.save(Two(step), tmp_path, step, ABOUT, keep=2)
    assert checkpoint.newest_state(tmp_path) == ({"step": 15, "processes": 1, **ABOUT}, [])
    assert sorted(path.name for path in (tmp_path / "state" / "step0000015").iterdir()) == sorted(FILES)
    return tmp_path


def check(run: Path, name: str, data: bytes) -> None:
    """With ``data`` in a file of the newest state that state is passed over; it is as before afterwards."""
    place = run / "state" / "step0000015"
    before = (place / name).read_bytes()
    assert data != before
    (place / name).write_bytes(data)
    about, said = checkpoint.newest_state(run)
    assert about == {"step": 12, "processes": 1, **ABOUT}, name
    (line,) = said
    assert re.match(f"passing over {place}: .*(manifest|{name})", line)
    (place / name).write_bytes(before)


def contents(run: Path) -> Iterator[tuple[str, bytes]]:
    for name in FILES:
        yield name, (run / "state" / "step0000015" / name).read_bytes()


def test_20_random_lengths(run: Path) -> None:
    rng = random.Random(0)
    for name, data in contents(run):
        for length in rng.sample(range(len(data)), 20):
            check(run, name, data[:length])


def test_50_random_bytes_of_each_file_and_every_one_of_the_manifest(run: Path) -> None:
    """Also where the manifest is another one that can be read: 12 pictures instead of 41, step 14 instead of 15."""
    rng = random.Random(1)
    for name, data in contents(run):
        places = range(len(data)) if name.startswith("manifest") else rng.sample(range(len(data)), 50)
        for place in places:
            changed = bytearray(data)
            changed[place] ^= rng.randrange(1, 256)
            check(run, name, bytes(changed))
        for place in [match.start() for match in re.finditer(rb"\d", data)] if name == "manifest.json" else []:
            digit = b"%d" % ((data[place] - ord("0") + 1) % 10)
            check(run, name, data[:place] + digit + data[place + 1 :])


def test_states_from_before_the_manifest_had_a_checksum_are_loaded(run: Path) -> None:
    (run / "state" / "step0000015" / "manifest.sha256").unlink()
    assert checkpoint.newest_state(run) == ({"step": 15, "processes": 1, **ABOUT}, [])


def test_the_checksum_is_one_that_sha256sum_reads(run: Path) -> None:
    if not shutil.which("sha256sum"):
        pytest.skip("there is no sha256sum")
    command = ["sha256sum", "--check", "manifest.sha256"]
    subprocess.run(command, cwd=run / "state" / "step0000015", check=True, capture_output=True)


# --- folders that can't be written ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "name"),
    [
        (Path, "mkdir"),
        (checkpoint, "save_file"),
        (os, "fsync"),
        (Path, "write_text"),
        (Path, "replace"),
        (Path, "rename"),
    ],
)
def test_what_the_disk_refuses_at_any_moment_is_said(
    run: Path, monkeypatch: pytest.MonkeyPatch, where: object, name: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(where, name, refuse)
        said = checkpoint.save(Two(18), run, 18, ABOUT, keep=2)
    assert said == f"{run / 'state' / 'step0000018'}: Read-only file system"
    assert names(run) == ["latest", "step0000012", "step0000015"]
    assert checkpoint.newest_state(run)[0]["step"] == 15
    assert not checkpoint.save(Two(18), run, 18, ABOUT, keep=2)
    assert names(run) == ["latest", "step0000015", "step0000018"]


NEW_USER, NEW_MOUNTS, DENIED = 0x10000000, 0x20000, 77


def on_a_small_disk(folder: Path, job: Callable[[Path], None], about: Path) -> None:
    """``job(folder)`` in a process in which, as nowhere else, the folder is a file system of 20 MB."""
    process = get_context("spawn").Process(target=_on_a_small_disk, args=(folder, job, about / "said"))
    process.start()
    process.join(100)
    process.kill()
    process.join()
    if process.exitcode == DENIED:
        pytest.skip(f"a file system can't be mounted here: {(about / 'said').read_text().strip()}")
    assert process.exitcode == 0


def _on_a_small_disk(folder: Path, job: Callable[[Path], None], said: Path) -> None:
    user, libc = os.getuid(), ctypes.CDLL(None, use_errno=True)
    try:
        if libc.unshare(NEW_MOUNTS | (NEW_USER if user else 0)):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        if user:  # root alone may mount, which anybody may be in a place of their own
            Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        for words in (("--make-rprivate", "/"), ("-t", "tmpfs", "-o", "size=20m", "none", str(folder))):
            subprocess.run(["mount", *words], check=True, capture_output=True, text=True)
    except (OSError, AttributeError, subprocess.CalledProcessError) as error:
        said.write_text(getattr(error, "stderr", "") or str(error))
        os._exit(DENIED)
    job(folder)


def read_only(run: Path) -> None:
    def mount(how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", str(run)], check=True)

    assert not checkpoint.save(Two(12), run, 12, ABOUT, keep=2)
    mount("ro")
    assert checkpoint.save(Two(15), run, 15, ABOUT, keep=2).endswith("step0000015: Read-only file system")
    assert names(run) == ["latest", "step0000012"]
    assert checkpoint.newest_state(run)[0]["step"] == 12
    for resume in (True, False):
        with pytest.raises(UserError, match=f"run={run} can't be written: Read-only file system"):
            run_folder.check_run_folder(run, resume, overwrite=False)
    mount("rw")
    assert not checkpoint.save(Two(15), run, 15, ABOUT, keep=2)
    assert names(run) == ["latest", "step0000012", "step0000015"]


def test_a_read_only_run_folder(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    on_a_small_disk(tmp_path / "run", read_only, tmp_path)


def fill(disk: Path) -> None:
    """Every second step is saved. The disk is full, or seems to have room, from the end of some steps on."""
    run, filler, step = disk / "run", disk / "filler", 0
    truth = shutil.disk_usage

    def make_room(free: int) -> None:
        filler.unlink(missing_ok=True)
        filler.write_bytes(bytes(max(0, truth(disk).free - free)))

    def update(progress: float) -> None:
        nonlocal step
        step += 1
        if step in (5, 7, 11):  # after saves that failed: what was saved is whole, and no part of another is left
            newest = 8 if step == 11 else 2
            assert checkpoint.newest_state(run)[0]["step"] == newest
            assert names(run) == ["latest", f"step{newest:07d}"]
        if step == 3:  # for the backbone, not for the state, which is seen before it is written
            make_room((run / FILE_NAME).stat().st_size * 6 // 5)
        elif step == 5:  # the same, and another program takes what there seemed to be
            checkpoint.shutil.disk_usage = lambda path: SimpleNamespace(free=1 << 40)
        elif step == 9:
            make_room(0)
        elif step in (7, 11):
            checkpoint.shutil.disk_usage = truth
            filler.unlink(missing_ok=True)

    cfg = TINY | {"data": {"path": "scenes", "workers": 0}, "save_every": 2, "steps": 12, "keep": 1}
    (disk / "cfg.yaml").write_text(yaml.safe_dump(cfg))
    with method_that(update):
        pretrain(load_config(str(disk / "cfg.yaml"), [f"run={run}"]))
    assert checkpoint.newest_state(run)[0]["step"] == 12


def test_a_disk_that_fills_and_gets_room_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "disk").mkdir()
    on_a_small_disk(tmp_path / "disk", fill, tmp_path)
    said = [line for line in capfd.readouterr().err.splitlines() if "was not saved" in line]
    wanted = [
        r"step 4 .*/step0000004: 0.* GB are needed, 0.* GB free\. Training goes on; the state after 2 steps is whole",
        r"step 6 .*/step0000006: .*No space left on device.*\. Training goes on; the state after 2 steps is whole",
        r"step 10 .*No space left on device.*\. Training goes on; the state after 8 steps is whole",
    ]
    assert len(said) == len(wanted)
    for line, pattern in zip(said, wanted, strict=True):
        assert re.search(pattern, line), line
