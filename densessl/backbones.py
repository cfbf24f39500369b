"""Convolutional networks behind one contract: four stage maps, their channels and strides."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import timm
import torch
from timm.layers import DropPath
from timm.models.convnext import ConvNeXt, ConvNeXtBlock
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from densessl.errors import UserError
from densessl.timm_names import check_name


class Backbone(nn.Module):
    """Any timm ConvNeXt or ResNet with random weights and without a classifier.

    ``name`` is timm's. ``net`` is the timm module, so keys are timm's. A ConvNeXt has no layer scale and its final
    LayerNorm stands at every location, before the mean, as in VICRegL (https://arxiv.org/abs/2210.01571).
    ``output_stride`` 8 or 16 dilates the last stages instead of striding: finer maps with the same weights.
    ``stem="small"`` begins a ResNet with one 3 x 3 convolution of stride 1 and without pooling, so that its strides are
    1, 2, 4, 8: what is customary for pictures of 32 pixels (SimCLR, appendix B.9, https://arxiv.org/abs/2002.05709).
    ``metadata`` says where the weights came from; a backbone file fills it. ``checkpointing`` keeps no activations
    within a block for the backward but computes them again. ``micro_batch`` is for `each`.

    Raises UserError for a name that timm does not have or that is neither family, and for what a small stem excludes.
    """

    micro_batch: int | None = None  # pictures that go through the network at a time

    def __init__(
        self,
        name: str,
        *,
        in_chans: int = 3,
        drop_path: float = 0.0,
        output_stride: int = 32,
        stem: Literal["imagenet", "small"] = "imagenet",
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        net = self._network(name, in_chans, drop_path, output_stride, stem)
        self.name = name
        self.in_chans = in_chans
        self.output_stride = output_stride
        self.stem = stem
        self.net: Any = net
        self.checkpointing = checkpointing
        if checkpointing:
            net.set_grad_checkpointing()
        stages: list[Any] = net.feature_info[-4:]
        self.channels: tuple[int, ...] = tuple(stage["num_chs"] for stage in stages)
        self.strides: tuple[int, ...] = tuple(stage["reduction"] for stage in stages)
        self.batch_norm = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in net.modules())
        self.metadata: dict[str, object] = {}

    def _network(self, name: str, in_chans: int, drop_path: float, output_stride: int, stem: str) -> Any:
        try:
            check_name(name)
        except ValueError as error:
            raise UserError(f"backbone.name: {error}") from None
        family: dict[str, Any] = {"head_norm_first": True, "head_hidden_size": 0} if "convnext" in name else {}
        if stem not in ("imagenet", "small"):
            raise UserError(f"backbone.stem: {stem!r} is neither imagenet nor small")
        if stem == "small" and output_stride == 16:
            raise UserError(f"{name} with a small stem: its output stride is 8 as it is, and can't be 16")
        net = timm.create_model(
            name,
            num_classes=0,
            in_chans=in_chans,
            drop_path_rate=drop_path,
            output_stride=output_stride if stem == "imagenet" else 32,
            **family,
        )
        if stem == "small":
            if not isinstance(net, ResNet):
                raise UserError(f"backbone.stem: {name} begins with patches; only a ResNet can have a small stem")
            _make_stem_small(net)
        for module in net.modules():
            # create_model drops arguments that are None, so layer scale can't be switched off there: it stays at 1e-6.
            if getattr(module, "gamma", None) is not None:
                module.register_parameter("gamma", None)
            if type(module) is DropPath and module.drop_prob:
                module.__class__ = SharedDropPath
        return net

    def stages(self, image: Tensor) -> list[Tensor]:
        """Raw stage maps, fine to coarse, each (B, C, H, W): what dense heads read. Never with the final norm."""
        with self._running_statistics_move() if self.checkpointing else nullcontext():
            maps = self.net.forward_intermediates(image, intermediates_only=True)
        assert isinstance(maps, list)
        return maps[-4:]

    def forward(self, image: Tensor) -> list[Tensor]:
        """Stage maps with the last one after the final norm, where the network has one: what methods read."""
        maps = self.stages(image)
        if isinstance(self.net, ConvNeXt):
            maps[-1] = self.net.norm_pre(maps[-1])
        return maps

    @contextmanager
    def _running_statistics_move(self) -> Iterator[None]:
        """Here, and not again when the backward computes a block once more."""
        norms: list[Any] = [m for m in self.net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.share = norm.momentum = getattr(norm, "share", norm.momentum)
        yield
        for norm in norms:
            norm.momentum = 0.0

    def set_micro_batch(self, pictures: int | None) -> None:
        """For `each`. Raises UserError where that would change batch statistics."""
        if pictures and self.batch_norm:
            raise UserError(
                f"micro_batch={pictures}: {self.name} has batch statistics, which would be those of {pictures} pictures"
            )
        self.micro_batch = pictures

    def compile_blocks(self) -> None:
        """Compile each residual block when it first runs: one program for all blocks of a stage and shape of views."""
        # By default 8, after which blocks would run uncompiled. A shape takes up to 8, two a stage, and as many without
        # gradient; there are two sizes of views, and with micro-batches a last piece of each.
        torch._dynamo.config.recompile_limit = max(256, torch._dynamo.config.recompile_limit)
        for module in self.net.modules():
            if isinstance(module, ConvNeXtBlock | BasicBlock | Bottleneck):
                module.compile(dynamic=False)  # Inductor can't order the strides of symbolic sizes on a processor

    def each(self, images: Iterable[Tensor]) -> list[Tensor]:
        """The last map (B, C, h, w), after the final norm, of each of several batches (B, C, H, W) of pictures.

        Batches of one size go through the network together unless it has batch statistics, which are a batch's own.
        With ``micro_batch`` no more pictures than that go at a time, each with all its batches of one size, and the
        backward computes their activations again: values and gradients are those of the whole, drop path included, for
        a third more work and the memory of the part.
        """
        images = list(images)
        if self.batch_norm:
            return [self(image)[-1] for image in images]
        maps: list[Tensor] = list(images)
        for shape in dict.fromkeys(image.shape for image in images):
            places = [i for i, image in enumerate(images) if image.shape == shape]
            for i, last in zip(places, self._together([images[i] for i in places]), strict=True):
                maps[i] = last
        return maps

    def _together(self, images: list[Tensor]) -> Sequence[Tensor]:
        pictures, size = len(images[0]), self.micro_batch or len(images[0])
        drops = [m for m in self.net.modules() if isinstance(m, SharedDropPath) and m.active]
        if pictures <= size and self.checkpointing:
            drawn: list[Tensor | None] = [None] * len(drops)  # they draw themselves, and checkpointing draws again
        else:
            drawn = [drop.draw(images[0], len(images) * pictures) for drop in drops]

        def part(image: Tensor, first: int = 0) -> Tensor:
            for drop, scale in zip(drops, drawn, strict=True):
                drop.scale = None if scale is None else scale[first : first + len(image)]
            return self(image)[-1]

        if pictures <= size:
            last = part(torch.cat(images) if len(images) > 1 else images[0])
            for drop in drops:
                drop.scale = None
            return last.chunk(len(images))
        maps, first = [], 0
        for image in images:
            parts = []
            for piece in image.split(len(images) * size):
                if torch.is_grad_enabled():
                    parts.append(checkpoint(part, piece, first, use_reentrant=False, preserve_rng_state=False))
                else:
                    parts.append(part(piece, first))
                first += len(piece)
            maps.append(torch.cat(parts))
        return maps


class SharedDropPath(DropPath):
    """Drop path that may be told what to keep: the part of a batch gets what was drawn for the whole.

    Being told also spares torch.compile a program for each block's probability.
    """

    scale: Tensor | None = None  # (B,): 0 to drop

    @property
    def active(self) -> bool:
        return self.training and self.drop_prob > 0

    def draw(self, like: Tensor, n: int) -> Tensor:
        return torch.empty(n, device=like.device).bernoulli_(1 - self.drop_prob).div_(1 - self.drop_prob)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        scale = self.scale
        if scale is None:
            if not self.drop_prob:
                return x
            scale = self.draw(x, len(x))
        return x * scale.to(x.dtype).view(-1, 1, 1, 1)


def pooled(last: Tensor) -> Tensor:
    """(B, C): the mean over all places of a map (B, C, H, W)."""
    return torch.mean(last, dim=(2, 3))


def _make_stem_small(net: Any) -> None:
    """One convolution, drawn as timm draws them all, in the place of any stem."""
    net.conv1 = nn.Conv2d(net.in_chans, net.feature_info[0]["num_chs"], 3, padding=1, bias=False)
    nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    net.maxpool = nn.Identity()
    for stage in net.feature_info:
        stage["reduction"] = max(1, stage["reduction"] // 4)
