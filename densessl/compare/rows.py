"""The rows of a comparison: configurations that are alike in all but method and optimiser."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from densessl.config import CONFIGS, Config, find_config, load_config
from densessl.config_errors import key_paths, nearest
from densessl.errors import UserError

OWN = {"name", "run", "method", "optim", "steps", "epochs", "seed"}  # all other keys are the first configuration's
ELSEWHERE = {"name": "NAME=CFG", "run": "--out", "seed": "--seeds", "steps": "--budget", "epochs": "--budget"}
RANDOM = "random"  # the row of weights that nothing trained


@dataclass(frozen=True)
class Row:
    name: str
    config: Config
    origin: str  # the configuration it is from, and the words that changed this row alone


@dataclass(frozen=True)
class Words:
    """What is asked for: the configuration of each row, and key=value for all rows, single ones and evaluations."""

    cfgs: dict[str, str] = field(default_factory=dict)
    everyone: list[str] = field(default_factory=list)
    own: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    seg: list[str] = field(default_factory=list)
    cls: list[str] = field(default_factory=list)


def read_words(texts: Sequence[str]) -> Words:
    """CFG, NAME=CFG, key=value, NAME:key=value, seg.key=value or cls.key=value each.

    ``all`` is every METHOD_cifar of configs/, named METHOD. Raises UserError for the first that is none of these.
    """
    words = Words()
    for text in texts:
        named = re.fullmatch(r"([\w-]+)=(.+)", text)
        if text == "all":
            rows = [(path.stem.removesuffix("_cifar"), path.stem) for path in sorted(CONFIGS.glob("*_cifar.yaml"))]
        elif own := re.fullmatch(r"([\w-]+):(\w[\w.]*=.*)", text):
            words.own[own[1]].append(own[2])
            continue
        elif setting := re.fullmatch(r"(seg|cls)\.(\w+=.*)", text):
            getattr(words, setting[1]).append(setting[2])
            continue
        elif named and named[1] not in Config.model_fields:
            rows = [(named[1], named[2])]
        elif re.match(r"\w+(\.\w+)*=", text):
            words.everyone.append(text)
            continue
        else:
            rows = [(Path(text).stem, text)]
        for name, cfg in rows:
            try:
                find_config(cfg)
            except UserError:
                if named and (near := nearest(name, key_paths(Config))):
                    raise UserError(f"{text}: no key of a configuration; did you mean {near[0]}={cfg}?") from None
                raise
            if name in words.cfgs or name == RANDOM:
                raise UserError(f"--cfg {text}: another row is called {name}; name this one, as in other={cfg}")
            words.cfgs[name] = cfg
    for name, changes in words.own.items():
        if name not in words.cfgs:
            raise UserError(f"{name}:{changes[0]}: the rows are {', '.join(words.cfgs)}")
    for change in [*words.everyone, *(change for changes in words.own.values() for change in changes)]:
        if place := ELSEWHERE.get(change.split("=")[0]):
            raise UserError(f"{change}: in a comparison {place} says that")
    if not words.cfgs:
        raise UserError("--cfg names no configuration")
    return words


def compose(words: Words, budget: str, like: str | None = None) -> list[Row]:
    """Method and optimiser of each configuration, all else of ``like`` or else of the first, changed as the words say.

    ``budget`` is steps=N or epochs=N. Raises UserError with the mistakes of all rows.
    """
    first = load_config(like or next(iter(words.cfgs.values()))).model_dump(mode="json")
    shared = [f"{key}={json.dumps(value)}" for key, value in first.items() if key not in OWN]
    rows: list[Row] = []
    mistakes: defaultdict[str, list[str]] = defaultdict(list)  # message: rows
    for name, cfg in words.cfgs.items():
        own = words.own[name]
        try:
            config = load_config(cfg, [*shared, f"name={json.dumps(name)}", budget, *words.everyone, *own])
            rows.append(Row(name, config, " ".join([cfg, *(["with"] if own else []), *own])))
        except UserError as error:
            mistakes[str(error)].append(name)
    if mistakes:
        raise UserError("\n".join(f"{', '.join(names)}: {message}" for message, names in mistakes.items()))
    return rows
