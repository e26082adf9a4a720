"""The 3x3 convolution, with kernels of our own where they are faster than the library's.

In fp32 that is with 8 or 16 channels, as in the first stage on CIFAR; in bf16 with 16 or any multiple of 32.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from resexp.models.kernels import is_plain_cpu, load_kernels, works_in

CHANNELS = (8, 16)  # of the fp32 kernel; with more, the library's own is as fast
PAIRED = 32  # channels that the bf16 kernel takes at once; it takes 16, too
PIXELS = 8  # the kernels take rows of a multiple of this


class Conv3x3(nn.Conv2d):
    """3x3, padding 1, no bias. (N, in, H, W) -> (N, out, H/stride, W/stride). ``fast`` allows our kernels."""

    fast = False

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.beside(x)[0]

    def beside(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output, and x for what else reads it: where a kernel allows, the two gradients are summed as it works."""
        if self.fast and self.training and self._same_shape(x) and (kernels := load_kernels()):
            channels = self.in_channels
            if channels in CHANNELS and self._plain(x, torch.float32) and kernels.conv3x3_supported():
                return _Conv3x3.apply(kernels, x, self.weight), x
            paired = channels == 16 or channels % PAIRED == 0
            if paired and self._plain(x, torch.bfloat16) and kernels.conv3x3_bf16_supported():
                return _HalfConv3x3.apply(kernels, x, self.weight)
        return super().forward(x), x

    def _same_shape(self, x: Tensor) -> bool:
        return self.stride == (1, 1) and self.in_channels == self.out_channels and x.shape[3] % PIXELS == 0

    def _plain(self, x: Tensor, dtype: torch.dtype) -> bool:
        return works_in(dtype) and is_plain_cpu(x, dtype=dtype) and is_plain_cpu(self.weight, dtype=torch.float32)


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


class _HalfConv3x3(torch.autograd.Function):
    """y, and x again. x and y are bf16; the weights and their gradient float32."""

    @staticmethod
    def forward(ctx: Any, kernels: ctypes.CDLL, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        ctx.kernels = kernels
        ctx.set_materialize_grads(False)  # None where nothing else reads x
        ctx.save_for_backward(x, weight)
        return _convolve_half(kernels, x, weight, None, turned=False), x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, beside: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        dy = dy.contiguous(memory_format=torch.channels_last)
        if beside is not None:
            beside = beside.contiguous(memory_format=torch.channels_last)
        dx = _convolve_half(ctx.kernels, dy, weight, beside, turned=True) if ctx.needs_input_grad[1] else None
        dweight = torch.empty_like(weight)
        images, channels, height, width = x.shape
        _check(
            ctx.kernels.conv3x3_bf16_weights(
                x.data_ptr(),
                dy.data_ptr(),
                dweight.data_ptr(),
                images,
                height,
                width,
                channels,
                torch.get_num_threads(),
            )
        )
        return None, dx, dweight


def _convolve(kernels: ctypes.CDLL, x: Tensor, weight: Tensor, *, turned: bool) -> Tensor:
    y = torch.empty_like(x)
    images, channels, height, width = x.shape
    kernels.conv3x3(
        x.data_ptr(), weight.data_ptr(), y.data_ptr(), images, height, width, channels, turned, torch.get_num_threads()
    )
    return y


def _convolve_half(kernels: ctypes.CDLL, x: Tensor, weight: Tensor, add: Tensor | None, *, turned: bool) -> Tensor:
    y = torch.empty_like(x)
    images, channels, height, width = x.shape
    _check(
        kernels.conv3x3_bf16(
            x.data_ptr(),
            weight.data_ptr(),
            add.data_ptr() if add is not None else None,
            y.data_ptr(),
            images,
            height,
            width,
            channels,
            turned,
            torch.get_num_threads(),
        )
    )
    return y


def _check(code: int) -> None:
    if code:
        raise MemoryError("conv3x3: no memory for the weights")
