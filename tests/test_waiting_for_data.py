"""When training waits for pictures, one line says what to change."""

import re

import pytest

from densessl.config import load_config
from densessl.data import waiting
from densessl.training.log import Log

VALUES = {"loss": 1.0, "lr": 0.1, "pictures_per_s": 10.0}


@pytest.mark.parametrize(
    ("words", "cores", "processes", "on_gpu", "says"),
    [
        (["data.workers=4"], 16, 1, True, r"data\.workers=15, of 4: there are 16 cores for 1 process"),
        (["data.workers=4"], 16, 2, True, r"data\.workers=7, of 4: there are 16 cores for 2 process"),
        (["data.workers=7", "photometric.where=workers"], 8, 1, True, r"photometric\.where=device"),
        (["data.workers=7", "photometric.where=device"], 8, 1, True, r"pack MINE SHARDS --size 448"),
        (["data.workers=0"], 8, 1, False, r"pack MINE SHARDS --size 448"),  # the cores train
    ],
)
def test_the_advice_fits_the_machine(words, cores, processes, on_gpu, says, monkeypatch) -> None:
    monkeypatch.setattr(waiting, "cores", lambda: cores)
    cfg = load_config("vicregl_cnx_s", ["data.path=MINE", *words])
    line = waiting.advice(cfg, on_gpu, processes)
    assert line.startswith("training waits for pictures; ")
    assert "\n" not in line
    assert re.search(says, line), line


def test_scenes_need_none() -> None:
    assert not waiting.advice(load_config("demo"), on_gpu=False, processes=1)


def test_a_full_disk_costs_the_figures_alone(tmp_path, capsys) -> None:
    class Full:
        def write(self, *_: object) -> None:
            raise OSError(28, "No space left on device")

        close = write

    log = Log(tmp_path, 0, 100, 4)
    log._sinks["tensorboard"].close()  # else its thread writes when the folder is gone
    log._sinks["tensorboard"] = Full()
    for step in (1, 2):
        log.write(step, VALUES | {"data_wait": 0.0})
    log.close()
    assert capsys.readouterr().err.count("No space left on device") == 1
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 2


def test_it_is_said_once_and_not_of_the_start(tmp_path, capsys) -> None:
    log = Log(tmp_path, 0, 100, 4, "more workers")
    for step, share in enumerate([0.9, 0.04, 0.06, 0.5], 1):  # the first interval has the workers' start in it
        log.write(step, VALUES | {"data_wait": share})
        assert capsys.readouterr().err.count("more workers") == (step == 3)
    log.close()
