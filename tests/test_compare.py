"""Comparing: what rows share, which steps are done, and that the table and the plot say what was found."""

import contextlib
import importlib
import json
import os
import re
import shlex
import signal
import statistics
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from densessl.__main__ import run as run_command
from densessl.backbone_file import load_backbone
from densessl.commands import compare
from densessl.commands.compare import main
from densessl.compare import steps
from densessl.compare.plot import LETTER, LINE, plot
from densessl.compare.rows import RANDOM, Row, compose, read_words
from densessl.compare.runs import Run
from densessl.compare.steps import Processes, reason
from densessl.compare.table import table
from densessl.config import load_config
from densessl.errors import UserError
from densessl.files import aside
from densessl.methods import METHODS
from densessl.signals import SIGNALS
from densessl.training import pretrain
from densessl.training.log import Pace

SMALL = [
    "backbone={name: test_resnet}",
    "views.large.size=40",
    "views.large.count=2",
    "batch=16",
    "data.workers=0",
    "threads=1",
    "log_every=1",
    "precision=fp32",
]
TINY = {  # arguments that make small heads, and what a batch of 16 permits
    "barlow_twins": ["projector=[16, 16]"],
    "byol": ["projector=[16, 16]", "predictor=[16, 16]"],
    "deepcluster_v2": ["projector=[16, 8]", "prototypes=[4, 4]"],
    "densecl": ["projector=[16, 16]", "queue=32"],
    "dino": ["projector=[16, 16, 8]", "prototypes=32"],
    "moco_v2": ["projector=[16, 16]", "queue=32"],
    "moco_v3": ["projector=[16, 16]", "predictor=[16, 16]"],
    "pixpro": ["projector=[16, 16]"],
    "simclr": ["projector=[16, 16]"],
    "simsiam": ["projector=[16, 16, 16]", "predictor=8"],
    "swav": ["projector=[16, 8]", "prototypes=8", "queue=32"],
    "vicreg": ["expander=[16, 16]"],
    "vicregl": ["expander=[16, 16]", "projector=[16, 16]", "num_matches=[1, 1]"],
    "wmse": ["projector=[16, 4]", "w_size=8"],
}


# --- rows -------------------------------------------------------------------------------------------------------------


def rows_of(*words: str, budget: str = "steps=7", like: str | None = None) -> list[Row]:
    return compose(read_words(words), budget, like)


def test_method_and_optimiser_are_a_rows_own_and_all_else_is_the_firsts() -> None:
    first, second = rows_of("demo", "vicreg_r50")
    demo, vicreg = load_config("demo", ["steps=7"]), load_config("vicreg_r50", ["steps=7"])
    assert (first.name, second.name) == ("demo", "vicreg_r50")
    assert second.config.method == vicreg.method
    assert second.config.optim == vicreg.optim
    shared = {"method", "optim", "name", "run"}
    assert second.config.model_dump(exclude=shared) == demo.model_dump(exclude=shared)
    assert first.config.model_dump(exclude={"run"}) == demo.model_dump(exclude={"run"})


def test_words_change_all_rows_or_one() -> None:
    words = ["a=demo", "b=demo", "c=vicreg_r50", "batch=8", "b:method.alpha=0.9", "b:batch=4"]
    rows = rows_of(*words, "optim={name: sgd, base_lr: 2e-1, weight_decay: 0, warmup: 0}", budget="epochs=2")
    assert [row.config.batch for row in rows] == [8, 4, 8]
    assert [row.config.method.arguments.get("alpha") for row in rows] == [0.5, 0.9, None]
    assert {(row.config.optim.name, row.config.optim.base_lr) for row in rows} == {("sgd", 0.2)}
    assert {(row.config.steps, row.config.epochs) for row in rows} == {(None, 2)}
    assert rows[1].origin == "demo with method.alpha=0.9 batch=4"


def test_another_configuration_may_say_what_is_shared() -> None:
    (row,) = rows_of("vicreg_r50", like="demo")
    assert row.config.views == load_config("demo").views
    assert row.config.optim == load_config("vicreg_r50").optim


def test_the_command_of_the_readmes_table_is_that_of_its_settings() -> None:
    """Which takes half an hour: its rows are made, not trained."""
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^python tools/compare.py (--cfg vicreg=.*?)\n```", text, re.DOTALL | re.MULTILINE)
    args = compare._arguments(shlex.split(command.replace("\\\n", "")))
    rows = rows_of(*args.cfg, *(word for word in args.words if not word.startswith("seg.")), budget=args.budget)
    assert [row.config.method.name for row in rows] == ["vicreg", "vicregl"]
    for config in (row.config for row in rows):
        assert (config.backbone.name, config.batch, config.steps, config.views.large.size) == (
            "convnext_atto",
            64,
            120,
            96,
        )
        assert config.views.small.count == 0
        assert config.optim.base_lr * config.batch / 256 == pytest.approx(3.75e-4)  # docs/choosing.md
    assert (args.seeds, args.seg, args.random) == (3, "CamVid", True)


def test_all_is_every_small_configuration() -> None:
    rows = rows_of("all")
    assert {row.name for row in rows} == {row.config.method.name for row in rows} == set(METHODS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["demo", "bach=3"], r"bach=3: .*did you mean batch=3\?"),
        (["demo", "x=demmo"], r"demmo: .*did you mean demo\?"),
        (["demo", "optim.base_lr=x", "b=demo"], r"demo, b: optim.base_lr .*valid number"),
        (["demo", "b=demo", "b:method.alhpa=1", "batch=1"], r"demo: batch.*\nb: method.alhpa"),
        (["demo", "demo"], r"another row is called demo; name this one, as in other=demo"),
        (["random=demo"], r"another row is called random"),
        (["demo", "demmo:batch=3"], r"demmo:batch=3: the rows are demo"),
        (["demo", "steps=3"], r"steps=3: in a comparison --budget says that"),
        (["demo", "demo:seed=3"], r"seed=3: in a comparison --seeds says that"),
        (["batch=3"], r"names no configuration"),
    ],
)
def test_wrong_words_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        rows_of(*words)


@pytest.mark.parametrize(
    "words",
    [
        ["--cfg", "demo"],
        ["--cfg", "demo", "--budget", "3"],
        ["--cfg", "demo", "--budget", "steps=3", "--seeds", "0"],
        ["--cfg", "demo", "--budget", "steps=3", "--random"],
    ],
)
def test_wrong_options_are_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit):
        main(words)


# --- steps ------------------------------------------------------------------------------------------------------------

PACE = [40.0, 20.0, 10.0]  # pictures a second, of the logs that Imitation writes


class Imitation:
    """In the place of processes: leaves what the commands would, and notes what was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self.broken: set[str] = set()
        monkeypatch.setattr(Processes, "execute", lambda _, command, log: self(command, log))

    def __call__(self, command: list[str], log: Path) -> str | None:
        self.command, words = command, command[command.index("densessl") + 1 :]
        kind, (row, seed) = words[0], log.parts[-3:-1]
        self.asked.append(f"{kind} {row} {seed[4:]}")
        if self.asked[-1] in self.broken:
            return "no more disk"
        if kind == "pretrain":
            config = load_config(words[2], words[3:5])
            folder = Path(config.run)
            assert folder == log.parent
            assert config.seed == int(seed[4:])
            (folder / "state" / "step0000006").mkdir(parents=True)
            (folder / "state" / "step0000006" / "manifest.json").write_text('{"parameters": 2500000}')
            lines = [
                {"step": 2 * i + 2, "pictures_per_s": pace, "data_wait": 0.5, "memory_gib": i / 2}
                for i, pace in enumerate(PACE)
            ]
            (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            (folder / "backbone.safetensors").touch()
        else:
            folder = Path(words[words.index("--out") + 1])
            folder.mkdir(parents=True)
            results = {
                "scores": {"miou": {"mean": score(row, int(seed[4:])), "std": None}},
                "protocol": {"name": "linear_small", "hash": "12345678", "deviations": ["iterations=2"]},
                "data": {"name": "scenes", "train": {"split": "train", "pictures": 5}, "classes": []},
            }
            with aside(folder / "results.json") as part:  # as the commands write it: read while others run
                part.write_text(json.dumps(results))
        return None


def score(row: str, seed: int) -> float:
    return {"a": 0.25, "b": 0.5, RANDOM: 0.125}[row] + seed / 100 * (3 if row == RANDOM else 1)


@pytest.fixture
def imitation(monkeypatch: pytest.MonkeyPatch) -> Imitation:
    return Imitation(monkeypatch)


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """The command is the whole process elsewhere, and need not put them back."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def words_for(out: Path, *more: str) -> list[str]:
    given = ["--cfg", "a=demo", "b=demo", "b:method.alpha=0.25", *SMALL, "--budget", "steps=6", "--seeds", "2"]
    return [*given, "--seg", "scenes", "seg.iterations=2", "--out", str(out), *more]


def test_every_step_is_done_once_and_the_table_says_what_was_found(
    imitation: Imitation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words_for(tmp_path, "--random", "--launch", "srun --ntasks 2 python")) == 0
    first = ["eval-seg random 0", "pretrain a 0", "eval-seg a 0", "pretrain b 0", "eval-seg b 0"]
    assert imitation.asked == [*first, *(step.replace("0", "1") for step in first)]
    assert imitation.command[0] == sys.executable  # evaluations are one process
    printed = capsys.readouterr().out
    assert "[1/10] random seed 0 segmentation: 0:00:00\n" in printed  # how long pretraining takes isn't known yet
    assert "[9/10] b seed 1 pretrain: 0:00:00; left 0:00:00\n" in printed
    text = (tmp_path / "table.md").read_text()
    assert text in printed
    std = 100 * statistics.stdev([0.25, 0.26])
    seconds = 2 * 16 * sum(1 / pace for pace in PACE)
    lines = text.splitlines()
    assert (
        lines[0] == "|  | mIoU | mIoU minus random | pictures/s | GiB | M parameters | minutes | optimiser, peak rate |"
    )
    # The speed is the median of the later entries; the learning rate that of a batch of 16.
    assert lines[2] == "| random | 14.0 ± 2.1 | - | - | - | - | - | - |"
    gain = "+11.5 ± 1.4 [-1.2, +24.2]"  # 12.5 and 10.5: 11.5 and 12.706 times 1 to each side
    assert lines[3] == f"| a | 25.5 ± {std:.2g} | {gain} | 15.0 | 1.0 | 2.5 | {seconds / 60:.2g} | adamw 0.00075 |"
    assert lines[4].startswith("| b | **50.5 ± 0.71** | +36.5 ± 1.4 [")
    assert "minus random: [95% interval over seeds, paired, Student's t; not covered: other images]" in text
    assert "linear_small with iterations=2 [12345678] on scenes (5 train pictures), per cent" in text
    assert "- b: demo with method.alpha=0.25\n" in text
    assert "over 20% of the time spent waiting for pictures: a, b" in text
    assert "seeds 0, 1: mean ± sample standard deviation" in text
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["rows"]["a"]["scores"]["segmentation"]["miou"]["mean"] == pytest.approx(0.255)
    assert [seed["scores"]["segmentation"]["miou"] for seed in results["rows"]["b"]["seeds"]] == [0.5, 0.51]
    assert results["rows"]["a"]["config"]["method"]["alpha"] == 0.5
    assert ET.parse(tmp_path / "plot.svg").getroot().tag.endswith("svg")

    imitation.asked.clear()
    assert main(words_for(tmp_path, "--random")) == 0
    assert imitation.asked == []
    assert (tmp_path / "table.md").read_text() == text
    assert main([*words_for(tmp_path), "seg.iterations=3"]) == 0  # another evaluation of the same runs
    assert imitation.asked == ["eval-seg a 0", "eval-seg b 0", "eval-seg a 1", "eval-seg b 1"]


def test_settings_of_the_evaluations_reach_them(imitation: Imitation, tmp_path: Path, classes: Path) -> None:
    words = ["--cfg", "a=demo", *SMALL, "--budget", "steps=6", "--out", str(tmp_path), "--cls", str(classes)]
    assert main([*words, "--seg", "scenes", "seg.iterations=2", "cls.epochs=3", "seg.crop=[8, 8]"]) == 0
    assert imitation.asked == ["pretrain a 0", "eval-seg a 0", "eval-cls a 0"]
    assert "epochs=3" in imitation.command
    assert next((tmp_path / "a" / "seed0" / "segmentation").iterdir()).name.endswith("-iterations=2-crop=-8,-8")
    for word, message in (("cls.epoch=3", r"did you mean epochs\?"), ("seg.crop=3", "seg.crop=3: --seg DATA")):
        with pytest.raises(UserError, match=message):
            main([*words, word])


def test_random_weights_read_pictures_as_the_others(imitation: Imitation, tmp_path: Path, masks: Path) -> None:
    read = ["backbone.in_chans=1", "data.mean=[0.5]", "data.std=[0.2]", "data.range=[[0, 255]]"]
    words = [
        "--cfg",
        "a=demo",
        *SMALL,
        *read,
        f"data.path={masks}/images",
        "batch=8",
        "--budget",
        "steps=6",
        "--seg",
        str(masks),
        "--random",
    ]
    words += ["--out", str(tmp_path), "--seg-protocol"]
    with pytest.raises(UserError, match=r"distorts the colours .*this backbone takes 1 channel, values from 0 to 255"):
        main([*words, "linear_fast"])
    assert imitation.asked == []
    main([*words, "linear_small"])
    facts = load_backbone(tmp_path / RANDOM / "seed0" / "backbone.safetensors").metadata
    assert (facts["pixels"], facts["mean"]) == ({"range": [[0, 255]], "percentiles": None}, (0.5,))


def test_what_fails_says_so_and_stops_nothing_else(
    imitation: Imitation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    imitation.broken = {"pretrain a 1", "eval-seg b 0"}
    assert main(words_for(tmp_path)) == 1
    assert len(imitation.asked) == 7  # all but the evaluation of what was not pretrained
    assert "[5/8] a seed 1 pretrain: failed, no more disk" not in (printed := capsys.readouterr().out)
    assert "[6/8] a seed 1 pretrain: failed, no more disk" in printed
    assert "[8/8] b seed 1 segmentation" in printed
    text = (tmp_path / "table.md").read_text()
    assert "| a (1 of 2 seeds) | 25.0 |" in text
    assert f"**a seed 1 pretrain failed**: no more disk ({tmp_path}/a/seed1/pretrain.log)" in text
    assert "**b seed 0 segmentation failed**" in text
    imitation.asked.clear()
    imitation.broken.clear()
    assert main(words_for(tmp_path)) == 0
    assert imitation.asked == ["eval-seg b 0", "pretrain a 1", "eval-seg a 1"]


@pytest.mark.parametrize("state", [False, True])
def test_an_unfinished_run_goes_on_from_its_state_and_without_one_from_the_start(
    imitation: Imitation, tmp_path: Path, state: bool
) -> None:
    run = Run(rows_of("a=demo")[0], 3, tmp_path)
    folder = run.folder / "state" / ("step0000003" if state else "step0000003.damaged")
    folder.mkdir(parents=True)
    (run.folder / "backbone.safetensors").touch()
    (step,) = run.missing([])
    assert step.words[-1] == ("--resume" if state else "--overwrite")
    assert not step.done()


def test_another_configuration_is_refused_or_starts_its_row_again(imitation: Imitation, tmp_path: Path) -> None:
    main(words_for(tmp_path))
    main(words_for(tmp_path, "data.workers=1"))  # makes no other run
    changed = words_for(tmp_path, "b:batch=8")
    with pytest.raises(
        UserError, match=r"b holds runs of another configuration:\n  batch: 16 there, 8 now\n--overwrite"
    ):
        main(changed)
    imitation.asked.clear()
    assert main([*changed, "--overwrite"]) == 0
    assert imitation.asked == ["pretrain b 0", "eval-seg b 0", "pretrain b 1", "eval-seg b 1"]
    with pytest.raises(UserError, match=r"steps: 6 there, 7 now"):
        main([*changed, "--budget", "steps=7"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopped_and_continued_by_the_same_command(imitation: Imitation, tmp_path: Path, number: int) -> None:
    execute = Processes.execute

    def stopped(processes: Processes, command: list[str], log: Path) -> str | None:
        if len(imitation.asked) < 3:
            return execute(processes, command, log)
        os.kill(os.getpid(), number)
        while not processes.stopping:
            pass
        return "stopped"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Processes, "execute", stopped)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            main(words_for(tmp_path))
    done = imitation.asked.copy()
    assert done == ["pretrain a 0", "eval-seg a 0", "pretrain b 0"]
    assert main(words_for(tmp_path)) == 0
    assert imitation.asked[3:] == ["eval-seg b 0", "pretrain a 1", "eval-seg a 1", "pretrain b 1", "eval-seg b 1"]


def test_a_process_and_why_it_failed(tmp_path: Path) -> None:
    log = tmp_path / "new" / "log"

    def execute(code: str) -> str | None:
        return Processes(jobs=2).execute([sys.executable, "-c", code], log)

    assert execute("import os; print('fine', os.environ['OMP_NUM_THREADS'])") is None
    assert re.search(r"^\$ .*\nfine \d+\n$", log.read_text(), re.DOTALL)
    assert execute("raise OSError('disk')") == "exit code 1: OSError: disk"
    assert execute("import os; os.kill(os.getpid(), 9)") == "ended by SIGKILL, as when memory runs out"
    assert log.read_text().count("$ ") == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("densessl: a: 1\nstep 3\ndensessl: batch=3 is wrong:\n  because\n", "batch=3 is wrong:\n  because"),
        ("Traceback\n  File x\ntorch.OutOfMemoryError: CUDA\nsummary\n", "exit code 2: torch.OutOfMemoryError: CUDA"),
        ("one\n\ntwo\n\n", "exit code 2: two"),
        ("", "exit code 2: no output"),
    ],
)
def test_a_reason_is_the_message_or_the_last_error_or_the_last_line(text: str, expected: str) -> None:
    assert reason(2, text) == expected


def test_memory_is_that_of_the_process_on_a_processor() -> None:
    found = Pace(batch=1, done=0).read(1, torch.device("cpu"))["memory_gib"]
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("the kernel's own count is read on Linux")
    peak = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
    assert peak is not None
    assert found == pytest.approx(int(peak[1]) / 2**20, rel=0.05)


# --- table, plot ------------------------------------------------------------------------------------------------------


def summary(rows: dict[str, tuple[float | None, float, float | None]]) -> dict:
    """Of minutes, mIoU and its spread, in per cent."""
    config = load_config("demo").model_dump(mode="json")
    found = {
        name: {
            "from": name,
            "config": config,
            "seeds": [{"seed": 0, "folder": "x", "done": True, "failed": {}}],
            "scores": {"segmentation": {"miou": {"mean": mean / 100, "std": std and std / 100}}},
            "cost": {"seconds": {"mean": 60 * minutes, "std": None}} if minutes else {},
        }
        for name, (minutes, mean, std) in rows.items()
    }
    facts = {"backbone_parameters": 3e6, "pictures": 5, "budget": "steps=2", "changes": [], "jobs": 1}
    return {**facts, "evaluations": {"segmentation": None}, "rows": found}


def test_what_reads_like_the_best_is_bold() -> None:
    text = table(summary({"a": (2, 30.01, 1.0), "b": (1, 30.02, None), "c": (3, 29.9, 0.01)}))
    assert [line.split(" | ")[1:] for line in text.splitlines()[2:5]] == [
        ["**30.0 ± 1.0**", "2.0", "adamw 0.0015 |"],
        ["**30.0**", "**1.0**", "adamw 0.0015 |"],
        ["29.9 ± 0.01", "3.0", "adamw 0.0015 |"],
    ]
    assert "**" not in table(summary({"a": (2, 30.0, 1.0), "b": (2, 30.0, None)}))


@pytest.mark.parametrize("seed", range(5))
def test_a_point_is_where_its_numbers_are_and_labels_do_not_overlap(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = {name: (rng.uniform(10, 12), rng.uniform(20, 24), rng.uniform(0.1, 0.5)) for name in METHODS}
    root = ET.fromstring(plot(summary({**rows, RANDOM: (None, 15.0, 0.1)})))
    texts = [
        (t.text, t.attrib["text-anchor"], float(t.attrib["x"]), float(t.attrib["y"]))
        for t in root.findall(".//{*}text")
    ]
    circles = [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in root.findall(".//{*}circle")]
    # The numbers at the axes give back each row's.
    along = [(x, float(text)) for text, anchor, x, _ in texts if anchor == "middle" and is_number(text)]
    up = [(y, float(text)) for text, anchor, _, y in texts if anchor == "end" and is_number(text)]
    minutes, scores = (np.polyfit(*zip(*pairs, strict=True), 1) for pairs in (along, [(y - 4, v) for y, v in up]))
    for (x, y), (time, mean, _) in zip(circles, rows.values(), strict=True):
        assert np.polyval(minutes, x) == pytest.approx(time, abs=0.01)
        assert np.polyval(scores, y) == pytest.approx(mean, abs=0.05)
    boxes = [(x, y, LETTER * len(text)) for text, _, x, y in texts if text in rows]
    assert len(boxes) == len(rows)
    for i, (x, y, width) in enumerate(boxes):
        assert not any(x - 4 < cx < x + width and abs(y - 4 - cy) < LINE / 2 for cx, cy in circles)
        for other_x, other_y, other_width in boxes[:i]:
            apart = x + width <= other_x + 0.1 or other_x + other_width <= x + 0.1
            assert apart or abs(y - other_y) >= LINE - 0.1


def is_number(text: str) -> bool:
    return bool(re.fullmatch(r"-?\d+(\.\d+)?", text))


# --- the commands themselves ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pictures of 32 pixels a split, whose masks are their colours."""
    root = tmp_path_factory.mktemp("masks")
    for split in ("train", "val"):
        for i in range(4):
            mask = np.kron(np.random.default_rng(i).integers(0, 2, (2, 2)), np.ones((16, 16))).astype(np.uint8)
            for kind, values in (("images", np.stack([200 * mask] * 3, -1)), ("masks", mask)):
                (root / kind / split).mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(root / kind / split / f"{i}.png")
    (root / "classes.txt").write_text("dark\nlight\n")
    return root


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six dark and six light pictures a split."""
    root = tmp_path_factory.mktemp("classes")
    for split in ("train", "val"):
        for i in range(12):
            folder = root / split / ("dark", "light")[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            picture = np.random.default_rng(i).integers(0, 100, (32, 32, 3)) + 150 * (i % 2)
            Image.fromarray(picture.astype(np.uint8)).save(folder / f"{i}.png")
    return root


def test_two_steps_of_two_rows_one_of_which_breaks(masks: Path, tmp_path: Path) -> None:
    words = ["--cfg", "vicreg=vicreg_r50", "broken=vicreg_r50", "--like", "demo", *SMALL]
    words += ["method.expander=[16, 16]", "broken:backbone.init=weights.pt", "--budget", "steps=2"]
    words += ["--seg", str(masks), "seg.iterations=2", "seg.batch=2", "seg.crop=[32, 32]", "--out", str(tmp_path)]
    assert main(words) == 1
    results = json.loads((tmp_path / "results.json").read_text())["rows"]
    fine, broken = results["vicreg"]["seeds"][0], results["broken"]["seeds"][0]
    assert 0 <= fine["scores"]["segmentation"]["miou"] <= 1
    assert min(fine["cost"][key] for key in ("seconds", "pictures_per_s", "memory_gib")) > 0
    assert broken["failed"] == {
        "pretrain": "weights.pt: no such file; a run keeps its backbone in RUN/backbone.safetensors"
    }
    assert "steps of 16 of" in (tmp_path / "vicreg" / "seed0" / "pretrain.log").read_text()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.skipif(len(METHODS) < 14, reason="not all methods are there yet")
def test_all_methods_in_two_steps(masks: Path, classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, where torch is imported already; the processes themselves are tested above."""

    def execute(_: Processes, command: list[str], log: Path) -> str | None:
        name, words = command[3], command[4:]
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            module = importlib.import_module(f"densessl.commands.{name.replace('-', '_')}")
            code = run_command(lambda: module.main(words))
        return reason(code, log.read_text()) if code else None

    monkeypatch.setattr(steps.Processes, "execute", execute)
    monkeypatch.setattr(pretrain, "stop_on_signal", lambda: contextlib.nullcontext([]))  # for the main thread alone
    words = ["--cfg", "all", "data.path=scenes", *SMALL, "save_every=2"]
    words += [f"{name}:method.{argument}" for name, arguments in TINY.items() for argument in arguments]
    words += ["--budget", "steps=2", "--random", "--out", str(tmp_path)]
    words += ["--seg", str(masks), "seg.iterations=2", "seg.batch=2", "seg.crop=[32, 32]"]
    words += ["--cls", str(classes), "--cls-train", "10"]
    assert main(words) == 0
    text = (tmp_path / "table.md").read_text()
    assert "linear_features [" in text
    assert "(10 train, 12 val pictures)" in text
    results = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert set(results) == {*METHODS, RANDOM}
    for name, row in results.items():
        assert 0 <= row["scores"]["segmentation"]["miou"]["mean"] <= 1
        assert list(row["scores"]["classification"]) == ["knn5", "knn20", "knn200", "linear"]
        assert name == RANDOM or row["cost"]["seconds"]["mean"] > 0
        assert f"\n| {name} | " in text
