"""The names of timm's ConvNeXts and ResNets, read in its source: to import it takes seconds, for it imports torch."""

from __future__ import annotations

import difflib
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from densessl.config_file import shown

FILES = ("convnext.py", "resnet.py")
FAMILIES = ("convnext", "resnet", "test_convnext", "test_resnet")  # how names begin
VIT = ("vit_", "deit", "test_vit")  # those of vision transformers


def check_name(name: str) -> str:
    """The same. Raises ValueError for one that timm has not, or in another family; a tag after it is left to timm."""
    if name.startswith(VIT):
        raise ValueError(
            f"{shown(name)} is a vision transformer; densessl pretrains ConvNeXts and ResNets, and only measures others"
        )
    if name.partition(".")[0] not in {*network_names(), *_older_names()}:
        near = difflib.get_close_matches(name, [n for n in network_names() if not n.startswith("test")], n=3)
        hint = f"nearest: {', '.join(near)}" if near else "see timm.list_models(['convnext*', 'resnet*'])"
        raise ValueError(f"{shown(name)} is no ConvNeXt or ResNet of timm; {hint}")
    return name


def network_names() -> list[str]:
    """Those that a Backbone can have."""
    found = re.findall(r"^@register_model\s+def (\w+)", _source(), re.MULTILINE)
    return [name for name in found if name.startswith(FAMILIES)]


def _older_names() -> list[str]:
    renamed = "".join(re.findall(r"^register_model_deprecations\(.*?^\}\)", _source(), re.MULTILINE | re.DOTALL))
    return [name for name in re.findall(r"'(\w+)' *:", renamed) if name.startswith(FAMILIES)]


@cache
def _source() -> str:
    spec = find_spec("timm")  # which imports nothing
    assert spec is not None
    assert spec.origin is not None
    return "".join(Path(spec.origin).with_name("models").joinpath(file).read_text(encoding="utf-8") for file in FILES)
