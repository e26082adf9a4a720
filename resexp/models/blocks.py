"""A block is a transform F, a shortcut and their join (He et al. 2015, Eq. 1 and 2, Fig. 2)."""

import torch.nn.functional as F
from torch import Tensor, nn

from resexp.models.shortcuts import make_shortcut


class BasicTransform(nn.Module):
    """Two 3x3 convolutions, each with batch norm, a ReLU between. (N, C, H, W) -> (N, out, H/stride, W/stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return self.bn2(self.conv2(x))


class Block(nn.Module):
    """``relu(F(x) + shortcut(x))``, or ``relu(F(x))`` in a plain net. (N, C, H, W) -> (N, out, H/stride, W/stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, shortcut: str | None) -> None:
        super().__init__()
        self.transform = BasicTransform(in_channels, out_channels, stride)
        self.shortcut = make_shortcut(shortcut, in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.transform(x)
        if self.shortcut is not None:
            y = y + self.shortcut(x)
        return F.relu(y, inplace=True)
