"""The backbone file comes back bitwise, or is refused."""

import inspect
import json
import os
import pydoc
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from weights import image, scatter

import densessl
from densessl.backbone_file import IMAGENET, init_backbone, load_backbone, save_backbone
from densessl.backbones import Backbone
from densessl.commands import export as export_command
from densessl.commands import import_checkpoint as import_command
from densessl.data.pixels import Pixels
from densessl.errors import UserError
from densessl.reading import pixels_of


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Backbone, Path]:
    backbone = Backbone("convnext_atto")
    scatter(backbone.net)
    path = tmp_path_factory.mktemp("run") / "backbone.safetensors"
    save_backbone(path, backbone, **IMAGENET, method="vicregl", step=12, extra={"licence": "CC0"})
    return backbone, path


def rewritten(source: Path, path: Path, change: Callable[[dict[str, Tensor], dict[str, str]], Any]) -> Path:
    """A copy of a backbone file after ``change`` of its tensors and metadata."""
    with safe_open(source, framework="pt") as file:
        metadata = dict(file.metadata())
    tensors = load_file(source)
    change(tensors, metadata)
    save_file(tensors, path, metadata)
    return path


@pytest.mark.parametrize("name", ["convnext_atto", "resnet18"])
def test_a_backbone_comes_back_bitwise_with_its_metadata(name: str, tmp_path: Path) -> None:
    backbone = Backbone(name, in_chans=4)
    scatter(backbone.net)
    path = tmp_path / "new" / "backbone.safetensors"
    save_backbone(path, backbone, mean=(0.1, 0.2, 0.3, 0.4), std=[1, 1, 1, 2], method="vicreg", step=3)
    again = densessl.load_backbone(path)
    assert not again.training
    for key, tensor in backbone.net.state_dict().items():
        assert torch.equal(again.net.state_dict()[key], tensor), key
    metadata = again.metadata
    assert metadata["mean"] == (0.1, 0.2, 0.3, 0.4)
    assert metadata["std"] == (1, 1, 1, 2)
    assert (metadata["timm_name"], metadata["method"], metadata["step"], metadata["in_chans"]) == (name, "vicreg", 3, 4)
    assert metadata["channels"] == backbone.channels
    assert metadata["strides"] == (4, 8, 16, 32)
    assert [file.name for file in path.parent.iterdir()] == ["backbone.safetensors"]


def test_a_small_stem_comes_back_and_files_without_one_have_imagenets(
    saved: tuple[Backbone, Path], tmp_path: Path
) -> None:
    backbone, path = Backbone("resnet18", stem="small"), tmp_path / "b.safetensors"
    save_backbone(path, backbone, **IMAGENET, method="simclr", step=1)
    again = load_backbone(path, output_stride=8)
    assert (again.stem, again.strides, again.metadata["strides"]) == ("small", (1, 2, 4, 8), (1, 2, 4, 8))
    assert torch.equal(again(image(32, 32))[-1], backbone.eval()(image(32, 32))[-1])
    old = load_backbone(rewritten(saved[1], tmp_path / "old.safetensors", lambda tensors, facts: facts.pop("stem")))
    assert (old.stem, old.metadata["stem"]) == ("imagenet", "imagenet")
    assert load_backbone("convnext_atto").metadata["stem"] == "imagenet"


@pytest.mark.parametrize("foreign", [False, True])
def test_weights_with_an_imagenet_stem_do_not_fit_a_small_one(foreign: bool, tmp_path: Path) -> None:
    source, path = Backbone("resnet18"), tmp_path / "b.safetensors"
    if foreign:
        save_file(source.net.state_dict(), path)
    else:
        save_backbone(path, source, **IMAGENET, method="m", step=0)
    with pytest.raises(
        UserError, match=r"119 of 120 .*1 of another shape: conv1.weight is 64x3x7x7 instead of 64x3x3x3"
    ):
        init_backbone(Backbone("resnet18", stem="small"), path)


def test_which_values_are_black_and_white_comes_back_and_files_without_it_have_8_bits(
    saved: tuple[Backbone, Path], tmp_path: Path
) -> None:
    backbone, path, colour = Backbone("test_convnext", in_chans=2), tmp_path / "b.safetensors", {"mean": (0, 0)}
    for pixels in (Pixels(2, ((0, 4095), (-0.5, 0.25))), Pixels(2, ((0, 9.5),)), Pixels(2, (), (1, 99.5)), Pixels(2)):
        save_backbone(path, backbone, **colour, std=(1, 1), method="m", step=0, pixels=pixels)
        assert pixels_of(load_backbone(path)) == pixels
        json.dumps(load_backbone(path).metadata)  # as results have it
    assert "pixels" not in load_backbone(path).metadata
    assert pixels_of(load_backbone(saved[1])) == Pixels()
    with pytest.raises(UserError, match="range has 3 pairs, the backbone 2 channels"):
        save_backbone(path, backbone, **colour, std=(1, 1), method="m", step=0, pixels=Pixels(3, ((0, 1),) * 3))
    wrong = rewritten(saved[1], tmp_path / "wrong.safetensors", lambda tensors, facts: facts.update(pixels="[0, 1]"))
    with pytest.raises(UserError, match=r"metadata 'pixels' is '\[0, 1\]', not of type dict"):
        load_backbone(wrong)


def test_the_file_is_readable_without_densessl_and_by_others(saved: tuple[Backbone, Path]) -> None:
    backbone, path = saved
    assert load_file(path).keys() == backbone.net.state_dict().keys()
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_half_precision_is_written_as_float32(tmp_path: Path) -> None:
    save_backbone(tmp_path / "b.safetensors", Backbone("resnet18").half(), **IMAGENET, method="m", step=0)
    assert load_file(tmp_path / "b.safetensors")["conv1.weight"].dtype == torch.float32


def test_load_takes_a_file_a_run_folder_anyones_checkpoint_or_a_timm_name(
    saved: tuple[Backbone, Path], tmp_path: Path
) -> None:
    backbone, path = saved
    state = backbone.net.state_dict()
    torch.save({"net": {f"encoder.{key}": value for key, value in state.items()}}, theirs := tmp_path / "theirs.pth")
    save_file(state, plain := tmp_path / "plain.safetensors")
    for spec in (path, str(path), path.parent, f"{theirs}:net", f"convnext_atto={theirs}:net", plain):
        found = densessl.load_backbone(spec)
        assert found.metadata.get("licence") == ("CC0" if str(spec) in (str(path), str(path.parent)) else None)
        assert torch.equal(found(image(64, 64))[-1], backbone.eval()(image(64, 64))[-1])
    before = torch.random.get_rng_state()
    first, same, other = (load_backbone("convnext_atto", seed=seed, in_chans=2) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    weights = [backbone.net.state_dict()["stem.0.weight"] for backbone in (first, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert first.metadata["method"] == "random"
    assert len(first.metadata["mean"]) == 2  # type: ignore[arg-type]
    assert not first.training


def test_the_package_shows_what_there_is_and_how_it_is_called() -> None:
    """Without torch, which takes seconds to import, until a name is used."""
    code = "import sys, densessl; print(*dir(densessl)); print('torch' in sys.modules)"
    names, torch_too = subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()
    assert torch_too == "False"
    assert names.split() == sorted(densessl.__all__) == dir(densessl)
    assert all(hasattr(densessl, name) for name in densessl.__all__)
    assert densessl.UserError is UserError
    assert inspect.signature(densessl.load_backbone).parameters["spec"].annotation == str | Path
    text = pydoc.plain(pydoc.render_doc(densessl.load_backbone))
    assert "load_backbone(spec: str | pathlib.Path, *, output_stride: int = 32" in text
    with pytest.raises(AttributeError, match=r"no attribute 'load'; it has .*load_backbone"):
        densessl.load  # noqa: B018


def test_output_stride_refines_the_maps_of_the_same_weights(tmp_path: Path) -> None:
    save_backbone(tmp_path / "b.safetensors", Backbone("resnet18"), **IMAGENET, method="m", step=0)
    backbone = load_backbone(tmp_path / "b.safetensors", output_stride=8)
    assert [tuple(m.shape[2:]) for m in backbone(image(64, 64))] == [(16, 16), (8, 8), (8, 8), (8, 8)]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("convnext_atoo", "nearest: convnext_atto"),
        ("swin_tiny_patch4_window7_224", "is no ConvNeXt or ResNet"),
        ("missing/backbone.safetensors", "no such file"),
        ("missing.pth", "no such file"),
        (".", "folder without backbone.safetensors"),
    ],
)
def test_what_is_no_backbone_is_refused(
    spec: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        load_backbone(spec)


@pytest.mark.parametrize(
    ("length", "message"), [(0, "empty"), (5, "no whole safetensors"), (2000, "no whole safetensors"), (-1, "no whole")]
)
def test_a_cut_file_is_refused(length: int, message: str, saved: tuple[Backbone, Path], tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(saved[1].read_bytes()[:length])
    with pytest.raises(UserError, match=message):
        load_backbone(path)
    with pytest.raises(UserError, match=message):
        init_backbone(saved[0], path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, metadata: metadata.update(format="densessl-backbone-9"), "densessl-backbone-9.*densessl-back"),
        (lambda tensors, metadata: metadata.pop("mean"), "'mean' is None"),
        (lambda tensors, metadata: metadata.update(step="many"), "'step' is 'many'"),
        (lambda tensors, metadata: metadata.update(channels="3"), "'channels' is '3', not of type list"),
        (lambda tensors, metadata: metadata.pop("timm_name"), "'timm_name' is missing"),
        (lambda tensors, metadata: metadata.update(stem="tiny"), "b.safetensors: .*'tiny' is neither imagenet nor"),
        (lambda tensors, metadata: metadata.update(timm_name="vit_tiny"), "vit_tiny"),
        (lambda tensors, metadata: metadata.update(timm_name="convnext_pico"), "of another shape: .*instead of 64x3"),
        (lambda tensors, metadata: metadata.update(in_chans="1"), "stem.0.weight is 40x3x4x4 instead of 40x1x4x4"),
        (lambda tensors, metadata: metadata.update(channels="[1, 2, 3, 4]"), "'channels' are"),
        (lambda tensors, metadata: tensors.pop("norm_pre.weight"), "113 of 114 .*1 missing: norm_pre.weight"),
        (lambda tensors, metadata: tensors.update(extra=torch.ones(1)), "1 unexpected: extra"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(
    change: Callable[..., Any], message: str, saved: tuple[Backbone, Path], tmp_path: Path
) -> None:
    path = rewritten(saved[1], tmp_path / "b.safetensors", change)
    with pytest.raises(UserError, match=message):
        load_backbone(path)


def test_a_place_that_cannot_be_written_is_refused_and_the_old_file_stays(
    saved: tuple[Backbone, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, _ = saved
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(UserError, match="can't be written"):
        save_backbone(tmp_path / "taken" / "b.safetensors", backbone, **IMAGENET, method="m", step=0)

    def full(self: Path, data: bytes) -> int:
        self.touch()
        raise OSError("No space left on device")

    old = tmp_path / "b.safetensors"
    old.write_text("old")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="No space left"):
        save_backbone(old, backbone, **IMAGENET, method="m", step=0)
    assert old.read_text() == "old"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["b.safetensors", "taken"]


@pytest.mark.parametrize("ours", [True, False])
def test_values_that_are_not_finite_are_named_before_anything_is_done_with_a_file(ours: bool, tmp_path: Path) -> None:
    backbone = Backbone("test_resnet")
    state = backbone.net.state_dict()
    state["bn1.running_var"][3] = torch.inf
    state["layer2.0.conv2.weight"][0, 0, 0, :2] = torch.nan
    path, spec = tmp_path / "w.safetensors", f"test_resnet={tmp_path / 'w.safetensors'}"
    if ours:
        save_backbone(path, backbone, **IMAGENET, method="m", step=0)
    else:
        save_file({**state, "fc.weight": torch.tensor(torch.nan)}, path)
    values = state["layer2.0.conv2.weight"].numel()
    message = (
        rf"{path}: not finite are 2 of .* tensors: bn1\.running_var \(1 infinite of {len(state['bn1.bias'])} values\), "
        rf"layer2\.0\.conv2\.weight \(2 NaN of {values} values\)"
    )
    with pytest.raises(UserError, match=message):
        load_backbone(spec)
    with pytest.raises(UserError, match=message):
        init_backbone(Backbone("test_resnet"), path)
    with pytest.raises(UserError, match=message):
        export_command.main([spec, "--to", "timm"])
    with pytest.raises(UserError, match=message):
        import_command.main([spec, "--out", str(tmp_path / "imported")])
    assert list(tmp_path.iterdir()) == [path]


def test_finite_values_whose_sum_overflows_and_heads_that_are_not_finite_are_no_reason_to_refuse(
    tmp_path: Path,
) -> None:
    state = Backbone("test_resnet").net.state_dict()
    state["bn1.running_var"] = torch.full_like(state["bn1.running_var"], 3e38)
    save_file({**state, "fc.weight": torch.tensor([torch.nan])}, tmp_path / "w.safetensors")
    assert load_backbone(f"test_resnet={tmp_path / 'w.safetensors'}").net.bn1.running_var[0] == 3e38
