"""Files of others: read without running code, their network known from shapes, called by name."""

import builtins
import bz2
import gzip
import io
import itertools
import json
import lzma
import os
import pickle
import tarfile
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save, save_file
from weights import image, scatter

from densessl.backbone_file import IMAGENET, init_backbone, load_backbone, save_backbone
from densessl.backbone_spec import BackboneSpec, parse_spec
from densessl.backbones import Backbone
from densessl.commands import export as export_command
from densessl.commands.naming import comparison_folders, result_folders, short_names
from densessl.data.pixels import Pixels
from densessl.errors import UserError
from densessl.export import export
from densessl.foreign.architecture import CONVNEXTS, RESNETS, in_chans, timm_name
from densessl.foreign.beside import read_beside
from densessl.foreign.sources import find_part
from densessl.foreign.state_file import read_state
from densessl.reading import pixels_of

ARRAYS: dict[str, Any] = {
    "float32": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "float64": np.array([0.1, 1e300]),
    "half": np.array([1, -2], np.float16),
    "int64": np.array(7),
    "bytes": np.arange(5, dtype=np.uint8),
    "big-endian": np.array([[1, 2], [3, 4]], ">i4"),
    "column by column": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "empty": np.zeros((0, 3), np.float32),
    "slice": np.arange(20.0)[::3],
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_of_a_pickle_are_read_as_numpy_wrote_them(protocol: int, tmp_path: Path) -> None:
    content = {"model": OrderedDict(ARRAYS), "__author__": "torchvision", "matching_heuristics": True}
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(content, protocol))
    found = read_state(tmp_path / "w.pkl")
    assert (found["__author__"], found["matching_heuristics"]) == ("torchvision", True)
    assert list(found["model"]) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert found["model"][name].dtype == torch.from_numpy(np.zeros(1, array.dtype.newbyteorder("="))).dtype
        np.testing.assert_array_equal(found["model"][name].numpy(), array, err_msg=name)


class Trap:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["TRAP"],)


class Evaluate:
    def __reduce__(self) -> tuple[Any, ...]:
        return builtins.eval, ("__import__('os').mkdir(__import__('os').environ['TRAP'])",)


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
@pytest.mark.parametrize("trap", [Trap, Evaluate])
def test_no_code_of_a_pickle_runs(trap: type, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAP", str(tmp_path / "sprung"))
    path = tmp_path / f"w{suffix}"
    for content in (trap(), {"model": {"a": np.ones(2), "b": trap()}}, [np.array([trap()], object)]):
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(UserError, match=r"can run code when they are read; if you trust it|no whole pickle"):
            read_state(path)
    assert not (tmp_path / "sprung").exists()
    pickle.loads(pickle.dumps(Trap()))  # it would have
    assert (tmp_path / "sprung").exists()


def test_arrays_of_objects_and_what_is_cut_are_refused(tmp_path: Path) -> None:
    path, whole = tmp_path / "w.pkl", pickle.dumps({"model": ARRAYS})
    refused = [
        pickle.dumps({"a": np.array([1, "x"], object)}),
        b"\x80\x04.",
        b"nonsense",
        *(whole[:n] for n in (1, 50)),
    ]
    lying = io.BytesIO()
    pickler = pickle._Pickler(lying, 2)  # type: ignore[attr-defined]  # an array that claims more than its bytes
    pickler.dump({"a": np.ones(2)})
    refused.append(lying.getvalue().replace(b"K\x02\x85", b"K\x7f\x85"))
    for content in refused:
        path.write_bytes(content)
        with pytest.raises(UserError, match="no whole pickle"):
            read_state(path)


def test_torch_files_of_any_suffix_and_safetensors(tmp_path: Path) -> None:
    state = {"a": torch.arange(3.0)}
    for name in ("w.pkl", "w.bin", "w.ckpt", "w"):
        torch.save(state, tmp_path / name)
        assert torch.equal(read_state(tmp_path / name)["a"], state["a"])
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(read_state(tmp_path / "old.pth")["a"], state["a"])


def test_an_object_that_blocks_a_file_is_named(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(1)}, "hyper_parameters": Path("x")}, tmp_path / "w.ckpt")
    with pytest.raises(UserError, match=r"holds Python objects \(pathlib[\w.]*\), which can run code"):
        read_state(tmp_path / "w.ckpt")


def saved(state: Any, write: Callable[[Any, Any], Any]) -> bytes:
    file = io.BytesIO()
    write(state, file)
    return file.getvalue()


def packed(name: str, data: bytes) -> bytes:
    """A tar archive."""
    file, member = io.BytesIO(), tarfile.TarInfo(name)
    member.size = len(data)
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def test_the_content_tells_the_kind_of_a_file_and_not_its_ending(tmp_path: Path) -> None:
    state = dict(Backbone("test_resnet").net.state_dict())
    arrays = {key: tensor.numpy() for key, tensor in state.items()}
    network = timm.create_model("test_resnet", num_classes=0)
    network.load_state_dict(state)
    program = torch.export.export(network.eval(), (image(64, 64),))
    kinds = [
        save(state),
        saved(state, torch.save),
        saved(state, partial(torch.save, _use_new_zipfile_serialization=False)),
        saved(arrays, pickle.dump),
        saved(program, torch.export.save),
    ]
    for data, suffix in itertools.product(kinds, (".safetensors", ".pth", ".pkl", ".bin", ".pt2", ".onnx", "")):
        (tmp_path / f"w{suffix}").write_bytes(data)
        found = read_state(tmp_path / f"w{suffix}")
        for key, tensor in state.items():
            assert torch.equal(torch.as_tensor(found[key]), tensor), (suffix, key)
    save_backbone(tmp_path / "b.pth", Backbone("test_resnet"), **IMAGENET, method="m", step=3)
    assert load_backbone(tmp_path / "b.pth").metadata["step"] == 3


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 102400\n"
PAGE = b"\n<!DOCTYPE html>\n<html><head><title>Quota\n exceeded</title></head></html>"
NO_WEIGHTS: dict[str, tuple[Callable[[Any], bytes], str]] = {
    "git lfs": (lambda s: POINTER, r"pointer of Git LFS instead of the weights \(102,400 bytes\): git lfs pull"),
    "page": (lambda s: PAGE, r"holds a web page \('Quota exceeded'\) instead of weights"),
    "text": (lambda s: b'{"error": "Entry not found"}', r"""holds text, '{"error": "Entry not found"}', and is no"""),
    "bytes": (lambda s: bytes(range(100, 200)), r"begins with b'defghijk' and is no file of torch\.save, safetensors,"),
    "gzip": (lambda s: gzip.compress(saved(s, torch.save)), r"gzip has packed; gzip -dc \S+/w\S* > NEW unpacks it"),
    "xz": (lambda s: lzma.compress(saved(s, torch.save)), "xz has packed; xz -dc"),
    "bzip2": (lambda s: bz2.compress(saved(s, torch.save)), "bzip2 has packed"),
    "tar": (lambda s: packed("net/w.pth", saved(s, torch.save)), "a tar archive of net/w.pth; unpack it"),
    "arrays": (lambda s: saved({"a": np.ones(2)}, lambda a, f: np.savez(f, **a)), r"arrays of numpy \(a\.npy\)"),
    "TorchScript": (
        lambda s: saved(torch.nn.Linear(2, 2), lambda n, f: torch.jit.save(torch.jit.script(n), f)),
        r"holds TorchScript, .*torch\.jit\.load\(FILE\)\.state_dict\(\), NEW\)",
    ),
    "cut": (lambda s: saved(s, torch.save)[:-100], "no whole file of torch.save: its end is missing"),
}


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("kind", NO_WEIGHTS)
def test_what_holds_no_weights_is_called_by_its_kind(kind: str, tmp_path: Path) -> None:
    build, message = NO_WEIGHTS[kind]
    data = build({"conv1.weight": torch.ones(9)})
    for suffix in (".pth", ".safetensors" if kind not in ("text", "bytes") else ""):
        path = tmp_path / f"w{suffix}"
        path.write_bytes(data)
        for use in (load_backbone, lambda spec: init_backbone(Backbone("test_resnet"), spec)):
            with pytest.raises(UserError, match=message) as error:
                use(path)
            assert str(error.value).startswith(f"{path}: ")


def at(prefix: str, state: Any) -> dict[str, Any]:
    return {prefix + key: tensor for key, tensor in state.items()}


def test_no_key_of_another_network_is_a_hint(tmp_path: Path) -> None:
    parts = ("norm1", "attn.qkv", "mlp.fc1")  # as Swin's, whose stages are no ViTs
    torch.save(
        {f"layers.0.blocks.0.{part}.{kind}": torch.ones(2) for part in parts for kind in ("weight", "bias")},
        tmp_path / "w.pth",
    )
    with pytest.raises(UserError, match="known layouts are"):
        load_backbone(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("build", "places"),
    [
        *(
            (lambda s, entry=entry: {entry: s, "optimizer": {"state": {0: {}}}, "epoch": 3}, [entry])
            for entry in ("net", "backbone", "encoder", "model_ema", "weights")
        ),
        (lambda s: {"ckpt": {"net": at("module.", s), "ema": s}}, ["ckpt.net", "ckpt.ema"]),
        (lambda s: {"state_dict": at("net.", s) | {"loss.weight": torch.ones(2)}}, ["net"]),
        (lambda s: {"nets": at("a.module.", s)}, ["nets.a.module"]),
        (lambda s: at("student.backbone.", s) | at("teacher.backbone.", s), ["student.backbone", "teacher.backbone"]),
        (lambda s: {"model": at("backbone.0.body.", s) | {"transformer.w": torch.ones(2)}}, ["backbone.0.body"]),
    ],
)
def test_the_key_that_works_is_named_for_files_and_folders(build: Any, places: list[str], tmp_path: Path) -> None:
    state = scatter(timm.create_model("test_resnet", num_classes=0)).state_dict()
    (tmp_path / "hf").mkdir()
    for file, spec in ((tmp_path / "w.pth",) * 2, (tmp_path / "hf" / "pytorch_model.bin", tmp_path / "hf")):
        torch.save(build(state), file)
        with pytest.raises(UserError) as error:
            load_backbone(f"test_resnet={spec}")
        hints = [f"{file}:{place}" for place in places]
        assert str(error.value).endswith(f"; there is one at {' and at '.join(hints)}")
        for hint in (*hints, *(f"{spec}:{place}" for place in places)):
            backbone = load_backbone(f"test_resnet={hint}")
            assert all(torch.equal(tensor, state[key]) for key, tensor in backbone.net.state_dict().items())


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("resnet18", "layer3.1.conv1.weight"),
        ("resnet18", "layer1.0.conv1.weight"),  # that which shows the layout
        ("resnet26", "layer1.0.conv3.weight"),  # and that which tells bottlenecks
        ("resnet18", "conv1.weight"),
        ("convnext_atto", "stages.0.blocks.0.conv_dw.weight"),
        ("convnext_atto", "stages.3.blocks.1.conv_dw.weight"),
        ("convnext_atto", "stem.0.weight"),
        ("convnextv2_atto", "stages.0.blocks.0.mlp.grn.weight"),
    ],
)
def test_a_key_that_is_missing_is_named_and_no_other_depth_guessed(name: str, gone: str, tmp_path: Path) -> None:
    state = timm.create_model(name, num_classes=0).state_dict()
    del state[gone]
    torch.save({"state_dict": at("backbone.", state)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=rf"does not fit {name}: \d+ of \d+ tensors fit; 1 missing: {gone}$"):
        load_backbone(tmp_path / "w.pth")


def test_a_run_folder_is_what_training_starts_from(tmp_path: Path) -> None:
    backbone = scatter(Backbone("test_resnet"))
    save_backbone(tmp_path / "backbone.safetensors", backbone, **IMAGENET, method="m", step=3)  # type: ignore[arg-type]
    again = Backbone("test_resnet")
    assert "backbone file, m, step 3" in init_backbone(again, tmp_path)
    assert torch.equal(again.net.conv1[0].weight, backbone.net.conv1[0].weight)  # type: ignore[union-attr,index]


NAMES = [
    *(f"convnext_{size}" for size in CONVNEXTS.values() if timm.is_model(f"convnext_{size}")),
    *(f"convnextv2_{size}" for size in CONVNEXTS.values() if timm.is_model(f"convnextv2_{size}")),
    *RESNETS.values(),
    *("resnet18d", "resnet34d", "resnet50d", "resnet50c", "resnet101d", "resnet152d", "resnet200d"),
]


@pytest.mark.parametrize("name", NAMES)
def test_the_shapes_of_a_network_give_its_name(name: str) -> None:
    with torch.device("meta"):
        state = Backbone(name, in_chans=5).net.state_dict()
    part = find_part(dict(state))
    assert (timm_name(part.layout, part.tensors), in_chans(part.layout, part.tensors)) == (name, 5)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "resnet18",
            {"in_chans": 1, "stem": "small"},
            "a ResNet of depths 2, 2, 2, 2 .* begins with a 3x3 convolution",
        ),
        ("resnet18", {"conv1.weight": torch.ones(128, 3, 7, 7)}, r"stem has 128 channels instead of 64 \(x2\)"),
        ("resnet18", {"layer2.2.conv1.weight": torch.ones(1)}, "of depths 2, 3, 2, 2 with basic blocks; NAME=FILE"),
        (
            "convnext_atto",
            {"stages.2.blocks.6.conv_dw.weight": torch.ones(1)},
            "a ConvNeXt of depths 2, 2, 7, 2 .* 40 ch",
        ),
        ("convnext_atto_ols", {}, "with more than a 4x4 stem: NAME=FILE"),
        ("test_convnext", {}, "a ConvNeXt of depths 1, 2, 4, 2 that begins with 24 channels"),
    ],
)
def test_a_network_without_a_name_is_asked_for(name: str, changes: Any, message: str, tmp_path: Path) -> None:
    options = {key: changes.pop(key) for key in ("in_chans", "stem") if key in changes}
    state: dict[str, Any] = {**Backbone(name, **options).net.state_dict(), **changes}
    torch.save({key: value for key, value in state.items() if value is not None}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=message):
        load_backbone(tmp_path / "w.pth")


def test_nothing_is_returned_when_one_key_does_not_fit(tmp_path: Path) -> None:
    state = scatter(timm.create_model("resnet18", num_classes=0)).state_dict()
    torch.save({key: value for key, value in state.items() if key != "layer3.0.bn2.bias"}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"119 of 120 tensors fit; 1 missing: layer3\.0\.bn2\.bias"):
        load_backbone(tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"does not fit resnet34: .*missing: layer1\.2\.conv1"):
        load_backbone(f"resnet34={tmp_path / 'w.pth'}")


def test_a_grey_network_has_grey_pictures(tmp_path: Path) -> None:
    save_file(timm.create_model("resnet18", in_chans=1).state_dict(), tmp_path / "w.safetensors")
    for spec in (tmp_path / "w.safetensors", f"resnet18={tmp_path / 'w.safetensors'}"):
        backbone = load_backbone(spec, output_stride=8)
        assert (backbone.in_chans, backbone.output_stride, backbone.metadata["mean"]) == (1, 8, (0.449,))


def test_a_tag_of_timm_tells_its_mean_and_std(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(timm.create_model("resnet18").state_dict(), path)
    plain, tagged = (load_backbone(f"{name}={path}") for name in ("resnet18", "resnet18.gluon_in1k"))
    assert (plain.metadata["std"], tagged.name, tagged.metadata["std"]) == (
        IMAGENET["std"],
        "resnet18",
        IMAGENET["std"],
    )
    with pytest.raises(UserError, match=r"timm has no weights resnet18\.mine; its tags of resnet18: .*gluon_in1k"):
        load_backbone(f"resnet18.mine={path}")


def test_how_a_backbone_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("w.pth", "a=b.pth", "a:b"):
        Path(name).touch()
    for spec, meant in {
        "resnet18": BackboneSpec("resnet18", None, ""),
        "resnet18.a1_in1k": BackboneSpec("resnet18.a1_in1k", None, ""),
        "w.pth": BackboneSpec("", Path("w.pth"), ""),
        "w.pth:student": BackboneSpec("", Path("w.pth"), "student"),
        "resnet18=w.pth:a.b": BackboneSpec("resnet18", Path("w.pth"), "a.b"),
        ".:a.b": BackboneSpec("", Path(), "a.b"),
        "a=b.pth": BackboneSpec("", Path("a=b.pth"), ""),
        "x=a=b.pth": BackboneSpec("x", Path("a=b.pth"), ""),
        "a:b": BackboneSpec("", Path("a:b"), ""),
        "missing/w": BackboneSpec("", Path("missing/w"), ""),
        "missing.tar": BackboneSpec("", Path("missing.tar"), ""),
        "some/lr=1/w.pth": BackboneSpec("", Path("some/lr=1/w.pth"), ""),
    }.items():
        assert parse_spec(spec) == meant, spec
    Path("run").mkdir()
    specs = ["resnet18=w.pth:a.b", "w.pth", "run", "resnet18"]
    names = short_names(specs)
    assert list(names.values()) == ["w:a.b", "w", "run", "resnet18 (random)"]
    folders = result_folders(names, None, "segmentation", "s")
    assert list(map(str, folders.values())) == [
        "checkpoints/eval/w-a.b/s",
        "checkpoints/eval/w/s",
        "run/segmentation/s",
        "checkpoints/eval/resnet18-random/s",
    ]
    assert comparison_folders(folders, None) == [*folders.values()][:3]
    assert comparison_folders(dict(list(folders.items())[3:]), None) == [Path("checkpoints/eval/resnet18-random/s")]


def test_results_of_files_of_one_name_go_to_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    specs = {
        "a/backbone.safetensors": ("a", "a/cls/s"),
        "a/backbone_best.safetensors": ("a (best)", "a/cls/s-best"),
        "b/backbone_best.safetensors": ("b (best)", "b/cls/s-best"),
        "x/model.pth": ("x/model.pth", "checkpoints/eval/x-model/s"),
        "y z/model.pth": ("y z/model.pth", "checkpoints/eval/y-z-model/s"),
        "/data/x/model.pth": ("/data/x/model.pth", "checkpoints/eval/data-x-model/s"),
    }
    names = short_names(list(specs))
    folders = result_folders(names, None, "cls", "s")
    assert {spec: (names[spec], str(folder)) for spec, folder in folders.items()} == specs
    apart = [result_folders(short_names([spec]), None, "cls", "s")[spec] for spec in specs]  # one command each
    assert [str(folder) for folder in apart] == [folder for _, folder in specs.values()]
    together = result_folders(names, Path("out"), "cls", "s")
    assert str(together["b/backbone_best.safetensors"]) == "out/b-best"


def test_a_backbone_file_needs_no_name_and_no_part(tmp_path: Path) -> None:
    path = tmp_path / "backbone.safetensors"
    save_backbone(path, Backbone("resnet18"), **IMAGENET, method="m", step=3)
    assert load_backbone(f"resnet18={path}").metadata["step"] == 3
    for spec in (f"resnet34={path}", f"{path}:backbone"):
        with pytest.raises(UserError, match="a backbone file, of a resnet18; it needs neither"):
            load_backbone(spec)
    with pytest.raises(UserError, match="a backbone file has no parts"):
        init_backbone(Backbone("resnet18"), f"{path}:backbone")
    with pytest.raises(UserError, match="names a network; the backbone to fill is a resnet18"):
        init_backbone(Backbone("resnet18"), "resnet34")


def test_an_import_is_told_once_and_by_the_first_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "w.pth"
    torch.save(timm.create_model("test_resnet").state_dict(), path)
    for _ in range(3):
        load_backbone(f"test_resnet={path}")
    assert caplog.messages == [
        f"90 tensors of {path} (ResNet; dropped fc.* (2)): test_resnet, mean (0.485, 0.456, 0.406), "
        "std (0.229, 0.224, 0.225)"
    ]
    monkeypatch.setenv("RANK", "1")
    path = path.rename(tmp_path / "w2.pth")
    load_backbone(f"test_resnet={path}")
    assert len(caplog.messages) == 1


def test_an_export_takes_a_foreign_checkpoint(tmp_path: Path) -> None:
    net = scatter(timm.create_model("convnext_atto"))
    torch.save({"model": net.state_dict()}, tmp_path / "w.pth")
    assert export_command.main([f"convnext_atto={tmp_path / 'w.pth'}", "--to", "timm"]) == 0
    again = timm.create_model(
        "convnext_atto", num_classes=0, checkpoint_path=tmp_path / "convnext_atto.timm.safetensors"
    )
    with torch.inference_mode():
        x = image(64, 64)
        torch.testing.assert_close(again.eval().forward_features(x), net.forward_features(x), rtol=0, atol=1e-4)


def test_json_beside_the_weights_tells_the_network_and_its_colours(tmp_path: Path) -> None:
    state = timm.create_model("resnetblur18", num_classes=0).state_dict()  # whose keys are resnet18's
    save_file(state, tmp_path / "model.safetensors")
    config = {"architecture": "resnetblur18", "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for spec in (tmp_path, tmp_path / "model.safetensors"):
        backbone = load_backbone(spec)
        assert (backbone.name, backbone.metadata["mean"], backbone.metadata["std"]) == (
            "resnetblur18",
            (0.1, 0.2, 0.3),
            (0.5, 0.6, 0.7),
        )
    with pytest.raises(UserError, match="a resnetblur18, as JSON beside it says; the backbone to fill is a resnet18"):
        init_backbone(Backbone("resnet18"), tmp_path)
    processor = {"image_mean": [0, 127.5, 255], "image_std": [51, 51, 51], "do_rescale": False}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    facts = load_backbone(tmp_path).metadata
    assert (facts["mean"], facts["std"]) == ((0, 0.5, 1), (0.2, 0.2, 0.2))
    for said, colors in (
        ({"image_mean": 0.5, "image_std": [0.25]}, ((0.5,) * 3, (0.25,) * 3)),
        ({"do_normalize": False}, ((0.0,) * 3, (1.0,) * 3)),
        ({"image_mean": None, "image_std": None}, ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))),
    ):
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
        facts = load_backbone(tmp_path).metadata
        assert (facts["mean"], facts["std"]) == colors
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(UserError, match=r"preprocessor_config\.json: can't be read as JSON"):
        load_backbone(tmp_path)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("preprocessor_config.json", {"image_mean": ["a"] * 3, "image_std": [0.5] * 3}),
        ("preprocessor_config.json", {"image_mean": [0.5] * 3, "image_std": [0.5, 0, 0.5]}),
        ("preprocessor_config.json", {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": None}),
        ("preprocessor_config.json", {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 0}),
        ("config.json", {"pretrained_cfg": {"mean": [float("nan")] * 3, "std": [1, 1, 1]}}),
        ("config.json", {"pretrained_cfg": "a name"}),
        ("config.json", {"architecture": 5}),
    ],
)
def test_wrong_values_in_json_beside_the_weights_are_named(file: str, said: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / file).write_text(json.dumps(said))
    with pytest.raises(UserError, match=rf"{file}: (mean and std are no numbers|architecture is 5)"):
        read_beside(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("resnet", "downsample_in_bottleneck", True),
        ("resnet", "downsample_in_first_stage", True),
        ("resnet", "hidden_act", "gelu"),
        ("convnext", "hidden_act", "relu"),
    ],
)
def test_a_network_of_hugging_face_that_only_its_configuration_tells_apart_is_refused(
    kind: str, key: str, value: object, tmp_path: Path
) -> None:
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, key: value}))
    for use in (load_backbone, lambda spec: init_backbone(Backbone("test_resnet"), spec)):
        with pytest.raises(UserError, match=rf"config\.json: says {key} {json.dumps(value)}: another network"):
            use(tmp_path)


def test_an_exported_file_is_evaluated_with_the_colours_and_values_of_its_manifest(tmp_path: Path) -> None:
    facts: dict[str, Any] = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7), "method": "m", "step": 3}
    pixels = Pixels(3, ((0, 4095),))
    save_backbone(tmp_path / "b.safetensors", Backbone("resnet18"), **facts, pixels=pixels)
    out = export(tmp_path / "b.safetensors", "timm", tmp_path)
    again = load_backbone(out)
    assert (again.metadata["mean"], again.metadata["std"]) == (facts["mean"], facts["std"])
    assert pixels_of(again) == pixels_of(load_backbone(tmp_path / "b.safetensors"))
    save_file(Backbone("resnet18").net.state_dict(), out)
    with pytest.raises(UserError, match=r"timm\.safetensors\.json: was written for another file of this name"):
        load_backbone(out)
