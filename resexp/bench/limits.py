"""What the machine can do, measured, and what a training step asks of it, counted."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resexp.models.blocks import Block
from resexp.runtime import TYPES

PRODUCT_SIDE = {"cpu": 1024, "cuda": 8192}  # of the square matrices
COPY_BYTES = {"cpu": 1 << 27, "cuda": 1 << 30}  # far more than any cache holds
REPEATS = 5


def seconds_of(work: Callable[[], Any], device: torch.device) -> float:
    """Time of ``work``: between two events of the GPU, or of the CPU's clock."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure_limits(device: torch.device, precision: str) -> dict[str, float]:
    """The matrix-product rate in FLOP/s and the copy bandwidth in bytes/s, read and written, of this moment."""
    return {"matmul_flops_per_s": _product_rate(device, precision), "copy_bytes_per_s": _copy_rate(device)}


@torch.no_grad()
def _product_rate(device: torch.device, precision: str) -> float:
    """The best library's: on a CPU torch's matrix product and its 1x1 convolution come from different ones."""
    side = PRODUCT_SIDE[device.type]
    a, b, out = (torch.randn(side, side, device=device, dtype=TYPES[precision]) for _ in range(3))
    ways: list[Callable[[], Any]] = [lambda: torch.mm(a, b, out=out)]
    if device.type == "cpu":
        image = a.view(1, side // 32, 32, side).permute(0, 3, 1, 2)  # (1, side, side / 32, 32), channels last
        kernel = b[:, :, None, None].contiguous(memory_format=torch.channels_last)
        ways.append(lambda: F.conv2d(image, kernel))
    best = min(_least_seconds(way, device) for way in ways)
    return 2 * side**3 / best


def _copy_rate(device: torch.device) -> float:
    source = torch.ones(COPY_BYTES[device.type] // 4, device=device)
    target = torch.empty_like(source)
    return 2 * COPY_BYTES[device.type] / _least_seconds(lambda: target.copy_(source), device)


def _least_seconds(work: Callable[[], Any], device: torch.device) -> float:
    work()
    return statistics.median(seconds_of(work, device) for _ in range(REPEATS))


@torch.no_grad()
def step_bytes(net: nn.Module, image_shape: tuple[int, int, int], batch_size: int, *, element: int) -> int:
    """Bytes that a training step reads and writes if no operation finds its input in a cache.

    A convolution or linear layer reads its input and writes its output, and as much again for each of its two
    gradients. A norm with its ReLU reads twice and writes once forward, reads four times and writes once backward. A
    shortcut is read forward, and backward its gradient is written and read. Weights, gradients and velocities are read
    or written eight times in fp32.

    :param element: bytes of one activation.
    """
    moved = 0

    def product(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal moved
        moved += 3 * (inputs[0].numel() + output.numel())

    def norm(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal moved
        moved += 8 * output.numel()

    def join(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal moved
        moved += 3 * output.numel() if module.connection is not None else 0

    hooks = []
    for module in net.modules():
        for kinds, hook in (((nn.Conv2d, nn.Linear), product), ((nn.BatchNorm2d, nn.LayerNorm), norm), (Block, join)):
            if isinstance(module, kinds):
                hooks.append(module.register_forward_hook(hook))
    training = net.training
    net.eval()  # torch's operations one by one, so that each has its hook
    weight = next(net.parameters())
    net(torch.empty(1, *image_shape, device=weight.device))
    net.train(training)
    for handle in hooks:
        handle.remove()
    weights = sum(parameter.numel() for parameter in net.parameters())
    return moved * batch_size * element + 8 * 4 * weights
