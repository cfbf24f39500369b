"""The page of a run says what happened to it, and only that; curves are where their numbers are."""

import json
import os
import re
import shlex
import time
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from made_runs import NETWORK, made_run
from test_health_words import ILL, curve
from test_visualize import Page

from densessl.__main__ import COMMANDS
from densessl.commands import eval_cls, eval_seg, pretrain
from densessl.commands.report import main
from densessl.config import load_config
from densessl.errors import UserError
from densessl.report import chart
from densessl.report.axis import Axis, compact, fitting, needs_log
from densessl.report.chart import Curve, thinned
from densessl.report.ending import ending
from densessl.report.records import read_run

FALLING: list[float | None] = [10.0 - 0.2 * i for i in range(40)]
PLAIN = ["--pictures", "0", "--device", "cpu"]


def page_of(*words: object, out: Path) -> str:
    """The text of the page that the command writes; it needs nothing from outside and every tag is closed."""
    assert main([*map(str, words), "--out", str(out)]) == 0
    text = out.read_text(encoding="utf-8")
    page = Page(text)
    assert len(set(page.ids)) == len(page.ids)
    links = {found["href"][1:] for tag, found in page.tags if tag == "a"}
    assert links <= set(page.ids)
    assert not re.search(r"https?:|(src|href)=\"(?!data:|#)|url\(|@import", text)
    assert all(found.get("alt") for tag, found in page.tags if tag == "img")
    assert all(found.get("aria-label") for tag, found in page.tags if tag == "svg" and found.get("role"))
    return text


# --- words ------------------------------------------------------------------------------------------------------------

WILD: list[float | None] = [None if i % 7 == 6 else 10 + (i % 3) + 0.2 * i for i in range(40)]
TOLD = {
    "healthy": (curve(FALLING), "Healthy: every measure is within its range for vicregl at the end"),
    "collapsing": (
        curve(FALLING, **ILL["small deviation"][1]),
        "Collapsing: embeddings lose what tells pictures apart, while the loss fell from 10",
    ),
    "ten times too high": (curve(WILD), "The learning rate is too high, most likely; what helps: a lower optim"),
}


@pytest.mark.parametrize("case", TOLD)
def test_three_runs_are_told_apart_by_the_words_of_their_pages(case: str, tmp_path: Path) -> None:
    records, expected = TOLD[case]
    run = made_run(tmp_path / "mine", records)
    text = unescape(page_of(run, *PLAIN, out=tmp_path / "page.html"))
    assert expected in text
    assert not any(other in text for _, other in TOLD.values() if other != expected)
    assert ("standard deviation of 0.02" in text) == (case == "collapsing")
    skipped = sum(loss is None for loss in WILD)
    assert (f"the loss was not finite in {skipped} of 40 logged steps" in text) == (case == "ten times too high")
    assert '<h1>Run mine</h1>\n<p class="pale">ended: 40 of 40 steps were done.</p>' in text
    assert text.count("<svg") > 20
    for name in ("loss", "effective rank", "Every measure that has a range", "densessl export", "Apache License 2.0"):
        assert name in text


def test_the_same_folder_gives_the_same_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made_run(tmp_path / "mine", curve(FALLING))
    words = ["mine", "--pictures", "2", "--size", "64", "--device", "cpu"]
    assert main(words) == main(words) == 0
    first = (tmp_path / "mine" / "report.html").read_bytes()
    monkeypatch.setattr(time, "time", lambda: 2e9)
    assert main(words) == 0
    assert (tmp_path / "mine" / "report.html").read_bytes() == first
    text = first.decode()
    assert f"{NETWORK}, random weights" in text
    assert text.count("<img") == 2 * 3 + 2 * 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]


def test_what_stands_in_a_run_is_shown_and_never_obeyed(tmp_path: Path) -> None:
    """Names, log and configuration hold HTML; nothing of it becomes a tag."""
    bad = "<b>&\"'<script>alert(1)</script>"
    folder = tmp_path / "a <b> \"run\" & 'more'"
    records = [{"step": s, f"<i>{bad}": 1.0 * s, "loss": 2.0} for s in (1, 2, 3)]
    records[-1]["probe/knn_<b>"] = 0.5
    made_run(folder, records, f"data.path={json.dumps(bad)}", said=[f"said {bad}"])
    text = page_of(folder, *PLAIN, out=tmp_path / "page.html")
    assert "alert(1)" in text
    assert text.count("<script>") == 1
    assert "<h2>Probes</h2>" in text
    assert "<h4>knn &lt;b&gt;</h4>" in text
    assert "<b>" not in text
    assert "<i>" not in text
    page = Page(text)
    names = [c["n"] for tag, found in page.tags if "data-curves" in found for c in json.loads(found["data-curves"])]
    assert set(names) == {folder.name}


# --- several runs -----------------------------------------------------------------------------------------------------


def test_several_runs_stand_side_by_side_with_what_differs(tmp_path: Path) -> None:
    one = made_run(tmp_path / "one", curve(FALLING), "optim.base_lr=0.01")
    two = made_run(tmp_path / "two", curve(WILD[:30]), "optim.base_lr=0.1", "seed=3", "data.mean=[0.5,0.5,0.5]")
    text = page_of(one, two, *PLAIN, out=tmp_path / "page.html")
    (section,) = re.findall(r'<section id="differences">.*?</section>', text, re.DOTALL)
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>(<td>.*?)</tr>", section)]
    assert rows == [
        ["data.mean", "[0.485, 0.456, 0.406]", "[0.5, 0.5, 0.5]"],
        ["optim.base_lr", "0.01", "0.1"],
        ["steps", "40", "30"],
        ["seed", "0", "3"],
    ]
    assert "<p>one: healthy: every" in text
    assert "<p>two: the learning rate is too high" in text
    assert "one and two side by side" in text
    curves = [
        json.loads(found["data-curves"]) for tag, found in Page(text).tags if tag == "svg" and "data-curves" in found
    ]
    assert all([each["n"] for each in both] == ["one", "two"] for both in curves)
    assert curves[0] != curves[1]
    with pytest.raises(UserError, match="a RUN stands twice"):
        main([str(one), f"{one}/"])


# --- how far it has come ----------------------------------------------------------------------------------------------


def test_a_run_that_goes_was_stopped_or_was_killed_is_reported_as_such(tmp_path: Path) -> None:
    records = curve(FALLING)
    going = made_run(tmp_path / "going", records, steps=90, end=None)
    (going / "state" / "step0000035").mkdir(parents=True)
    written = (going / "metrics.jsonl").stat().st_mtime
    assert ending(read_run(going), written + 60).word == "going"
    killed = ending(read_run(going), written + 1000)
    assert (killed.word, "40 of 90 steps are logged" in killed.text) == ("broken off", True)
    assert "--resume goes on from step 35" in killed.text
    slow = [{**record, "pictures_per_s": 0.1} for record in records]  # ten steps of 32 pictures in 3200 s
    (going / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in slow))
    assert ending(read_run(going), written + 10_000).word == "going"
    stopped = made_run(tmp_path / "stopped", records, steps=90, end="x/backbone.safetensors after 41 of 90 steps")
    assert "stopped after 41 of 90 steps by a signal" in ending(read_run(stopped), 2e9).text
    os.utime(going / "metrics.jsonl", (1e9, 1e9))
    for name in ("config.yaml", "log.txt"):
        os.utime(going / name, (1e9, 1e9))
    text = page_of(going, *PLAIN, out=tmp_path / "page.html")
    assert "broken off: 40 of 90 steps are logged, and nothing was written since 2001-09-09 01:46 UTC" in text
    assert "--resume</pre>" in text


def test_what_is_missing_or_damaged_is_said(tmp_path: Path) -> None:
    run = made_run(tmp_path / "mine", curve(FALLING[:9]), backbone=False)
    good = (run / "metrics.jsonl").read_text()
    bad = ["{", "[]", "3", '{"loss": 1}', '{"step": "x"}', '{"step": 3, "loss": "much"}', '{"step": 99, "lo']
    (run / "metrics.jsonl").write_text(good + "\n".join(bad))
    text = page_of(run, *PLAIN, "--pictures", "2", out=tmp_path / "page.html")
    assert "metrics.jsonl: 7 damaged line(s) were left out: 10, 11, 12, 13, 14, 15, 16" in text
    assert "there is no backbone.safetensors yet" in text
    assert "densessl export" not in text
    assert len(read_run(run).records) == 9

    (run / "metrics.jsonl").write_text("")
    (run / "log.txt").unlink()
    (run / "backbone.safetensors").write_bytes(b"none")
    text = page_of(run, *PLAIN, out=tmp_path / "page.html")
    for part in ("metrics.jsonl is empty", "log.txt can&#x27;t be read", "backbone.safetensors is damaged"):
        assert part in text
    assert "Nothing is known of the embeddings: no step was logged" in text
    (run / "metrics.jsonl").unlink()
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config + "later: 1\n")
    text = page_of(run, *PLAIN, out=tmp_path / "page.html")
    assert "refuses the run&#x27;s config.yaml: later" in text
    part = {name: value for name, value in curve(FALLING)[0].items() if not name.endswith("dead")}
    (run / "metrics.jsonl").write_text(json.dumps(part))
    assert "measures that belong together are missing" in page_of(run, *PLAIN, out=tmp_path / "page.html")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{tmp}/nothing"], "nothing: no such folder"),
        (["{tmp}"], "no run folder, since there is no config.yaml in it; the runs mine, yaml lie in it"),
        (["{tmp}/yaml"], "config.yaml can't be read as YAML"),
        (["{tmp}/mine", "--results", "{tmp}/nothing.json"], "no results.json of eval-seg"),
        (["{tmp}/mine", "--results", "{tmp}/mine/metrics.jsonl"], "no results.json of eval-seg"),
        (["{tmp}/mine", "--results", "{tmp}/mine"], "no results.json in this folder"),
        (["{tmp}/mine", "--pictures", "-1"], "--pictures -1: at least 0"),
        (["{tmp}/mine", "--pictures", "1", "--data", "{tmp}/nothing"], "nothing"),
        (["{tmp}/mine", "--out", "{tmp}"], "a folder; name the file"),
    ],
)
def test_mistakes_are_said_and_nothing_is_written(tmp_path: Path, words: list[str], message: str) -> None:
    made_run(tmp_path / "mine", curve(FALLING[:9]))
    (tmp_path / "yaml").mkdir()
    (tmp_path / "yaml" / "config.yaml").write_text("a: [")
    with pytest.raises(UserError, match=re.escape(message)):
        main([*PLAIN, *(word.format(tmp=tmp_path) for word in words)])
    assert not list(tmp_path.rglob("*.html"))


# --- evaluations and commands -----------------------------------------------------------------------------------------


def test_evaluations_are_shown_as_they_were_written(tmp_path: Path) -> None:
    run = made_run(tmp_path / "mine", curve(FALLING[:9]))
    protocol = {"name": "linear_small", "hash": "abc", "deviations": ["batch=8"]}
    splits = {"train": {"split": "train", "pictures": 7}, "val": {"split": "val", "pictures": 5}}
    segmentation: dict[str, Any] = {
        "name": "<mine>",
        "protocol": protocol,
        "data": {"name": "scenes", **splits, "classes": ["a"]},
        "scores": {"miou": {"mean": 0.1234, "std": 0.01, "low": 0.1, "high": 0.2}, "pixel_accuracy": {"mean": None}},
        "class_iou": {"road": {"mean": 0.5, "std": None, "low": None, "high": None}},
        "seeds": [{"seed": 0}, {"seed": 1}],
    }
    place = run / "segmentation" / "x"
    place.mkdir(parents=True)
    (place / "results.json").write_text(json.dumps(segmentation))
    classes = {"name": "mine", "protocol": {"name": "knn", "hash": "d"}, "data": {"name": "stl", **splits}, "seed": 4}
    (tmp_path / "results.json").write_text(json.dumps({**classes, "scores": {"knn20": 0.75}, "top5": {"linear": 0.9}}))
    (run / "detection").mkdir()
    (run / "detection" / "results.json").write_text("{")
    words = ["--results", place / "results.json", tmp_path / "results.json"]
    text = page_of(run, *PLAIN, *words, out=tmp_path / "page.html")
    assert f"{run}/detection/results.json: no results.json of eval-seg" in text
    assert text.count("&lt;mine&gt;") == 2  # once a table
    assert "linear_small with batch=8 [abc] on scenes (7 train, 5 val pictures)" in text
    assert "<td>&lt;mine&gt;</td><td>0, 1</td><td>12.3 ± 1.0 [10.0, 20.0]</td><td>-</td>" in text
    assert "<td>0, 1</td><td>50.0</td>" in text
    assert '20-NN</th><th scope="col">linear, top-5</th>' in text
    assert "<td>mine</td><td>4</td><td>75.0</td><td>90.0</td>" in text


def test_the_commands_are_those_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is parsed by what it names; the lines of Python run."""
    run = made_run(tmp_path / "my run", curve(FALLING[:9]), "optim.base_lr=0.034", steps=20, end=None)
    for folder in ("skipped", "state"):
        (run / folder / "step0000005").mkdir(parents=True)
    text = page_of(run, *PLAIN, out=tmp_path / "page.html")
    section = text[text.index('<section id="again">') : text.index('<section id="origin">')]
    blocks = [unescape(block) for block in re.findall(r"<pre>(.*?)</pre>", section, re.DOTALL)]
    again, resume, replay, python, *others = blocks
    command, *words = shlex.split(again)[1:]
    assert (command, words[0]) == ("pretrain", "--cfg")
    cfg = load_config(words[1], words[2:])
    assert (cfg.optim.base_lr, cfg.run, cfg.steps) == (0.034, f"{run}-again", 20)
    assert pretrain.main([*words, "--print"]) == 0
    assert shlex.split(resume) == ["densessl", "pretrain", "--cfg", str(run / "config.yaml"), "--resume"]
    assert shlex.split(replay) == ["densessl", "replay", str(run / "skipped" / "step0000005")]
    found: dict[str, Any] = {}
    exec(python, found)
    assert [each.shape[-1] for each in found["maps"]] == [56, 28, 14, 7]
    named = [shlex.split(each)[1:] for each in others]
    assert {each[0] for each in named} == {"eval-seg", "eval-cls", "visualize", "export"} <= set(COMMANDS)
    assert all(each[1] == str(run) for each in named)
    for module, each in ((eval_seg, named[0]), (eval_cls, named[1])):
        assert module._arguments(each[1:]).backbone == [str(run), NETWORK]


# --- curves -----------------------------------------------------------------------------------------------------------


def drawn_points(text: str) -> list[list[tuple[float, float]]]:
    """Of the first curve: the pieces between gaps."""
    (path,) = re.findall(r'class="curve c0" d="(.*?)"', text)
    pieces = [piece for piece in path.replace("h0", "").split("M") if piece]
    return [[tuple(map(float, point.split())) for point in piece.split("L")] for piece in pieces]  # type: ignore[misc]


def test_a_curve_lies_where_its_numbers_are_and_has_gaps_where_there_are_none() -> None:
    values = [4.0, 3.0, None, 2.0, None, None, 1.0, 1.5]
    steps = list(range(10, 90, 10))
    text = chart.chart("loss <", [Curve("a", steps, values)], bounds=[0.5, 100.0], healthy="above 0.5")
    pieces = drawn_points(text)
    assert [len(piece) for piece in pieces] == [2, 1, 2]
    left, right = chart.LEFT, chart.WIDTH - chart.RIGHT
    known = [(step, value) for step, value in zip(steps, values, strict=True) if value is not None]
    points = [point for piece in pieces for point in piece]
    assert [x for x, _ in points] == pytest.approx([left + (s - 10) / 70 * (right - left) for s, _ in known], abs=0.06)
    scale = (points[0][1] - points[-2][1]) / (4.0 - 1.0)
    assert scale < 0  # upwards
    assert [y for _, y in points] == pytest.approx([points[0][1] + (v - 4.0) * scale for _, v in known], abs=0.11)
    assert text.count("v-7") == 3
    assert "3 not finite" in text
    assert text.count('class="bound"') == 1  # the other is far off
    assert "loss &lt; from 4 at step 10 to 1.5 at 80, between 1 and 4" in text
    assert "no value was finite" in chart.chart("x", [Curve("a", [1], [None])])
    assert len(drawn_points(chart.chart("x", [Curve("a", [5], [0.0])]))[0]) == 1


def test_scales_are_logarithmic_where_a_linear_one_shows_nothing() -> None:
    decay = [10.0 ** (-i / 5) for i in range(40)]
    assert needs_log(decay)
    assert needs_log([1.0] * 30 + [500.0])
    assert not needs_log([*decay, 0.0])
    assert not needs_log([30.0 - i / 2 for i in range(40)])
    axis = fitting(decay, [], 200.0, 0.0)
    assert axis.log
    assert axis(1e-3) - axis(1e-2) == pytest.approx(axis(1e-2) - axis(1e-1))
    assert list(Axis(1e-4, 2.0, 0, 1, log=True).ticks(4)) == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1])
    assert list(Axis(0.7, 3.1, 0, 1).ticks(4)) == [1, 2, 3]
    assert [compact(v) for v in (20000, 1.5e6, 1e-5, 0.25, -3, 0)] == ["20k", "1.5M", "1e-5", "0.25", "-3", "0"]


def test_a_long_curve_keeps_its_peaks_and_its_gaps() -> None:
    values: list[float | None] = [1.0 + (i % 10) / 100 for i in range(20_000)]
    values[7_777], values[12_345], values[15_000] = 9.0, -3.0, None
    thin = thinned(Curve("a", range(20_000), values))
    assert len(thin.steps) < 500
    assert {7_777: 9.0, 12_345: -3.0, 15_000: None}.items() <= dict(zip(thin.steps, thin.values, strict=True)).items()
    assert list(thin.steps) == sorted(thin.steps)
    assert (thin.steps[0], thin.steps[-1]) == (0, 19_999)
