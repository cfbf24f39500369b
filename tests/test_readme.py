"""What the README and docs/ show beside commands works as it stands there."""

import ast
import json
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import test_method_equations
import torch
from short_runs import run, small_scenes
from test_methods import random_views
from torch.nn import functional as F

from densessl.backbone_file import load_backbone
from densessl.backbones import Backbone, pooled
from densessl.commands import pretrain as pretrain_command
from densessl.config import load_config
from densessl.errors import UserError
from densessl.export import EXPORTERS
from densessl.methods import METHODS, find_method

ROOT = Path(__file__).parents[1]
DOCUMENTS = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *ROOT.glob("docs/*.md"))}


ITS_FILE, ITS_TEST = re.findall(r"```python\n(.*?)```", DOCUMENTS["adding_a_method.md"], re.DOTALL)
OWN = "align_uniform.py:AlignUniform"


def test_the_method_that_is_added_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the test that is shown with it passes."""
    monkeypatch.chdir(tmp_path)
    Path("align_uniform.py").write_text(ITS_FILE)
    monkeypatch.setitem(METHODS, "align_uniform", find_method(OWN))
    exec(ITS_TEST, tests := vars(test_method_equations) | {"F": F})
    tests["test_align_uniform"]()
    torch.manual_seed(0)
    method: Any = find_method(OWN)(Backbone("test_convnext"), projector=(32, 16))
    views = random_views(small=0)
    terms = method(views)
    sum(terms.values()).backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in method.projector.parameters())
    a, b = (F.normalize(method.projector(pooled(method.backbone(view.image)[-1]))) for view in views.large)
    assert terms["alignment"].item() == pytest.approx(((a - b) ** 2).sum(1).mean().item(), rel=1e-6)
    pairs = torch.stack([torch.exp(-2 * ((x - y) ** 2).sum()) for z in (a, b) for x in z for y in z])
    assert terms["uniformity"].item() == pytest.approx(pairs.mean().log().item(), rel=1e-5)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_it_trains_and_resumes_from_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("align_uniform.py").write_text(ITS_FILE)
    Path("pictures").mkdir()
    change = {"method": {"name": OWN, "projector": [16, 8], "t": 3.0}, "data": {"path": "pictures", "workers": 0}}
    words = ["steps=4", "save_every=2", "health_every=0", "watched=0", "batch=8", "log_every=1"]
    small_scenes(Path("pictures"), 8)
    run(tmp_path, Path("pictures"), change, *words)
    (folder,) = tmp_path.glob("run-*")
    assert load_config(str(folder / "config.yaml")).method.arguments == {"projector": (16, 8), "t": 3.0}
    losses = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all(line["loss"] == pytest.approx(line["alignment"] + line["uniformity"]) for line in losses)
    shutil.rmtree(folder / "state" / "step0000004")
    run(tmp_path, Path("pictures"), change, *words, resume=True)
    again = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in again] == [line["loss"] for line in losses]
    with pytest.raises(UserError, match=r"method.t: 3.0 in the run, 2.0 now"):
        run(tmp_path, Path("pictures"), change, *words, "method.t=2.0", f"run={json.dumps(str(folder))}", resume=True)


@pytest.mark.parametrize("number", [0, 1])
def test_loops_of_ones_own_run(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As printed, with smaller sizes; the commands take what they leave."""
    monkeypatch.chdir(tmp_path)
    Path("my/pictures").mkdir(parents=True)
    small_scenes(Path("my/pictures"), count=8)
    code = re.findall(r"```python\n(.*?)```", DOCUMENTS["own_loop.md"], re.DOTALL)[number]
    smaller = {"convnext_tiny": "test_convnext", "resnet50": "test_resnet", "1000": "3", "size=224": "size=64"}
    smaller |= {"batch=64": "batch=4", "batch_size=64": "batch_size=4", "workers=4": "workers=0", "2048": "16"}
    smaller |= {"128, 3, 224, 224": "8, 3, 64, 64"}
    for long, short in smaller.items():
        code = code.replace(long, short)
    exec(code, found := dict[str, Any]())
    assert found["loss"].isfinite()
    network = found["network" if number else "backbone"]
    backbone = load_backbone("test_resnet=mine.pth" if number else "mine/backbone.safetensors")
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        ours = network.eval().forward_features(image) if number else network.eval()(image)[-1]
        torch.testing.assert_close(backbone.eval()(image)[-1], ours)


def test_every_configuration_that_is_named_exists() -> None:
    text = " ".join(text for name, text in DOCUMENTS.items() if name != "adding_a_method.md")  # which invents one
    named = set(re.findall(r"\b((?!METHOD)\w+_(?:cnx_\w+|r50\w*|cifar))\b", text))
    assert len(named) > 5
    assert not {name for name in named if not (ROOT / "configs" / f"{name}.yaml").exists()}


def test_every_link_leads_somewhere() -> None:
    """To a file, and to a heading where one is named."""
    for name, text in DOCUMENTS.items():
        for link in re.findall(r"\]\((?!https:)([^)\s]+)\)", text):
            path, _, heading = link.partition("#")
            file = ROOT / ("." if name == "README.md" else "docs") / (path or name)
            assert file.exists(), f"{name}: {link}"
            if heading:
                lines = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
                assert heading in {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in lines}, link


@pytest.mark.parametrize("target", EXPORTERS)
def test_the_lines_for_each_destination_are_those_that_export_prints(target: str) -> None:
    """Up to the style of writing; tests/test_export.py runs them."""
    exporter = EXPORTERS[target]
    file = Path(f"resnet50.{target}".removesuffix(exporter.SUFFIX) + exporter.SUFFIX)
    (shown,) = re.findall(rf"^`{target}`\n\n```python\n(.*?)```$", DOCUMENTS["export.md"], re.DOTALL | re.MULTILINE)
    assert ast.unparse(ast.parse(shown)) == ast.unparse(ast.parse(exporter.snippet(load_backbone("resnet50"), file)))


@pytest.fixture
def small_pretraining(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What makes a configuration of the documents small, where my/pictures is a folder of eight."""
    monkeypatch.chdir(tmp_path)
    Path("my/pictures").mkdir(parents=True)
    small_scenes(Path("my/pictures"), 8)
    heads = "method.expander=[16,16] method.projector=[16,16] method.num_matches=[4,2]"
    return f"backbone.name=test_convnext batch=4 log_every=1 views.large.size=64 data.workers=0 threads=1 {heads}"


def test_the_lines_of_python_pretrain(small_pretraining: str) -> None:
    (lines,) = re.findall(r"```python\n(import densessl\n.*?)```", DOCUMENTS["training.md"], re.DOTALL)
    given = {"run": "checkpoints/mine", "data": "my/pictures", "epochs": 50, "batch": 64}
    assert all(f"{key}={value!r}".replace("'", '"') in lines for key, value in given.items())
    small = ", ".join(repr(word) for word in ["micro_batch=2", *small_pretraining.split()])
    lines = lines.replace(", batch=64", "").replace('1gpu"', f'1gpu", {small}').replace("epochs=50", "epochs=1")
    exec(lines.replace("epochs=60", "epochs=1.5"), found := dict[str, Any]())
    assert found["run"] == Path("checkpoints/mine")
    lines = Path("checkpoints/mine/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
    assert (found["backbone"].name, found["backbone"].metadata["step"]) == ("test_convnext", 3)


def test_the_batch_script_starts_goes_on_and_comes_again(small_pretraining: str) -> None:
    (script,) = re.findall(r"```bash\n(.*?)```", DOCUMENTS["many_machines.md"], re.DOTALL)
    (command,) = re.findall(r"^srun python tools/pretrain.py (.*)$", script, re.MULTILINE)
    words = [*command.split(), *small_pretraining.split(), "steps=1"]
    for _ in range(2):
        assert pretrain_command.main(words) == 0
    assert Path("checkpoints/mine/log.txt").read_text(encoding="utf-8").count("from step 1; 1 steps of 4 of 8") == 1
    for code, said in ((128 + signal.SIGUSR1, "requeue 7"), (2, ""), (0, "")):
        job = f"srun() {{ return {code}; }}; scontrol() {{ echo $*; }}; SLURM_JOB_ID=7\n{script}"
        ended = subprocess.run(["bash", "-c", job], capture_output=True, text=True, check=False)
        assert (ended.returncode, ended.stdout.strip()) == (code, said)
