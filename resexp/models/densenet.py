"""DenseNet (Huang et al. 2017): each layer reads all that came before it; the connection is concatenation."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from resexp import UserError, catalog
from resexp.models.blocks import Block, NormReLU, Transform, conv
from resexp.models.connections import Concatenate
from resexp.models.resnet import Stage, Stem
from resexp.models.stages import SMALL_SIDE, densenet_blocks

ORDER = "full"  # batch norm and ReLU before each convolution (Sec. 3)


class Transition(nn.Module):
    """Batch norm, ReLU, 1x1 convolution and 2x2 average pooling. (N, C, H, W) -> (N, out, H/2, W/2)."""

    def __init__(self, in_channels: int, out_channels: int, dropout: float) -> None:
        super().__init__()
        self.before = NormReLU(in_channels, "norm relu")
        self.conv = with_dropout(conv(in_channels, out_channels, 1), dropout)

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv(self.before(x)), 2)


class DenseNet(nn.Module):
    """Stem, dense blocks with transitions between, batch norm, global average pooling and a linear classifier."""

    def __init__(self, stem: nn.Module, stages: list[nn.Module], channels: int, classes: int) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.Sequential(*stages)
        self.last = NormReLU(channels, "norm relu")
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.stages(self.stem(x)))  # (N, in, H, W) -> (N, C, h, w)
        return self.head(x.mean(dim=(2, 3)))  # -> (N, C) -> (N, classes)


def build_densenet(
    knobs: dict[str, Any], *, image_shape: tuple[int, int, int], classes: int, activation_checkpointing: bool
) -> DenseNet:
    """A net of ``catalog.resolve``'s settings. Raises UserError for an image that the transitions make vanish."""
    channels, side = knobs["width"], min(image_shape[1:])
    blocks = densenet_blocks(knobs)
    large = len(blocks) == 4 and side > SMALL_SIDE
    if large:
        stem: nn.Module = Stem(image_shape[0], channels, "7x7")
        side //= 4
    else:  # the CIFAR nets have no batch norm here: the first layer begins with its own
        stem = conv(image_shape[0], channels, 3)
    stages: list[nn.Module] = []
    for index, count in enumerate(blocks):
        layers = []
        for _ in range(count):
            layers.append(dense_layer(channels, knobs["growth"], knobs["transform"], knobs["dropout"]))
            channels += knobs["growth"]
        stages.append(Stage(*layers, activation_checkpointing=activation_checkpointing))
        if index < len(blocks) - 1:
            if side < 2:
                raise UserError(
                    f"images of {image_shape[1]} pixels vanish in the transition after stage {index + 1} "
                    f"of {catalog.net_name(knobs)}; take larger images"
                )
            compressed = int(channels * knobs["compression"])
            if compressed < 1:
                raise UserError(
                    f"model.compression={knobs['compression']}: leaves none of {channels} channels; take more"
                )
            stages.append(Transition(channels, compressed, knobs["dropout"]))
            channels, side = compressed, side // 2
    return DenseNet(stem, stages, channels, classes)


def dense_layer(channels: int, growth: int, transform: str, dropout: float) -> Block:
    """(N, C, H, W) -> (N, C + growth, H, W); a bottleneck makes 4 growth channels first (Sec. 3)."""
    if transform == "bottleneck":
        convs, widths = [conv(channels, 4 * growth, 1), conv(4 * growth, growth, 3)], [channels, 4 * growth, growth]
    else:
        convs, widths = [conv(channels, growth, 3)], [channels, growth]
    convs = [with_dropout(module, dropout) for module in convs]
    return Block(Transform(convs, widths, ORDER), Concatenate(), ORDER, channels=growth)


def with_dropout(module: nn.Module, rate: float) -> nn.Module:
    """Dropout after each convolution but the stem's (Sec. 4.2)."""
    return nn.Sequential(module, nn.Dropout(rate)) if rate else module
