"""The 3x3 convolution, with kernels of our own where they are faster than the library's.

In fp32 that is with 8 or 16 channels, as in the first stage on CIFAR; in bf16 with any multiple of 16.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from resexp.models.kernels import is_plain_cpu, load_kernels, works_in

CHANNELS = (8, 16)  # of the fp32 kernel, stride 1; with more, the library's own is as fast
LANES = 16  # the bf16 kernel takes multiples of this many channels, strides 1 and 2
PIXELS = 8  # the kernels make rows of a multiple of this


class Conv3x3(nn.Conv2d):
    """3x3, padding 1, no bias. (N, in, H, W) -> (N, out, H/stride, W/stride). ``fast`` allows our kernels."""

    fast = False

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.beside(x)[0]

    def beside(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output, and x for what else reads it: where a kernel allows, the two gradients are summed as it works."""
        kernels = load_kernels() if self.fast and self.training else None
        if kernels and self._fits(x) and is_plain_cpu(self.weight, dtype=torch.float32):
            if works_in(torch.float32) and self._fits_float(x) and kernels.conv3x3_supported():
                return _Conv3x3.apply(kernels, x, self.weight), x
            if works_in(torch.bfloat16) and self._fits_half(x) and kernels.bf16_supported():
                return _HalfConv3x3.apply(kernels, x, self.weight, self.stride[0])
        return super().forward(x), x

    def _fits(self, x: Tensor) -> bool:
        stride = self.stride[0]
        return stride in (1, 2) and x.shape[2] % stride == 0 and x.shape[3] % (stride * PIXELS) == 0

    def _fits_float(self, x: Tensor) -> bool:
        square = self.in_channels == self.out_channels and self.in_channels in CHANNELS
        return self.stride == (1, 1) and square and is_plain_cpu(x, dtype=torch.float32)

    def _fits_half(self, x: Tensor) -> bool:
        whole = self.in_channels % LANES == 0 and self.out_channels % LANES == 0
        return whole and is_plain_cpu(x, dtype=torch.bfloat16)


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
        dweight = None
        if ctx.needs_input_grad[2]:
            dweight = torch.ops.aten.convolution_backward(
                dy, x, weight, None, (1, 1), (1, 1), (1, 1), False, (0, 0), 1, (False, True, False)
            )[1]
        return None, dx, dweight


class _HalfConv3x3(torch.autograd.Function):
    """y, and x again. x and y are bf16; the weights and their gradient float32."""

    @staticmethod
    def forward(ctx: Any, kernels: ctypes.CDLL, x: Tensor, weight: Tensor, stride: int) -> tuple[Tensor, Tensor]:
        ctx.kernels, ctx.stride = kernels, stride
        ctx.set_materialize_grads(False)  # None where nothing else reads x
        ctx.save_for_backward(x, weight)
        images, _, height, width = x.shape
        size = (images, len(weight), height // stride, width // stride)
        y = torch.empty(size, dtype=x.dtype, memory_format=torch.channels_last)
        _convolve_half(kernels, x, weight, None, y, stride, turned=False)
        return y, x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, beside: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        if dy is None:  # the output is not used
            return None, beside, None, None
        dy = dy.contiguous(memory_format=torch.channels_last)
        if beside is not None:
            beside = beside.contiguous(memory_format=torch.channels_last)
        dx = None
        if ctx.needs_input_grad[1]:
            dx = torch.empty_like(x)
            _convolve_half(ctx.kernels, dy, weight, beside, dx, ctx.stride, turned=True)
        dweight = torch.empty_like(weight) if ctx.needs_input_grad[2] else None
        if dweight is not None:
            sizes, threads = _sizes(dy, weight), torch.get_num_threads()
            pointers = (x.data_ptr(), dy.data_ptr(), dweight.data_ptr())
            _check(ctx.kernels.conv3x3_bf16_weights(*pointers, *sizes, ctx.stride, threads))
        return None, dx, dweight, None


def _convolve(kernels: ctypes.CDLL, x: Tensor, weight: Tensor, *, turned: bool) -> Tensor:
    y = torch.empty_like(x)
    images, channels, height, width = x.shape
    kernels.conv3x3(
        x.data_ptr(), weight.data_ptr(), y.data_ptr(), images, height, width, channels, turned, torch.get_num_threads()
    )
    return y


def _convolve_half(
    kernels: ctypes.CDLL, x: Tensor, weight: Tensor, add: Tensor | None, y: Tensor, stride: int, *, turned: bool
) -> None:
    _check(
        kernels.conv3x3_bf16(
            x.data_ptr(),
            weight.data_ptr(),
            add.data_ptr() if add is not None else None,
            y.data_ptr(),
            *_sizes(x if turned else y, weight),
            stride,
            turned,
            torch.get_num_threads(),
        )
    )


def _sizes(output: Tensor, weight: Tensor) -> tuple[int, int, int, int, int]:
    """Images, height and width of the output, channels in and out."""
    images, out, height, width = output.shape
    return images, height, width, weight.shape[1], out


def _check(code: int) -> None:
    if code:
        raise MemoryError("conv3x3: no memory for the weights")
