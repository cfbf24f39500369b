"""States are complete or absent, whatever happens while one is written and afterwards."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from densessl.config import Config
from densessl.errors import UserError
from densessl.training import checkpoint, run_folder
from densessl.versions import versions

CONFIG = {
    "name": "some",
    "run": "somewhere",
    "method": {"name": "vicreg"},
    "backbone": {"name": "resnet18"},
    "data": {"path": "pictures"},
    "views": {"large": {"count": 2, "size": 64, "scale": (0.3, 1.0)}},
    "optim": {"name": "adamw", "base_lr": 1e-3, "weight_decay": 0.05, "warmup": 0.1},
    "batch": 8,
    "steps": 100,
}


class Memory:
    """An engine whose whole state is one tensor."""

    def __init__(self, value: float = 0.0) -> None:
        self.value = torch.full((1000,), value)

    def state(self) -> dict[str, dict[str, torch.Tensor]]:
        return {"engine.safetensors": {"value": self.value}}

    def load(self, folder: Path) -> None:
        self.value = load_file(folder / "engine.safetensors")["value"]


def saved(run: Path, *steps: int) -> Path:
    for step in steps:
        checkpoint.save(Memory(step), run, step, {"pictures": 40}, keep=2)
    return run


def names(run: Path) -> list[str]:
    return sorted(p.name for p in (run / "state").iterdir())


def test_the_last_two_states_stay(tmp_path: Path) -> None:
    run = saved(tmp_path, 5, 10, 15)
    assert names(run) == ["latest", "step0000010", "step0000015"]
    assert (run / "state" / "latest").read_text() == "step0000015"
    assert checkpoint.newest_state(run) == ({"step": 15, "processes": 1, "pictures": 40}, [])
    memory = Memory()
    checkpoint.load(memory, run, 15)
    assert memory.value[0] == 15


# --- damage -----------------------------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("engine.safetensors", cut, r"engine.safetensors has \d+ bytes instead of \d+"),
        ("engine.safetensors", flip, "engine.safetensors has changed since it was written"),
        ("engine.safetensors", Path.unlink, "engine.safetensors is missing"),
        ("manifest.json", cut, "manifest.json can't be read"),
        ("manifest.json", Path.unlink, "manifest.json can't be read"),
    ],
)
def test_a_damaged_state_is_passed_over_and_said(tmp_path: Path, name: str, damage, said: str) -> None:
    run = saved(tmp_path, 1, 2, 3)
    damage(run / "state" / "step0000003" / name)
    about, lines = checkpoint.newest_state(run)
    assert about["step"] == 2
    assert len(lines) == 1
    assert re.search(f"passing over .*step0000003: {said}", lines[0])
    assert names(run) == ["latest", "step0000002", "step0000003"]  # who may still be refused changes nothing
    # It no longer counts among the last two, and its step can be saved again.
    checkpoint.set_aside(run, 2)
    saved(run, 3)
    assert names(run) == ["latest", "step0000002", "step0000003", "step0000003.damaged"]
    assert checkpoint.newest_state(run)[0]["step"] == 3


def test_nothing_whole_is_an_error_and_never_a_fresh_start(tmp_path: Path) -> None:
    run = saved(tmp_path, 1, 2)
    for step in (1, 2):
        flip(run / "state" / f"step{step:07d}" / "engine.safetensors")
    with pytest.raises(UserError, match=r"holds no whole state; --overwrite starts it again(\n.*passing over.*){2}"):
        checkpoint.newest_state(run)


MOMENTS = {
    "engine": (checkpoint, "save_file", 2),
    "manifest": (checkpoint, "_sha256", 2),
    "rename": (Path, "rename", 2),
    "deleting the old": (checkpoint.shutil, "rmtree", 3),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_crash_while_saving_leaves_the_state_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    run = saved(tmp_path, 1, 2)

    def crash(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    where, name, newest = MOMENTS[moment]
    with monkeypatch.context() as patch:
        patch.setattr(where, name, crash)
        with pytest.raises(KeyboardInterrupt):
            saved(run, 3)
    assert checkpoint.newest_state(run) == ({"step": newest, "processes": 1, "pictures": 40}, [])
    saved(run, 3, 4)
    assert names(run) == ["latest", "step0000003", "step0000004"]


def full(tensors: object, path: Path) -> None:
    path.write_bytes(b"half of it")
    raise OSError(errno.ENOSPC, "No space left on device")


def less(path: Path) -> SimpleNamespace:
    return SimpleNamespace(free=1000)


@pytest.mark.parametrize(
    ("where", "name", "broken", "said"),
    [
        (checkpoint, "save_file", full, "step0000003: No space left on device"),
        (checkpoint.shutil, "disk_usage", less, r"step0000003: 0\.00 GB are needed, 0\.00 GB free"),
    ],
)
def test_a_full_disk_leaves_the_states_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: object, name: str, broken: object, said: str
) -> None:
    run = saved(tmp_path, 1, 2)
    with monkeypatch.context() as patch:
        patch.setattr(where, name, broken)
        assert re.search(said, checkpoint.save(Memory(3), run, 3, {"pictures": 40}, keep=2))
    assert names(run) == ["latest", "step0000001", "step0000002"]
    assert checkpoint.newest_state(run)[0]["step"] == 2
    assert not checkpoint.save(Memory(3), run, 3, {"pictures": 40}, keep=2)
    assert names(run) == ["latest", "step0000002", "step0000003"]


def test_milestones_stay(tmp_path: Path) -> None:
    for step in range(5, 45, 5):
        checkpoint.save(Memory(step), tmp_path, step, {}, keep=1, every=15)
    assert names(tmp_path) == ["latest", "step0000015", "step0000030", "step0000040"]


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
from test_checkpoint import Memory, checkpoint

run, done, leftovers = Path(sys.argv[1]), 0, 0
for trial in range(15):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        for step in range(done + 1, done + 1000):
            checkpoint.save(Memory(step), run, step, {}, keep=2)
            os.write(writer, step.to_bytes(4, "big"))
    os.close(writer)
    completed = int.from_bytes(os.read(reader, 4), "big")  # the first one
    time.sleep(random.uniform(0, 0.1))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while more := os.read(reader, 4):
        completed = int.from_bytes(more, "big")
    os.close(reader)
    leftovers += any(p.name.endswith(".tmp") for p in (run / "state").iterdir())
    about, lines = checkpoint.newest_state(run)
    assert not lines, lines
    assert about["step"] in (completed, completed + 1), (about, completed)
    memory = Memory()
    checkpoint.load(memory, run, about["step"])
    assert (memory.value == about["step"]).all()
    done = about["step"]
print(done, leftovers)
"""


def test_killed_at_any_moment_nothing_completed_is_lost(tmp_path: Path) -> None:
    path = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": path}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, result.stderr
    done, leftovers = map(int, result.stdout.split())
    assert done >= 15
    assert leftovers  # some kills did hit a save


# --- run folder -------------------------------------------------------------------------------------------------------


def test_a_run_is_refused_unless_resumed_or_overwritten(tmp_path: Path) -> None:
    run, cfg = tmp_path / "run", Config(**CONFIG)
    run_folder.check_run_folder(run, resume=False, overwrite=False)
    run_folder.begin_run(run, cfg)
    saved(run, 1)
    (run / "metrics.jsonl").touch()
    (run / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds a run already: --resume continues it, --overwrite deletes it"):
        run_folder.check_run_folder(run, resume=False, overwrite=False)
    run_folder.check_run_folder(run, resume=True, overwrite=False)
    run_folder.check_run_folder(run, resume=False, overwrite=True)
    assert (run / "state").exists()
    run_folder.begin_run(run, cfg)
    assert sorted(p.name for p in run.iterdir()) == ["config.yaml", "notes.txt"]


def test_other_versions_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, 3)
    assert checkpoint.newest_state(tmp_path)[1] == []
    monkeypatch.setattr(checkpoint, "versions", lambda: versions() | {"torch": "9.9"})
    about, said = checkpoint.newest_state(tmp_path)
    assert about["step"] == 3
    assert said == [
        f"{tmp_path}/state/step0000003 was saved with other versions: torch {torch.__version__} then, 9.9 now"
    ]


def test_want_of_room_is_said_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: SimpleNamespace(free=3_000_000_000))
    assert checkpoint.want_of_room(tmp_path, 1_000_000_000, keep=2) == ""
    said = checkpoint.want_of_room(tmp_path, 1_100_000_000, keep=2)
    assert "3 states of 1.10 GB (keep=2, and one that is being written) need 3.30 GB, 3.00 GB are free" in said


def test_a_folder_that_another_process_writes_is_refused_until_it_ends(tmp_path: Path) -> None:
    code = f"""if True:
        import time
        from pathlib import Path
        from densessl.training import run_folder
        run_folder.hold(Path({str(tmp_path)!r}))
        print("held", flush=True)
        time.sleep(100)"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        for how in ({"resume": True, "overwrite": False}, {"resume": False, "overwrite": True}):
            with pytest.raises(UserError, match=rf"is being written by process {other.pid} on .*; end it first"):
                run_folder.check_run_folder(tmp_path, **how)
        with pytest.raises(UserError, match="is being written by"):
            run_folder.hold(tmp_path)
        other.kill()
        other.wait()
        run_folder.check_run_folder(tmp_path, resume=False, overwrite=True)


def test_auto_begins_where_nothing_was_saved_and_goes_on_where_something_was(tmp_path: Path) -> None:
    def auto(run: Path) -> bool:
        return run_folder.check_run_folder(run, resume="auto", overwrite=False, save_every=5)

    assert not auto(tmp_path / "new" / "run")
    assert not (tmp_path / "new").exists()
    run = tmp_path / "killed"
    run_folder.hold(run)
    run_folder.release()
    assert not auto(run)  # before it had a configuration
    run_folder.begin_run(run, Config(**CONFIG))
    (run / "metrics.jsonl").touch()
    (run / "state" / ".step0000005.tmp").mkdir(parents=True)
    save_file({}, run / "backbone.safetensors", {"step": "5"})  # comes before the state
    assert not auto(run)
    for metadata in ({"step": "6"}, {}):
        save_file({}, run / "backbone.safetensors", metadata)
        with pytest.raises(UserError, match=r"holds a backbone after \w+ steps and no state to go on from"):
            auto(run)
    saved(run, 6)
    assert auto(run)


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run"):
        run_folder.check_run_folder(tmp_path, resume=True, overwrite=False)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for run in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError, match=f"run={run} can't be written"):
            run_folder.check_run_folder(run, resume=False, overwrite=False)


def test_a_run_from_before_a_key_existed_goes_on(tmp_path: Path) -> None:
    run_folder.begin_run(tmp_path, Config(**CONFIG))
    file = tmp_path / "config.yaml"
    before = yaml.safe_load(file.read_text())
    del before["seed"], before["photometric"]["grey_p"]
    file.write_text(yaml.safe_dump(before))
    run_folder.check_same(tmp_path, Config(**CONFIG))
    with pytest.raises(UserError, match="seed: 0 in the run, 1 now"):
        run_folder.check_same(tmp_path, Config(**CONFIG | {"seed": 1}))


def test_what_matters_may_not_change_on_resuming(tmp_path: Path) -> None:
    run_folder.begin_run(tmp_path, Config(**CONFIG))
    harmless = {
        "log_every": 1,
        "save_every": 7,
        "threads": 2,
        "zero": 1,
        "run": "moved",
        "data": {"path": "pictures", "workers": 0},
    }
    said = run_folder.check_same(tmp_path, Config(**CONFIG | harmless))
    assert len(said) == len(harmless)
    assert all(re.fullmatch(r"\S+: .* in the run, .* now", line) for line in said)
    changed = {"batch": 16, "optim": CONFIG["optim"] | {"base_lr": 2e-3}, "method": {"name": "vicreg", "mu": 1.0}}
    with pytest.raises(UserError) as error:
        run_folder.check_same(tmp_path, Config(**CONFIG | changed))
    assert str(error.value).splitlines()[1:] == [
        "  batch: 8 in the run, 16 now",
        "  method.mu: 25.0 in the run, 1.0 now",
        "  optim.base_lr: 0.001 in the run, 0.002 now",
    ]
