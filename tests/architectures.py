"""Networks of other libraries that can't be installed here, written from what their documentation says of them."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ChannelNorm(nn.LayerNorm):
    """Over the channels of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, 3)).movedim(3, 1)


class Block(nn.Module):
    """Depth-wise 7 x 7, LayerNorm, two linear layers with GELU between, layer scale."""

    def __init__(self, dim: int, names: Sequence[str]) -> None:
        super().__init__()
        self.names = names
        for name, part in zip(
            names,
            (nn.Conv2d(dim, dim, 7, padding=3, groups=dim), nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)),
            strict=True,
        ):
            self.add_module(name, part)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.gamma = nn.Parameter(torch.full((dim,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        depthwise, first, second = (self.get_submodule(name) for name in self.names)
        y = self.norm(depthwise(x).movedim(1, 3))
        return x + (self.gamma * second(F.gelu(first(y)))).movedim(3, 1)


class DenseConvNeXt(nn.Module):
    """As ports for dense use have it: norm0 to norm3 stand behind the maps. ``forward`` gives the maps before them."""

    def __init__(
        self,
        depths: Sequence[int],
        dims: Sequence[int],
        names: Sequence[str] = ("dwconv", "pwconv1", "pwconv2"),
        norms: Sequence[int] = (0, 1, 2, 3),
    ) -> None:
        super().__init__()
        stem = nn.Sequential(nn.Conv2d(3, dims[0], 4, stride=4), ChannelNorm(dims[0], eps=1e-6))
        between = [
            nn.Sequential(ChannelNorm(a, eps=1e-6), nn.Conv2d(a, b, 2, stride=2)) for a, b in itertools.pairwise(dims)
        ]
        self.downsample_layers = nn.ModuleList([stem, *between])
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(dim, names) for _ in range(depth))) for dim, depth in zip(dims, depths, strict=True)
        )
        for i in norms:
            self.add_module(f"norm{i}", ChannelNorm(dims[i], eps=1e-6))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for down, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(down(x))
            maps.append(x)
        return maps


class NormedConv(nn.Conv2d):
    """detectron2's Conv2d, which carries its norm."""

    def __init__(self, a: int, b: int, size: int, stride: int = 1) -> None:
        super().__init__(a, b, size, stride=stride, padding=size // 2, bias=False)
        self.norm = nn.BatchNorm2d(b)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x))


class Residual(nn.Module):
    """detectron2's BasicBlock and, ``wide``, BottleneckBlock with STRIDE_IN_1X1 as given."""

    def __init__(self, a: int, b: int, stride: int, wide: bool, stride_in_1x1: bool) -> None:
        super().__init__()
        if a != b:
            self.shortcut = NormedConv(a, b, 1, stride)
        if wide:
            one, three = (stride, 1) if stride_in_1x1 else (1, stride)
            self.conv1, self.conv2 = NormedConv(a, b // 4, 1, one), NormedConv(b // 4, b // 4, 3, three)
            self.conv3 = NormedConv(b // 4, b, 1)
        else:
            self.conv1, self.conv2 = NormedConv(a, b, 3, stride), NormedConv(b, b, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x).relu())
        if hasattr(self, "conv3"):
            y = self.conv3(y.relu())
        return (y + (self.shortcut(x) if hasattr(self, "shortcut") else x)).relu()


class Detectron2ResNet(nn.Module):
    """forward: the maps res2 to res5."""

    def __init__(self, depths: Sequence[int], wide: bool, *, stride_in_1x1: bool = False) -> None:
        super().__init__()
        self.stem = nn.Module()
        self.stem.conv1 = NormedConv(3, 64, 7, 2)
        before = 64
        for i, depth in enumerate(depths):
            width = 64 * 2**i * (4 if wide else 1)
            blocks = [
                Residual(before if j == 0 else width, width, 2 if i and j == 0 else 1, wide, stride_in_1x1)
                for j in range(depth)
            ]
            self.add_module(f"res{i + 2}", nn.Sequential(*blocks))
            before = width

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.max_pool2d(self.stem.conv1(x).relu(), 3, stride=2, padding=1)
        maps = []
        for i in range(2, 6):
            x = self.get_submodule(f"res{i}")(x)
            maps.append(x)
        return maps
