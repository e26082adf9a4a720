"""The 3x3 convolution, with kernels of our own where they are faster than the library's.

In fp32 that is nearly everywhere at stride 1, by Winograd's algorithm; with AVX-512 and 8 or 16 channels, as in the
first stage on CIFAR, directly. In bf16 it is with any multiple of 16; with AMX, up to 64.
"""

import ctypes
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from resexp.models.kernels import is_plain_cpu, load_kernels, takes_kernels, works_in

CHANNELS = (8, 16)  # of the direct kernel in fp32, which needs AVX-512, stride 1
LANES = 16  # the bf16 kernels take multiples of this many channels, strides 1 and 2
PIXELS = 8  # these and the direct one make rows of a multiple of this
MOST_TILED = 64  # channels, with AMX: with more the library's own, which has it too, is as fast
# Winograd's kernel takes even sides, multiples of as many channels as a vector has numbers, and at most so many: with
# more the library's own is as fast.
MOST_CHANNELS = {8: 256, 16: 128}


class Conv3x3(nn.Conv2d):
    """3x3, padding 1, no bias. (N, in, H, W) -> (N, out, H/stride, W/stride). ``fast`` allows our kernels."""

    fast = False

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.beside(x)[0]

    @property
    def shares_input(self) -> bool:
        """Whether ``beside`` may take the place of a call: it gains something, and passes no hook over."""
        hooks = (self._forward_hooks, self._forward_pre_hooks, self._backward_hooks, self._backward_pre_hooks)
        return self.fast and not any(hooks) and not nn.modules.module._has_any_global_hook()

    def beside(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The output, and x for what else reads it: where a kernel allows, the two gradients are summed as it works."""
        fits = x.dim() == 4 and x.shape[1] == self.in_channels and x.numel() > 0  # else torch does it, or refuses
        kernels = load_kernels() if self.fast and fits and takes_kernels(self) else None
        if kernels and is_plain_cpu(self.weight, dtype=torch.float32):
            if works_in(torch.float32) and is_plain_cpu(x, dtype=torch.float32):
                if self._fits_direct(x) and kernels.conv3x3_supported():
                    return _Conv3x3.apply(kernels, x, self.weight), x
                if self._fits_winograd(x, winograd_lanes(kernels)):
                    return _SummedConv3x3.apply(Functions(kernels.winograd, kernels.winograd_weights), x, self.weight)
            elif works_in(torch.bfloat16) and self._fits_half(x) and (half := self._half_functions(kernels)):
                return _SummedConv3x3.apply(half, x, self.weight)
        return super().forward(x), x

    def _fits_direct(self, x: Tensor) -> bool:
        square = self.in_channels == self.out_channels and self.in_channels in CHANNELS
        return self.stride == (1, 1) and square and x.shape[3] % PIXELS == 0

    def _fits_winograd(self, x: Tensor, lanes: int) -> bool:
        channels = (self.in_channels, self.out_channels)
        fit = lanes > 0 and max(channels) <= MOST_CHANNELS[lanes] and all(count % lanes == 0 for count in channels)
        return self.stride == (1, 1) and fit and x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0

    def _fits_half(self, x: Tensor) -> bool:
        stride = self.stride[0]
        whole = self.in_channels % LANES == 0 and self.out_channels % LANES == 0
        sides = stride in (1, 2) and x.shape[2] % stride == 0 and x.shape[3] % (stride * PIXELS) == 0
        return whole and sides and is_plain_cpu(x, dtype=torch.bfloat16)

    def _half_functions(self, kernels: ctypes.CDLL) -> "Functions | None":
        """Ours in bf16; None where the processor has no bf16, or the library is as fast."""
        if not kernels.bf16_supported():
            return None
        if not kernels.amx_supported():
            return Functions(kernels.conv3x3_bf16, kernels.conv3x3_bf16_weights, self.stride[:1])
        if max(self.in_channels, self.out_channels) > MOST_TILED:
            return None
        return Functions(kernels.conv3x3_amx, kernels.conv3x3_amx_weights, self.stride[:1])


def winograd_lanes(kernels: ctypes.CDLL) -> int:
    """Numbers in a vector of Winograd's kernel here; 0: it does not run."""
    return int(kernels.winograd_lanes())


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


class Functions(NamedTuple):
    """Of one kernel: output and gradient of the input, and gradient of the weights."""

    convolve: Callable[..., int]
    weights: Callable[..., int]
    stride: tuple[int, ...] = ()  # where they take one


class _SummedConv3x3(torch.autograd.Function):
    """y, and x again, whose gradients the kernel sums. y is of x's type; the weights and their gradient float32."""

    @staticmethod
    def forward(ctx: Any, functions: Functions, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        ctx.functions = functions
        ctx.set_materialize_grads(False)  # None where nothing else reads x
        ctx.save_for_backward(x, weight)
        images, _, height, width = x.shape
        (stride,) = functions.stride or (1,)
        size = (images, len(weight), height // stride, width // stride)
        y = torch.empty(size, dtype=x.dtype, memory_format=torch.channels_last)
        _call(functions, x, weight, None, y, turned=False)
        return y, x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, beside: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        functions: Functions = ctx.functions
        if dy is None:  # the output is not used
            return None, beside, None
        dy = dy.contiguous(memory_format=torch.channels_last)
        if beside is not None:
            beside = beside.contiguous(memory_format=torch.channels_last)
        dx = None
        if ctx.needs_input_grad[1]:
            dx = torch.empty_like(x)
            _call(functions, dy, weight, beside, dx, turned=True)
        dweight = torch.empty_like(weight) if ctx.needs_input_grad[2] else None
        if dweight is not None:
            sizes, threads = _sizes(dy, weight), torch.get_num_threads()
            pointers = (x.data_ptr(), dy.data_ptr(), dweight.data_ptr())
            _check(functions.weights(*pointers, *sizes, *functions.stride, threads))
        return None, dx, dweight


def _convolve(kernels: ctypes.CDLL, x: Tensor, weight: Tensor, *, turned: bool) -> Tensor:
    y = torch.empty_like(x)
    images, channels, height, width = x.shape
    kernels.conv3x3(
        x.data_ptr(), weight.data_ptr(), y.data_ptr(), images, height, width, channels, turned, torch.get_num_threads()
    )
    return y


def _call(functions: Functions, x: Tensor, weight: Tensor, add: Tensor | None, y: Tensor, *, turned: bool) -> None:
    _check(
        functions.convolve(
            x.data_ptr(),
            weight.data_ptr(),
            add.data_ptr() if add is not None else None,
            y.data_ptr(),
            *_sizes(x if turned else y, weight),
            *functions.stride,
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
        raise MemoryError("conv3x3: no memory for copies of the weights and images")
