"""Every export is loaded into a network that the test builds itself, and refused if it is not the same."""

import contextlib
import hashlib
import io
import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor
from weights import image, scatter

from densessl import layouts
from densessl.backbone_file import init_backbone, load_backbone, save_backbone
from densessl.backbones import Backbone, pooled
from densessl.commands import export as command
from densessl.errors import UserError
from densessl.export import EXPORTERS, export, manifest_path

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
NAMES = {"timm": ("convnext_atto", "convnextv2_atto", "resnet18d"), "torchvision": ("convnext_tiny", "resnet18")}
EVERY = [(target, name) for target in EXPORTERS for name in NAMES[target]]


def timm_stages(name: str, file: Path, x: Tensor) -> list[Tensor]:
    net = timm.create_model(name, num_classes=0, checkpoint_path=file).eval()
    return net.forward_intermediates(x, intermediates_only=True)[-4:]


def torchvision_stages(name: str, file: Path, x: Tensor) -> list[Tensor]:
    net = getattr(torchvision.models, name)()
    if name.startswith("convnext"):
        net.classifier[2] = nn.Identity()
        names = ["features.1", "features.3", "features.5", "features.7"]
    else:
        net.fc = nn.Identity()
        names = ["layer1", "layer2", "layer3", "layer4"]
    net.load_state_dict(torch.load(file, weights_only=True), strict=True)
    return list(create_feature_extractor(net.eval(), names)(x).values())


STAGES: dict[str, Callable[[str, Path, Tensor], list[Tensor]]] = {
    "timm": timm_stages,
    "torchvision": torchvision_stages,
}


def write_backbone(path: Path, name: str, in_chans: int = 3) -> Path:
    backbone = Backbone(name, in_chans=in_chans)
    scatter(backbone.net)
    colour = {"mean": MEAN, "std": STD} if in_chans == 3 else {"mean": (0.5,) * in_chans, "std": (0.2,) * in_chans}
    save_backbone(path, backbone, **colour, method="vicregl", step=9)  # type: ignore[arg-type]
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("backbones")

    def file(name: str) -> Path:
        path = folder / name / "backbone.safetensors"
        return path if path.exists() else write_backbone(path, name)

    return file


def equal(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() <= 1e-5 * a.abs().max()


@torch.inference_mode()
def run_snippet(snippet: str, x: Tensor) -> dict[str, Any]:
    names: dict[str, Any] = {"image": x}
    exec(snippet, names)
    return names


@pytest.mark.parametrize(("target", "name"), EVERY)
def test_an_export_is_the_same_network_there(
    target: str, name: str, files: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = files(name)
    assert command.main([str(source), "--to", target, "--out", str(tmp_path)]) == 0
    out = tmp_path / f"{name}.{target}{EXPORTERS[target].SUFFIX}"
    printed = capsys.readouterr().out
    assert str(out) in printed
    assert "strictly" in printed

    backbone = load_backbone(source)
    x = image(97, 75)
    with torch.inference_mode():
        ours = backbone.stages(x)
        equal(ours, STAGES[target](name, out, x))
        vector = pooled(backbone(x))
    facts = json.loads(manifest_path(out).read_text())
    assert facts["snippet"] in printed
    there = run_snippet(facts["snippet"], x)
    equal(ours, there["maps"])
    equal([vector], [there["vectors"]])

    assert facts["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()
    assert (facts["architecture"], facts["method"], facts["step"], facts["file"]) == (name, "vicregl", 9, out.name)
    assert (facts["mean"], facts["std"]) == (list(MEAN), list(STD))
    assert (facts["strides"], facts["channels"]) == ([4, 8, 16, 32], list(backbone.channels))
    assert len(facts["verified"]["stage_differences"]) == 4
    assert {file.name for file in tmp_path.iterdir()} == {out.name, manifest_path(out).name}

    again = Backbone(name)
    init_backbone(again, out)
    for key, tensor in backbone.net.state_dict().items():
        assert torch.equal(again.net.state_dict()[key], tensor), key


@pytest.mark.parametrize("target", EXPORTERS)
def test_the_command_names_every_target(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--help"])
    assert target in capsys.readouterr().out.split("--to TARGET")[-1].split("--out")[0]


@pytest.mark.parametrize("target", EXPORTERS)
def test_equal_tensors_give_equal_bytes_under_any_name(target: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        EXPORTERS[target].write({"stem.weight": torch.ones(3), "stem.bias": torch.zeros(3)}, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_network_that_takes_even_sizes_only_is_verified_on_those(tmp_path: Path) -> None:
    assert export("resnetaa34d", "timm", tmp_path).exists()


def test_timm_reads_colour_and_channels_from_the_snippet(tmp_path: Path) -> None:
    source = write_backbone(tmp_path / "backbone.safetensors", "convnext_atto", in_chans=4)
    out = export(tmp_path, "timm")
    assert out == tmp_path / "convnext_atto.timm.safetensors"
    x = image(64, 64, channels=4)
    there = run_snippet(json.loads(manifest_path(out).read_text())["snippet"], x)
    with torch.inference_mode():
        equal(load_backbone(source).stages(x), there["maps"])
    config = timm.data.resolve_model_data_config(there["net"])
    assert (config["mean"], config["std"], config["input_size"]) == ((0.5,) * 4, (0.2,) * 4, (4, 224, 224))
    source = write_backbone(tmp_path / "b.safetensors", "resnet18", in_chans=4)
    with pytest.raises(UserError, match="takes 3 channels"):
        export(source, "torchvision")


def test_timm_vector_is_norm_of_mean_and_the_norm_can_go_first(files: Callable[[str], Path], tmp_path: Path) -> None:
    """What the snippet's comment claims."""
    out = export(files("convnext_atto"), "timm", tmp_path)
    backbone, x = load_backbone(files("convnext_atto")), image(64, 96)
    state = {key.replace("head.norm.", "norm_pre."): value for key, value in load_file(out).items()}
    first = timm.create_model("convnext_atto", num_classes=0, head_norm_first=True).eval()
    first.load_state_dict(state)
    default = timm.create_model("convnext_atto", num_classes=0, checkpoint_path=out).eval()
    with torch.inference_mode():
        equal([pooled(backbone(x))], [first(x)])
        assert (pooled(backbone(x)) - default(x)).abs().max() > 0.1


# --- refusals: nothing is written ---


def refused(message: str, source: Path, target: str, folder: Path) -> None:
    with pytest.raises(UserError, match=message):
        export(source, target, folder / f"x{EXPORTERS[target].SUFFIX}")
    assert not list(folder.iterdir())


@pytest.mark.parametrize("target", EXPORTERS)
def test_a_small_stem_is_refused(target: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    source = tmp_path / "backbone.safetensors"
    save_backbone(source, Backbone("resnet18", stem="small"), mean=MEAN, std=STD, method="simclr", step=9)
    refused(f"{target} has no resnet18 with a small stem; densessl.load_back", source, target, tmp_path / "out")


def swapped(layout: Callable[[str], str], a: str, b: str) -> Callable[[str], str]:
    def name_of(key: str) -> str:
        return layout(key.replace(a, "\0").replace(b, a).replace("\0", b))

    return name_of


def test_a_wrong_name_is_refused_with_the_keys(
    files: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layouts, "timm_convnext", lambda key: key.replace("stages", "stage"))
    refused("110 missing: .*110 unexpected: stage.0", files("convnext_atto"), "timm", tmp_path)


def test_a_wrong_torchvision_name_is_refused_with_the_keys(
    files: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(layouts._TORCHVISION_BLOCK, "norm", "block.1")
    refused(
        r"36 missing: features\.1\.0\.block\.2\.weight.*36 unexpected", files("convnext_tiny"), "torchvision", tmp_path
    )


@pytest.mark.parametrize(
    ("a", "b"), [("blocks.0.norm", "blocks.1.norm"), ("blocks.0.conv_dw.bias", "blocks.0.norm.bias")]
)
def test_names_that_fit_but_lie_are_refused_by_the_maps(
    a: str, b: str, files: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layouts, "timm_convnext", swapped(layouts.timm_convnext, a, b))
    refused("its four stage maps differ by", files("convnext_atto"), "timm", tmp_path)


def test_a_missing_block_is_refused(
    files: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = EXPORTERS["torchvision"].tensors
    monkeypatch.setattr(
        EXPORTERS["torchvision"],
        "tensors",
        lambda backbone, wanted: {k: v for k, v in whole(backbone, wanted).items() if "layer4.1" not in k},
    )
    refused("12 missing: layer4.1.conv1.weight", files("resnet18"), "torchvision", tmp_path)


def test_what_is_verified_is_the_file(
    files: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that spoils a value is caught, and so is one that spoils a key."""
    write = EXPORTERS["torchvision"].write

    def spoil(change: Callable[[dict[str, Tensor]], Any]) -> None:
        def spoiled(tensors: dict[str, Tensor], file: Path) -> None:
            tensors = {key: value.clone() for key, value in tensors.items()}
            change(tensors)
            write(tensors, file)

        monkeypatch.setattr(EXPORTERS["torchvision"], "write", spoiled)

    spoil(lambda tensors: tensors["layer3.0.bn1.running_var"].mul_(2))
    refused("stage maps differ by 0.0e.00, 0.0e.00, [1-9]", files("resnet18"), "torchvision", tmp_path)
    spoil(lambda tensors: tensors["conv1.weight"].fill_(torch.nan))
    refused("stage maps differ by nan", files("resnet18"), "torchvision", tmp_path)
    spoil(lambda tensors: tensors.pop("bn1.weight"))
    refused("did not load it.*bn1.weight", files("resnet18"), "torchvision", tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["convnext_atto", "--to", "tim"], "no export target 'tim', only timm, torchvision; did you mean timm"),
        (["convnext_atto", "--to", "torchvision"], "torchvision has no convnext_atto, only convnext_tiny.*resnet152"),
        (["convnext_ato", "--to", "timm"], "nearest: convnext_atto"),
        (["nowhere/backbone.safetensors", "--to", "timm"], "no such file"),
        (["convnext_atto", "--to", "timm", "--out", "x.pth"], r"ends with \.safetensors"),
        (["convnext_atto", "--to", "timm", "--out", "taken/x.safetensors"], "can't be written there"),
        (["backbone.safetensors", "--to", "timm", "--out", "backbone.safetensors"], "is the backbone file itself"),
        (["cut.safetensors", "--to", "timm"], "no whole safetensors file"),
    ],
)
def test_wrong_arguments_are_refused(
    arguments: list[str], message: str, files: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = files("convnext_atto").read_bytes()
    (tmp_path / "backbone.safetensors").write_bytes(content)
    (tmp_path / "cut.safetensors").write_bytes(content[: len(content) // 2])
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match=message):
        command.main(arguments)
    assert {file.name for file in tmp_path.iterdir()} == {"backbone.safetensors", "cut.safetensors", "taken"}


def test_the_script_says_a_mistake_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Path(__file__).parent.parent / "tools" / "export.py"
    monkeypatch.setattr(sys, "argv", [str(script), "convnext_ato", "--to", "timm"])
    said = io.StringIO()
    with contextlib.redirect_stderr(said), pytest.raises(SystemExit) as stop:
        runpy.run_path(str(script), run_name="__main__")
    assert stop.value.code == 2
    assert len(said.getvalue().splitlines()) == 1
