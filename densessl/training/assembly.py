"""From a configuration to an engine that can take steps: what pretraining, benchmarks and plans have in common."""

from __future__ import annotations

import torch
from torch.optim import Optimizer

from densessl.backbone_file import init_backbone
from densessl.backbones import Backbone
from densessl.config import Config
from densessl.method import Method
from densessl.methods import find_method
from densessl.training import distributed
from densessl.training.batch_norm import synchronise_batch_norm
from densessl.training.engine import Engine
from densessl.training.optim import build_optimizer


def assemble(cfg: Config, device: torch.device, pictures: int, *, init: bool = True) -> tuple[Engine, str]:
    """The engine of ``cfg`` with method and optimiser for a collection of ``pictures``, and where its weights are from.

    Without ``init`` the file of backbone.init is not read, since a state will replace its weights. Raises UserError for
    what can't work together.
    """
    method, optimizer, origin = distributed.everywhere(_method, cfg, pictures, init)
    return Engine(method, optimizer, cfg, device), origin


def _method(cfg: Config, pictures: int, init: bool) -> tuple[Method, Optimizer, str]:
    torch.manual_seed(cfg.seed)
    backbone = Backbone(
        cfg.backbone.name,
        in_chans=cfg.backbone.in_chans,
        stem=cfg.backbone.stem,
        drop_path=cfg.backbone.drop_path,
        checkpointing=cfg.backbone.checkpointing,
    )
    origin = init_backbone(backbone, cfg.backbone.init) if cfg.backbone.init and init else "random weights"
    method = find_method(cfg.method.name)(backbone, **cfg.method.arguments)
    method.begin(pictures=pictures, batch=cfg.batch)
    for module in method.modules():
        if isinstance(module, Backbone):
            module.set_micro_batch(cfg.micro_batch)
            if cfg.compile:
                module.compile_blocks()
    synchronise_batch_norm(method)
    return method, build_optimizer(method, cfg.optim), origin
