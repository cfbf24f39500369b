"""Nobody reads any more: commands end as they would have, a training goes on, saves and ends with its own code."""

import contextlib
import io
import json
import os
import pty
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from short_runs import small_scenes

from densessl.__main__ import COMMANDS, main, run
from densessl.config import load_config
from densessl.console import unbroken
from densessl.methods import METHODS
from densessl.methods.vicreg import VICReg
from densessl.signals import SIGNALS
from densessl.training.pretrain import pretrain, stop_on_signal

PIPES = {"buffered": lambda fd: os.fdopen(fd, "w"), "python -u": lambda fd: io.TextIOWrapper(io.FileIO(fd, "w"))}
SHORT = ["steps=4", "batch=8", "log_every=1", "threads=1", "backbone.name=test_convnext"]
SHORT += ["method={name: vicreg, expander: [16, 16]}", "views.large.size=32"]


@pytest.fixture
def closed() -> Callable[..., io.TextIOWrapper]:
    """Makes a stream into a pipe that nobody reads."""

    def make(kind: str = "buffered") -> io.TextIOWrapper:
        reader, writer = os.pipe()
        os.close(reader)
        return PIPES[kind](writer)

    return make


@pytest.mark.parametrize("kind", PIPES)
@pytest.mark.parametrize("words", [*([name, "--help"] for name in COMMANDS), ["--help"], ["--version"]])
def test_help_into_head_ends_well(
    words: list[str], kind: str, closed: Callable[..., io.TextIOWrapper], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, closed(kind) as pipe:
        patch.setattr(sys, "argv", ["densessl", *words])
        patch.setattr(sys, "stdout", pipe)
        try:
            code = main()
        except SystemExit as end:
            code = end.code
        pipe.flush()  # as Python does when it ends
    assert code == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_the_usage_line_names_what_is_typed(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = {"data": ["check"], "benchmark": ["criterion"]}.get(name)
    for words in ([name, "--help"], *([[name, *kinds, "--help"]] if kinds else [])):
        monkeypatch.setattr(sys, "argv", ["densessl", *words])
        with contextlib.suppress(SystemExit):
            main()
        typed = " ".join(["densessl", *words[:-1]])
        assert capsys.readouterr().out.startswith(f"usage: {typed} "), words


@pytest.mark.parametrize("words", ["pretrain --cfg demo --print", "eval-seg --list", "eval-det --list", "pretrain"])
def test_what_is_printed_until_nobody_reads(
    words: str, closed: Callable[..., io.TextIOWrapper], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, closed() as out, closed() as err:
        patch.setattr(sys, "argv", ["densessl", *words.split()])
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        try:
            code = main()
        except SystemExit as end:
            code = end.code
        out.flush()
    assert code == (2 if words == "pretrain" else 0)


def test_a_full_disk_is_no_reader_that_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[str] = []

    def command() -> int:
        print("x" * 10000)
        print("progress", file=sys.stderr)
        done.append("all")
        return 0

    for name, code in (("stdout", 1), ("stderr", 0)):  # which has no result
        with monkeypatch.context() as patch, open("/dev/full", "w", 1) as full:
            patch.setattr(sys, name, full)
            assert run(command) == code
    assert done == ["all", "all"]
    assert "what was printed is not whole: No space left on device" in capsys.readouterr().err


def test_streams_are_given_back_and_closed_ones_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    with monkeypatch.context() as patch, os.fdopen(writer, "w") as pipe:
        patch.setattr(sys, "stdout", pipe)
        patch.setattr(sys, "stderr", None)
        with unbroken():
            with unbroken():
                print("read", flush=True)
            nowhere = sys.stderr
            print("nothing", file=nowhere)
            assert os.read(reader, 100) == b"read\n"
            os.close(reader)
            print("dropped", flush=True)
        nowhere.close()
        assert os.path.samestat(os.fstat(pipe.fileno()), os.stat(os.devnull))
        assert not vars(pipe.buffer.raw).keys() & {"write"}


def test_what_says_stop_soon_is_noted_and_nohup_is_obeyed() -> None:
    assert {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU} == {*SIGNALS}
    for number in SIGNALS:
        before = signal.getsignal(number)
        with stop_on_signal() as came:
            os.kill(os.getpid(), number)
        assert came == [number]
        assert signal.getsignal(number) == before
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signal() as came:
            os.kill(os.getpid(), signal.SIGHUP)
        assert came == []
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("how", ["tee", "hang-up"])
def test_a_training_outlives_whoever_reads(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`2>&1 | tee log` and Ctrl-C; a terminal that goes and takes its processes with it."""
    terminal, end = pty.openpty() if how == "hang-up" else os.pipe()
    number = signal.SIGHUP if how == "hang-up" else signal.SIGINT

    class Left(VICReg):
        def update(self) -> None:
            if self.step == 1:
                os.close(terminal)
                os.kill(os.getpid(), number)

    (tmp_path / "images").mkdir()
    words = [*SHORT, f"data.path={small_scenes(tmp_path / 'images', 16)}", f"run={tmp_path / 'run'}", "save_every=100"]
    words.append(f"data.workers={int(how == 'tee')}")
    monkeypatch.setitem(METHODS, "vicreg", Left)
    with monkeypatch.context() as patch, os.fdopen(end, "w", 1) as stream:
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", stream)
        with pytest.raises(SystemExit) as stopped:
            pretrain(load_config("demo", words))
    assert stopped.value.code == 128 + number
    assert (tmp_path / "run" / "state" / "latest").read_text() == "step0000003"
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
    assert "after 3 of 4 steps" in (tmp_path / "run" / "log.txt").read_text()
