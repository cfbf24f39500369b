"""What is wrong in a configuration, in a line for each mistake."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from pydantic import BaseModel

from densessl.config_file import flat, shown, yaml_line
from densessl.method_source import argument_names, method_names

SYNONYMS = [  # what other programs call it: any word of a line means the first
    words.split()
    for words in (
        "backbone.name model arch architecture model_name network encoder",
        "backbone.in_chans in_channels num_channels channels",
        "backbone.drop_path drop_path_rate stochastic_depth",
        "backbone.checkpointing grad_checkpointing gradient_checkpointing activation_checkpointing",
        "backbone.init pretrained weights init_from load_from checkpoint ckpt",
        "data.path root data_path data_dir data_root dataset train_dir dir folder images",
        "data.workers num_workers n_workers dataloader_workers",
        "views.large.size img_size image_size input_size crop_size resolution global_crops_size",
        "views.large.scale global_crops_scale crop_scale",
        "views.small.count local_crops_number num_local_crops",
        "views.small.size local_crops_size",
        "views.small.scale local_crops_scale",
        "views.flip hflip horizontal_flip",
        "views.flip_vertical vflip vertical_flip",
        "photometric.jitter color_jitter colour_jitter",
        "optim.name optimizer optimiser opt",
        "optim.base_lr lr learning_rate base_learning_rate blr max_lr",
        "optim.end_lr min_lr final_lr",
        "optim.weight_decay wd decay",
        "optim.warmup warmup_epochs warmup_steps warmup_ratio",
        "optim.clip clip_grad grad_clip max_grad_norm gradient_clip_val",
        "batch batch_size bs global_batch_size train_batch_size",
        "epochs max_epochs num_epochs n_epochs num_train_epochs",
        "steps max_steps iterations iters num_steps max_iter",
        "run output_dir output out out_dir save_dir log_dir logdir work_dir exp_dir checkpoint_dir",
        "seed random_seed manual_seed",
        "precision amp fp16 bf16 fp32 mixed_precision use_amp autocast dtype",
        "compile torch_compile",
        "zero zero_stage",
        "log_to logger wandb tensorboard mlflow report_to",
        "log_every log_interval log_freq print_freq logging_steps",
        "save_every save_freq save_interval save_steps checkpoint_every",
    )
]
NO_KEY = {
    **dict.fromkeys(
        ("accum", "accumulate", "accumulation"),
        "the losses are statistics of the batch, and accumulating those of its parts would be another loss; "
        "micro_batch=N cuts the batch for the network alone, with loss and gradient of the whole",
    ),
    "resume": "--resume continues a run",
    "overwrite": "--overwrite deletes the run that is there first",
    "device": "a GPU is taken where there is one, and the launcher says how many: torchrun --nproc_per_node N",
    "gpus": "the launcher says how many there are: torchrun --nproc_per_node N",
}


def nearest(key: str, keys: Iterable[str]) -> list[str]:
    """Those of ``keys`` that may be meant: with its last word, with a synonym, or else with the word most like it."""
    *sections, last = key.split(".")
    last = last.lower().replace("-", "_")
    words: dict[str, list[str]] = {}
    for each in keys:
        words.setdefault(each.split(".")[-1], []).append(each)
    meant = next((line for line in SYNONYMS if last in line), [])
    if last not in words and (found := [each for each in chain(*words.values()) if each in meant]):
        return found
    alike = words.get(last) or [
        k for word in difflib.get_close_matches(last, words, n=1, cutoff=0.65) for k in words[word]
    ]
    return [each for each in alike if each.split(".")[:-1] == sections] or alike


def key_paths(schema: type[BaseModel], prefix: str = "") -> list[str]:
    """All keys, with dots."""
    found: list[str] = []
    for name, field in schema.model_fields.items():
        kind: Any = field.annotation
        nested = isinstance(kind, type) and issubclass(kind, BaseModel)
        found += key_paths(kind, f"{prefix}{name}.") if nested else [prefix + name]
    return found


def explain(
    errors: Sequence[Any], sources: dict[str, str], schema: type[BaseModel], method: object, before: object
) -> list[str]:
    """Key, where it stands, what is wrong, what would be right: of pydantic's ``errors``, a line for each.

    ``method`` is what the configuration names, ``before`` the file alone, whose arguments may have been left.
    """
    keys, lines, left = key_paths(schema), [], []
    own = ", ".join(f"{name}={yaml_line(default)}" for name, default in _arguments(schema).items())
    replaced = before != method and before in method_names()
    old = [f"method.{name}" for name in argument_names(str(before))] if replaced else []
    for error in errors:
        key = ".".join(part for part in error["loc"] if isinstance(part, str))
        if error["type"] != "extra_forbidden":
            lines.append(_explain(error, key, sources))
            continue
        for wrong in flat({key: error["input"]}) or [key]:
            if wrong in old:
                left.append(wrong)
                continue
            elsewhere = next((said for word, said in NO_KEY.items() if word in wrong.split(".")[-1].split("_")), None)
            meant = " or ".join(nearest(wrong, keys))
            others = f"{method} has {own}" if wrong.startswith("method.") else "--print shows all keys"
            hint = elsewhere or (f"did you mean {meant}?" if meant else others)
            lines.append(f"{_placed(wrong, sources)}: no such key; {hint}")
    if left:
        *names, last = [key.removeprefix("method.") for key in left]
        whose = f"{', '.join(names)} and {last} are" if names else f"{last} is"
        places = ", ".join(dict.fromkeys(place for key in left if (place := _where(key, sources))))
        lines.append(
            f"method.name={method} over {before}: {whose} {before}'s ({places}); {method} has {own}. "
            f"'method={{name: {method}}}' instead of method.name={method} leaves out all that was said for {before}"
        )
    return list(dict.fromkeys(lines))


def _arguments(schema: type[BaseModel]) -> dict[str, Any]:
    kind: Any = schema.model_fields["method"].annotation
    return {name: field.default for name, field in kind.model_fields.items() if name != "name"}


def _explain(error: Any, key: str, sources: dict[str, str]) -> str:
    place = _placed(key, sources)
    if error["type"] == "missing":
        few = isinstance(error["loc"][-1], int)
        return f"{place}: too few values, got {shown(error['input'])}" if few else f"{key} is missing"
    if error["type"] == "value_error":
        return f"{place}: {error['ctx']['error']}" if key else str(error["ctx"]["error"])
    if error["type"] in ("model_type", "model_attributes_type"):
        return f"{place}: a section of keys and values is needed, got {shown(error['input'])}"
    said = error["msg"].replace("a valid tuple", "a list").replace("Tuple", "List").replace(" after validation", "")
    return f"{place}: {said}, got {shown(error['input'])}"


def _placed(key: str, sources: dict[str, str]) -> str:
    where, key = _where(key, sources), key if len(key) < 100 else f"{key[:100]}..."
    return f"{key} ({where})" if where else key


def _where(key: str, sources: dict[str, str]) -> str | None:
    """The place of ``key``, or else of the section that it stands in."""
    parts = key.split(".")
    above = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((sources[k] for k in above if k in sources), None)
