"""Plans: lines through what was measured, advice for made-up machines, and a measurement of this one."""

import math
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from densessl.backbones import Backbone
from densessl.commands.plan import main
from densessl.config import Config, load_config
from densessl.data.pixels import Pixels
from densessl.data.views import Views
from densessl.device import cores
from densessl.errors import UserError
from densessl.plan import loading, steps
from densessl.plan.advice import advise
from densessl.plan.batches import nearest, sizes
from densessl.plan.cost import MOST, Cost, Line, Point, in_parts
from densessl.plan.figures import PARTS, Figures, Way, _busy
from densessl.plan.found import Loading, Machine, apart
from densessl.plan.report import command, duration, report

ROOT = Path(__file__).parents[1]
MIB, GIB = 2**20, 2**30
LIMIT = 0.9  # share of the free memory that is used


def costing(fixed: float, network: float, criterion: float, rate: float, batches: Sequence[int] = (2, 4)) -> Cost:
    """Of steps that need ``fixed`` bytes and so many more a picture, and take 0.05 s and 1 / ``rate`` more."""
    memory = {b: fixed + (network + criterion) * b for b in batches}
    return Cost.of([Point(b, 0.05 + b / rate, memory[b], memory[b]) for b in batches])


def figures_of(
    cfg: Config,
    free: float = 100 * GIB,
    *,
    fixed: float = 2 * GIB,
    network: float = 300 * MIB,
    criterion: float = 20 * MIB,
    rate: float = 100,
    loaded: float = 4000,
    cores: int = 16,
    gpus: int = 1,
    heads: int = 10_000_000,
    pictures: int = 100_000,
) -> Figures:
    """As measured on a machine that keeps to `costing`."""
    plain = costing(fixed, network, criterion, rate)
    ways = [
        Way((), plain),
        Way(("backbone.checkpointing=true",), costing(fixed, network / 5, criterion, 0.8 * rate)),
    ]
    if "resnet" not in cfg.backbone.name:
        cut = costing(fixed, 0, 0, 0.7 * rate)
        ways += [Way((f"micro_batch={n}",), in_parts(plain, cut, criterion, n), 16) for n in PARTS if n < cfg.batch]
    machine = Machine("a machine", gpus, cores, 0.0, cores, free, bf16=True, bf16_possible=True)
    return Figures(cfg, machine, Loading(pictures, loaded, 0.0), tuple(ways), 50_000_000, heads)


# --- lines ------------------------------------------------------------------------------------------------------------


def test_what_is_linear_is_found_again() -> None:
    cost = costing(1000.0, 70.0, 30.0, rate=50, batches=(2, 4, 8))
    for batch in (1, 3, 8, 100, 12345):
        assert cost.memory(batch) == pytest.approx(1000 + 100 * batch)
        assert cost.time(batch) == pytest.approx(0.05 + batch / 50)
        assert cost.rate(batch) == pytest.approx(batch / (0.05 + batch / 50))


@pytest.mark.parametrize(("limit", "largest"), [(999, 0), (1099, 0), (1100, 1), (5149, 41), (1e12, MOST)])
def test_the_largest_batch_is_the_last_that_fits(limit: float, largest: int) -> None:
    cost = costing(1000.0, 70.0, 30.0, rate=50)
    assert cost.largest(limit) == largest
    assert cost.fits(largest, limit) or not largest
    assert not cost.fits(largest + 1, limit)


def test_only_the_last_two_points_count_and_what_failed_is_no_batch() -> None:
    cost = Cost.of([Point(2, 9.0, 200, 9000), Point(4, 0.1, 400, 400), Point(8, 0.2, 800, 800)], failed=16)
    assert (cost.memory(20), cost.time(20)) == (pytest.approx(2000), pytest.approx(0.5))
    assert cost.largest(1e9) == 15
    assert cost.largest(1000) == 10


def test_where_a_line_says_nothing_time_is_in_proportion() -> None:
    falling = Cost.of([Point(2, 0.3, 900, 900), Point(4, 0.2, 800, 800)])
    assert (falling.time(40), falling.memory(40)) == (pytest.approx(2.0), 900)
    slow = Cost.of([Point(2, 5.0, 1, 1), Point(4, 5.1, 1, 1)])
    assert slow.time(40) == pytest.approx(51)
    single = Cost.of([Point(4, 0.2, 800, 800)])
    assert (single.time(40), single.memory(40)) == (pytest.approx(2), pytest.approx(8000))
    nothing = Cost.of([])
    assert (nothing.time(2), nothing.memory(2), nothing.largest(1e15)) == (math.inf, math.inf, 0)


def test_memory_does_not_depend_on_how_many_batches_were_measured() -> None:
    """Of steps whose small batches have their peak in the heads, and whose large ones have it in the network."""
    points = [Point(b, 1.0, max(3000 + b, 1500 + 25.0 * b), 1000 + 25.0 * b) for b in (2, 4, 8, 16, 32, 64, 128)]
    found = [Cost.of(points[:n]).memory(256) for n in range(2, 8)]
    assert found == pytest.approx([3002 + 25 * 254] * 6, rel=0.01)


def test_in_parts_takes_a_small_batch_and_the_criterion_of_the_rest() -> None:
    plain, cut = costing(1000, 70, 30, rate=50), costing(0, 0, 0, rate=35)
    cost = in_parts(plain, cut, 30, 16)
    for batch in (16, 17, 256):
        assert cost.memory(batch) == pytest.approx(1000 + 70 * 16 + 30 * batch)
        assert cost.time(batch) == cut.time(batch)
    assert cost.plus(each=5, once=7).memory(256) == pytest.approx(1007 + 70 * 16 + 35 * 256)
    assert cost.memory == Line(16, 2600, 30)


# --- batches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "first", "measured"),
    [
        ("vicregl_cnx_s", 2, [2, 4, 8, 16, 32, 64, 128, 256, 512, 576]),
        ("vicregl_cnx_s", 32, [32, 64, 128, 256, 512, 576]),
        ("vicregl_cnx_s", 1000, [576]),
        ("moco_v2_r50", 2, [16, 32, 64, 128, 256]),  # eight groups of two or more
        ("wmse_r50", 2, [256]),  # method.w_size
        ("swav_cifar", 2, [2, 4, 8, 16, 32, 64, 128, 256, 512]),
    ],
)
def test_measured_batches_are_those_that_methods_take(name: str, first: int, measured: list[int]) -> None:
    assert list(sizes(load_config(name), first)) == measured


@pytest.mark.parametrize(
    ("name", "most", "batch"),
    [
        ("vicregl_cnx_s", 101, 96),
        ("vicregl_cnx_s", 13, 13),
        ("vicregl_cnx_s", 1, 0),
        ("moco_v2_r50", 250, 128),  # divides the queue of 65536
        ("moco_v2_r50", 15, 0),
        ("wmse_r50", 255, 0),
        ("swav_r50", 1000, 1000),  # with another queue
    ],
)
def test_the_nearest_batch_is_one_that_the_method_takes(name: str, most: int, batch: int) -> None:
    assert nearest(load_config(name), most) == batch


# --- advice -----------------------------------------------------------------------------------------------------------

R50 = ["vicregl_r50", "batch=256"]
CNX = ["vicregl_cnx_s", "batch=256"]
GPU_8 = 2 * GIB + 8 * 320 * MIB  # holds a batch of 8
CASES = {
    "it fits": (CNX, {}, [], ["The recipe fits as it is."]),
    "eight of 256": (
        CNX,
        {"free": (GPU_8 + 6 * GIB) / LIMIT},
        ["micro_batch=8"],
        ["micro_batch=8: computes activations twice, with the same loss and gradient."],
    ),
    "eight of 256, and little room for embeddings": (
        CNX,
        {"free": GPU_8 / LIMIT},
        ["micro_batch=1", "batch=112"],
        ["batch=112: another recipe than with 256.", "0.000219 instead of 0.0005"],
    ),
    "eight of 256, with batch statistics": (
        R50,
        {"free": GPU_8 / LIMIT},
        ["backbone.checkpointing=true", "batch=32"],
        ["batch=32: another recipe", "A batch of 32 makes the statistics in vicregl's loss noisy"],
    ),
    "checkpointing is enough, and faster than parts": (
        CNX,
        {"free": (2 * GIB + 256 * 80 * MIB) / LIMIT},
        ["backbone.checkpointing=true"],
        ["backbone.checkpointing=true: computes activations twice"],
    ),
    "as many pictures are seen": (
        [*R50, "steps=1000"],
        {"free": GPU_8 / LIMIT},
        ["backbone.checkpointing=true", "batch=32", "steps=8000"],
        [],
    ),
    "a queue": (
        ["moco_v2_r50"],
        {"free": (2 * GIB + 80 * 100 * MIB) / LIMIT},
        ["backbone.checkpointing=true", "batch=64"],
        ["The learning rate follows by itself"],
    ),
    "a queue there was not": (
        ["swav_r50"],
        {"free": (2 * GIB + 80 * 1000 * MIB) / LIMIT},
        ["backbone.checkpointing=true", "batch=1000", "method.queue=2000"],
        [],
    ),
    "whitening": (
        ["wmse_r50"],
        {"free": GPU_8 / LIMIT},
        [],
        ["Not even the smallest batch, 256, fits: it needs about 22.0 GiB, 4.5 GiB can"],
    ),
    "nothing": (
        CNX,
        {"free": GIB},
        [],
        ["Not even the smallest batch, 2, fits: it needs about 2.2 GiB, 0.9 GiB can be"],
    ),
    "workers": (
        CNX,
        {"loaded": 40, "rate": 50},
        ["data.workers=13"],
        ["data.workers=13: training waits for pictures, which 10 don't"],
    ),
    "cores": (
        CNX,
        {"loaded": 40, "rate": 500},
        ["data.workers=16"],
        ["16 cores are few: training could take", "Pictures load faster when"],
    ),
    "cores of the CPU": (
        CNX,
        {"loaded": 40, "rate": 40, "cores": 10, "gpus": 0},
        [],
        ["10 cores are few: training shares them with loading: 19.9 pictures a second instead of 39.7"],
    ),
    "heads": (
        CNX,
        {"free": 16 * GIB, "network": MIB, "criterion": MIB, "fixed": 8 * GIB, "heads": 500_000_000},
        [],
        ["Heads take 7.5 GiB, most of the memory: 'method.expander=[4096,4096,4096]' would take less than half"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_advice_fits_the_machine_and_the_recipe(case: str) -> None:
    (name, *given), machine, words, told = CASES[case]
    cfg = load_config(name, given)
    figures = figures_of(cfg, **machine)
    advice = advise(figures)
    assert list(advice.words) == words
    said = " ".join(f"{line}." for line in advice.lines)
    for text in told:
        assert text in said
    page = report(figures, advice, ["--cfg", name, *given])
    if not words:
        assert "densessl pretrain" not in page
        return
    (line,) = (line for line in page.splitlines() if line.startswith("  densessl pretrain"))
    _, _, _, named, *rest = shlex.split(line)
    changed = load_config(named, rest)
    assert changed.batch == advice.batch
    assert advice.way is not None
    assert advice.way.cost.memory(advice.batch) <= figures.limit
    assert math.isfinite(advice.seconds)


def test_the_smaller_expander_that_it_names_is_one() -> None:
    (name, *given), machine, _, (told,) = CASES["heads"]
    cfg = load_config(name, given)
    words = re.findall("'(method.*?)'", " ".join(advise(figures_of(cfg, **machine)).lines))
    assert load_config(name, [*given, *words]).method.arguments["expander"] == (4096, 4096, 4096)
    assert words[0] in told


def test_precision_is_named_where_the_hardware_has_more() -> None:
    figures = figures_of(load_config("vicregl_cnx_s", ["precision=fp32"]))
    slower = replace(figures, machine=replace(figures.machine, bf16=False))
    assert not any("precision" in line for line in advise(figures).lines)
    assert any(line.startswith("precision=auto: bf16") for line in advise(slower).lines)


def test_what_recomputes_is_never_faster_than_what_fits() -> None:
    figures = figures_of(load_config("vicregl_cnx_s", ["batch=32"]))
    noisy = Way(("backbone.checkpointing=true",), costing(0, 0, MIB, rate=1000))
    figures = replace(figures, ways=(figures.ways[0], noisy))
    assert advise(figures).words == ()


def test_what_is_not_needed_is_taken_away() -> None:
    cfg = load_config("vicregl_cnx_s", ["batch=32", "micro_batch=8"])
    figures = figures_of(cfg)
    plain, *_ = figures.ways
    ways = (Way((), costing(0, 0, MIB, rate=70)), Way(("micro_batch=null",), plain.cost))
    advice = advise(replace(figures, ways=ways))
    assert advice.words == ("micro_batch=null",)
    assert re.fullmatch(r"micro_batch=null: computes activations once, [\d.]+ times as fast", advice.lines[0])
    assert load_config("vicregl_cnx_s", ["micro_batch=8", *advice.words]).micro_batch is None


def test_time_counts_what_the_run_sees_and_what_keeps_it_waiting() -> None:
    cfg = load_config("vicregl_cnx_s", ["batch=256", "epochs=3", "data.workers=4"])
    figures = figures_of(cfg, pictures=1000, rate=100, loaded=40)
    assert figures.pictures_seen == 3 * 3 * 256
    assert figures.pace(100) == pytest.approx(40)
    assert figures.pace(20) == pytest.approx(20)
    assert figures.pace(100, workers=8) == pytest.approx(80)
    assert figures.pace(1e9, workers=16) == pytest.approx(160)  # all cores load
    assert figures_of(cfg, loaded=40, cores=4, gpus=0).pace(40) == pytest.approx(20)  # and half of them train
    in_turn = figures_of(load_config("vicregl_cnx_s", ["data.workers=0"]), loaded=40)
    assert in_turn.pace(40) == pytest.approx(20)
    rate = figures.ways[0].cost.rate(256)
    assert figures.seconds(figures.ways[0], 256) == pytest.approx(2304 / min(40, rate))


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_command_line_has_each_key_once() -> None:
    given = ["--cfg", "mine", "batch=256", "data.path=my pictures"]
    assert command(given, ["batch=8", "micro_batch=4"]) == (
        "densessl pretrain --cfg mine 'data.path=my pictures' batch=8 micro_batch=4"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(50, "50 seconds"), (150, "2.5 minutes"), (36000, "10.0 hours"), (200000, "2.3 days"), (1e8, "3.2 years")],
)
def test_durations_are_read_at_a_glance(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_several_gpus_share_the_batch() -> None:
    figures = figures_of(load_config("vicregl_cnx_s"), 40 * GIB, gpus=8)
    page = report(figures, advise(figures), ["--cfg", "vicregl_cnx_s"])
    assert "one of 8" in page
    assert re.search(r"as it is +does not fit\n", page)
    assert re.search(r"8 GPUs, 72 pictures each +[\d.]+ hours", page)


# --- this machine -----------------------------------------------------------------------------------------------------

TINY = ["backbone.name=test_convnext", "data.path=scenes", "views.large.size=64", "batch=16", "threads=1"]
TINY += ["method.expander=[32,32]", "method.projector=[16,16]", "data.workers=1"]


class Slow:
    """Pictures that take 20 ms to read."""

    pixels = Pixels()

    def __len__(self) -> int:
        return 100

    def path(self, i: int) -> str:
        return str(i)

    def read(self, i: int, reduction: object = None) -> np.ndarray:
        time.sleep(0.02)
        return np.zeros((40, 40, 3), np.uint8)


@pytest.mark.parametrize("workers", [0, 4])
def test_loading_is_as_fast_as_reading_allows(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "open_pictures", lambda *_: Slow())
    found = loading.measure(load_config("demo", [*TINY, f"data.workers={workers}"]), 0.5)
    most = 50 * max(1, workers)
    assert 0 < found.rate < 2 * most  # no faster than that, whatever else the machine does
    assert found.pictures == 100
    assert (found.bytes > 0) == (workers > 0)


def test_pictures_that_pretraining_refuses_are_refused() -> None:
    with pytest.raises(UserError, match="no such folder"):
        loading.measure(load_config("demo", [*TINY, "data.path=nowhere"]), 0.1)
    with pytest.raises(UserError, match="batch=4000 but there are 2000 pictures"):
        loading.measure(load_config("demo", [*TINY, "batch=4000"]), 0.1)


class Fatal:
    """Ends the process that receives it."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return os._exit, (1,)


def test_a_measurement_that_the_system_ends_is_explained() -> None:
    with pytest.raises(UserError, match="when memory runs out"):
        apart("batches", "allowed", Fatal())


METHODS = [
    "{name: vicregl, expander: [32, 24], projector: [16, 12], num_matches: [1, 1]}",
    "{name: moco_v2, projector: [32, 16], queue: 32, groups: 2}",
]


@pytest.mark.parametrize("method", METHODS)
def test_steps_with_and_without_the_network(method: str) -> None:
    words = [word for word in TINY if not word.startswith("method")]
    cfg = load_config("demo", [*words, f"method={method}", "micro_batch=2", "optim.clip=1"])
    found = steps.measure(cfg, 100, 0.01)
    assert (found.without_network.batches, found.cost.batches) == ((8, 16), (4, 8))
    for cost in (found.without_network, found.cost):
        assert 0 < cost.time(16) < 60
        assert 0.1 * GIB < cost.memory(16) < 30 * GIB
    assert found.backbone == sum(p.numel() for p in Backbone("test_convnext").parameters())
    assert 0 < found.heads < 100_000
    assert (found.machine.gpus, found.machine.threads) == (0, 1)


def test_memory_does_not_depend_on_how_many_batches_are_tried() -> None:
    cfg = load_config("demo", [*TINY, "batch=32"])
    few, many = (steps.measure(cfg, 100, seconds).cost for seconds in (0.01, 60))
    assert (few.batches, many.batches) == ((2, 4), (2, 4, 8, 16, 32))
    assert few.memory.slope == pytest.approx(many.memory.slope, rel=0.3)
    views = 2 * 32 * 32 * 3 * 4  # what the network is given of a picture, as fp32
    assert few.memory.slope > 10 * views
    assert few.memory(32) == pytest.approx(many.memory(32), rel=0.05)


def test_others_at_work_are_counted_and_said() -> None:
    busy = _busy()
    end = time.process_time() + 0.2
    while time.process_time() < end:  # this process is no child of its own, and so one of the others
        pass
    assert 0.02 / cores() < busy() <= 1
    figures = figures_of(load_config("vicregl_cnx_s"))
    figures = replace(figures, machine=replace(figures.machine, busy=0.5))
    page = report(figures, advise(figures), [])
    assert "other programs kept 50% of the cores busy: images a second" in page


def test_memory_that_runs_out_ends_the_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    real = steps._Trial.step

    def step(self: steps._Trial, views: Views) -> float:
        if len(views.large[0].image) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(self, views)

    monkeypatch.setattr(steps._Trial, "step", step)
    found = steps.measure(load_config("demo", TINY), 100, 60)
    assert (found.cost.batches, found.cost.failed, found.cost.largest(1e15)) == ((2, 4), 8, 7)


LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def plan(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    alone = {key: value for key, value in os.environ.items() if key not in LAUNCHED}  # the tests above were, in a way
    command = [sys.executable, str(ROOT / "tools" / "plan.py"), *words]
    return subprocess.run(command, cwd=folder, env=alone, capture_output=True, text=True)


def test_the_whole_command_on_this_machine(tmp_path: Path) -> None:
    done = plan(tmp_path, "--cfg", "demo", *TINY, "steps=640", "--seconds", "2")
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
    page = done.stdout
    assert "recipe      demo: vicregl, test_convnext; 2,000 pictures; 640 steps of 16\n" in page
    assert re.search(r"machine     .+, no GPU; \d+ cores, 1 of them for training; fp32\n", page)
    memory = re.search(
        r"memory      ([\d.]+) GiB free; the recipe needs ([\d.]+) GiB at its batch of 16: it fits", page
    )
    assert memory is not None
    assert 0.2 < float(memory[2]) < 3 < float(memory[1])
    loaded = re.search(r"loading     ([\d.e+]+) pictures a second with 1 workers", page)
    assert loaded is not None
    assert 1 < float(loaded[1]) < 1e5
    for way in ("as it is", "backbone.checkpointing=true", "micro_batch=8"):
        row = re.search(rf"^{way} +([\d.]+) GiB +(over )?([\d,]+) +([\d.e+]+)  \d", page, re.MULTILINE)
        assert row is not None, way
        assert 0.2 < float(row[1]) < 5
        assert int(row[3].replace(",", "")) >= 16
        assert 0.5 < float(row[4]) < 1e5
    assert re.search(r"  as it is +[\d.]+ (seconds|minutes|hours)\n", page)
    assert "The recipe fits as it is." in page
    assert "precision" in page or "bf16" not in page


def test_no_pictures_is_one_clear_line(tmp_path: Path) -> None:
    done = plan(tmp_path, "--cfg", "demo", "data.path=nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert "densessl: data.path=nowhere: no such folder or file" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_no_configuration_is_refused_as_by_pretrain(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="did you mean batch"):
        main(["--cfg", "demo", "batsh=3"])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="one process"):
        main(["--cfg", "demo"])
    with pytest.raises(SystemExit):
        main(["--cfg", "demo", "--seconds", "0"])
    assert "--seconds must be above 0" in capsys.readouterr().err
