"""The command import: a backbone file, and an account of every key."""

from pathlib import Path

import pytest
import timm
import torch
from weights import image, scatter, timm_maps

from densessl.backbone_file import load_backbone
from densessl.commands.import_checkpoint import main
from densessl.data.pixels import Pixels
from densessl.errors import UserError
from densessl.export import export, manifest_path
from densessl.reading import normalisation, pixels_of


@pytest.fixture
def checkpoint(tmp_path: Path) -> tuple[Path, torch.nn.Module]:
    """As MoCo v2 leaves one: the online encoder, the slow one, a queue."""
    net = scatter(timm.create_model("resnet18"))
    state = {f"module.encoder_q.{key}": tensor for key, tensor in net.state_dict().items()}
    state |= {f"module.encoder_k.{key}": torch.zeros_like(tensor) for key, tensor in net.state_dict().items()}
    state |= {"module.queue": torch.zeros(8, 16), "module.queue_ptr": torch.zeros(1)}
    torch.save({"epoch": 3, "arch": "resnet18", "state_dict": state}, tmp_path / "moco.pth.tar")
    return tmp_path / "moco.pth.tar", net


def test_every_key_is_accounted_for(
    checkpoint: tuple[Path, torch.nn.Module], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, net = checkpoint
    assert main([str(file), "--out", str(tmp_path / "out"), "--keys", "--licence", "MIT"]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    fates = {line[0]: line[1].strip() for line in lines if len(line) == 2}
    assert fates["conv1.weight"] == "conv1.weight"
    assert fates["fc.weight"] == fates["queue"] == fates["encoder_k.conv1.weight"] == "dropped"
    backbone = load_backbone(tmp_path / "out" / "backbone.safetensors")
    x = image(64, 64)
    with torch.no_grad():
        for ours, theirs in zip(backbone.stages(x), timm_maps(net, x), strict=True):
            torch.testing.assert_close(ours, theirs)
    assert backbone.metadata["source"] == "moco.pth.tar"
    facts = manifest_path(export(tmp_path / "out", "timm")).read_text()
    assert '"licence": "MIT"' in facts


def test_how_pictures_were_read_can_be_said(tmp_path: Path) -> None:
    file, out = tmp_path / "two.pth", tmp_path / "out"
    torch.save(timm.create_model("resnet18", in_chans=2).state_dict(), file)
    words = [str(file), "--out", str(out), "--overwrite"]
    assert main([*words, "--range", "0", "4095", "100", "900", "--mean", "0.3", "0.2", "--std", "0.1", "0.4"]) == 0
    backbone = load_backbone(out / "backbone.safetensors")
    assert pixels_of(backbone) == Pixels(2, ((0, 4095), (100, 900)))
    assert normalisation(backbone) == ((0.3, 0.2), (0.1, 0.4))
    assert main([*words, "--percentiles", "1", "99"]) == 0
    assert pixels_of(load_backbone(out / "backbone.safetensors")) == Pixels(2, (), (1, 99))
    for wrong, message in (
        (["--range", "0", "1", "2"], "pairs of black and white"),
        (["--range", "1", "0"], "black below white"),
        (["--range", "0", "1", "--percentiles", "1", "99"], "and no --range"),
        (["--percentiles", "99", "1"], "the smaller first"),
        (["--mean", "0.5"], "mean has 1 and std 2 values, the backbone 2 channels"),
    ):
        with pytest.raises(UserError, match=message):
            main([*words, *wrong])


def test_what_is_there_stays(checkpoint: tuple[Path, torch.nn.Module], tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "out")]
    main([str(checkpoint[0]), *out])
    with pytest.raises(UserError, match="is there already: --out another folder, or --overwrite it"):
        main([str(checkpoint[0]), *out])
    assert main([str(checkpoint[0]), *out, "--overwrite"]) == 0
    with pytest.raises(UserError, match="a backbone file already, of a resnet18; it needs no import"):
        main([str(tmp_path / "out"), "--out", str(tmp_path / "other")])
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nothing.pth", "no such file"),
        ("resnet18", "no such file"),
        ("convnext_atto={file}", "doesn't fit|does not fit"),
    ],
)
def test_what_cannot_be_imported_leaves_nothing(
    spec: str, message: str, checkpoint: tuple[Path, torch.nn.Module], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        main([spec.format(file=checkpoint[0]), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
