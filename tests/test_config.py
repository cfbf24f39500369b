"""The configuration: what is shipped loads, what is wrong is named."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

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
def test_the_resolved_configuration_gives_the_same_run(name: str, tmp_path: Path) -> None:
    config = load_config(name, ["seed=3"])
    path = tmp_path / "config.yaml"
    path.write_text(resolved_yaml(config))
    assert load_config(str(path)) == config


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
