"""What a method asks of batch, crops and its own arguments is refused at load, with the numbers that would work."""

import subprocess
import sys
from typing import Any

import pytest
import torch

from densessl import checks
from densessl.backbones import Backbone
from densessl.config import CONFIGS, load_config
from densessl.errors import UserError
from densessl.method_source import method_crops, method_names
from densessl.methods import METHODS

SMALL = "views.small={count: 2, size: 96, scale: [0.1, 0.4]}"


def with_method(method: str, *words: str) -> list[str]:
    return [f"method={method}", "data.path=scenes", "batch=256", *words]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["method={name: wmse, w_size: 64, projector: [128, 64]}"], "larger, 128 as in the paper"),
        (["method={name: wmse, w_size: 96, projector: [128, 64]}"], "batch=256 is no multiple .* batch=192 would be"),
        (["method={name: moco_v2, queue: 1000}"], "queue=1000 is no multiple of batch=256: method.queue=1024 would"),
        (["method={name: densecl, queue: 1000}"], "queue=1000 is no multiple of batch=256: method.queue=1024 would"),
        (["method={name: moco_v2, groups: 6}"], "groups=6 equal parts .* method.groups=4 would work"),
        (["method={name: moco_v2, groups: 256}"], "groups=256 equal parts .* method.groups=128 would work"),
        (["method={name: swav, queue: 300}"], "queue=300 is no multiple of batch=256: method.queue=512 would"),
        (["method={name: swav}"], "method.prototypes=3000: method.queue=2816 or method.prototypes=256 would work"),
        (["method={name: byol}", SMALL], "small.count=2: byol takes two large crops and no small ones"),
        (["method={name: simclr}", "views.large.count=4"], "large.count=4, .*: simclr takes two large crops and no"),
        (["method={name: dino}", "optim.name=adam"], "optim.name=adamw, or optim.weight_decay=0"),
        (["method={name: dino}", "views.large.count=3"], "dino takes two large crops, and any number of small ones"),
        (["method={name: wmse}", SMALL], "wmse takes two large crops or more, and no small ones"),
    ],
)
def test_what_cannot_work_is_refused_with_what_would(words: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        load_config("vicreg_r50", with_method("{name: vicreg}", *words))


@pytest.mark.parametrize(
    "words",
    [
        ["method={name: wmse, w_size: 128, projector: [128, 64]}", "views.large.count=4"],
        ["method={name: swav, queue: 2816}", SMALL],
        ["method={name: moco_v2, queue: 1024, groups: 4}"],
        ["method={name: vicreg}", "views.large.count=3", "views.small={count: 2, size: 96, scale: [0.1, 0.4]}"],
    ],
)
def test_and_that_works(words: list[str]) -> None:
    load_config("vicreg_r50", with_method("{name: vicreg}", *words))


SIZES = [  # a network of each family and stem, and the smallest crop that it takes
    ("test_convnext", "imagenet", 32),
    ("convnext_atto_ols", "imagenet", 29),
    ("test_resnet", "imagenet", 16),
    ("test_resnet", "small", 16),
    ("resnetaa34d", "imagenet", 31),
    ("resnetaa34d", "small", 16),
    ("resnetblur18", "imagenet", 17),
    ("resnetblur18", "small", 16),
]


@pytest.mark.parametrize(("name", "stem", "smallest"), SIZES)
@pytest.mark.parametrize("key", ["large", "small"])
def test_the_smallest_crop_that_is_let_through_is_the_smallest_that_works(
    name: str, stem: Any, smallest: int, key: str
) -> None:
    words = [f"backbone={{name: {name}, stem: {stem}}}", "views.small={count: 1, size: 96, scale: [0.1, 0.4]}"]
    assert load_config("vicreg_r50", [*words, f"views.{key}.size={smallest}"])
    told = (
        rf"views.{key}.size \(command line\).*equal to 16" if smallest == 16 else rf"views.{key}.size={smallest} is the"
    )
    with pytest.raises(UserError, match=told):
        load_config("vicreg_r50", [*words, f"views.{key}.size={smallest - 1}"])
    if key == "large":
        with torch.device("meta"):
            network = Backbone(name, stem=stem).eval()
        for size in (15, 16, smallest - 1, smallest, 33, 38, 63, 65):
            try:
                side = network(torch.zeros(1, 3, size, size, device="meta"))[-1].shape[-1]
            except RuntimeError:
                side = 0
            assert checks.places(name, stem, size) == side


@pytest.mark.parametrize("name", [path.stem for path in CONFIGS.glob("*.yaml")])
def test_every_recipe_takes_smaller_crops_down_to_what_its_network_and_method_take(name: str) -> None:
    """Recipes differ in the method, which may need places to compare."""
    config = load_config(name)
    local = config.method.name in ("vicregl", "densecl", "pixpro")
    least = 16 if config.backbone.stem == "small" else 16 + 17 * local
    if "convnext" in config.backbone.name:
        least = 32 + 32 * local
    load_config(name, [f"views.large.size={least}"])
    with pytest.raises(UserError, match=rf"views.large.size(=\d+: .*={least} is the next| .*equal to 16)"):
        load_config(name, [f"views.large.size={least - 1}"])


def test_the_schema_knows_every_method_and_its_crops() -> None:
    assert method_names() == sorted(METHODS)
    assert {name: method_crops(name) for name in METHODS} == {name: method.crops for name, method in METHODS.items()}


def test_refusing_imports_nothing_heavy() -> None:
    code = (
        "import sys; from densessl.config import load_config\n"
        "try: load_config('vicreg_r50', ['method={name: swav}'])\n"
        "except ValueError: print('torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "False\n"
