"""Protocols of classification: frozen, every setting in the hash, wrong ones refused, listed by the command."""

import dataclasses
import hashlib
import json

import pytest

from densessl.classification.protocols import PROTOCOLS, digest, find_protocol, label
from densessl.commands.eval_cls import main
from densessl.errors import UserError

FROZEN = {
    "linear_features": "7b06b1ab",
    "linear_sweep": "665ffc9f",
    "linear_augmented": "bb18d413",
    "knn": "1b1d56dd",
    "semi_1": "1edd730e",
    "semi_10": "42e802fb",
}
OTHERS = {"size": "64", "fraction": "0.5", "weighted": "[3]", "lrs": "[0.5]", "scale": "[0.3, 0.9]"}


def test_named_protocols_never_change():
    assert {name: digest(protocol) for name, protocol in PROTOCOLS.items()} == FROZEN
    first = {"size": None, "nearest": 5, "weighted": [20, 200], "temperature": 0.07, "epochs": 500, "batch": 1000}
    first |= {"lr": 0.01, "end_lr": 1e-6, "weight_decay": 5e-6}
    assert FROZEN["linear_features"] == hashlib.sha256(json.dumps(first, sort_keys=True).encode()).hexdigest()[:8]


@pytest.mark.parametrize("name", FROZEN)
def test_every_setting_changes_the_hash_and_is_shown(name):
    base = PROTOCOLS[name]
    seen = {digest(base)}
    for key, value in base.settings().items():
        text = OTHERS.get(key) or ("7" if isinstance(value, int) else "0.123")
        changed = find_protocol(name, [f"{key}={text}"])
        assert digest(changed) not in seen, key
        assert label(changed).startswith(f"{name} with {key}=")
        assert label(changed).endswith(f"[{digest(changed)}]")
        seen.add(digest(changed))
    assert digest(find_protocol(name, ["size=null"])) == digest(base)
    assert digest(dataclasses.replace(base, name="mine", source="here")) == digest(base)
    assert label(base) == f"{name} [{digest(base)}]"


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("linear_swep", "epochs=1", "there are linear_features, linear_sweep, "),
        ("linear_sweep", "epoch=1", r"did you mean epochs\?"),
        ("linear_sweep", "epochs", "key=value"),
        ("linear_sweep", "lrs=[]", "lrs: .*at least 1 item"),
        ("linear_sweep", "lrs=[0.1, -1]", r"lrs\.1: "),
        ("linear_sweep", "held_out=1", "held_out: "),
        ("linear_features", "lrs=[1]", r"did you mean lr\?"),
        ("semi_1", "fraction=0", "fraction: "),
        ("semi_1", "scale=[0.9, 0.1]", "the smaller first"),
        ("semi_1", "size=1", "size: "),
        ("semi_1", "epochs=[", "can't be read"),
    ],
)
def test_wrong_settings_are_refused(name, change, message):
    with pytest.raises(UserError, match=message):
        find_protocol(name, [change])
    with pytest.raises(UserError, match=message):  # before data are looked for
        main(["test_resnet", "--data", "nowhere", "--protocol", name, change])


def test_the_command_lists_them(capsys):
    assert main(["--list"]) == 0
    printed = capsys.readouterr().out
    for name, protocol in PROTOCOLS.items():
        assert f"{name} [{FROZEN[name]}]\n  {protocol.source}\n  size=None, " in printed
    assert "lr_backbone=0.03, lr_head=0.08" in printed
    for wrong in ([], ["test_resnet"], ["test_resnet", "--data", "x", "--subset", "y", "--train", "5"]):
        with pytest.raises(SystemExit):
            main(wrong)
