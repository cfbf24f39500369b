"""What a method asks of batch, crops and its own arguments is refused at load, with the numbers that would work."""

import subprocess
import sys

import pytest

from densessl.config import load_config
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
