"""The loop: resuming, stopping, refusing; and the launchers, which give the same run as plain python."""

import io
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

import densessl
from densessl.backbone_file import load_backbone
from densessl.commands import pretrain as pretrain_command
from densessl.config import load_config
from densessl.data.views import Views
from densessl.errors import UserError
from densessl.methods import METHODS
from densessl.methods.vicreg import VICReg
from densessl.signals import SIGNALS
from densessl.training import checkpoint, distributed, sinks, start
from densessl.training.launch import alone, command_to_resume
from densessl.training.log import Log
from densessl.training.pretrain import pretrain
from densessl.training.seeding import seed_step
from densessl.training.sinks import cut

ROOT = Path(__file__).parents[1]
SECONDS = 120
CIFAR = ROOT / "configs" / "byol_cifar.yaml"
TINY: dict[str, Any] = {
    "method": {"name": "vicreg", "expander": [16, 16]},
    "backbone": {"name": "test_resnet"},
    "data": {"workers": 1},
    "views": {"large": {"count": 2, "size": 32, "scale": [0.3, 1.0]}},
    "optim": {"name": "adamw", "base_lr": 0.03, "weight_decay": 0.05, "warmup": 0.2},
    "batch": 8,
    "steps": 6,
    "log_every": 1,
    "save_every": 3,
    "threads": 1,
    "precision": "fp32",
}
VARYING = ("pictures_per_s", "data_wait", "memory_gib")  # what differs from run to run


@pytest.fixture(scope="module")
def cfg_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration for 20 pictures of noise."""
    folder = tmp_path_factory.mktemp("cfg")
    (folder / "pictures").mkdir()
    for i in range(20):
        noise = np.random.default_rng(i).integers(0, 255, (6, 8, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / "pictures" / f"{i}.png"), cv2.resize(noise, (80, 60)))
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY | {"data": {"path": str(folder / "pictures"), **TINY["data"]}}))
    return path


def run(cfg_file: Path, folder: Path, *overrides: str, **how: bool) -> Path:
    return pretrain(load_config(str(cfg_file), [f"run={folder}", *overrides]), **how)


def metrics(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in VARYING} for line in lines]


@pytest.fixture(scope="module")
def finished(cfg_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(cfg_file, tmp_path_factory.mktemp("runs") / "finished", "backbone.drop_path=0.5")


# --- one process ------------------------------------------------------------------------------------------------------


def test_a_run_folder_holds_everything(finished: Path, cfg_file: Path) -> None:
    assert [line["step"] for line in metrics(finished)] == [1, 2, 3, 4, 5, 6]
    for line in metrics(finished):
        terms = [line[name] for name in ("invariance", "variance", "covariance")]
        assert line["loss"] == pytest.approx(sum(terms), rel=1e-5)
    assert len({line["loss"] for line in metrics(finished)}) == 6
    assert sorted(p.name for p in (finished / "state").iterdir()) == ["latest", "step0000003", "step0000006"]
    assert list((finished / "tensorboard").iterdir())
    overrides = [f"run={finished}", "backbone.drop_path=0.5"]
    assert load_config(str(finished / "config.yaml")) == load_config(str(cfg_file), overrides)
    backbone = load_backbone(finished / "backbone.safetensors")
    assert (backbone.name, backbone.metadata["method"], backbone.metadata["step"]) == ("test_resnet", "vicreg", 6)


def test_resumed_equals_uninterrupted_bitwise(finished: Path, cfg_file: Path, tmp_path: Path) -> None:
    resumed = shutil.copytree(finished, tmp_path / "resumed")
    shutil.rmtree(resumed / "state" / "step0000006")
    for name in ("backbone.safetensors", "tensorboard"):
        shutil.rmtree(resumed / name) if (resumed / name).is_dir() else (resumed / name).unlink()
    run(cfg_file, resumed, "backbone.drop_path=0.5", resume=True)
    assert metrics(resumed) == metrics(finished)
    ours, truth = (load_backbone(folder / "backbone.safetensors").state_dict() for folder in (resumed, finished))
    assert all(torch.equal(ours[key], value) for key, value in truth.items())


def test_resuming_passes_over_a_damaged_state_and_says_so(
    finished: Path, cfg_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resumed = shutil.copytree(finished, tmp_path / "resumed")
    model = resumed / "state" / "step0000006" / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-100])
    run(cfg_file, resumed, "backbone.drop_path=0.5", resume=True)
    assert "passing over" in capsys.readouterr().err
    assert metrics(resumed) == metrics(finished)


def test_resuming_a_finished_run_changes_nothing_and_says_so(
    finished: Path, cfg_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = metrics(finished)
    run(cfg_file, finished, "backbone.drop_path=0.5", resume=True)
    assert metrics(finished) == before
    assert "all 6 steps are done already, nothing is trained; a larger epochs= or steps=" in capsys.readouterr().err


def test_a_run_in_the_way_is_refused_or_overwritten(finished: Path, cfg_file: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    with pytest.raises(UserError, match="holds a run already"):
        run(cfg_file, folder)
    with pytest.raises(UserError, match="holds a run already"):
        run(cfg_file, folder, "data.path=nowhere")
    with pytest.raises(UserError, match="nowhere"):  # found out before the old run is deleted
        run(cfg_file, folder, "data.path=nowhere", overwrite=True)
    assert metrics(folder) == metrics(finished)
    run(cfg_file, folder, "steps=2", overwrite=True)
    assert [line["step"] for line in metrics(folder)] == [1, 2]
    assert sorted(p.name for p in (folder / "state").iterdir()) == ["latest", "step0000002"]


def test_resuming_with_what_changes_the_run_is_refused(finished: Path, cfg_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="\n  batch: 8 in the run, 4 now"):
        run(cfg_file, finished, "backbone.drop_path=0.5", "batch=4", resume=True)
    with pytest.raises(UserError, match="holds no run"):
        run(cfg_file, tmp_path / "new", resume=True)
    pictures = Path(load_config(str(cfg_file)).data.path)
    extra = shutil.copy(pictures / "0.png", pictures / "extra.png")
    try:
        with pytest.raises(UserError, match="had 20 pictures, now 21"):
            run(cfg_file, finished, "backbone.drop_path=0.5", resume=True)
    finally:
        extra.unlink()


def test_a_run_folder_that_cannot_be_written_is_refused_at_once(cfg_file: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"run=.*file/run can't be written"):
        run(cfg_file, tmp_path / "file" / "run", "data.path=nowhere")


def everything(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Time and content of all that is in a folder, by name."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in [folder, *folder.rglob("*")]
    }


REFUSED = {  # before training, some after minutes on a large collection
    "data.path=nowhere": "no such folder",
    "data.path=": "no pictures in this folder",
    "batch=100": "batch=100 but there are 20 pictures",
    "log_to=[wandb]": "wandb is not installed",
    "backbone.init=nowhere.pth": "no such file",
    "optim.constant=[predictor]": "trains no part called predictor",
    "probes.masks=nowhere": "nowhere",
}


@pytest.mark.parametrize("word", REFUSED)
def test_who_is_refused_finds_all_as_it_was(
    word: str, finished: Path, cfg_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sinks, "find_spec", lambda name: None)
    Path("empty").mkdir()
    words = [f"{word}empty" if word.endswith("=") else word]
    shutil.copytree(finished, "run")
    newest = Path("run", "state", "step0000006", "model.safetensors")
    newest.write_bytes(newest.read_bytes()[:100])  # is passed over, and would be set aside
    before = everything(tmp_path)
    for folder, how in (
        ("new/run", {}),
        ("run", {"overwrite": True}),
        ("run", {"resume": True}),
        ("new", {"resume": "auto"}),
    ):
        with pytest.raises(UserError, match=f"{REFUSED[word]}|began with another"):
            run(cfg_file, Path(folder), *words, **how)
        assert everything(tmp_path) == before


def test_what_the_words_alone_tell_is_told_without_torch(cfg_file: Path, tmp_path: Path) -> None:
    code = f"""if True:
        import sys
        sys.modules["torch"] = None  # its import fails
        from densessl.commands.pretrain import main
        from densessl.errors import UserError
        for word in ("backbone.name=convnext_tinny", "data.path=nowhere", "data.path=no/*.tar", "data.path=hf:nowhere"):
            try:
                main(["--cfg", {str(cfg_file)!r}, "run=new/run", word])
            except UserError as error:
                print(error)"""
    command = [sys.executable, "-c", code]
    said = subprocess.check_output(command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True)
    wanted = (
        "'convnext_tinny' is no ConvNeXt.*nearest: convnext_tiny",
        "nowhere: no such folder",
        "matches no file",
        "nowhere",
    )
    for line, pattern in zip(said.splitlines(), wanted, strict=True):
        assert re.search(pattern, line)
    assert not list(tmp_path.iterdir())


# --- going on ---------------------------------------------------------------------------------------------------------


def went_on(folder: Path, finished: Path) -> bool:
    ours, truth = (load_backbone(each).state_dict() for each in (folder, finished))
    return metrics(folder) == metrics(finished) and all(torch.equal(ours[key], truth[key]) for key in truth)


def test_resume_knows_its_run(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = shutil.copytree(finished, tmp_path / "moved")
    shutil.rmtree(moved / "state" / "step0000006")
    assert pretrain_command.main(["--resume", str(moved), "--print"]) == 0
    assert f"run: {moved}" in capsys.readouterr().out
    for words in (["--resume", "save_every=4", f"run={moved}"], ["save_every=4", "--resume", str(moved)]):
        assert pretrain_command.main([*words, "data.workers=0"]) == 0
        said = capsys.readouterr().err
        assert ("save_every: 3 in the run, 4 now" in said) == (words[0] == "--resume")  # is the run's, from then on
        assert went_on(moved, finished)
    for words, message in (
        (["--resume"], "which run"),
        ([], "--cfg NAME is needed"),
        (["--resume", str(tmp_path / "no")], "holds no run"),
        (["--resume", "auto", f"run={tmp_path / 'no'}"], "to start one there it needs --cfg NAME"),
        (["--resume", str(moved), "run=other"], "these are two folders"),
    ):
        with pytest.raises(UserError, match=message):
            pretrain_command.main(words)
    assert [path.name for path in tmp_path.iterdir()] == ["moved"]


def test_one_command_starts_and_goes_on(
    finished: Path, cfg_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a scheduler types it: first, after it was killed before the first save, after it was stopped, at the end."""
    folder = tmp_path / "a run"
    words = ["--cfg", str(cfg_file), f"run={folder}", "backbone.drop_path=0.5", "--resume", "auto"]

    def kill(progress: float) -> None:
        raise RuntimeError("killed")

    def stop(progress: float) -> None:
        if not progress:
            os.kill(os.getpid(), signal.SIGINT)

    with method_that(kill), pytest.raises(RuntimeError, match="killed"):
        pretrain_command.main(words)
    assert (folder / "config.yaml").exists()
    with method_that(stop), pytest.raises(SystemExit):
        pretrain_command.main(words)
    last = capsys.readouterr().err.splitlines()[-1]
    how = f"densessl.pretrain(resume={str(folder)!r})"
    assert last == f"{folder}/backbone.safetensors after 2 of 6 steps, and its state. To go on: {how}"
    for _ in range(2):
        assert pretrain_command.main(words) == 0
        assert went_on(folder, finished)
    assert capsys.readouterr().err.count("from step 2; 6 steps") == 1


@pytest.mark.parametrize(
    ("program", "place", "command"),
    [
        ("tools/pretrain.py", {"WORLD_SIZE": "1"}, "python tools/pretrain.py --resume 'a run'"),
        ("densessl pretrain", {"WORLD_SIZE": "1"}, "densessl pretrain --resume 'a run'"),
        (
            "densessl pretrain",
            {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none"},
            "torchrun --nproc_per_node 2 -m densessl pretrain --resume 'a run'",
        ),
        (
            "tools/pretrain.py",
            {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "none"},
            "torchrun ... tools/pretrain.py --resume 'a run'",
        ),
        (
            "tools/pretrain.py",
            {"WORLD_SIZE": "2", "SLURM_STEP_NODELIST": "n1"},
            "srun ... python tools/pretrain.py --resume 'a run'",
        ),
        ("tools/pretrain.py", {"WORLD_SIZE": "2"}, "deepspeed ... tools/pretrain.py --resume 'a run'"),
        ("ipykernel_launcher.py", {"WORLD_SIZE": "1"}, "densessl.pretrain(resume='a run')"),
    ],
)
def test_the_command_that_goes_on(
    program: str, place: dict[str, str], command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [program, "--cfg", "x"])
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    assert command_to_resume(Path("a run")) == command


def test_the_same_pictures_go_on_from_another_path_and_others_do_not(
    finished: Path, cfg_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    copy = shutil.copytree(load_config(str(cfg_file)).data.path, tmp_path / "job" / "pictures")

    def resume(path: Path) -> str:
        run(cfg_file, folder, "backbone.drop_path=0.5", f"data.path={path}", resume=True)
        return capsys.readouterr().err

    assert f"{copy} now; the list of pictures is the same\n" in resume(copy)
    assert went_on(folder, finished)
    assert "the list of pictures" not in resume(copy)
    (copy / "7.png").rename(copy / "77.png")
    with pytest.raises(UserError, match=r"has 20 pictures, as many as .*, but they are other ones or"):
        resume(copy)
    for place in (folder / "state").glob("step*"):  # as they were before there was a hash
        manifest = json.loads((place / "manifest.json").read_text())
        del manifest["list_hash"]
        (place / "manifest.json").write_text(json.dumps(manifest))
        (place / checkpoint.SUM).unlink()
    assert "the list of pictures" not in resume(copy)
    with pytest.raises(UserError, match=r"began with another configuration:\n  data.path: .*pictures now$"):
        resume(copy.parent / ".." / "job" / "pictures")


def test_a_run_is_made_longer(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    for word in ("steps=5", "epochs=2"):  # of 2 steps
        with pytest.raises(UserError, match=r"6 steps in the run, \d now; it can be made longer, not shorter"):
            pretrain_command.main(["--resume", str(folder), word])
    assert pretrain_command.main(["--resume", str(folder), "epochs=4.5"]) == 0
    peak = 0.03 * 8 / 256
    was, will = (  # by hand: warm-up over a fifth, then half a cosine to a thousandth
        peak * (0.001 + 0.999 * (1 + math.cos(math.pi * (step - 0.2 * steps) / (0.8 * steps))) / 2)
        for step, steps in ((5, 6), (6, 9))
    )
    said = capsys.readouterr().err
    assert "the run is made longer, from 6 to 9 steps: what follows from the share of the run that is done" in said
    assert f"The learning rate jumps from {was:.3g} to {will:.3g} after step 6" in said
    assert [line["step"] for line in metrics(folder)] == list(range(1, 10))
    assert metrics(folder)[:6] == metrics(finished)
    assert metrics(folder)[6]["lr"] == pytest.approx(will, rel=1e-6)
    assert pretrain_command.main(["--resume", str(folder)]) == 0  # it is one of 9 steps from then on
    assert "made longer, from" not in capsys.readouterr().err


# --- from Python ------------------------------------------------------------------------------------------------------


def test_every_way_to_give_a_value_is_that_of_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    monkeypatch.setattr(start, "start", lambda config, resume, overwrite: given.append(config))
    words = [
        "data.path=here",
        "method.name=byol",
        "method.projector=[32,16]",
        "views.flip=0.25",
        "run=2024",
        "epochs=3",
    ]
    truth = load_config(str(CIFAR), words)
    byol = {"name": "byol", "projector": [32, 16]}
    densessl.pretrain(CIFAR, *words)
    densessl.pretrain(str(CIFAR), data=Path("here"), method=byol, views={"flip": 0.25}, run=Path("2024"), epochs=3)
    densessl.pretrain(CIFAR, {"views.flip": 0.25, "method": byol}, *words[4:], data={"path": "here"})
    assert given == [truth] * 3
    for wrong, message in (
        ({"cfg": "vicregl_cnx"}, "vicregl_cnx: neither a file nor a name; did you mean"),
        ({"cfg": CIFAR, "data": 7}, r"data\.path \(argument\): .* got 7"),
        ({"cfg": CIFAR, "bacth": 7}, r"bacth \(argument\): no such key.* batch"),
        ({"resume": True, "overwrite": True}, "give one of them"),
        ({}, "--cfg NAME is needed"),
    ):
        with pytest.raises(UserError, match=message):
            densessl.pretrain(**wrong)


def test_ctrl_c_in_python_saves_and_is_raised_and_a_thread_trains_too(cfg_file: Path, tmp_path: Path) -> None:
    def stop(progress: float) -> None:
        if not progress:
            os.kill(os.getpid(), signal.SIGINT)

    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    before = [os.environ.get(name) for name in names]
    how = {"run": tmp_path / "run", "steps": 3, "data": {"workers": 0}}
    with (
        method_that(stop),
        pytest.raises(KeyboardInterrupt, match=r"saved; .*\.pretrain\(resume='.*run'\) goes on"),
    ):
        densessl.pretrain(cfg_file, **how)
    assert [os.environ.get(name) for name in names] == before
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(densessl.pretrain, resume=tmp_path / "run").result() == tmp_path / "run"
    assert [line["step"] for line in metrics(tmp_path / "run")] == [1, 2, 3]


def test_random_numbers_differ_between_seeds_steps_and_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    for rank in range(3):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        for number in range(3):
            for step in range(3):
                seed_step(number, step)
                drawn.append((torch.rand(1).item(), random.random(), np.random.rand()))
    for values in zip(*drawn, strict=True):
        assert len(set(values)) == 27


def test_epochs_are_whole_batches(cfg_file: Path, tmp_path: Path) -> None:
    run(cfg_file, tmp_path / "run", "epochs=1.5", "data.workers=0")  # 20 pictures are 2 batches of 8
    assert [line["step"] for line in metrics(tmp_path / "run")] == [1, 2, 3]


@contextmanager
def method_that(update: Callable[[float], None], spoil: Callable[[], float] = lambda: 1.0) -> Iterator[None]:
    class Changed(VICReg):
        def forward(self, views: Views) -> dict[str, Tensor]:
            terms = super().forward(views)
            return terms | {"variance": terms["variance"] * spoil()}

        def update(self) -> None:
            update(self.progress)

    METHODS["vicreg"], before = Changed, METHODS["vicreg"]
    try:
        yield
    finally:
        METHODS["vicreg"] = before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_resuming_goes_on_with_the_same_losses(
    finished: Path, cfg_file: Path, tmp_path: Path, number: int
) -> None:
    seen = []

    def update(progress: float) -> None:
        seen.append(progress)
        if len(seen) == 1:
            os.kill(os.getpid(), number)

    handlers = [signal.getsignal(each) for each in SIGNALS]
    with method_that(update), pytest.raises(SystemExit) as stopped:
        run(cfg_file, tmp_path / "run", "backbone.drop_path=0.5")
    assert stopped.value.code == 128 + number
    assert [signal.getsignal(each) for each in SIGNALS] == handlers
    assert seen == [0, 1 / 6]  # processes tell each other in each step before the weights change
    assert sorted(p.name for p in (tmp_path / "run" / "state").iterdir()) == ["latest", "step0000002"]
    run(cfg_file, tmp_path / "run", "backbone.drop_path=0.5", resume=True)
    assert metrics(tmp_path / "run") == metrics(finished)


def test_a_second_ctrl_c_stops_at_once(cfg_file: Path, tmp_path: Path) -> None:
    def update(progress: float) -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    with method_that(update), pytest.raises(KeyboardInterrupt):
        run(cfg_file, tmp_path / "run", "data.workers=0")
    assert not (tmp_path / "run" / "state").exists()


def test_a_full_disk_is_survived_until_the_third_save(
    cfg_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every third step is saved. The first save works, the next fails, then two do, then all fail."""
    save, problems = checkpoint.save, iter(["", "full", "", "", "full", "full", "full"])
    monkeypatch.setattr(checkpoint, "save", lambda *arguments: next(problems) or save(*arguments))
    message = r"step 21 was not saved: full\. The run stops; the state after 12 steps is whole"
    with pytest.raises(UserError, match=message):
        run(cfg_file, tmp_path / "run", "data.workers=0", "steps=100", "save_every=3")
    said = capsys.readouterr().err
    assert "step 6 was not saved: full. Training goes on; the state after 3 steps is whole" in said
    assert said.count("Training goes on") == 3
    assert metrics(tmp_path / "run")[-1]["step"] == 21


def test_metrics_are_cut_after_a_step_and_where_a_crash_left_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2}\n{"step": 3}\n{"step": 2, "lo')
    cut(path, 2)
    assert path.read_text() == '{"step": 1, "loss": 2.0}\n{"step": 2}\n'
    cut(tmp_path / "none.jsonl", 2)


def test_a_terminal_gets_a_bar_and_anything_else_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("terminal", "file"):
        (tmp_path / name).mkdir()
        shown = io.StringIO()
        monkeypatch.setattr(shown, "isatty", lambda name=name: name == "terminal")
        monkeypatch.setattr(sys, "stderr", shown)
        values = {"loss": 3.5, "variance": 1.25, "lr": 0.01, "pictures_per_s": 20.0, "data_wait": 0.125}
        with closing(Log(tmp_path / name, done=40, steps=100, batch=10)) as log:
            log.say("begin")
            for step in (41, 42):
                log.advance()
                log.write(step, values)
        text = shown.getvalue()
        assert "begin\n" in text
        assert "loss 3.5  lr 0.01  20 pictures/s  waiting for data 12%" in text
        assert "variance 1.25" in text
        if name == "terminal":
            assert "42/100" in text
        else:
            assert "step 42/100  left 0:00:29  loss" in text
            assert "\r" not in text


def test_only_the_loop_names_distributed_and_deepspeed() -> None:
    for word, home in (("torch.distributed", "distributed.py"), ("deepspeed", "engine.py")):
        for path in (ROOT / "densessl").rglob("*.py"):
            lines = path.read_text().splitlines()
            imports = [line for line in lines if line.strip().startswith((f"import {word}", f"from {word}"))]
            assert not imports or path.name == home, path


# --- two processes ----------------------------------------------------------------------------------------------------


@contextmanager
def started(
    command: list[str], log: Path, environment: dict[str, str], terminal: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A command in a process group of its own, at ``terminal`` if given, which ends with the block."""
    if terminal is not None:
        code = (
            "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
        )
        command = [sys.executable, "-c", code, *command]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            stdin=terminal,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | environment,
            cwd=ROOT,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, log.read_text()
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)


def test_launched_killed_resumed_by_another_launcher_and_stopped(cfg_file: Path, tmp_path: Path) -> None:
    """Two processes under the deepspeed launcher, killed; then under torchrun, till Ctrl-C. One process agrees."""
    folder, log = tmp_path / "run", tmp_path / "log"
    environment = {
        "PYTHONPATH": str(ROOT),
        "TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions"),
        "DS_ACCELERATOR": "cpu",
    }
    port = alone()["MASTER_PORT"]
    long = ["steps=100000", "save_every=5"]
    arguments = ["tools/pretrain.py", "--cfg", str(cfg_file), f"run={folder}", *long]
    launcher = [sys.executable, "-m", "deepspeed.launcher.runner", "--num_accelerators", "2", "--master_port", port]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", port]

    def lines() -> int:
        path = folder / "metrics.jsonl"
        return path.read_text().count("\n") if path.exists() else 0

    with started([*launcher, *arguments], log, environment) as process:
        wait_for(lambda: lines() >= 11, process, log)
    cut(folder / "metrics.jsonl", 100000)  # the kill may have left half a line
    first = metrics(folder)
    before, newest = sorted((folder / "state").glob("step???????"))
    (newest / "manifest.json").unlink()  # so that some steps are done twice
    keys, terminal = os.openpty()
    with started([*torchrun, *arguments, "--resume"], log, environment, terminal) as process:
        wait_for(lambda: lines() > len(first), process, log)
        os.write(keys, b"\x03")  # Ctrl-C
        process.wait(SECONDS)
    os.close(keys)
    os.close(terminal)
    assert log.read_text().count(f"from step {int(before.name[4:])};") == 1  # said by one process
    second = metrics(folder)
    assert second[: len(first)] == first
    assert (folder / "state" / "latest").read_text() == f"step{len(second):07d}"
    how = f"torchrun --nproc_per_node 2 tools/pretrain.py --resume {folder}"
    last = f"{folder}/backbone.safetensors after {len(second)} of 100000 steps, and its state. To go on: {how}\n"
    assert log.read_text().count(last) == 1
    assert not (tmp_path / "extensions").exists()

    def update(progress: float) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with method_that(update), pytest.raises(SystemExit):
        run(cfg_file, tmp_path / "one", *long)
    for one, two in zip(metrics(tmp_path / "one"), first, strict=False):
        assert two == pytest.approx(one, rel=1e-4)
