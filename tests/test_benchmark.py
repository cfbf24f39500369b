"""The benchmarks: what they measure against is right, and each of them runs."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from test_criteria import naive_covariance, naive_variance
from test_methods import naive_local, random_views
from torch import Tensor, nn

from densessl.backbones import Backbone
from densessl.benchmark import naive
from densessl.benchmark.data import PIL
from densessl.benchmark.made import Sizes, embeddings
from densessl.benchmark.memory import by_line, by_trying
from densessl.benchmark.parts import Parts
from densessl.benchmark.peak import Peak
from densessl.benchmark.processes import spawned
from densessl.benchmark.report import commit
from densessl.commands.benchmark import main
from densessl.config import load_config
from densessl.data.decoding import decode
from densessl.data.layouts import write_scenes
from densessl.data.multi_crop import MultiCrop
from densessl.data.scenes import Scenes
from densessl.errors import UserError
from densessl.methods.vicregl import VICRegL

CPU = torch.device("cpu")
SIZES = Sizes(batch=4, large_map=3, small=2, small_map=2, width=6, embedding=10, num_matches=(4, 2))

# --- the naive form ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("official", [False, True])
def test_the_naive_form_equals_the_equations_written_out(official: bool) -> None:
    z, cells, centers, pivots = embeddings(SIZES, CPU)
    z, cells = ([x.detach().double().requires_grad_() for x in part] for part in (z, cells))
    terms = naive.criterion(z, cells, centers, pivots, alpha=0.6, num_matches=(4, 2), official=official)

    pairs = [(i, j) for i in range(pivots) for j in range(4) if i != j]
    invariance = sum(((z[i] - z[j]) ** 2).mean() for i, j in pairs) / len(pairs)
    loss = 0.6 * (25 * invariance + 25 * sum(map(naive_variance, z)) / 4 + sum(map(naive_covariance, z)) / 4)
    location = [(i, j, 4, 4 if j < pivots and not official else 2) for i, j in pairs]
    feature = [(i, j, None, None) for i, j in pairs] if official else location
    detached = [c.detach() for c in cells]
    loss = loss + 0.4 * (naive_local(cells, centers, location) + naive_local(cells, detached, feature))

    value = sum(terms.values())
    torch.testing.assert_close(value, loss)
    found, expected = (torch.autograd.grad(total, [*z, *cells]) for total in (value, loss))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("compat", [None, "official"])
@pytest.mark.parametrize("change", [{}, {"batch": 12}, {"small": 0, "large": 3, "num_matches": (99, 1)}])
def test_vicregl_has_the_values_and_gradients_of_the_naive_form(change: dict[str, Any], compat: str | None) -> None:
    """With more pictures than dimensions too; in fp32, inside autocast, as it trains."""
    sizes = replace(SIZES, **change)
    inputs = embeddings(sizes, CPU)
    method = VICRegL(
        Backbone("test_convnext"), expander=(1,), projector=(1,), num_matches=sizes.num_matches, compat=compat
    )
    with torch.autocast("cpu", torch.bfloat16):
        found = method.criterion(*inputs)
    expected = naive.criterion(*inputs, num_matches=sizes.num_matches, official=compat == "official")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    leaves = [*inputs.z, *inputs.cells]
    a, b = (torch.autograd.grad(sum(terms.values()), leaves) for terms in (found, expected))
    for ours, truth in zip(a, b, strict=True):
        torch.testing.assert_close(ours, truth, rtol=1e-5, atol=1e-5 * truth.abs().max().item())


# --- measuring --------------------------------------------------------------------------------------------------------


def of_64_mib() -> float:
    before = torch.ones(2**26)
    del before
    kept = torch.ones(2**24)
    with Peak(CPU) as memory:
        torch.ones(2**24)
    return memory.above + 0 * kept[0].item()


def test_a_peak_is_of_its_block_alone() -> None:
    """A quarter of a GiB that was freed before does not count, nor what the parent took, nor what was there."""
    large = torch.ones(2**27)
    (above,) = spawned(of_64_mib)
    assert above == pytest.approx(1 / 16, rel=0.1)
    assert large[0] == 1


class Slow(torch.autograd.Function):
    SECONDS = 0.3

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        time.sleep(Slow.SECONDS)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        time.sleep(Slow.SECONDS)
        return gradient


@pytest.mark.parametrize("part", ["backbone", "heads", "criterion"])
def test_time_goes_to_the_part_that_takes_it(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method = VICRegL(Backbone("test_convnext"), expander=(16, 8), projector=(16, 8))
    views = random_views()
    if part == "backbone":
        method.backbone.net.stem.register_forward_hook(lambda _, __, x: Slow.apply(x))
    elif part == "heads":
        method.expander.append(nn.Identity()).register_forward_hook(lambda _, __, x: Slow.apply(x))
        method.expander[0].register_forward_hook(lambda _, __, x: Slow.apply(x))
    else:
        fast = method.criterion
        monkeypatch.setattr(method, "criterion", lambda z, *others: fast([Slow.apply(z[0]), *z[1:]], *others))
    for _ in range(2):
        with Parts(method, CPU) as parts:
            parts.begin("criterion")
            sum(method(views).values()).backward()
            parts.begin("")
    others = sum(parts.seconds.values()) - parts.seconds[part]
    assert parts.seconds.keys() == {"backbone", "heads", "criterion"}
    assert parts.seconds[part] > 2 * Slow.SECONDS > others
    places, channels = 4 + 4 + 1, method.backbone.channels[-1]
    assert parts.collected == 4 * 4 * (places * channels + places * 8 + 3 * 8)  # of four pictures


@pytest.mark.parametrize("true", [1, 2, 3, 7, 8, 9, 100, 255, 256, 257, 5000])
@pytest.mark.parametrize("start", [2, 8, 200])
def test_the_largest_batch_is_found_by_trying(true: int, start: int) -> None:
    tried: list[int] = []

    def fits(batch: int) -> bool:
        tried.append(batch)
        return batch <= true

    found = by_trying(fits, start, most=256)
    expected = min(true, 256) if true > 1 else 0
    assert expected - max(1, expected // 16) < found <= expected
    assert len(tried) == len(set(tried)) < 16
    assert min(tried) >= 2


def test_the_largest_batch_is_found_on_the_line() -> None:
    assert by_line({16: 3.0, 8: 2.0, 4: 1.9}, limit=10.0, most=4096) == 72
    assert by_line({16: 3.0, 8: 2.0}, limit=1.0, most=4096) == 0
    assert by_line({16: 3.0, 8: 2.0}, limit=1e6, most=4096) == 4096
    assert by_line({16: 3.0}, limit=10.0, most=4096) is None


def test_the_commit_is_named() -> None:
    found = commit()
    assert found is None or len(found.removesuffix("+changes")) == 12


# --- the command ------------------------------------------------------------------------------------------------------

TINY = ["--batch=4", "--large-map=3", "--small=1", "--small-map=2", "--width=16", "--embedding=32", "--repeats=2"]
TINY += ["--num-matches", "3", "2"]
CFG = ["--cfg", "demo", "backbone.name=test_convnext", "method.expander=[32, 32]", "method.projector=[16, 16]"]


def logged(words: list[str], folder: Path) -> Any:
    """The figures in the log, where they are JSON."""
    log = folder / "log.jsonl"
    assert main([*words, "--device", "cpu", "--log", str(log)]) == 0
    (line,) = map(json.loads, log.read_text().splitlines())
    assert line["benchmark"] == words[0]
    assert line.keys() == {"benchmark", "date", "commit", "hardware", "versions", "arguments", "figures"}
    assert line["hardware"]["processor"]
    assert "log" not in line["arguments"]
    return line["figures"]


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")


def test_criterion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = logged(["criterion", *TINY], tmp_path)
    assert max(figures["value_difference"], figures["gradient_difference"]) < 1e-5
    assert figures["seconds"].keys() == figures["peak_gib"].keys() >= {"ours", "naive"}
    assert len(figures["all_seconds"]["ours"]) == 2
    one, beside, two = figures["of_a_process"].values()
    assert one["value"] == beside["value"] == pytest.approx(two["value"], rel=1e-4)
    assert "| ours |" in capsys.readouterr().out


def test_step(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """In a process of its own, since DeepSpeed stays connected."""
    (figures,) = spawned(logged, ["step", *CFG, "batch=4", "--repeats", "2"], tmp_path)
    assert sum(figures["shares"].values()) == pytest.approx(1, abs=1e-3)
    assert figures["shares"].keys() == {"backbone", "heads", "criterion", "optimiser"}
    assert figures["pictures_per_s"]["step"] == pytest.approx(4 / figures["seconds"]["step"], rel=1e-2)
    assert figures["flop_of_a_picture"] > 0
    assert figures["health"]["seconds"] > 0
    out = capfd.readouterr().out
    assert "| whole step |" in out
    assert "| health, every 50 steps |" in out


def test_scale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = logged(["scale", *TINY, *CFG], tmp_path)
    rows = figures["processes"]
    assert list(rows) == ["1", "2", "8", "64", "512"]
    assert all(row["share_seconds"] > 0 for row in rows.values())
    assert [n for n, row in rows.items() if "criterion_seconds" in row] == ["1", "2"]
    places = 4 * (2 * 9 + 4)  # of four pictures
    assert rows["8"]["received_bytes"]["cells"] == 7 * places * 16 * 4
    assert rows["8"]["received_bytes"]["gradients of cells"] == 7 * places * 16 * 4
    assert rows["8"]["received_bytes"]["embeddings"] == 7 * 4 * 3 * 32 * 4
    assert rows["2"]["received_bytes"]["gradients"] == 4 * figures["parameters"]
    assert "| 512 | 2048 |" in capsys.readouterr().out


def test_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["memory", *CFG, "--variants", "micro", "--batches", "4", "12", "--micro", "2", "--limit", "1"]
    figures = logged([*words, "--most", "64"], tmp_path)
    peaks = figures["variants"]["micro"]["batches"]
    assert peaks["12"]["peak_gib"] > peaks["12"]["rest_gib"] > 0.1
    assert 0 <= figures["variants"]["micro"]["largest"] <= 64
    channels = Backbone("test_convnext").channels[-1]
    of_a_crop = 4 * channels + 32 + 4 * 16
    assert peaks["12"]["collected_gib"] == pytest.approx(12 * 2 * of_a_crop * 4 / 2**30, rel=1e-3)
    assert "| micro-batches of 2 | 12 |" in capsys.readouterr().out


def test_save(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """AdamW keeps two numbers a trained weight, and a step a weight."""
    (tmp_path / "disk").mkdir()
    words = ["save", "--cfg", "demo", "method.expander=[16]", "method.projector=[8]", "--repeats", "2"]
    (figures,) = spawned(logged, [*words, "--folder", str(tmp_path / "disk")], tmp_path)
    cfg = load_config("demo", ["method.expander=[16]", "method.projector=[8]"])
    method = VICRegL(Backbone(cfg.backbone.name), expander=(16,), projector=(8,))
    weights = [4 * p.numel() for p in method.parameters()]
    rest = sum(buffer.nbytes for buffer in method.buffers())
    assert figures["bytes"] == 3 * sum(weights) + 4 * len(weights) + rest
    assert figures["share_of_an_hour"]["12"] == pytest.approx(12 * figures["seconds"] / 3600, rel=1e-2)
    assert figures["seconds"] > figures["collecting"] > 0
    assert not list((tmp_path / "disk").iterdir())
    assert "| share of an hour with 12 saves |" in capfd.readouterr().out


def test_watch(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Two looks' seconds over those of the steps between them."""
    write_scenes(tmp_path / "masks", "folder", 4, 2, 64, 0)
    small = ["method.expander=[16]", "method.projector=[8]", "backbone.name=test_convnext", "batch=4", "data.workers=0"]
    words = ["watch", "--cfg", "demo", *small, f"probes.masks={tmp_path / 'masks'}", "--repeats", "2"]
    (figures,) = spawned(logged, [*words, "health_every=5", "probes.every=0.1", "--pictures", "400"], tmp_path)
    seconds = figures["seconds"]
    assert figures["steps_between"] == {"health": 5, "probes": 10}
    assert figures["share"]["health"] == pytest.approx(seconds["health"] / seconds["step"] / 5, rel=1e-2)
    assert figures["share"]["probes"] == pytest.approx(seconds["probes"] / seconds["step"] / 10, rel=1e-2)
    assert min(seconds.values()) > 0
    assert "| probes |" in capfd.readouterr().out


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for i in range(8):
        Image.fromarray(Scenes(8, size=96).read(i)).save(folder / f"{i}.jpg", quality=95)
    return folder


def test_data(tmp_path: Path, photographs: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """In a process of its own, since it sets the number of threads."""
    (figures,) = spawned(logged, ["data", "--cfg", "demo", f"data.path={photographs}", "--repeats", "1"], tmp_path)
    ms = figures["ms"]
    assert min(ms.values()) > 0
    assert figures["faster"] == pytest.approx({where: ms["pil"] / ms[where] for where in ("workers", "device")}, 1e-2)
    assert figures["pictures"] == 8
    assert "| PIL and torchvision |" in capfd.readouterr().out


def test_the_pil_pipeline_makes_the_same_views(photographs: Path) -> None:
    """As often grey and solarised, as bright and as rough: what is compared is the same work."""
    cfg = load_config("vicregl_cnx_s", [f"data.path={photographs}", "photometric.where=workers"])
    pil, ours = PIL(cfg), MultiCrop(cfg.views, cfg.photometric, 0)
    seen: dict[str, list[list[tuple[float, ...]]]] = {"pil": [], "ours": []}
    for turn in range(240):
        file = photographs / f"{turn % 8}.jpg"
        seen["pil"].append([_looks(view) for view in pil(file.read_bytes())])
        picture = decode(file.read_bytes(), str(file))
        crops = (torch.from_numpy(crop.image).permute(2, 0, 1) / 255 for crop in ours(picture, turn, turn % 8))
        mean, std = (torch.tensor(v)[:, None, None] for v in (cfg.data.mean, cfg.data.std))
        seen["ours"].append([_looks((crop - mean) / std) for crop in crops])
    a, b = (torch.tensor(values) for values in seen.values())  # turns, views, what is looked at
    off = (a.mean(0) - b.mean(0)).abs() / ((a.var(0) + b.var(0)) / len(a) + 1e-9).sqrt()
    assert off.max() < 4.5, off  # standard errors


def _looks(view: Tensor) -> tuple[float, ...]:
    """Brightness, contrast, whether grey, and roughness (beside which aliasing would show)."""
    rgb = view * torch.tensor([0.229, 0.224, 0.225])[:, None, None]  # no mean: alike for grey up to a constant
    spread = (rgb - rgb.mean((1, 2), keepdim=True)).std(0).mean()
    return view.mean().item(), view.std().item(), float(spread < 1e-3), view.diff(dim=2).abs().mean().item()


def test_memory_says_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["memory", "--cfg", "vicregl_r50", "--variants", "micro"]
    assert logged(words, tmp_path)["variants"] == {}
    assert "micro: micro_batch=4: resnet50 has batch statistics" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["speed"], "benchmark speed: there are criterion, step, scale, memory"),
        (["criterion", "--repeats", "0"], "--repeats 0: at least 1 is needed"),
        (["criterion", "--num-matches", "20", "0"], "--num-matches: at least 1"),
        (["scale", "--batch", "1"], "--batch 1: at least 2"),
        (["step", "--cfg", "nothing"], "--cfg nothing: neither a file nor a name"),
        (["step", "--cfg", "demo", "batch=-1"], "batch .*greater than or equal to 2"),
        (["memory", "--cfg", "demo", "--batches", "1", "8"], "--batches: at least 2"),
        (["memory", "--cfg", "demo", "--limit", "0"], "--limit 0"),
        (["memory", "--cfg", "demo", "sise=4"], "sise .*no such key"),
    ],
)
def test_wrong_words_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        main(words)


@pytest.mark.parametrize("kind", ["criterion", "step", "scale", "memory", "data", "save", "watch"])
def test_help_names_every_option(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([kind, "--help"])
    assert f"benchmark {kind} --" in capsys.readouterr().out
