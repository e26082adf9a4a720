"""The 3x3 convolution, with a kernel of our own where the channels are few: 8 or 16, as in the first stage on CIFAR."""

import ctypes
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from resexp.models.kernels import is_plain_cpu, load_kernels

CHANNELS = (8, 16)  # with more, the library's own is as fast
PIXELS = 8  # the kernel takes rows of a multiple of this


class Conv3x3(nn.Conv2d):
    """3x3, padding 1, no bias. (N, in, H, W) -> (N, out, H/stride, W/stride). ``fast`` allows our kernel."""

    fast = False

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.fast and self.training and self._applies(x):
            kernels = load_kernels()
            if kernels and kernels.conv3x3_supported():
                return _Conv3x3.apply(kernels, x, self.weight)
        return super().forward(x)

    def _applies(self, x: Tensor) -> bool:
        same = self.stride == (1, 1) and self.in_channels == self.out_channels and self.in_channels in CHANNELS
        return same and x.shape[3] % PIXELS == 0 and is_plain_cpu(x, self.weight)


class _Conv3x3(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kernels: ctypes.CDLL, x: Tensor, weight: Tensor) -> Tensor:
        ctx.kernels = kernels
        ctx.save_for_backward(x, weight)
        return _convolve(kernels, x, weight, turned=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        dy = dy.contiguous(memory_format=torch.channels_last)
        dx = _convolve(ctx.kernels, dy, weight, turned=True) if ctx.needs_input_grad[1] else None
        dweight = torch.ops.aten.convolution_backward(
            dy, x, weight, None, (1, 1), (1, 1), (1, 1), False, (0, 0), 1, (False, True, False)
        )[1]
        return None, dx, dweight


def _convolve(kernels: ctypes.CDLL, x: Tensor, weight: Tensor, *, turned: bool) -> Tensor:
    y = torch.empty_like(x)
    images, channels, height, width = x.shape
    kernels.conv3x3(
        x.data_ptr(), weight.data_ptr(), y.data_ptr(), images, height, width, channels, turned, torch.get_num_threads()
    )
    return y
