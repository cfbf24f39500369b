"""To Hugging Face transformers: a folder that from_pretrained loads without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save
from timm.models.convnext import ConvNeXt
from torch import nn

from densessl.backbones import Backbone
from densessl.data.decoding import RGB
from densessl.errors import UserError
from densessl.export.exporter import Stages, fitting, installed, plain, renamed
from densessl.foreign import layouts
from densessl.reading import pixels_of

SUFFIX = ".hf"
NEEDS = ("transformers",)


def write(backbone: Backbone, file: Path) -> None:
    """``file`` becomes the folder: config.json, model.safetensors and, of RGB of 8 bits, preprocessor_config.json.

    Its processors know no other pictures.
    """
    kind, facts = _config(backbone)
    layout = layouts.huggingface_convnext if kind.startswith("ConvNext") else layouts.huggingface_resnet
    transformers = installed("transformers")
    config = getattr(transformers, f"{kind}Config")(**facts)
    net = getattr(transformers, f"{kind}Model")(config)
    file.mkdir()
    config.architectures = [f"{kind}Model"]
    config.save_pretrained(file)
    tensors = fitting(renamed(backbone, layout), net, "hf", backbone.name)
    (file / "model.safetensors").write_bytes(save(tensors, {"format": "pt"}))
    if pixels_of(backbone) == RGB:
        (file / "preprocessor_config.json").write_text(
            json.dumps(_preprocessor(backbone), indent=2) + "\n", encoding="utf-8"
        )


def open(backbone: Backbone, file: Path) -> Stages:
    transformers = installed("transformers")
    net, report = _model_class(transformers, backbone).from_pretrained(
        file, local_files_only=True, output_loading_info=True
    )
    if wrong := {key: value for key, value in report.items() if value}:
        raise RuntimeError(str(wrong))
    net = net.eval()
    return lambda image: net(image, output_hidden_states=True).hidden_states[1:]


def snippet(backbone: Backbone, file: Path) -> str:
    kind, _ = _config(backbone)
    vectors = "vectors = outputs.pooler_output.flatten(1)"
    if kind.startswith("ConvNext"):
        vectors = (
            "# densessl's vector is mean(norm); pooler_output is norm(mean).\n"
            "vectors = net.layernorm(maps[-1].movedim(1, 3)).mean((1, 2))"
        )
    return f"""\
from transformers import {kind}Model

net = {kind}Model.from_pretrained({str(file)!r}, local_files_only=True).eval()
outputs = net(image, output_hidden_states=True)
maps = outputs.hidden_states[1:]
{vectors}
"""


def _model_class(transformers: Any, backbone: Backbone) -> Any:
    return getattr(transformers, f"{_config(backbone)[0]}Model")


def _config(backbone: Backbone) -> tuple[str, dict[str, Any]]:
    """The name of the model's family there, and what makes its network ours."""
    plain(backbone, "hf")
    net: Any = backbone.net
    facts: dict[str, Any] = {
        "num_channels": backbone.in_chans,
        "hidden_sizes": list(backbone.channels),
        "out_features": [f"stage{i}" for i in range(1, 5)],
    }
    if isinstance(net, ConvNeXt):
        stages: Any = net.stages
        depths = [len(stage.blocks) for stage in stages]
        if len(list(net.stem.children())) != 2:
            raise UserError(f"hf has no ConvNeXt with the stem of {backbone.name}; --to timm takes it")
        if backbone.name.startswith("convnextv2"):
            return "ConvNextV2", facts | {"depths": depths}
        return "ConvNext", facts | {"depths": depths, "layer_scale_init_value": 0.0}  # no layer scale at all
    layers = [getattr(net, f"layer{i}") for i in range(1, 5)]
    if not isinstance(net.conv1, nn.Conv2d) or net.conv1.out_channels != 64:
        raise UserError(f"hf has no ResNet with the stem of {backbone.name}; --to timm takes it")
    kind = "bottleneck" if hasattr(layers[0][0], "conv3") else "basic"
    return "ResNet", facts | {"depths": [len(layer) for layer in layers], "layer_type": kind, "embedding_size": 64}


def _preprocessor(backbone: Backbone) -> dict[str, Any]:
    return {
        "image_processor_type": "ConvNextImageProcessor",
        "image_mean": backbone.metadata["mean"],
        "image_std": backbone.metadata["std"],
        "size": {"shortest_edge": 224},
        "crop_pct": 0.875,
        "do_rescale": True,
        "do_resize": True,
        "do_normalize": True,
        "resample": 3,
    }
