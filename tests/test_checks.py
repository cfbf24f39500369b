"""What a method asks of batch, crops and its own arguments is refused at load, with the numbers that would work."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from densessl import checks
from densessl.backbones import Backbone
from densessl.config import CONFIGS, load_config, resolved_yaml
from densessl.errors import UserError
from densessl.method_source import method_crops, method_names
from densessl.methods import METHODS, find_method

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


INIT = "def __init__(self, backbone, *, width: Count = 3): ..."
ARGUMENTS = "class A(Method):\n    def __init__(self, b, *, w: "
OWN_FILES = [  # source, class, and what is said of it
    (f"class A(Method):\n    {INIT}\n    crops = 'many'", "A", r"m.py:3: crops is one of two, two and small"),
    (f"class A(Method):\n    {INIT}", "B", "m.py has no class B; name one of it: m.py:A"),
    (f"class A(Method):\n    {INIT}", "", "name its class: m.py:A"),
    ("class A(Method):\n    ...", "A", r"m.py:1: A needs an __init__\(self, backbone, \*, \.\.\.\)"),
    (
        "class A(Method):\n    def __init__(self, backbone, width=3): ...",
        "A",
        r"m.py:2: A.__init__ takes \(self",
    ),
    (
        "class A(Method):\n    def __init__(self, b, *, w: Count, v=3): ...",
        "A",
        r"m.py:2: w: an argument .* a type and a",
    ),
    (
        "class A(Method):\n    def __init__(self, b, *, w: Tensor = 3): ...",
        "A",
        r"m.py:2: w: the type is made of .*Tensor",
    ),
    (
        "class A(Method):\n    def __init__(self, b, *, w: int = f()): ...",
        "A",
        r"m.py:2: w: .* a plain value, not int = f",
    ),
    ("class A(Method):\n    def (", "A", r"m.py:2: invalid syntax"),
    ("\0", "A", r"m.py"),
]


@pytest.mark.parametrize(("source", "word", "told"), OWN_FILES)
def test_a_file_of_ones_own_that_is_no_method_is_refused_with_its_line(
    source: str, word: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.py").write_text(source)
    name = f"m.py:{word}" if word else "m.py"
    with pytest.raises(UserError, match=rf"method.name \(command line\): {told}(.|\n)*bach"):
        load_config("vicreg_r50", [f"method={{name: {name}}}", "bach=3"])


def test_the_schema_of_a_file_of_ones_own_is_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = """
class Mine(Method):
    crops: ClassVar[str] = "large"

    def __init__(self, backbone, *, widths: tuple[Count, ...] = (8, 4), norm: Literal["batch", "layer"] | None = None,
                 share: config.Share = 0.5, pair: tuple[float, int] = (0.5, 2), on: bool = False): ...
"""
    Path("m.py").write_text(source)
    method = "method={name: m.py:Mine, widths: [3], norm: layer}"
    config = load_config("vicreg_r50", [method, "views.large.count=3"])
    assert config.method.arguments == {"widths": (3,), "norm": "layer", "share": 0.5, "pair": (0.5, 2), "on": False}
    Path("config.yaml").write_text(resolved_yaml(config))
    assert load_config("config.yaml") == config
    for word, told in (
        ("widths=[]", "method.widths"),
        ("widths=[0]", "method.widths"),
        ("norm=none", "'batch' or 'layer'"),
        ("share=2", "less than or equal to 1"),
        ("pair=[1]", "too few values"),
        ("with=3", r"method.with .*did you mean method.widths\?"),
        ("xyz=3", r"m.py:Mine has widths=\[8, 4\], norm=null, share=0.5, pair=\[0.5, 2\], on=false"),
    ):
        with pytest.raises(UserError, match=told):
            load_config("config.yaml", [f"method.{word}"])
    with pytest.raises(UserError, match=r"m.py:Mine takes two large crops or more, and no small ones"):
        load_config("config.yaml", [SMALL])


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import nothing_there\n", r"m.py:1: ModuleNotFoundError: No module named 'nothing_there'"),
        ("x = 1\nx.y\n", r"m.py:2: AttributeError"),
        ("class Mine: ...\n", r"m.py: Mine is no method: class Mine\(densessl.method.Method\) with a forward is one"),
        ("from densessl.method import Method\nclass Mine(Method): ...\n", r"m.py: Mine is no method"),
    ],
)
def test_a_file_of_ones_own_that_fails_when_it_is_run_is_named_with_its_line(
    source: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.py").write_text(source)
    with pytest.raises(UserError, match=told):
        find_method("m.py:Mine")


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
