"""Named protocols are frozen; every setting is in the hash; wrong settings are refused."""

import dataclasses

import pytest

from densessl.commands.eval_seg import main
from densessl.commands.evaluation import evaluation_parser, parsed
from densessl.errors import UserError
from densessl.segmentation.protocols import PROTOCOLS, deviations, digest, find_protocol, label

# A named protocol never changes: where one of these differs, give the new settings a new name.
FROZEN = {
    "vicregl_convnext": "47b78c20",
    "vicregl_resnet": "27f4c539",
    "ibot": "49772283",
    "dinov2": "f4250d2c",
    "dinov3": "daef22ca",
    "leopart": "928d77ad",
    "linear_small": "51c61ce9",
    "linear_fast": "6681fc46",
    "hummingbird": "845feb98",
    "overclustering": "4e273986",
    "linear_finetuned": "1fc0a8af",
    "fpn": "0504ad7e",
    "upernet": "ca22e05d",
    "deeplabv3plus": "c1d0954c",
}
OTHER = {
    "features": "last",
    "output_stride": 16,
    "optimizer": "sgd",
    "inference": "slide",
    "warmup": 7,
    "scale": (100, 90),
    "ratio": (0.9, 1.1),
    "crop": (96, 64),
    "photometric": True,
    "final_norm": True,
    "norm": False,
    "schedule": "cosine",
    "scored": (50, 50),
    "test_ratios": (1.0, 1.5),
    "test_flip": True,
    "fraction": 0.5,
    "window": 77,
    "stride": 55,
    "decoder": "fpn",
}


def test_named_protocols_are_frozen():
    assert {name: digest(protocol) for name, protocol in PROTOCOLS.items()} == FROZEN


def test_every_setting_changes_the_hash_and_is_shown():
    base = dataclasses.replace(PROTOCOLS["linear_small"], window=64, stride=32)
    seen = {digest(base)}
    for key, value in base.settings().items():
        new = OTHER[key] if key in OTHER else (value / 2 if isinstance(value, float) else (value or 0) + 1) or 0.5
        changed = dataclasses.replace(base, **{key: new})
        assert digest(changed) not in seen, key
        assert any(deviation.startswith(f"{key}=") for deviation in deviations(changed))
        assert f"{key}=" in label(changed)
        seen.add(digest(changed))


def test_name_and_source_are_not_in_the_hash():
    base = PROTOCOLS["linear_small"]
    assert digest(dataclasses.replace(base, name="mine", source="here")) == digest(base)
    assert label(base) == f"linear_small [{digest(base)}]"


def test_settings_are_parsed():
    protocol = find_protocol("linear_small", ["iterations=20", "lr=1e-2", "crop=[64, 96]", "photometric=true"])
    assert (protocol.iterations, protocol.lr, protocol.crop, protocol.photometric) == (20, 0.01, (64, 96), True)
    assert find_protocol("vicregl_convnext", ["scale=null"]).scale is None
    assert digest(find_protocol("linear_small", ["lr=0.01"])) == digest(PROTOCOLS["linear_small"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["iteration=3"], r"did you mean iterations\?"),
        (["iterations"], "key=value"),
        (["iterations=x"], "iterations: .*integer"),
        (["warmup=300"], "warmup=300 must be below iterations=300"),
        (["crop=5"], "crop: .*tuple"),
        (["lr=-1", "batch=0"], "batch: .*greater than 0; lr: .*greater than 0"),
        (["features=all"], "'stages' or 'last'"),
        (["ratio=[2, 1]"], "smaller factor first"),
        (["inference=slide"], "needs a window and a stride"),
        (["inference=slide", "window=8", "stride=9"], "pixels are left out"),
        (["decoder=fpn", "features=last"], "decoder=fpn reads all maps as it likes: features=stages norm=true"),
        (["decoder=fpn", "output_stride=8"], "decoder=fpn needs output_stride=32"),
        (["decoder=deeplabv3plus"], "decoder=deeplabv3plus needs output_stride=8 or 16"),
        (["decoder=upernet", "batch=1"], "batch=2 or more"),
        (["decoder=unet"], "decoder: .*'upernet'"),
    ],
)
def test_wrong_settings_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        find_protocol("linear_small", changes)


def test_an_unknown_protocol_names_the_known():
    with pytest.raises(UserError, match=r"vicregl_convnext, vicregl_resnet, ibot, .*linear_small"):
        find_protocol("linear_smal")


@pytest.mark.parametrize(
    ("words", "backbones", "changes"),
    [
        (["resnet18", "crop=[8, 8]", "mine", "lr=1"], ["resnet18", "mine"], ["crop=[8, 8]", "lr=1"]),
        (["resnet18=moco.pth", "vit_small_patch16_224.dino=dino"], [0, 1], []),  # the file need not be there
        (["resnet18=there", "there", "./crop=3", "a/b=3"], [0, 1, 2, 3], []),
        (["there=3", "crop"], ["there=3"], ["crop"]),  # a folder of that name, and a key without a value
        (["mine", "iteration=3", "batch_sizes=[4"], ["mine"], ["iteration=3", "batch_sizes=[4"]),
        (["mine", "crop=3"], ["mine"], ["crop=3"]),  # beside a folder of that name
    ],
)
def test_backbones_and_settings_are_told_apart(words, backbones, changes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("there", "there=3", "crop=3", "a"):
        (tmp_path / name).mkdir()
    parser = evaluation_parser("eval-seg", "", "", protocol="linear_small", folder="segmentation")
    parser.add_argument("--data")
    args = parsed(parser, [words[0], "--data", "x", *words[1:]], PROTOCOLS)
    assert args.backbone == [words[i] if isinstance(i, int) else i for i in backbones]
    assert args.changes == changes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["iteration=3", "learningrate=3"],
            r"iteration: .*did you mean iterations\?\nlearningrate: .*; it has features",
        ),
        (["resnet50=moco"], "moco: no such file"),
        (["iterations"], "'iterations': an override is key=value"),
    ],
)
def test_a_word_that_is_neither_is_answered(words, message):
    with pytest.raises(UserError, match=message):
        main(["test_resnet", "--data", "scenes", *words])
