"""The configuration: what is shipped loads, what is wrong is named."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from densessl.__main__ import run
from densessl.backbone_spec import parse_spec
from densessl.commands.pretrain import main
from densessl.config import CONFIGS, load_config, load_with_sources, resolved_yaml
from densessl.config_file import flat
from densessl.errors import UserError
from densessl.method_source import method_names
from densessl.methods import METHODS

SHIPPED = sorted(path.stem for path in CONFIGS.glob("*.yaml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_configurations_load_and_say_what_they_are(name: str) -> None:
    config = load_config(name)
    assert config.run == f"checkpoints/{name}"
    head = (CONFIGS / f"{name}.yaml").read_text().splitlines()
    comments = " ".join(line for line in head if line.startswith("#"))
    assert "https://arxiv.org/abs/" in comments
    assert f"--cfg {name}" in comments or "make demo" in comments


@pytest.mark.parametrize("name", SHIPPED)
def test_what_is_printed_can_be_saved_and_loaded(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cfg", name, "--print"]) == 0
    (path := tmp_path / "mine.yaml").write_text(printed := capsys.readouterr().out)
    assert load_config(str(path)) == load_config(name)
    assert re.search(r"^  base_lr: \S+ +# \w+.yaml:\d+$", printed, re.MULTILINE)


@pytest.mark.parametrize(
    "value", ["1e5", "null", "a: b # c", "x\ny", "é😀", "'", "2020-01-01", "[1", "&a *a", "~x", " x "]
)
def test_any_text_is_printed_so_that_it_is_read_as_it_was(
    value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    word = f"run={yaml.safe_dump(value, default_style=chr(34), width=9999)}"
    assert main(["--cfg", "demo", word, "--print"]) == 0
    (path := tmp_path / "mine.yaml").write_text(capsys.readouterr().out)
    assert load_config(str(path)).run == value == load_config("demo", [word]).run


def test_another_method_may_take_the_place_of_a_whole_section() -> None:
    config, sources = load_with_sources("demo", ["method={name: simclr, tau: 0.2}"])
    assert config.method.arguments == {"projector": (2048, 128), "tau": 0.2, "norm": "batch"}
    assert sources["method.tau"] == "command line"
    assert "method.projector" not in sources


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_shipped_for_imagenet_and_for_cifar(name: str) -> None:
    """Those for CIFAR-10 differ in method, optimiser, views and length alone, so that they can be compared."""
    assert load_config(f"{name}_r50").backbone.name == "resnet50"
    config, other = load_config(f"{name}_cifar"), load_config("wmse_cifar")
    assert config.method.name == name
    assert (config.backbone, config.data, config.batch) == (other.backbone, other.data, other.batch)
    assert (config.views.large.size, config.views.large.count, config.views.small.count) == (32, 2, 0)


def test_the_schema_of_a_method_is_its_constructor() -> None:
    assert method_names() == sorted(METHODS)
    for name, method in METHODS.items():
        config = load_config("demo", [f"method={{name: {name}}}", "batch=4096"])  # enough for every default
        parameters = inspect.signature(method).parameters.values()
        defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
        assert config.method.arguments == defaults


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["bach=3"], r"bach \(command line\): no such key; did you mean batch\?"),
        (["method.alhpa=1"], r"method.alhpa .*did you mean method.alpha\?"),
        (["compat=official"], r"compat .*did you mean method.compat\?"),
        (["base_lr=1"], r"did you mean optim.base_lr\?"),
        (["optim.lr=1"], r"optim.lr .*did you mean optim.base_lr\?"),
        (["learning_rate=1"], r"did you mean optim.base_lr\?"),
        (["weight_decay=1"], r"did you mean optim.weight_decay\?"),
        (["optim.epochs=3"], r"optim.epochs .*did you mean epochs\?"),
        (["data.root=x"], r"did you mean data.path\?"),
        (["num_workers=3"], r"did you mean data.workers\?"),
        (["batch_size=8"], r"batch_size .*did you mean batch\?"),
        (["output_dir=x"], r"did you mean run\?"),
        (["img_size=32"], r"did you mean views.large.size\?"),
        (["arch=resnet50"], r"did you mean backbone.name\?"),
        (["fp16=true"], r"did you mean precision\?"),
        (["resume=true"], r"resume .*--resume continues a run"),
        (["optim.accumulate_steps=2"], r"micro_batch=N cuts the batch"),
        (["views.larg.count=3"], r"did you mean views.large.count or views.small.count\?"),
        (["optimizer={lr: 1, wd: 2}"], r"optimizer.lr .*optim.base_lr\?\noptimizer.wd .*optim.weight_decay\?"),
        (["method.xyzzy=1"], r"method.xyzzy .*no such key; vicregl has alpha=0.75, expander=\[8192, 8192, 8192\], "),
        (["bach=3", "method.alhpa=1", "optim.lr=1", "seed=-1"], r"method.*\noptim.*\nseed.*\nbach"),
        (["method.name=vicregll", "bach=3"], r"did you mean vicregl\?.*\nbach"),
        (
            ["method.name=simclr", "bach=3"],
            r"bach.*\nmethod.name=simclr over vicregl: alpha, expander, num_matches and lambd are vicregl's \(demo"
            r".yaml:\d+.*; simclr has projector=\[2048, 128\], tau=0.1, norm=batch. 'method=\{name: simclr\}'",
        ),
        (["batch=1"], r"batch \(command line\): .*greater than or equal to 2, got 1"),
        (["batch=many"], r"batch .*valid integer, got 'many'"),
        (["batch=true"], r"batch .*valid integer, got True"),
        (["optim.base_lr=.nan"], r"optim.base_lr .*finite"),
        (["optim.name=lars", "zero=1"], r"LARS needs whole layers; use zero=0, or optim.name=adamw"),
        (["views.large.count=1"], r"two large crops or more"),
        (["views.large.scale=[0.5, 0.1]"], r"smallest, largest"),
        (["views=3"], r"views \(command line\)"),
        (["method.name=vicregll"], r"did you mean vicregl\?"),
        (["method={alpha: 1.0}"], r"method.name is missing"),
        (["method.alpha=1.5"], r"method.alpha .*less than or equal to 1"),
        (["method.compat=oficial"], r"method.compat .*'official'"),
        (["steps=10", "epochs=3"], r"as steps or as epochs"),
        (["backbone.in_chans=4"], r"data.mean has 3 values, backbone.in_chans is 4"),
        (["batch"], r"an override is key=value"),
        (["batch=[1"], r"can't be read as YAML"),
        (["data.path="], r"data.path \(command line\): the name of a file or folder is needed, got ''"),
        (["run=\udce9"], r"run \(command line\): \\xe9 is not UTF-8, and safetensors reads nothing"),
    ],
)
def test_wrong_input_is_refused_by_name(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config("demo", overrides)


def test_a_wrong_key_in_a_file_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text((CONFIGS / "demo.yaml").read_text() + "optin: 3\n")
    lines = len(path.read_text().splitlines())
    with pytest.raises(UserError, match=rf"optin \(mine.yaml:{lines}\): no such key"):
        load_config(str(path))


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text((CONFIGS / "demo.yaml").read_text() + "seed: 3\nseed: 4\n")
    with pytest.raises(UserError, match=r"seed .*given twice"):
        load_config(str(path))


@pytest.mark.parametrize("text", ["", "- 1\n", "a: [\n", "\x00"])
def test_a_file_that_is_no_configuration(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"mine.yaml"):
        load_config(str(path))


def test_an_unknown_name_gives_the_nearest() -> None:
    with pytest.raises(UserError, match=r"did you mean demo\? Names: .*demo, "):
        load_config("dem")


def test_sources_say_where_each_value_is_from() -> None:
    config, sources = load_with_sources("demo", ["optim.base_lr=5e-4"])
    assert config.optim.base_lr == 5e-4
    assert sources["optim.base_lr"] == "command line"
    assert sources["batch"].startswith("demo.yaml:")
    assert "seed" not in sources
    assert "seed" in flat(config.model_dump())


def test_steps_on_the_command_line_take_the_place_of_epochs(tmp_path: Path) -> None:
    config = load_config("vicregl_r50", ["steps=7"])
    assert (config.steps, config.epochs) == (7, None)


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from densessl.__main__ import main;"
        "sys.argv = ['densessl', 'pretrain', '--cfg', 'demo', '--print'];"
        "main(); assert not {'torch', 'cv2', 'albumentations', 'timm', 'deepspeed'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=Path(__file__).parents[1])


NAMES = [
    "2024",
    "007",
    "1e5",
    "2024-01-01",
    "no",
    "null",
    "~x",
    "{a,b}",
    "[x].jpg",
    "a #b",
    "*x",
    "k: v",
    "@x",
    "café 图",
]


@pytest.mark.parametrize("name", [*NAMES, os.fsdecode(b"caf\xe9"), "x\x1b"])
def test_a_name_is_what_is_written_whatever_yaml_would_make_of_it(name: str, tmp_path: Path) -> None:
    words = [f"data.path={name}", f"backbone.init={name}1"]
    config = load_config("demo", [*words, f"run={name.encode('utf-8', 'replace').decode()}"])
    assert (config.data.path, config.backbone.init) == (name, f"{name}1")
    (tmp_path / "config.yaml").write_text(resolved_yaml(config), "utf-8")
    assert load_config(str(tmp_path / "config.yaml")) == config.model_copy(update={"name": config.name})


def test_names_in_a_file_need_no_quotes(tmp_path: Path) -> None:
    text = resolved_yaml(load_config("demo", ["data.path=PATH", "probes.classes=IT", "run=RUN"]))
    for old, new in (("PATH", "2024"), ("RUN", "007"), ("classes: IT", "classes: ~")):
        text = text.replace(old, new)
    (tmp_path / "demo.yaml").write_text(text, "utf-8")
    config = load_config(str(tmp_path / "demo.yaml"))
    assert (config.data.path, config.run, config.probes.classes) == ("2024", "007", None)
    assert load_config(str(tmp_path / "demo.yaml"), ["backbone.init=null", "data.path='a b'"]).data.path == "a b"


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also behind = and :, where a shell leaves it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x~").mkdir()
    config = load_config("demo", ["data.path=~/a", "run=~/b", "backbone.init=~/c.pth", "probes.masks=~/x~"])
    found = config.data.path, config.run, config.backbone.init, config.probes.masks
    assert found == tuple(f"{tmp_path}/{name}" for name in ("a", "b", "c.pth", "x~"))
    assert parse_spec("resnet50=~/d.pth").path == tmp_path / "d.pth"
    monkeypatch.setattr(sys, "argv", ["densessl", "~/a", "--out=~/b", "hf:~/c", "r=~/d.pth", "~", "a~/b", "~root/c"])
    assert run(lambda: len(sys.argv)) == 8
    home = str(tmp_path)
    assert sys.argv[1:] == [f"{home}/a", f"--out={home}/b", f"hf:{home}/c", f"r={home}/d.pth", home, "a~/b", "~root/c"]
