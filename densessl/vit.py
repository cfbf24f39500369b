"""Vision transformers of timm behind the backbones' contract: to measure, not to pretrain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
from timm.layers import resample_abs_pos_embed
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from densessl.backbones import Backbone
from densessl.errors import UserError
from densessl.timm_names import VIT


class ViT(Backbone):
    """Any timm VisionTransformer or Eva (DINOv3's) without a classifier, for pictures of any multiple of its patches.

    The four stage maps come from evenly spaced blocks and are alike in channels and stride, the patch. The position
    embedding is resampled to the picture. ``net`` is the timm module, so keys are timm's.

    Raises UserError for other networks, and for an output stride: there is nothing to dilate.
    """

    def _network(self, name: str, in_chans: int, drop_path: float, output_stride: int, stem: str) -> Any:
        if output_stride != 32 or stem != "imagenet":
            raise UserError(f"{name}: the stride of a ViT is its patch; output stride {output_stride} is for ConvNets")
        if not timm.is_model(name):
            raise UserError(f"{name!r} is no vision transformer of timm; see timm.list_models('vit_*')")
        try:
            net = timm.create_model(
                name, num_classes=0, in_chans=in_chans, drop_path_rate=drop_path, dynamic_img_size=True
            )
        except (TypeError, ValueError) as error:
            raise UserError(f"{name}: can't take pictures of any size ({error})") from None
        if not isinstance(net, VisionTransformer | Eva):
            raise UserError(f"{name!r} is a {type(net).__name__}, not a VisionTransformer")
        return net

    def stages(self, image: Tensor) -> list[Tensor]:
        """Maps after a quarter, half, three quarters and all of the blocks, each (B, C, H, W), without the final norm.

        Raises UserError for sides that are no multiple of the patch.
        """
        patch = self.strides[-1]
        if image.shape[-2] % patch or image.shape[-1] % patch:
            raise UserError(
                f"{self.name} takes pictures whose sides are multiples of {patch}, not {image.shape[-1]}x"
                f"{image.shape[-2]}"
            )
        blocks = [len(self.net.blocks) * quarter // 4 - 1 for quarter in (1, 2, 3, 4)]
        maps = self.net.forward_intermediates(image, indices=blocks, intermediates_only=True)
        assert isinstance(maps, list)
        return maps

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = self.stages(image)
        last = self.net.fc_norm(self.net.norm(maps[-1].permute(0, 2, 3, 1)))  # timm has one of them, and an Identity
        maps[-1] = last.permute(0, 3, 1, 2)
        return maps

    def fitted(self, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
        """``tensors`` with the position embedding resampled by timm to this network's, and a remark if it was."""
        theirs, ours = tensors.get("pos_embed"), getattr(self.net, "pos_embed", None)
        if theirs is None or ours is None or theirs.ndim != 3 or theirs.shape == ours.shape:
            return dict(tensors), ""
        grid = self.net.patch_embed.grid_size
        others = ours.shape[1] - grid[0] * grid[1]
        side = round(max(0, theirs.shape[1] - others) ** 0.5)
        if side**2 + others != theirs.shape[1] or theirs.shape[2] != ours.shape[2]:
            return dict(tensors), ""  # left for the key report
        resampled = resample_abs_pos_embed(theirs, list(grid), [side, side], num_prefix_tokens=others)
        remark = f"; position embedding resampled from {side}x{side} to {grid[0]}x{grid[1]}"
        return {**tensors, "pos_embed": resampled}, remark


def network(name: str, **arguments: Any) -> Backbone:
    """A ViT or a convolutional backbone, whichever timm's name means. Raises UserError."""
    return ViT(name, **arguments) if name.startswith(VIT) else Backbone(name, **arguments)
