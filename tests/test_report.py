"""The page of a run says what happened to it, and only that; curves are where their numbers are."""

import base64
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import short_runs
from made_runs import NETWORK, made_run
from PIL import Image
from short_runs import small_scenes
from test_health_words import ILL, curve
from test_segmentation_linear import QUICK, Blocks
from test_visualize import Page

from densessl.__main__ import COMMANDS
from densessl.backbone_file import save_backbone
from densessl.backbones import Backbone
from densessl.commands import data, eval_cls, eval_seg, pretrain
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


@pytest.mark.parametrize("kind", TOLD)
def test_three_real_runs_are_told_apart_too(kind: str, short_run: Callable[[str], Path], tmp_path: Path) -> None:
    text = unescape(page_of(short_run(kind), *PLAIN, out=tmp_path / "page.html"))
    first = text[: text.index("<nav")]  # what is read before anything else
    expected = {
        "healthy": "Healthy: every measure is within its range for vicreg at the end",
        "collapsing": "Collapsing: embeddings lose what tells pictures apart, while the loss fell from ",
        "ten times too high": "The learning rate is too high, most likely; what helps: a lower optim.base_lr",
    }
    assert [words in text for words in expected.values()] == [words in first for words in expected.values()]
    assert [name for name, words in expected.items() if words in first] == [kind]
    reasons = re.findall(r"<li>(.*?)</li>", text[: text.index("More of them")])
    assert bool(reasons) == (kind != "healthy")
    assert any("alike (standard deviation of unit vectors 0.0" in why for why in reasons) == (kind == "collapsing")
    assert any(re.search("the rank of global embeddings fell from", why) for why in reasons) == (
        kind == "ten times too high"
    )


def test_how_features_formed_is_drawn_without_the_data(short_run: Callable[[str], Path], tmp_path: Path) -> None:
    runs = [shutil.copytree(short_run(kind), tmp_path / name) for kind, name in (("healthy", "a"), ("collapsing", "b"))]
    for run in runs:
        config = (run / "config.yaml").read_text()
        (run / "config.yaml").write_text(re.sub("  path: .*", "  path: /nowhere", config))
    text = page_of(runs[0], "--device", "cpu", "--pictures", "3", out=tmp_path / "page.html")
    alts = [found["alt"] for tag, found in Page(text).tags if tag == "img"]
    steps = [0, 2, 6, 20, 60]
    assert len(alts) == 3 * 6 + 2 * (2 + 5)  # and of two pictures the views, by location, and by feature
    for name in ("0.png", "18.png", "28.png"):
        assert [f"{name} by the three main components of step {step}'s features" in alts for step in steps] == [
            True
        ] * 5
    assert "/nowhere; --data PICTURES" not in text
    assert "random weights. Places of one colour" in text
    text = page_of(*runs, "--device", "cpu", "--pictures", "1", out=tmp_path / "page.html")
    assert [f"How its features formed, {name}: main components" in text for name in "ab"] == [True] * 2
    assert "no pictures: " in text  # of both beside each other
    (runs[0] / "watched" / "pictures.safetensors").write_bytes(b"none")
    assert "how features formed can" in page_of(runs[0], "--device", "cpu", out=tmp_path / "page.html")


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
    assert "<h2>Probes: scores on labelled pictures</h2>" in text
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


@contextmanager
def holding(lock: Path) -> Iterator[None]:
    """As a process that trains."""
    code = (
        "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.lockf(file, fcntl.LOCK_EX); print(flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", code, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline()
        yield
        process.communicate(b"\n")


def test_a_run_that_goes_was_stopped_or_was_killed_is_reported_as_such(tmp_path: Path) -> None:
    records = curve(FALLING)
    going = made_run(tmp_path / "going", records, steps=90, end=None)
    (going / "state" / "step0000035").mkdir(parents=True)
    written = (going / "metrics.jsonl").stat().st_mtime
    assert ending(read_run(going), written + 60).word == "going"
    killed = ending(read_run(going), written + 1000)
    assert (killed.word, "40 of 90 steps are logged" in killed.text) == ("broken off", True)
    assert "--resume goes on from step 35" in killed.text
    with holding(going / ".lock"):
        assert "its process is there" in ending(read_run(going), written + 1000).text
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
    assert f"--resume {going}</pre>" in text


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


# --- the pictures -----------------------------------------------------------------------------------------------------


def test_what_was_unreadable_and_what_check_found_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a real run with a broken picture, and the check of what it read."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    small_scenes(tmp_path / "pictures", 12)
    (tmp_path / "pictures" / "3.png").write_bytes(b"none")
    good = [Image.open(tmp_path / "pictures" / f"{i}.png") for i in range(12) if i != 3]
    red = np.mean([np.array(each)[..., 0] / 255 for each in good])
    short = {"steps": 2, "log_every": 1, "health_every": 0, "batch": 12}
    folder = short_runs.run(tmp_path, Path("pictures"), short, "watched=0", "seed=1")
    assert (folder / "log.txt").read_text().count("unreadable picture skipped: pictures/3.png: ") == 1
    text = page_of(folder, *PLAIN, out=tmp_path / "page.html")
    assert "<p>1 picture was unreadable of 12; others stood in for them.</p>" in text
    assert text.count("pictures/3.png: ") == 1
    assert "data check of" not in text
    assert data.main(["check", "pictures", "--out", str(tmp_path / "found"), "--workers", "0", "--tiny", "50"]) == 1
    for name in ("found", "found/check.json"):
        text = page_of(folder, *PLAIN, "--check", tmp_path / name, out=tmp_path / "page.html")
        section = text[text.index('<section id="pictures">') : text.index('<section id="health">')]
        cells = dict(re.findall(r"<tr><td>([^<]*)</td><td>([^<]*)</td></tr>", section))
        assert cells["pictures"] == "12, of which 11 are readable"
        assert (cells["corrupt"], cells["tiny"]) == ("1, 8.33%", "11, 91.67%")
        assert cells["width, pixels"] == "48 to 48, median 48"
        assert cells["read with"].startswith(f"data.mean=[{red:.4g},")
        assert len(re.findall(r"<tr><td>[123]</td>", section)) == 3
        assert f"run-watched=0-seed=1 took data.mean=[0.485,0.456,0.406], the check measured [{red:.3g}," in section
    shutil.copy(tmp_path / "found" / "check.json", folder)
    assert "<h3>data check of pictures</h3>" in page_of(folder, *PLAIN, out=tmp_path / "page.html")
    (folder / "check.json").write_text("[]")
    assert "no check.json of `data check" in unescape(page_of(folder, *PLAIN, out=tmp_path / "page.html"))
    with pytest.raises(UserError, match=r"--check nothing: no check\.json of `data check PICTURES --out FOLDER`"):
        main([str(folder), *PLAIN, "--check", "nothing"])


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
    Image.fromarray(np.full((500, 2000, 3), (200, 30, 30), np.uint8)).save(place / "pictures.png")
    (tmp_path / "pictures.png").write_bytes(b"none")
    (run / "detection").mkdir()
    (run / "detection" / "results.json").write_text("{")
    words = ["--results", place / "results.json", tmp_path / "results.json"]
    text = page_of(run, *PLAIN, *words, out=tmp_path / "page.html")
    assert f"{run}/detection/results.json: no results.json of eval-seg" in text
    assert text.count("&lt;mine&gt;") == 2 + 2  # once a table, and what the sheet of pictures shows
    (sheet,) = re.findall(r'<img src="data:image/jpeg;base64,(.*?)" alt="what &lt;mine&gt; came to', text)
    shown = np.array(Image.open(io.BytesIO(base64.b64decode(sheet))))
    assert shown.shape == (240, 960, 3)
    assert np.abs(shown.mean((0, 1)) - (200, 30, 30)).max() < 3
    assert f"{tmp_path}/pictures.png can't be read: " in unescape(text)
    assert "linear_small with batch=8 [abc] on scenes (7 train, 5 val pictures)" in text
    assert "<td>&lt;mine&gt;</td><td>0, 1</td><td>12.3 ± 1.0 [10.0, 20.0]</td><td>-</td>" in text
    assert "<td>0, 1</td><td>50.0</td>" in text
    assert '20-NN</th><th scope="col">linear, top-5</th>' in text
    assert "<td>mine</td><td>4</td><td>75.0</td><td>90.0</td>" in text


def test_a_run_shows_its_comparisons_with_random_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Random weights first, wherever the command has them, and what all else differs by from them."""
    monkeypatch.chdir(tmp_path)
    run, masks = made_run(tmp_path / "mine", curve(FALLING[:9])), Blocks("train").write(tmp_path / "blocks")
    shutil.copy(run / "backbone.safetensors", run / "backbone_best.safetensors")
    words = [*map(str, (run, run / "backbone_best.safetensors")), NETWORK, "--data", str(masks)]
    assert eval_seg.main([*words, *QUICK, "--workers", "0", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    random = f"{NETWORK} (random)"
    assert f"| | {random} | mine | mine (best) | mine minus {random} | mine (best) minus {random} |" in said
    assert sorted(path.name[-5:] for path in (run / "segmentation").iterdir()) == ["-best", "seed0"]
    assert len(list(run.rglob("comparison.json"))) == 2
    text = unescape(page_of("mine", *PLAIN, out=tmp_path / "page.html"))
    scores = text[text.index('<section id="scores">') :]
    rows = re.findall(r"<tr><td>(.*?)</td><td>0</td><td>(.*?)</td>", scores[: scores.index("</table>")])
    names = [random, "mine", "mine (best)", f"mine minus {random}", f"mine (best) minus {random}"]
    assert [name for name, _ in rows] == names
    (line,) = (line for line in said.splitlines() if line.startswith("| **mIoU**"))
    assert [score for _, score in rows] == [cell.strip() for cell in line.strip("|").split("|")[1:]]
    over = "[95% interval over the validation images alone; not covered: another seed, another pretraining]"
    assert f'</table></div><p class="pale">{over}</p>' in scores
    assert over in said


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
    assert shlex.split(resume) == ["densessl", "pretrain", "--resume", str(run)]
    assert shlex.split(replay) == ["densessl", "replay", str(run / "skipped" / "step0000005")]
    found: dict[str, Any] = {}
    exec(python, found)
    assert [each.shape[-1] for each in found["maps"]] == [56, 28, 14, 7]
    named = [shlex.split(each)[1:] for each in others]
    assert {each[0] for each in named} == {"eval-seg", "eval-cls", "visualize", "export"} <= set(COMMANDS)
    assert all(each[1] == str(run) for each in named)
    for module, each in ((eval_seg, named[0]), (eval_cls, named[1])):
        assert module._arguments(each[1:]).backbone == [NETWORK, str(run)]


def test_the_best_backbone_is_named_and_probes_have_titles(tmp_path: Path) -> None:
    scores = [{**record, "probe/linear_miou": 0.3, "probe/knn_accuracy": 0.5} for record in curve(FALLING[:9])]
    run = made_run(tmp_path / "mine", scores)
    facts: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "method": "vicreg", "step": 90}
    best = {"probe": "linear_miou of my/labels, probe_linear [abc]", "score": "0.4131"}
    save_backbone(run / "backbone_best.safetensors", Backbone(NETWORK), **facts, extra=best)
    text = page_of(run, *PLAIN, out=tmp_path / "page.html")
    assert "<td>after step 90, linear_miou of my/labels 41.3%</td>" in text
    assert "<h3>Or the best one by its probe: after step 90, linear_miou of my/labels 41.3%</h3>" in text
    (block,) = re.findall(r"41.3%</h3><pre>(.*?)</pre>", text, re.DOTALL)
    found: dict[str, Any] = {}
    exec(unescape(block), found)
    assert found["backbone"].metadata["score"] == "0.4131"
    for words in ("Probes: scores on labelled pictures", "linear segmentation, mIoU", "classes by nearest pictures"):
        assert words in text
    (run / "backbone_best.safetensors").write_bytes(b"none")
    text = page_of(run, *PLAIN, out=tmp_path / "page.html")
    assert "backbone_best.safetensors is damaged" in text
    assert "Or the best one" not in text


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
