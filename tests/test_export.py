"""Every export is loaded into a network that the test builds itself, and refused if it is not the same."""

import contextlib
import hashlib
import io
import json
import pickle
import re
import runpy
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from architectures import DenseConvNeXt, Detectron2ResNet
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor
from weights import image, scatter

import densessl.export
from densessl.backbone_file import init_backbone, load_backbone, save_backbone
from densessl.backbones import Backbone, pooled
from densessl.commands import export as command
from densessl.data.pixels import Pixels
from densessl.errors import UserError
from densessl.export import EXPORTERS, export, exporter, manifest_path, program
from densessl.export.verify import differences
from densessl.foreign import layouts

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
SMALL = ("convnext_atto", "resnet18")
NAMES = {
    "timm": ("convnext_atto", "convnextv2_atto", "resnet18d"),
    "torchvision": ("convnext_tiny", "resnet18"),
    "hf": (*SMALL, "convnextv2_atto", "resnet50"),
    "detectron2": (*SMALL, "resnet50"),
    "mmpretrain": (*SMALL, "convnextv2_atto"),
}
EVERY = [(target, name) for target in EXPORTERS for name in NAMES.get(target, SMALL)]
PACKAGES = {"hf": ["transformers"], "onnx": ["onnx", "onnxscript", "onnxruntime"]}  # nothing is written without
SEEN_BY = {"detectron2": "detectron2", "mmdet": "mmdet", "mmpretrain": "mmpretrain"}  # without: written, not verified


def require(target: str) -> None:
    for package in PACKAGES.get(target, []):
        pytest.importorskip(package)


def can_see(target: str, name: str) -> bool:
    """Whether the package that reads this file is here."""
    package = SEEN_BY.get(target)
    if target == "mmdet" and name.startswith("convnext"):
        package = "mmpretrain"
    if target == "detectron2" and name.startswith("convnext"):
        return False
    return package is None or find_spec(package) is not None


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


def shape(name: str) -> tuple[list[int], tuple[int, ...]]:
    net: Any = Backbone(name).net
    stages = net.stages if name.startswith("convnext") else [getattr(net, f"layer{i}") for i in range(1, 5)]
    return [len(getattr(stage, "blocks", stage)) for stage in stages], Backbone(name).channels


def detectron2_stages(name: str, file: Path, x: Tensor) -> list[Tensor]:
    """Into the networks of tests/architectures.py, which stand for detectron2's and for the ports of ConvNeXt."""
    content = pickle.loads(file.read_bytes())
    assert content["matching_heuristics"] is True
    assert content["__author__"] != "Caffe2"
    state = {key: torch.from_numpy(array) for key, array in content["model"].items()}
    depths, dims = shape(name)
    net = DenseConvNeXt(depths, dims) if name.startswith("convnext") else Detectron2ResNet(depths, name == "resnet50")
    net.load_state_dict(state)
    return list(net.eval()(x))


def mm_stages(name: str, file: Path, x: Tensor) -> list[Tensor]:
    """Into the networks of tests/architectures.py and torchvision's ResNet, which stand for theirs."""
    state = torch.load(file, weights_only=True)["state_dict"]
    assert all(key.startswith("backbone.") for key in state) or not any(key.startswith("backbone.") for key in state)
    state = {key.removeprefix("backbone."): tensor for key, tensor in state.items()}
    if name.startswith("resnet"):
        net = getattr(torchvision.models, name)()
        net.fc = nn.Identity()
        net.load_state_dict(state)
        return list(create_feature_extractor(net.eval(), ["layer1", "layer2", "layer3", "layer4"])(x).values())
    depths, dims = shape(name)
    norms = [i for i in range(4) if f"norm{i}.weight" in state]
    net = DenseConvNeXt(depths, dims, ("depthwise_conv", "pointwise_conv1", "pointwise_conv2"), norms)
    net.load_state_dict(state)
    return list(net.eval()(x))


def hf_stages(name: str, file: Path, x: Tensor) -> list[Tensor]:
    import transformers

    net = transformers.AutoModel.from_pretrained(file, local_files_only=True).eval()
    return list(net(x, output_hidden_states=True).hidden_states[1:])


def onnx_stages(name: str, file: Path, x: Tensor) -> list[Tensor]:
    import onnxruntime

    session = onnxruntime.InferenceSession(file)
    return [torch.from_numpy(found) for found in session.run(None, {"image": x.numpy()})][:4]


def program_stages(name: str, file: Path, x: Tensor) -> list[Tensor]:
    return list(torch.export.load(file).module()(x)[:4])


STAGES: dict[str, Callable[[str, Path, Tensor], list[Tensor]]] = {
    "timm": timm_stages,
    "torchvision": torchvision_stages,
    "detectron2": detectron2_stages,
    "mmdet": mm_stages,
    "mmpretrain": mm_stages,
    "hf": hf_stages,
    "onnx": onnx_stages,
    "torch_export": program_stages,
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
    require(target)
    source = files(name)
    assert command.main([str(source), "--to", target, "--out", str(tmp_path)]) == 0
    out = tmp_path / (f"{name}.{target}".removesuffix(EXPORTERS[target].SUFFIX) + EXPORTERS[target].SUFFIX)
    printed = capsys.readouterr().out
    assert str(out) in printed

    backbone = load_backbone(source)
    x = image(97, 75)
    facts = json.loads(manifest_path(out).read_text())
    assert facts["snippet"] in printed
    compile(facts["snippet"], "snippet", "exec")
    with torch.inference_mode():
        ours = backbone.stages(x)
        if not (target in SEEN_BY and name.startswith("convnextv2")):  # the networks written out here have no GRN
            equal(ours, STAGES[target](name, out, x))
        vector = pooled(backbone(x)[-1])
    if can_see(target, name):
        assert "strictly" in printed
        assert len(facts["verified"]["stage_differences"]) == 4
    else:
        assert "NOT verified" in printed
        assert facts["verified"] is None
        assert re.search("isn't installed|has no ConvNeXt", facts["not_verified"])
    if can_see(target, name) and target not in ("detectron2", "mmdet"):  # of which the snippets are configurations
        there = run_snippet(facts["snippet"], x)
        equal(ours, [torch.as_tensor(found) for found in there["maps"]])
        equal([vector], [torch.as_tensor(there["vectors"])])

    weights = out / "model.safetensors" if out.is_dir() else out
    assert facts["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert (facts["architecture"], facts["method"], facts["step"], facts["file"]) == (name, "vicregl", 9, out.name)
    assert (facts["mean"], facts["std"]) == (list(MEAN), list(STD))
    assert (facts["strides"], facts["channels"]) == ([4, 8, 16, 32], list(backbone.channels))
    assert {file.name for file in tmp_path.iterdir()} == {out.name, manifest_path(out).name}

    again = Backbone(name)
    init_backbone(again, out)
    for key, tensor in backbone.net.state_dict().items():
        if not (target == "onnx" and key.endswith("num_batches_tracked")):  # it computes nothing, so it isn't there
            assert torch.equal(again.net.state_dict()[key], tensor), key


@pytest.mark.parametrize("target", EXPORTERS)
def test_the_command_names_every_target(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--help"])
    assert target in capsys.readouterr().out.split("--to TARGET")[-1].split("--out")[0]


@pytest.mark.parametrize("target", ["timm", "torchvision", "detectron2", "mmdet", "mmpretrain"])
def test_equal_tensors_give_equal_bytes_under_any_name(
    target: str, files: Callable[[str], Path], tmp_path: Path
) -> None:
    backbone = load_backbone(files("resnet18"))
    for name in ("a", "b"):
        EXPORTERS[target].write(backbone, tmp_path / name)
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


@pytest.mark.parametrize(("target", "name"), [(t, n) for t in EXPORTERS for n in SMALL if t != "torchvision"])
def test_two_channels_of_16_bits_arrive_where_there_are_such_networks(
    target: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    require(target)
    backbone, source = Backbone(name, in_chans=2), tmp_path / "b" / "backbone.safetensors"
    scatter(backbone.net)
    facts: dict[str, Any] = {"mean": (0.5, 0.25), "std": (0.25, 0.125), "method": "vicregl", "step": 9}
    save_backbone(source, backbone, **facts, pixels=Pixels(2, ((0, 4096), (100, 900))))
    if target == "detectron2":
        with pytest.raises(UserError, match="detectron2 reads 3 channels"):
            export(source, target, tmp_path)
        return
    assert command.main([str(source), "--to", target, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    out = next(path for path in tmp_path.iterdir() if path.name.startswith(name) and path.suffix != ".json")
    manifest, x = json.loads(manifest_path(out).read_text()), image(64, 96, channels=2)
    assert manifest["zero_to_one"] in printed
    assert (manifest["range"], manifest["percentiles"]) == ([[0, 4096], [100, 900]], None)
    assert (manifest["input_size"][0], manifest["mean"], manifest["std"]) == (2, [0.5, 0.25], [0.25, 0.125])
    with torch.inference_mode():
        ours = backbone.eval().stages(x)
    if can_see(target, name) and target != "mmdet":
        equal(ours, [torch.as_tensor(found) for found in run_snippet(manifest["snippet"], x)["maps"]])
    if target == "mmdet":  # (v - 0) / 4096 less 0.5, by 0.25, is v less 2048, by 1024
        there = run_snippet(manifest["snippet"], x)
        assert (there["mean"], there["std"]) == ([2048, 300], [1024, 100])
        assert (there["backbone"]["in_channels"], "mean" in there["data_preprocessor"]) == (2, False)


def test_colours_of_16_bits_are_told_to_detectors_in_stored_values(tmp_path: Path) -> None:
    backbone = Backbone("resnet18")
    for pixels, mean, said in (
        (
            Pixels(3, ((1000, 3000),)),
            [1800, 2000, 2200],
            "# Mean and std are of stored values, clipped to 1000 to 3000.",
        ),
        (
            Pixels(3, (), (1, 99)),
            list(MEAN),
            "# Mean and std are of (value - black) / (white - black) clipped to 0 and 1",
        ),
        (Pixels(), [102, 127.5, 153], ""),
    ):
        save_backbone(tmp_path / "b.safetensors", backbone, mean=MEAN, std=STD, method="m", step=0, pixels=pixels)
        for target in ("mmdet", "detectron2"):
            snippet = EXPORTERS[target].snippet(load_backbone(tmp_path / "b.safetensors"), Path("x"))
            found = re.search(r"(?:mean|MEAN) ?= ?(\[.*?\])", snippet)
            assert found
            assert json.loads(found[1]) == pytest.approx(mean)
            assert said in snippet
            assert ("Mean and std" in snippet) == bool(said)


def test_timm_vector_is_norm_of_mean_and_the_norm_can_go_first(files: Callable[[str], Path], tmp_path: Path) -> None:
    """What the snippet's comment claims."""
    out = export(files("convnext_atto"), "timm", tmp_path)
    backbone, x = load_backbone(files("convnext_atto")), image(64, 96)
    state = {key.replace("head.norm.", "norm_pre."): value for key, value in load_file(out).items()}
    first = timm.create_model("convnext_atto", num_classes=0, head_norm_first=True).eval()
    first.load_state_dict(state)
    default = timm.create_model("convnext_atto", num_classes=0, checkpoint_path=out).eval()
    with torch.inference_mode():
        equal([pooled(backbone(x)[-1])], [first(x)])
        assert (pooled(backbone(x)[-1]) - default(x)).abs().max() > 0.1


# --- refusals: nothing is written ---


def refused(message: str, source: Path, target: str, folder: Path) -> None:
    with pytest.raises(UserError, match=message):
        export(source, target, folder / f"x{EXPORTERS[target].SUFFIX}")
    assert not list(folder.iterdir())


@pytest.mark.parametrize("target", EXPORTERS)
def test_a_small_stem_goes_only_where_the_computation_goes_with_it(target: str, tmp_path: Path) -> None:
    require(target)
    (tmp_path / "out").mkdir()
    source, backbone = tmp_path / "backbone.safetensors", Backbone("resnet18", stem="small")
    save_backbone(source, backbone, mean=MEAN, std=STD, method="simclr", step=9)
    if target not in ("onnx", "torch_export"):
        refused(f"{target} has no resnet18 with a small stem; densessl.load_back", source, target, tmp_path / "out")
        return
    out, x = export(source, target, tmp_path / "out"), image(32, 32)
    with torch.inference_mode():
        equal(load_backbone(source).stages(x), STAGES[target]("resnet18", out, x))


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
def test_names_that_fit_but_lie_are_refused_by_the_tensors_and_by_the_maps(
    a: str, b: str, files: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layouts, "timm_convnext", swapped(layouts.timm_convnext, a, b))
    refused("timm's file gives other values back for stages.0.blocks.0.", files("convnext_atto"), "timm", tmp_path)
    read_back = densessl.export.init_backbone  # as if the rules of reading had the same mistake
    monkeypatch.setattr(densessl.export, "init_backbone", lambda again, file: read_back(again, files("convnext_atto")))
    refused("its four stage maps differ by", files("convnext_atto"), "timm", tmp_path)


def test_a_missing_block_is_refused(
    files: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = exporter.renamed
    monkeypatch.setattr(
        EXPORTERS["torchvision"],
        "renamed",
        lambda backbone, name_of: {k: v for k, v in whole(backbone, name_of).items() if "layer4.1" not in k},
    )
    refused("12 missing: layer4.1.conv1.weight", files("resnet18"), "torchvision", tmp_path)


def test_what_is_verified_is_the_file(
    files: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that spoils a value is caught, by the tensors and by the maps, and so is one that spoils a key."""
    write, read_back = EXPORTERS["torchvision"].write, densessl.export.init_backbone

    def spoil(change: Callable[[dict[str, Tensor]], Any]) -> None:
        def spoiled(backbone: Backbone, file: Path) -> None:
            write(backbone, file)
            tensors = torch.load(file, weights_only=True)
            change(tensors)
            torch.save(tensors, file)

        monkeypatch.setattr(EXPORTERS["torchvision"], "write", spoiled)

    spoil(lambda tensors: tensors["layer3.0.bn1.running_var"].mul_(2))
    refused("gives other values back for layer3.0.bn1.running_var", files("resnet18"), "torchvision", tmp_path)
    spoil(lambda tensors: tensors.pop("bn1.weight"))
    refused("1 missing: bn1.weight", files("resnet18"), "torchvision", tmp_path)

    def blind(again: Backbone, file: Path) -> str:  # as if the file had given everything back
        return read_back(again, files("resnet18"))

    monkeypatch.setattr(densessl.export, "init_backbone", blind)
    spoil(lambda tensors: tensors["layer3.0.bn1.running_var"].mul_(2))
    refused("stage maps differ by 0.0e.00, 0.0e.00, [1-9]", files("resnet18"), "torchvision", tmp_path)
    spoil(lambda tensors: tensors["conv1.weight"].fill_(torch.nan))
    refused("stage maps differ by nan", files("resnet18"), "torchvision", tmp_path)
    spoil(lambda tensors: tensors.pop("bn1.weight"))
    refused("did not load it.*bn1.weight", files("resnet18"), "torchvision", tmp_path)


def test_a_stride_in_the_first_1x1_is_seen_by_the_maps(files: Callable[[str], Path], tmp_path: Path) -> None:
    """Nothing else fails with detectron2's default, so the snippet has to say it."""
    out = export(files("resnet50"), "detectron2", tmp_path)
    state = {key: torch.from_numpy(array) for key, array in pickle.loads(out.read_bytes())["model"].items()}
    net = Detectron2ResNet([3, 4, 6, 3], wide=True, stride_in_1x1=True)
    net.load_state_dict(state)
    x = image(96, 96)
    with torch.inference_mode():
        ours, theirs = load_backbone(files("resnet50")).stages(x), net.eval()(x)
    assert (ours[1] - theirs[1]).abs().max() > 1e-2 * ours[1].abs().max()
    snippet = json.loads(manifest_path(out).read_text())["snippet"]
    assert "cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False" in snippet
    assert "cfg.INPUT.FORMAT = 'RGB'" in snippet
    assert f"cfg.MODEL.PIXEL_MEAN = {[round(255 * value, 3) for value in MEAN]}" in snippet


def test_a_folder_takes_the_place_of_an_older_one(files: Callable[[str], Path], tmp_path: Path) -> None:
    require("hf")
    out = export(files("resnet18"), "hf", tmp_path)
    (out / "left over").write_text("from before")
    assert export(files("resnet18"), "hf", tmp_path) == out
    assert {file.name for file in out.iterdir()} == {"config.json", "model.safetensors", "preprocessor_config.json"}
    assert {file.name for file in tmp_path.iterdir()} == {out.name, manifest_path(out).name}


@pytest.mark.parametrize(("target", "package"), [("hf", "transformers"), ("onnx", "onnxscript")])
def test_a_target_without_its_package_is_refused(
    target: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(name: str) -> None:
        return None

    monkeypatch.setattr("importlib.util.find_spec", nothing)
    with pytest.raises(UserError, match=rf"--to {target} needs .*{package}.*pip install 'densessl\[export\]'"):
        export("convnext_atto", target, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["convnext_atto", "--to", "tim"],
            "no export target 'tim', only timm, torchvision, .*torch_export; did you mean timm",
        ),
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


def test_a_program_takes_every_size_that_the_backbone_takes(tmp_path: Path) -> None:
    for name, sizes in {
        "test_convnext": [(1, 32, 32), (3, 33, 250), (1, 96, 64)],
        "test_resnet": [(1, 32, 32), (3, 31, 33), (1, 8, 200), (1, 1, 1)],
        "resnet18d": [(1, 32, 32), (1, 31, 70)],
    }.items():
        backbone = scatter(Backbone(name))
        EXPORTERS["torch_export"].write(backbone, tmp_path / f"{name}.pt2")  # type: ignore[arg-type]
        net = torch.export.load(tmp_path / f"{name}.pt2").module()
        for batch, height, width in sizes:
            x = torch.randn(batch, 3, height, width)
            with torch.inference_mode():
                equal(backbone.stages(x), net(x)[:4])  # type: ignore[operator]


def test_axes_of_onnx_are_called_by_what_they_are(tmp_path: Path) -> None:
    require("onnx")
    import onnxruntime

    EXPORTERS["onnx"].write(Backbone("test_convnext").eval(), tmp_path / "b.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "b.onnx")
    (image_in,), vectors = session.get_inputs(), session.get_outputs()[-1]
    assert (image_in.name, image_in.shape) == ("image", ["batch", 3, "height", "width"])
    assert (vectors.name, vectors.shape) == ("vectors", ["batch", 64])
    (small,) = session.run(["stage4"], {"image": torch.zeros(1, 3, 32, 32).numpy()})
    assert small.shape == (1, 64, 1, 1)


def test_what_fails_at_the_smallest_map_or_at_one_image_is_not_exported() -> None:
    backbone = Backbone("test_resnet").eval()
    shapes = ({0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC},)
    net = program.StageMaps(backbone)
    larger = torch.export.export(net, (torch.zeros(2, 3, 96, 64),), dynamic_shapes=shapes).module()
    with torch.no_grad(), pytest.raises(UserError, match="not exported: images of 1x3x32x32, which the backbone takes"):
        differences(backbone.stages, lambda x: larger(x)[:4], 3)
