"""Self-supervised pretraining of convolutional backbones whose feature maps are good."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from densessl.backbone_file import load_backbone as load_backbone
    from densessl.errors import UserError as UserError
    from densessl.training.start import pretrain as pretrain

__version__ = "0.1.0"
# Where each name is from: a function or class of that module, or the module itself. It is imported when it is asked
# for, since most need torch, and a wrong configuration is refused in a moment.
_NAMES = {
    "UserError": "densessl.errors",
    "criteria": "densessl.criteria",
    "load_backbone": "densessl.backbone_file",
    "losses": "densessl.losses",
    "matching": "densessl.matching",
    "methods": "densessl.methods",
    "pretrain": "densessl.training.start",
}
__all__ = ["__version__", *_NAMES]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'densessl' has no attribute {name!r}; it has {', '.join(__all__)}")
    module = import_module(_NAMES[name])
    return module if module.__name__ == f"densessl.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return __all__
