"""The 1x1 convolution, of bottlenecks and of the shortcuts that project."""

import torch.nn.functional as F
from torch import Tensor, nn

FEW = 8  # channels


class Conv1x1(nn.Conv2d):
    """1x1, no padding. (N, in, H, W) -> (N, out, H/stride, W/stride).

    With few channels the pixels are taken first and convolved then, which is the same: the gradient of torch 2.15's own
    strided one of 2 to 6 channels, channels last on the CPU, writes beyond its memory.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, *, bias: bool = False) -> None:
        super().__init__(in_channels, out_channels, kernel_size=1, stride=stride, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        step = self.stride[0]
        if step == 1 or self.in_channels >= FEW:
            return super().forward(x)
        return F.conv2d(x[:, :, ::step, ::step], self.weight, self.bias)
