"""Two thousand wrong configurations and command lines, drawn from a seed: refused in one clear message, or working."""

import random
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from densessl.__main__ import main
from densessl.backbones import Backbone
from densessl.config import CONFIGS, Config, load_config
from densessl.config_file import flat
from densessl.data.loader import Loader
from densessl.data.pixels import Pixels
from densessl.data.to_device import ToDevice
from densessl.errors import UserError
from densessl.methods import METHODS
from densessl.training.optim import build_optimizer, lr_at, peak_lr, set_lr

NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
SECONDS = 1.0  # of the processor, for one case
# What a user should never see: the words of Python and of pydantic, objects, whole files.
FOREIGN = re.compile(
    r"Traceback|pydantic|validation error|For further information|<class| object at 0x|Node\(|tuple|NoneType|ast\."
)


class Case(NamedTuple):
    argv: list[str]  # of densessl
    named: tuple[str, ...]  # a refusal names one of these


class Accepted(Exception):
    """Real work would begin."""


class Said(NamedTuple):
    refusal: str  # "" where the case was accepted
    seconds: float


# --- what can be wrong with a value ---

WRONG = [
    *("text", "''", "null", "~", "true", "no", "[]", "[1, 2]", "[[1]]", "[a, b]", "[null]", "{a: 1}", "{}", "{[1]: 2}"),
    *("0", "-0.0", "-1", "1.5", "1.0000001", "3.0", "2", "0x10", "1_000", "12:30:45", "2020-01-01", "2020-13-45"),
    *("1e-300", "5e-324", "1e300", "-1e300", "1e999", ".nan", ".inf", "-.inf", "99999999999999999999", "-" + "9" * 400),
    *("9" * 5000, "a" * 20_000, "[" + "1, " * 2000 + "1]", "[" * 3000, "{a: " * 1000, "é\u202e", "'\\0'", '"\\u0000"'),
    *("!!python/object/apply:os.system [exit]", "!!python/name:os.system", "!!binary x", "!!timestamp x", "!!int x"),
    *("&a [*a]", "*a", "&a {b: *a}", "&a 3", "[1", "{", '"', "\t", "|", "%", "@", "`", "- 1", "? a", "a: b: c", "!x 3"),
    "[&a [x, x, x, x, x, x, x, x, x, x], &b ["
    + "*a, " * 9
    + "*a], &c ["
    + "*b, " * 9
    + "*b], ["
    + "*c, " * 99
    + "*c]]",
]


def wrong(draw: random.Random, value: Any) -> str:
    """YAML in the place of ``value``."""
    if isinstance(value, int | float) and not isinstance(value, bool) and draw.random() < 0.5:
        scaled = value * 10 ** draw.choice([-9, -3, -1, 1, 3, 9, 30])
        return draw.choice([repr(scaled), repr(-value), repr(value + 0.5), f"'{value}'", f"[{value}]", f"{value}x"])
    if isinstance(value, list | tuple) and value and draw.random() < 0.5:
        values = list(value)
        place = draw.randrange(len(values))
        changes: list[Callable[[], object]] = [
            lambda: values.pop(place),
            lambda: values.insert(place, values[place]),
            lambda: values.reverse(),
            lambda: values.__setitem__(place, draw.choice(["a", -1, 0, 1e9, [1], None, True, 10**12, -0.5])),
        ]
        draw.choice(changes)()
        return repr(values).replace("None", "null").replace("True", "true")
    return draw.choice(WRONG)


def misspelt(draw: random.Random, word: str) -> str:
    """One letter lost, doubled, swapped with the next or another."""
    place = draw.randrange(len(word))
    before, letter, after = word[:place], word[place], word[place + 1 :]
    return draw.choice([before + after, before + 2 * letter + after, before + after[:1] + letter + after[1:]]) or "x"


# --- configurations ---

# So small that all which is accepted can be built here; changes come after these and take their place.
SMALL = ["batch=8", "views.large.size=64", "steps=4", "data.workers=0", "data.path=scenes"]
HEADS = {
    "barlow_twins": ["projector=[16, 8]"],
    "byol": ["projector=[16, 8]", "predictor=[16, 8]"],
    "deepcluster_v2": ["projector=[16, 8]", "prototypes=[4, 3]"],
    "densecl": ["projector=[16, 8]", "queue=16", "groups=2"],
    "dino": ["projector=[16, 8]", "prototypes=12"],
    "moco_v2": ["projector=[16, 8]", "queue=16", "groups=2"],
    "moco_v3": ["projector=[16, 8]", "predictor=[16, 8]"],
    "pixpro": ["projector=[16, 8]"],
    "simclr": ["projector=[16, 8]"],
    "simsiam": ["projector=[16, 8]", "predictor=4"],
    "swav": ["projector=[16, 8]", "prototypes=6"],
    "vicreg": ["expander=[16, 8]"],
    "vicregl": ["expander=[16, 8]", "projector=[16, 8]", "num_matches=[1, 1]"],
    "wmse": ["projector=[16, 2]", "w_size=4"],
}


def small(name: str) -> list[str]:
    """Overrides of configuration ``name``."""
    config = load_config(name)
    network = "test_resnet" if "resnet" in config.backbone.name else "test_convnext"
    heads = [f"method.{word}" for word in HEADS[config.method.name]]
    crops = ["views.small.size=32"] if config.views.small.count else []
    return [*SMALL, *crops, f"backbone.name={network}", "backbone.stem=imagenet", *heads]


COMBINATIONS = [
    ["steps=4", "epochs=2"],
    ["optim.name=lars", "zero=1"],
    ["optim.name=sgd", "zero=2", "optim.clip=1"],
    ["views.small.count=2"],
    ["views.large.count=3"],
    ["views.large.count=1"],
    ["views.large.count=0", "views.small.count=0"],
    ["backbone.in_chans=1"],
    ["backbone.in_chans=4", "data.mean=[0.1, 0.1, 0.1, 0.1]", "data.std=[0.1, 0.1, 0.1, 0.1]"],
    ["backbone.in_chans=2", "data.mean=[0.5, 0.5]", "data.std=[0.2, 0.2]", "data.range=[[0, 9], [0, 9], [0, 9]]"],
    ["data.range=[[0, 255]]", "data.percentiles=[1, 99]"],
    ["data.range=[[255, 0]]"],
    ["data.percentiles=[99, 1]"],
    ["data.percentiles=[-1, 101]"],
    ["photometric.kind=channels"],
    ["photometric.kind=channels", "photometric.where=device"],
    ["photometric.kind=colour", "data.range=[[0, 4095]]"],
    ["photometric.kind=colour", "backbone.in_chans=1", "data.mean=[0.5]", "data.std=[0.5]"],
    ["photometric.where=device"],
    ["micro_batch=2"],
    ["micro_batch=2", "backbone.name=test_resnet"],
    ["micro_batch=2", "backbone.name=test_convnext"],
    ["backbone.stem=small", "backbone.name=test_convnext"],
    ["backbone.stem=small", "backbone.name=test_resnet"],
    ["backbone.name=vit_base_patch16_224"],
    ["backbone.name=resnet5o"],
    ["backbone.name=''"],
    ["backbone.init=no/such/file.pth"],
    ["backbone.drop_path=1.0"],
    ["backbone.checkpointing=true", "micro_batch=2"],
    ["method.norm=layer", "batch=2"],
    ["method.norm=batch", "batch=2"],
    ["method.queue=17"],
    ["method.groups=3"],
    ["method.w_size=3"],
    ["method.projector=[]"],
    ["method.expander=[]"],
    ["method.predictor=[]"],
    ["method.prototypes=[]"],
    ["method.local=[]"],
    ["method.compat=official", "views.turn=10"],
    ["method.compat=official", "views.flip_vertical=0.5"],
    ["method.num_matches=[9999, 9999]"],
    ["method.second=test_resnet"],
    ["method.second=nothing"],
    ["method.freeze=0.5", "optim.name=adam"],
    ["optim.constant=[nobody]"],
    ["optim.constant=[backbone]", "optim.heads_first=1.0"],
    ["optim.drops=[0.5, 0.4]"],
    ["optim.drops=[0.1, 1.0]", "optim.warmup=1.0"],
    ["optim.nesterov=true"],
    ["optim.name=sgd", "optim.nesterov=true", "optim.momentum=0.0"],
    ["optim.betas=[1.0, 1.0]"],
    ["optim.base_lr=1e300", "optim.name=lars"],
    ["run=''"],
    ["run='a\\0b'"],
    ["name=''"],
    ["views.large={count: 2, size: 32}"],
    ["views.large.scale=[0.0, 1.0]"],
    ["views.large.scale=[1e-300, 1e-300]"],
    ["photometric.jitter=[-1.0, -1.0, -1.0, -1.0]"],
    ["photometric.jitter=[1e300, 9.0, 9.0, 0.5]", "photometric.jitter_p=1.0"],
    ["photometric.jitter=[0.4, 0.4, 0.2, 9.0]", "photometric.jitter_p=1.0"],
    ["photometric.blur_sigma=[2.0, 0.1]", "photometric.blur_p=[1.0, 1.0]"],
    ["photometric.blur_sigma=[1e-300, 1e-300]", "photometric.blur_p=[1.0, 1.0]"],
    ["photometric.blur_sigma=[1e300, 1e300]", "photometric.blur_p=[1.0, 1.0]"],
    ["photometric.kind=channels", "photometric.channels.gamma=1e9", "photometric.channels.p=1.0"],
    ["epochs=1e300"],
    ["epochs=1e-300"],
    ["batch=1000000000000"],
    ["data.workers=1000000000"],
    ["threads=1000000000"],
    ["views.large.size=1000000000"],
    ["views.large.count=1000000000"],
    ["method.projector=[1000000000000, 8]"],
    ["method.projector=[1000000, 1000000]"],
    ["method.expander=[1000000, 1000000]"],
    ["method.prototypes=1000000000000"],
]


def overridden(draw: random.Random, count: int) -> Iterator[Case]:
    """Good configurations with a wrong word or two on the command line."""
    everything = {name: (small(name), flat(load_config(name).model_dump(mode="json"))) for name in NAMES}
    for _ in range(count):
        name = draw.choice(NAMES)
        words, values = everything[name]
        changes = []
        for _ in range(draw.choice([1, 1, 1, 2])):
            key = draw.choice(list(values))
            *sections, last = key.split(".")
            kind = draw.random()
            if kind < 0.2:
                changes.append(f"{'.'.join([*sections, misspelt(draw, last)])}={values[key]}")
            elif kind < 0.25 and sections:  # in another section, in none, in a value
                other = draw.choice(["optim", "data", "views.large", "views.large.size", "nothing", "seed"])
                changes.append(draw.choice([last, f"{misspelt(draw, key)}", f"{other}.{last}", f"{key}.more"]) + "=1")
            elif kind < 0.3 and sections:  # a whole section
                changes.append(f"{draw.choice(['.'.join(sections), sections[0]])}={draw.choice(WRONG)}")
            elif kind < 0.33:  # no override at all
                changes.append(draw.choice([key, f"{key}:3", f" {key}=3", f"{key} =3", "=3", "..=3", f"{key}.=1", ""]))
            else:
                changes.append(f"{key}={wrong(draw, values[key])}")
        if draw.random() < 0.25:
            changes += draw.choice(COMBINATIONS)
        yield Case(["pretrain", "--print", "--cfg", name, *words, *changes], words_of(changes))


def combined(draw: random.Random) -> Iterator[Case]:
    for name in NAMES:
        if name.endswith(("_cifar", "_cnx_s")):
            for changes in draw.sample(COMBINATIONS, 22):
                yield Case(["pretrain", "--print", "--cfg", name, *small(name), *changes], words_of(changes))


def words_of(changes: list[str]) -> tuple[str, ...]:
    """What a message about ``changes`` may name: a key as far as its section, or the word itself."""
    keys = [change.split("=")[0] for change in changes]
    parts = {part for key in keys for part in (key, key.split(".")[-1], key.split(".")[0]) if part.strip(" .")}
    return (*parts, "an override is key=value")


def broken_files(draw: random.Random, folder: Path, count: int) -> Iterator[Case]:
    """Configuration files as editors, copies and other programs leave them."""

    def case(name: str, data: bytes) -> Case:
        (folder / name).write_bytes(data)
        return Case(["pretrain", "--print", "--cfg", str(folder / name)], (name, *keys))

    keys: tuple[str, ...] = ("<<", *Config.model_fields)
    good = (CONFIGS / "demo.yaml").read_bytes()
    whole = {
        "empty": b"",
        "comment": b"# nothing\n",
        "list": b"- 1\n",
        "scalar": b"3\n",
        "two": good + b"---\n" + good,
        "binary": bytes(range(256)) * 40,
        "latin": good.replace(b"# VICRegL", b"# caf\xe9"),
        "utf16": good.decode().encode("utf-16"),
        "bom": b"\xef\xbb\xbf" + good,
        "windows": good.replace(b"\n", b"\r\n"),
        "nul": good + b"\0",
        "large": b"key: value\n" * 1_000_000,
        "long_line": b"name: " + b"x" * 10_000_000,
        "deep": b"a: " + b"[" * 20_000,
        "deep_flow": b"a: " + b"{a: " * 15_000,
        "wide": good + b"".join(b"key_%d: 3\n" % i for i in range(2_000)),
        "circle": b"method: &a {name: vicreg, more: *a}\n",
        "circle_list": b"method: &a [*a]\n",
        "laughs": b"a: &a {x: 1, y: 2}\n"
        + b"".join(
            b"%c: &%c {%s}\n" % (i, i, b", ".join(b"k%d: *%c" % (k, i - 1) for k in range(9))) for i in b"bcdefghi"
        ),
        "merge": good + b"<<: {seed: 3}\n",
        "key_list": good + b"? [1, 2]\n: 3\n",
        "key_empty": good + b"'': 3\n",
        "key_null": good + b"null: 3\n",
        "key_dots": good + b"optim.base_lr: 3.0\n",
        "twice": good + good,
        "python": good + b"seed: !!python/object/apply:os.getpid []\n",
        "python_root": b"!!python/object/apply:os.system ['exit 1']\n",
        "date": good + b"seed: 2020-13-45\n",
        "digits": good + b"seed: " + b"9" * 5000 + b"\n",
        "set": good + b"seed: !!set {a}\n",
        "directive": b"%YAML 9.9\n---\n" + good,
        "json": b'{"method": {"name": "vicreg"}}',
        "pickle": b"\x80\x04\x95\x1b\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93.",
        "zip": b"PK\x03\x04" + bytes(300),
        "png": b"\x89PNG\r\n\x1a\n" + bytes(300),
        "html": b"<!DOCTYPE html><html><body>404: Not Found</body></html>\n" * 9,
    }
    for name, data in whole.items():
        yield case(f"{name}.yaml", data)
    for path in (
        folder,
        folder / "missing.yaml",
        "x" * 5000,
        "a\0b",
        "",
        ".",
        "/",
        "/dev/null",
        "demo.yaml",
        "Demo",
        "dem",
    ):
        yield Case(["pretrain", "--print", "--cfg", str(path)], ("--cfg", "/dev/null"))
    for i in range(count):
        name = draw.choice(NAMES)
        data = (CONFIGS / f"{name}.yaml").read_bytes()
        keys = tuple({part for key in flat(load_config(name).model_dump()) for part in key.split(".")})
        yield case(f"{i}_{name}.yaml", damaged(draw, data))


def damaged(draw: random.Random, data: bytes) -> bytes:
    """A configuration file with one mistake of an editor, a copy or a typist."""
    lines = data.splitlines(keepends=True)
    row, place = draw.randrange(len(lines)), draw.randrange(len(data))
    word = draw.choice(re.findall(rb"^ *(\w+):", data, re.M))
    sign = draw.choice(list(b":{}[],&*!|>%@`'\"#-?\t\n ")).to_bytes(1, "big")
    other = misspelt(draw, word.decode()).encode()
    value = draw.choice(WRONG).encode()

    def with_line(*instead: bytes) -> bytes:
        return b"".join([*lines[:row], *instead, *lines[row + 1 :]])

    return draw.choice(
        [
            data[:place],
            data[place:],
            data[:place] + bytes([draw.randrange(256)]) + data[place + 1 :],
            data[:place] + draw.randbytes(9) + data[place:],
            data[:place] + sign + data[place:],
            with_line(b"\t" + lines[row]),
            with_line(b" " + lines[row]),
            with_line(lines[row].lstrip()),
            with_line(),
            with_line(lines[row], lines[row]),
            re.sub(rb"\b%s:" % word, other + b":", data, count=1),
            re.sub(rb"\b%s: .*" % word, lambda found: word + b": " + value, data, count=1),
        ]
    )


# --- command lines ---

# Good ones, but for pictures, files and folders that are not there.
MISSING = "/no/such/folder"
LINES = {
    "pretrain": "--cfg demo data.path=scenes steps=3",
    "plan": "--cfg demo --seconds 3 batch=16",
    "eval-seg": f"resnet18 --data {MISSING} --protocol linear_small iterations=10 batch=4 --seed 1 --workers 0",
    "eval-cls": f"resnet18 --data {MISSING} --protocol linear_features epochs=3 --seed 1 --train 9 --device cpu",
    "eval-det": f"resnet18 --data {MISSING} --protocol det_small iterations=10 --seeds 2 --save-every 5",
    "export": f"{MISSING}/backbone.safetensors --to timm --out {MISSING}/x",
    "import": f"resnet18={MISSING}/x.pth --mean 0.1 0.2 0.3 --std 0.1 0.2 0.3 --range 0 255 --licence MIT",
    "compare": f"--cfg vicreg=vicreg_cifar byol=byol_cifar data.path={MISSING} --budget steps=3 --seeds 2 --jobs 1",
    "data check": f"{MISSING} --tiny 64 --workers 0 --pictures 9",
    "data pack": f"{MISSING} {MISSING}/out --shard-size 1MB --size 64 --workers 0 --seed 3",
    "data views": f"--cfg demo data.path={MISSING} --out {MISSING}/x.png --pictures 2",
    "data scenes": "/dev/null/no --layout folder --count 4 --val 2 --size 64 --seed 1",
    "benchmark criterion": "--batch 4 --large 2 --width 8 --embedding 16 --num-matches 2 1 --repeats 1 --device cpu",
    "benchmark step": "--cfg demo --repeats 1 --device cpu --no-log",
    "benchmark scale": "--batch 4 --width 8 --repeats 1 --device cpu --no-log",
    "benchmark memory": "--cfg demo --batches 2 4 --micro 2 --variants plain micro --device cpu --limit 1",
    "benchmark data": "--cfg demo --repeats 1 --device cpu --no-log",
}
WORDS = ["text", "", "-1", "0", "1.5", "1e9", "nan", "inf", "-inf", "9" * 30, "9" * 5000, "[1]", "a=b", "=", "--", "-"]
WORDS += ["--x", "--cfg", "--seed=", "é\u202e", "x" * 5000, "~", "..", "/", "/dev/null", "/no/such/file.pth"]


def changed(draw: random.Random, words: list[str]) -> list[str]:
    """One word lost, foreign, misspelt, twice, or with a wrong value; all turned round; words of another command."""
    place = draw.randrange(len(words))
    before, word, after = words[:place], words[place], words[place + 1 :]
    key, equals, value = word.partition("=")
    kinds = [
        [*before, *after],
        [*before, draw.choice(WORDS), word, *after],
        [*before, draw.choice(WORDS), *after],
        [*before, misspelt(draw, word), *after],
        [*words, word],
        words[::-1],
        [*words, *draw.choice(list(LINES.values())).split()[-2:]],
        before,
    ]
    kinds += 3 * [[*before, f"{key}={wrong(draw, int(value) if value.isdigit() else 0)}", *after]] if equals else []
    return draw.choice(kinds)


def command_lines(draw: random.Random, count: int) -> Iterator[Case]:
    for _ in range(count):
        command = draw.choice(list(LINES))
        before = LINES[command].split()
        now = changed(draw, before)
        words = command.split()
        if draw.random() < 0.05:
            words[-1] = misspelt(draw, words[-1])
        options = {word for word in before + now if word.startswith("-")} | {w.split("=")[0] for w in now if "=" in w}
        shown = {part[:30].strip() for word in {*before, *now} for part in (word, word.partition("=")[2])} - {""}
        yield Case(
            [*words, *now],
            (*options, *shown, *words, "argument", "BACKBONE", "usage: densessl COMMAND", "an override is"),
        )


# --- what comes of them ---


def said(case: Case, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Said:
    """Run the command in this process, as far as real work; a traceback is the test's own."""
    monkeypatch.setattr(sys, "argv", ["densessl", *case.argv])
    begin = time.process_time()
    try:
        code: Any = main()
    except SystemExit as leaving:  # argparse
        code = leaving.code
    except Accepted:
        code = 0
    except Exception as error:
        raise AssertionError(f"{short(case)}: {type(error).__name__}") from error
    seconds = time.process_time() - begin
    refusal = capsys.readouterr().err
    assert code in (0, 2), short(case)
    assert bool(code) == bool(refusal), f"{short(case)}: exit code {code}, {refusal[:300]!r}"
    return Said(refusal, seconds)


def short(case: Case) -> str:
    return " ".join(word if len(word) < 200 else f"{word[:80]}...({len(word)})" for word in case.argv)


def check(case: Case, outcome: Said) -> None:
    refusal, seconds = outcome
    assert seconds < SECONDS, f"{short(case)}: {seconds:.2f} s"
    if not refusal:
        return
    told = refusal[max(0, refusal.rfind("error: ")) :]  # the usage before it names everything
    named = any(name in told for name in case.named)
    for word in case.argv:  # a user's own words may be as long as they are
        if len(word) > 40 or not word.isprintable():
            refusal = refusal.replace(word, "...")
    about = f"{short(case)}:\n{refusal[:3000]}"
    assert not (found := FOREIGN.search(refusal)), f"{found}: {about}"
    assert len(refusal.splitlines()) <= 40, about
    assert len(refusal) <= 2_500, about
    assert all(c.isprintable() or c == "\n" for c in refusal), about
    assert named, f"names none of {case.named}: {about}"


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing begins that would take long."""

    def begin(*args: Any, **how: Any) -> None:
        raise Accepted

    for work in (
        "training.pretrain.pretrain",
        "plan.figures.measure",
        "benchmark.criterion.compare",
        "benchmark.step.measure",
        "benchmark.scale.measure",
        "benchmark.memory.measure",
        "benchmark.data.measure",
        "compare.steps.fill",
        "data.layouts.write_scenes",
        "segmentation.evaluation.evaluate",
        "classification.evaluation.evaluate",
        "detection.evaluation.evaluate",
        "data.check.survey",
        "data.pack.pack",
        "export.export",
    ):
        monkeypatch.setattr(f"densessl.{work}", begin)


@pytest.mark.usefixtures("idle")
def test_a_wrong_command_line_is_refused_in_one_message_that_names_what_is_wrong(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = 0
    for case in command_lines(random.Random(0), 700):
        outcome = said(case, capsys, monkeypatch)
        check(case, outcome)
        refused += bool(outcome.refusal)
    assert refused > 400


def test_a_wrong_configuration_is_refused_in_one_message_that_names_its_key(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the command line changes it. Those accepted can be built: the network, the optimiser, the views and a step."""
    accepted, refused = [], 0
    for case in (*overridden(random.Random(1), 700), *combined(random.Random(2))):
        outcome = said(case, capsys, monkeypatch)
        check(case, outcome)
        refused += bool(outcome.refusal)
        if not outcome.refusal and light(config := load_config(case.argv[3], case.argv[4:])):
            accepted.append((case, config))
    assert refused > 600
    built, unclear = 0, []
    for case, config in random.Random(3).sample(accepted, 40):
        try:
            take_step(config)
            built += 1
        except UserError as error:
            unclear += [f"{short(case)}: {error}"] if FOREIGN.search(str(error)) else []
        except Exception as error:
            raise AssertionError(f"{short(case)} was accepted: {type(error).__name__}: {error}") from error
    assert not unclear
    assert built >= 25


def test_a_broken_configuration_file_is_refused_in_one_message_that_names_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    refused = 0
    for case in broken_files(random.Random(4), tmp_path, 250):
        outcome = said(case, capsys, monkeypatch)
        check(case, outcome)
        refused += bool(outcome.refusal)
    assert refused > 180


def light(config: Config) -> bool:
    """Whether a test can afford a step of it."""
    values = flat(config.model_dump()).values()
    numbers = [n for value in values for n in (value if isinstance(value, tuple) else [value]) if isinstance(n, int)]
    crops = (config.views.large, config.views.small)
    return max(n for n in numbers if n != config.seed) <= 1000 and all(c.size <= 128 and c.count <= 8 for c in crops)


class Noise:
    """Pictures of noise in memory."""

    def __init__(self, config: Config) -> None:
        self.pixels, self.count = Pixels.of(config), 2 * config.batch

    def __len__(self) -> int:
        return self.count

    def read(self, i: int, reduction: Any) -> np.ndarray:
        white = np.iinfo(self.pixels.dtype).max
        return np.random.default_rng(i).integers(0, white, (40, 48, self.pixels.channels)).astype(self.pixels.dtype)


def take_step(config: Config) -> None:
    """What pretraining does, without DeepSpeed. Raises UserError as it does."""
    torch.manual_seed(0)
    images: Any = Noise(config)
    loader = Loader(
        images, config.views, config.photometric, batch=config.batch, seed=config.seed, workers=0, rank=0, world_size=1
    )
    how = config.backbone.model_dump(exclude={"name", "init"})
    method = METHODS[config.method.name](Backbone(config.backbone.name, **how), **config.method.arguments)
    method.begin(pictures=len(images), batch=config.batch)
    for module in method.modules():
        if isinstance(module, Backbone):
            module.set_micro_batch(config.micro_batch)
    optimizer = build_optimizer(method, config.optim)
    steps = config.length(len(images))
    for _, views in loader.from_step(0, 1):
        set_lr(optimizer, lr_at(0, config, steps), peak_lr(config))
        terms = method(ToDevice("cpu", config.data.mean, config.data.std)(views))
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
        method.update()
