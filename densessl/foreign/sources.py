"""Where checkpoints of other projects keep the backbone, and what else they hold."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from densessl.errors import UserError
from densessl.foreign.layouts import LAYOUTS, Layout
from densessl.key_report import first

CONTAINERS = (
    *("teacher", "student", "state_dict", "model", "model_state_dict", "classy_state_dict", "base_model", "trunk"),
    *("network", "module"),
)  # averages of the weights ("model_ema") only when asked for

DROPPED = (
    r"fc|head|head_dist|neck|bn|proj|pred|decoder|classifier|online_classifier|projector\w*|maps_projector\w*"
    r"|projection_head\w*|local_projection_head\w*|predictor\w*|prediction_head\w*|prototypes\w*|queue\w*|encoder_k"
    r"|momentum_\w+|\w+_momentum|target_\w+|teacher\w*|student\w*|dense_decoder\w*|densify_\w+|mask_token\w*"
    r"|hidden_states_norms\w*|norm[012]|n_averaged|data_preprocessor\w*"
)  # first parts of names that no backbone needs


WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+")  # of DistributedDataParallel and torch.compile
BEGINNINGS = {  # keys of each family's first block, and of what it ends with
    "ConvNeXt": (
        "stem.0.weight",
        "norm_pre.weight",
        *(f"stages.0.blocks.0.{part}.{kind}" for part in ("conv_dw", "norm", "mlp.fc1") for kind in ("weight", "bias")),
    ),
    "ResNet": ("bn1.weight", *(f"layer1.0.{part}{i}.weight" for i in (1, 2) for part in ("conv", "bn"))),
    "ViT": ("patch_embed.proj.weight", *(f"blocks.0.{part}.bias" for part in ("norm1", "attn.qkv", "mlp.fc1"))),
}


class Source(NamedTuple):
    """What the backbone's keys begin with, and which others lie beside it.

    ``also`` may be left out, ``double`` is where the backbone lies a second time, ``norm`` its final norm if outside.
    """

    prefix: str
    also: str = r"\b\B"  # nothing
    double: str = ""
    norm: str = r"\b\B"


SOURCES = (  # the first whose prefix leads to a known layout: that of the online network where there are two
    Source(""),
    Source("backbone.bottom_up.", r"proposal_generator|roi_heads|sem_seg_head|backbone\.fpn_\w+|pixel_mean|pixel_std"),
    Source("backbone.", r"encoder_q|steps", double="encoder_q.0."),
    Source("encoder_q."),
    Source("base_encoder."),
    Source("online_encoder.net.", r"online_encoder\.projector|online_predictor", double="net."),
    Source("sparse_encoder.sp_cnn.", "imn_m|imn_s|norm_black|config"),
    Source("_feature_blocks."),
    Source(
        "visual.trunk.",
        r"visual\.head|text|transformer|token_embedding|positional_embedding|ln_final|text_projection|logit_scale"
        "|logit_bias|attn_mask",
    ),
    Source("convnext."),
    Source("convnextv2."),
    Source("resnet."),
    Source("model.", "whitening", norm="layer_norm"),  # Hugging Face's DINOv3 since transformers 5
    Source("encoder.", "value_transform"),
    Source("base.", "value_transform"),
)


class Part(NamedTuple):
    """A backbone found in a checkpoint, under its own names, and what was left behind."""

    place: str
    layout: Layout
    tensors: dict[str, Tensor]
    dropped: list[str]
    origin: str  # VICRegL, SwAV or DeepCluster-v2 where the file shows it, since their pictures had another std


class NoBackbone(UserError):
    """Nothing was found at the usual places of a file, or at the one that was asked for."""


def find_part(content: Any, asked: str = "") -> Part:
    """The backbone in what a file holds.

    ``asked`` is an entry of the file to take instead of the usual one ("student", "model_ema", "state.net" for one in
    another), or what the keys of the part begin with ("encoder_k", "student.backbone"); in the latter case all else is
    dropped. Raises UserError where nothing is found, with what would have to be asked for, where there is a choice, and
    for keys of which no rule says that they may be dropped.
    """
    try:
        return _find_part(content, asked)
    except NoBackbone as error:
        places = [f"FILE:{name}" for name in dict.fromkeys(_places(content)) if _leads_to_part(content, name)]
        layouts = f"known layouts are {', '.join(layout.title for layout in LAYOUTS)}"
        hint = f"there is one at {' and at '.join(places[:4])}" if places else layouts
        raise UserError(f"{error}; {hint}") from None


def _find_part(content: Any, asked: str) -> Part:
    entries, containers, prefix = _weights(content, asked)
    tensors = unwrapped(entries)
    sources = (Source(f"{prefix}."),) if prefix else SOURCES
    for find_layout, source in itertools.product((_find_layout, _find_layout_with_gaps), sources):
        ours = re.compile(rf"{re.escape(source.prefix)}|({source.norm})\.")
        inner = unwrapped({k.removeprefix(source.prefix): v for k, v in tensors.items() if ours.match(k)})
        layout = find_layout(inner)
        if layout is not None:
            break
    else:
        what = f"under {prefix}. there is no backbone" if prefix else "holds no backbone"
        raise NoBackbone(f"{what} of a known layout; its keys begin {first(list(tensors), 4)}")
    if source.prefix == "backbone.bottom_up." and not prefix:
        raise UserError(
            "a detector of detectron2, which by default reads BGR from 0 to 255 and strides in the first 1x1: its "
            "weights would give other features here. If it was trained with INPUT.FORMAT RGB, torchvision's PIXEL_STD "
            "and STRIDE_IN_1X1 False, FILE:backbone.bottom_up says so"
        )
    outside = [key for key in tensors if not ours.match(key)]
    doubles = drop_double(tensors, source.double, source.prefix) if source.double else []
    allowed = re.compile(rf"({DROPPED}|{source.also})(\.|$)")
    unknown = [key for key in outside if not (prefix or key in doubles or allowed.match(key))]
    if unknown:
        hint = source.prefix.rstrip(".")
        raise UserError(
            f"beside the backbone ({source.prefix}) are {len(unknown)} entries of which no rule says that they may be "
            f"left out: {first(unknown)}. If {hint} is all of the backbone, FILE:{hint} takes it alone"
        )
    for key, value in inner.items():
        if not isinstance(value, Tensor):
            raise UserError(f"{key!r} is a {type(value).__name__}; a state dict holds tensors only")
        if not value.numel():
            raise UserError(f"{key!r} is empty: a part of a ZeRO-3 or sharded checkpoint, to be put together first")
    place = ", ".join([*containers, *([source.prefix.rstrip(".")] if source.prefix else [])])
    weights = {key: value.float() if value.is_floating_point() else value for key, value in inner.items()}
    return Part(place, layout, weights, outside, _origin(tensors))


def _find_layout(names: Collection[str]) -> Layout | None:
    return next((layout for layout in LAYOUTS if all(sign in names for sign in layout.signs)), None)


def _find_layout_with_gaps(names: Collection[str]) -> Layout | None:
    """The layout that has most of the keys of a first block, where the one that shows it is missing."""

    def share(layout: Layout) -> float:
        wanted = [*map(layout.name_of, BEGINNINGS[layout.family])]
        return sum(name in names for name in wanted) / len(wanted)

    best = max((layout for layout in LAYOUTS if not layout.signs[0].endswith(".kernel")), key=share)
    return best if share(best) > 0.5 else None


def _places(content: Any, at: str = "") -> Iterator[str]:
    """What might have to be asked for: entries that hold entries, and what keys begin with before those of a layout."""
    if not isinstance(content, Mapping):
        return
    for key, value in content.items():
        if isinstance(value, Mapping):
            inner = at if key in CONTAINERS else f"{at}{key}."
            if inner != at:
                yield inner.rstrip(".")
            yield from _places(value, inner)
        elif sign := next((one for one in LAYOUTS if str(key).endswith(f".{one.signs[0]}")), None):
            yield (at + WRAPPERS.sub("", str(key).removesuffix(sign.signs[0]))).rstrip(".")


def _leads_to_part(content: Any, asked: str) -> bool:
    try:  # not by most of a first block: one of another network's has them too
        return bool(asked and _find_layout(_find_part(content, asked).tensors))
    except UserError:
        return False


def unwrapped(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Names without what DistributedDataParallel and torch.compile put before them."""
    names: dict[str, Any] = {}
    for key, value in entries.items():
        name = WRAPPERS.sub("", str(key))
        if name in names:
            raise UserError(f"two keys are called {name!r} once 'module.' and '_orig_mod.' are taken off")
        names[name] = value
    return names


def drop_double(tensors: Mapping[str, Any], double: str, prefix: str) -> list[str]:
    """The keys that begin with ``double`` and repeat what begins with ``prefix``. Raises UserError where they don't."""
    doubles = [key for key in tensors if key.startswith(double)]
    for key in doubles:
        other = tensors.get(prefix + key.removeprefix(double))
        if not isinstance(other, Tensor) or not torch.equal(other, tensors[key]):
            raise UserError(f"{key} is no copy of {prefix + key.removeprefix(double)}, as it is in other such files")
    return doubles


def _weights(content: Any, asked: str) -> tuple[Mapping[str, Any], list[str], str]:
    """The state dict, the entries that led to it, and the rest of ``asked``: a prefix of its keys."""
    if isinstance(content, Mapping) and content.get("__author__") == "Caffe2":
        raise UserError("weights of Caffe2, for BGR from 0 to 255 and with strides in the first 1x1: another network")
    if isinstance(content, Mapping) and re.search("style=.caffe", str(content.get("meta"))):
        raise UserError(
            "a ResNet of mmpretrain's style caffe, which strides in the first 1x1: timm has no such network"
        )
    containers: list[str] = []
    while isinstance(content, Mapping):
        inner = {str(key): value for key, value in content.items() if isinstance(value, Mapping)}
        found = [key for key in inner if asked and f"{asked}.".startswith(f"{key}.")]
        found = found or [key for key in CONTAINERS if key in inner]
        if len(found) > 1 and found != ["teacher", "student"]:
            raise UserError(f"holds {' and '.join(found)}: FILE:{found[0]} or FILE:{found[1]} says which")
        if not found:
            break
        if f"{asked}.".startswith(f"{found[0]}."):
            asked = asked.removeprefix(found[0]).removeprefix(".")
        containers.append(found[0])
        content = inner[found[0]]
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        entries = first(list(map(str, content)), 6) if isinstance(content, Mapping) else type(content).__name__
        raise NoBackbone(
            f"holds no state dict, neither at the top nor under {', '.join(CONTAINERS)}; it has: {entries}"
        )
    return content, containers, asked


def _origin(tensors: Mapping[str, Any]) -> str:
    if any(key.startswith("backbone.") for key in tensors):
        return "vicregl" if any(key.startswith("maps_projector.") for key in tensors) else ""
    if "projection_head.0.weight" in tensors:
        heads = {"prototypes.weight": "swav", "prototypes.prototypes0.weight": "deepcluster_v2"}
        return next((origin for key, origin in heads.items() if key in tensors), "")
    return ""
