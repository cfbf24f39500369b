"""What the README shows works as it stands there."""

import ast
import re
from pathlib import Path

import pytest
import torch
from test_methods import random_views
from torch import Tensor
from torch.nn import functional as F

from densessl.backbone_file import find_backbone
from densessl.backbones import Backbone, pooled
from densessl.config import Count, Positive
from densessl.data.views import Views
from densessl.export import EXPORTERS
from densessl.heads import each, mlp
from densessl.method import Method
from densessl.training.distributed import gather

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
NAMES = {c.__name__: c for c in (Backbone, Method, Tensor, Views)} | {"Count": Count, "Positive": Positive}
NAMES |= {"torch": torch, "F": F, "pooled": pooled, "each": each, "mlp": mlp, "gather": gather}


def test_the_method_that_it_adds_is_one() -> None:
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "(Method)" in block)
    exec(code, found := dict(NAMES))
    torch.manual_seed(0)
    method = found["AlignUniform"](Backbone("test_convnext"), projector=(32, 16))
    views = random_views(small=0)
    terms = method(views)
    sum(terms.values()).backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in method.projector.parameters())
    a, b = (F.normalize(method.projector(pooled(method.backbone(view.image)[-1]))) for view in views.large)
    assert terms["alignment"].item() == pytest.approx(((a - b) ** 2).sum(1).mean().item(), rel=1e-6)
    pairs = torch.stack([torch.exp(-2 * ((x - y) ** 2).sum()) for z in (a, b) for x in z for y in z])
    assert terms["uniformity"].item() == pytest.approx(pairs.mean().log().item(), rel=1e-5)


def test_every_configuration_it_names_exists() -> None:
    named = set(re.findall(r"`(\w+_(?:cnx_\w+|r50\w*))`", README)) - {"METHOD_r50"}
    missing = {name for name in named if not (Path(__file__).parents[1] / "configs" / f"{name}.yaml").exists()}
    assert len(named) > 5
    assert not missing


@pytest.mark.parametrize("target", EXPORTERS)
def test_the_lines_for_each_destination_are_those_that_export_prints(target: str) -> None:
    """Up to the style of writing; tests/test_export.py runs them."""
    exporter = EXPORTERS[target]
    file = Path(f"resnet50.{target}".removesuffix(exporter.SUFFIX) + exporter.SUFFIX)
    (shown,) = re.findall(rf"^`{target}`\n\n```python\n(.*?)```$", README, re.DOTALL | re.MULTILINE)
    assert ast.unparse(ast.parse(shown)) == ast.unparse(ast.parse(exporter.snippet(find_backbone("resnet50"), file)))
