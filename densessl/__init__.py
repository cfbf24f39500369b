"""Self-supervised pretraining of convolutional backbones whose feature maps are good."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from densessl.backbone_file import load_backbone as load_backbone

__version__ = "0.1.0"
__all__ = ["__version__", "load_backbone"]


def __getattr__(name: str) -> Any:
    """torch is imported when it is needed, so that a wrong configuration is refused in a moment."""
    if name == "load_backbone":
        from densessl.backbone_file import load_backbone

        return load_backbone
    raise AttributeError(f"module 'densessl' has no attribute {name!r}")
