"""A block is a transform F, a shortcut and their join (He et al. 2015, Eq. 1 and 2, Fig. 2)."""

from torch import Tensor, nn

from resexp.models.conv3x3 import Conv3x3
from resexp.models.norm_relu import BatchNorm
from resexp.models.shortcuts import make_shortcut


class BasicTransform(nn.Module):
    """Two 3x3 convolutions, each with batch norm, a ReLU between; and the ReLU behind the join.

    (N, C, H, W) -> (N, out, H/stride, W/stride).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = Conv3x3(in_channels, out_channels, stride)
        self.bn1 = BatchNorm(out_channels)
        self.conv2 = Conv3x3(out_channels, out_channels)
        self.bn2 = BatchNorm(out_channels)

    def forward(self, x: Tensor, shortcut: Tensor | None) -> Tensor:
        x = self.bn1.relu(self.conv1(x))
        return self.bn2.relu(self.conv2(x), shortcut)


class Block(nn.Module):
    """``relu(F(x) + shortcut(x))``, or ``relu(F(x))`` in a plain net. (N, C, H, W) -> (N, out, H/stride, W/stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, shortcut: str | None) -> None:
        super().__init__()
        self.transform = BasicTransform(in_channels, out_channels, stride)
        self.shortcut = make_shortcut(shortcut, in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.transform(x, None if self.shortcut is None else self.shortcut(x))
