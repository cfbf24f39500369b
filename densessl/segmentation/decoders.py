"""Convolutional decoders of segmentation-models-pytorch on our stage maps, where a linear head is not enough."""

from __future__ import annotations

from collections.abc import Sequence

from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3PlusDecoder
from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
from torch import Tensor, nn

from densessl.errors import UserError

# The strides of the four maps that each one is made for.
STRIDES = {"fpn": [(4, 8, 16, 32)], "upernet": [(4, 8, 16, 32)], "deeplabv3plus": [(4, 8, 16, 16), (4, 8, 8, 8)]}
WIDTH = 256


class DecoderHead(nn.Module):
    """A decoder with the library's own widths, channel dropout and a 1x1 convolution.

    ``name``: "fpn" (https://arxiv.org/abs/1901.02446), "upernet" (https://arxiv.org/abs/1807.10221) or "deeplabv3plus"
    (https://arxiv.org/abs/1802.02611). forward: maps, fine to coarse, each (B, C, H, W) -> logits at the finest size.
    Raises UserError for strides that the decoder isn't made for.
    """

    def __init__(
        self, name: str, channels: Sequence[int], strides: Sequence[int], classes: int, *, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if tuple(strides) not in STRIDES[name]:
            wanted = " or ".join(map(str, STRIDES[name]))
            raise UserError(f"decoder={name} reads maps of strides {wanted}; this backbone's are {tuple(strides)}")
        five = [0, 0, *channels]  # the library counts from the picture itself, and reads none of the first two
        width = WIDTH
        self.decoder: nn.Module
        if name == "fpn":
            width = WIDTH // 2
            self.decoder = FPNDecoder(five, pyramid_channels=WIDTH, segmentation_channels=width, dropout=0.0)
        elif name == "upernet":
            self.decoder = UPerNetDecoder(five, decoder_channels=WIDTH)
        else:
            self.decoder = DeepLabV3PlusDecoder(
                five,
                encoder_depth=5,
                out_channels=WIDTH,
                atrous_rates=(12, 24, 36),
                output_stride=16 if strides[-1] == 16 else 8,
                aspp_separable=True,
                aspp_dropout=0.5,
            )
        self.dropout = nn.Dropout2d(dropout)
        self.classify = nn.Conv2d(width, classes, 1)
        initialize_decoder(self.decoder)
        initialize_head(self.classify)

    def forward(self, maps: list[Tensor]) -> Tensor:
        logits: Tensor = self.classify(self.dropout(self.decoder([maps[0], maps[0], *maps])))
        return logits
