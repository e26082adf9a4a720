"""relu(batch_norm(x) + shortcut), the step that follows every convolution: in torch's operations, or as one of our own.

On a CPU the operations around the convolutions only move memory: batch norm, addition and ReLU read and write every
activation about twice as often as they need to. ``norm_relu.c`` does each direction in two passes, in fp32 or, with
statistics in fp32, in bf16. Where it does not apply, or was not built, torch does the same.
"""

import ctypes
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from resexp.models.kernels import is_plain_cpu, load_kernels, takes_kernels

LANES = {torch.float32: 8, torch.bfloat16: 16}  # the kernel takes a multiple of this many channels


class BatchNorm(nn.BatchNorm2d):
    """Batch norm with the paper's next step, ``relu``. ``fast`` takes our kernel where it applies."""

    fast = False
    group: int | None = None  # images whose statistics are taken together in training; None: the whole batch's
    synced = False  # the whole batch is that of all processes

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.synced:
            return self._over_all_processes(x)
        if self.training and self.group and len(x) > self.group:
            return torch.cat([super(BatchNorm, self).forward(part) for part in self._in_turn(x.split(self.group))])
        return super().forward(x)

    def relu(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        """``relu(batch_norm(x) + shortcut)``, in training by the batch's statistics. (N, C, H, W) -> (N, C, H, W)."""
        if self.training and self.group and len(x) > self.group:
            parts = x.split(self.group)
            shortcuts = [None] * len(parts) if shortcut is None else shortcut.split(self.group)
            pairs = zip(self._in_turn(parts), shortcuts, strict=True)
            return torch.cat([self._relu(part, beside) for part, beside in pairs])
        return self._relu(x, shortcut)

    def _in_turn(self, parts: Sequence[Tensor]) -> Iterator[Tensor]:
        """The groups one by one, with such momenta that the running statistics move by the mean of all groups' own.

        As the average of processes that saw one group each: new = (1 - m) old + m / G (s_1 + ... + s_G).
        """
        momentum, count = self.momentum, len(parts)
        assert momentum is not None
        for index, part in enumerate(parts):
            self.momentum = momentum / count / (1 - (count - 1 - index) * momentum / count)
            yield part
        self.momentum = momentum
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.sub_(count - 1)

    def _over_all_processes(self, x: Tensor) -> Tensor:
        """Batch norm by the statistics of all processes' images, whose gradients flow back to all."""
        from torch.distributed.nn.functional import all_reduce

        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        half, x = x.dtype, x.to(torch.promote_types(x.dtype, torch.float32))  # a sum of fp16 overflows
        count = x.numel() // x.shape[1] * torch.distributed.get_world_size()
        mean = all_reduce(x.sum(dim=(0, 2, 3))) / count
        centred = x - mean[:, None, None]
        variance = all_reduce(centred.square().sum(dim=(0, 2, 3))) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
            self.running_var.lerp_((variance * (count / (count - 1))).to(self.running_var), self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(half)

    def _is_float(self) -> bool:
        """Whether its own numbers are those that the kernel reads and writes."""
        own = (self.weight, self.bias, self.running_mean, self.running_var)
        return all(t is not None and t.dtype == torch.float32 and t.device.type == "cpu" for t in own)

    def _relu(self, x: Tensor, shortcut: Tensor | None) -> Tensor:
        own = not (self.training and self.synced) and self._is_float()
        kernels = load_kernels() if self.fast and own and takes_kernels(self) and _applies(x, shortcut) else None
        if kernels and (x.dtype == torch.float32 or kernels.bf16_supported()):
            if not self.training:
                return self._by_running_statistics(kernels, x, shortcut)
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            return _NormReLU.apply(kernels, x, shortcut, self.weight, self.bias, self)
        x = self(x)
        return F.relu(x if shortcut is None else x + shortcut, inplace=True)

    def _by_running_statistics(self, kernels: ctypes.CDLL, x: Tensor, shortcut: Tensor | None) -> Tensor:
        assert self.running_mean is not None and self.running_var is not None
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        y = torch.empty_like(x)
        what = _activations(x, shortcut, y)
        kernels.norm_relu_apply(*what, scale.data_ptr(), shift.data_ptr(), torch.get_num_threads())
        return y


def set_statistics(net: nn.Module, *, group: int | None, synced: bool) -> None:
    """Say over which images all batch norms of a net take their statistics in training."""
    for module in net.modules():
        if isinstance(module, BatchNorm):
            module.group, module.synced = group, synced


def _applies(x: Tensor, shortcut: Tensor | None) -> bool:
    lanes = LANES.get(x.dtype)
    fits = lanes and x.shape[1] % lanes == 0 and x.numel() > x.shape[1]  # of a single value there is no variance
    return bool(fits) and is_plain_cpu(*((x,) if shortcut is None else (x, shortcut)), dtype=x.dtype)


class _NormReLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        kernels: ctypes.CDLL,
        x: Tensor,
        shortcut: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        norm: BatchNorm,
    ) -> Tensor:
        assert norm.running_mean is not None and norm.running_var is not None
        y = torch.empty_like(x)
        # mean, 1 / standard deviation, and what they make of weight and bias
        batch = x.new_empty(4 * len(weight), dtype=torch.float32)
        _check(
            kernels.norm_relu_forward(
                *_activations(x, shortcut, y),
                weight.data_ptr(),
                bias.data_ptr(),
                norm.eps,
                norm.momentum,
                norm.running_mean.data_ptr(),
                norm.running_var.data_ptr(),
                batch.data_ptr(),
                torch.get_num_threads(),
            )
        )
        ctx.kernels, ctx.joins = kernels, shortcut is not None
        ctx.save_for_backward(x, y if ctx.joins else None, batch)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, y, batch = ctx.saved_tensors
        dy = dy.contiguous(memory_format=torch.channels_last)
        channels = len(batch) // 4
        dx, (dweight, dbias) = torch.empty_like(x), batch.new_empty(2, channels)
        dshortcut = torch.empty_like(x) if ctx.joins else None
        _check(
            ctx.kernels.norm_relu_backward(
                dy.data_ptr(),
                y.data_ptr() if ctx.joins else None,
                x.data_ptr(),
                dx.data_ptr(),
                dshortcut.data_ptr() if dshortcut is not None else None,
                x.dtype == torch.bfloat16,
                x.numel() // channels,
                channels,
                batch.data_ptr(),
                dweight.data_ptr(),
                dbias.data_ptr(),
                torch.get_num_threads(),
            )
        )
        return None, dx, dshortcut, dweight, dbias, None


def _activations(x: Tensor, shortcut: Tensor | None, y: Tensor) -> tuple[int | None, ...]:
    """What the kernels read and write forward, how it is stored, and how many rows of how many channels it has."""
    add, channels = shortcut.data_ptr() if shortcut is not None else None, x.shape[1]
    return x.data_ptr(), add, y.data_ptr(), x.dtype == torch.bfloat16, x.numel() // channels, channels


def _check(code: int) -> None:
    if code:
        raise MemoryError("norm_relu: no memory for the sums of a batch")
