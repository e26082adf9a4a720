"""Plain and residual nets in the CIFAR and the ImageNet layout (He et al. 2015, Sec. 3.3, 4.2 and Table 1)."""

import contextlib
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from resexp.models.blocks import Block
from resexp.models.norm_relu import BatchNorm

Context = contextlib.AbstractContextManager[None]


class Stem(nn.Module):
    """The first layers. ``3x3``: one convolution, same size. ``7x7``: stride 2, then 3x3 max pooling with stride 2.

    ``3x3``: (N, in, H, W) -> (N, width, H, W); ``7x7``: (N, in, H, W) -> (N, width, H/4, W/4).
    """

    def __init__(self, in_channels: int, width: int, kind: str) -> None:
        kernel, stride = {"3x3": (3, 1), "7x7": (7, 2)}[kind]
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.bn = BatchNorm(width)
        self.pool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1) if kind == "7x7" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.bn.relu(self.conv(x)))


class Stage(nn.Sequential):
    """Blocks of one width and size. With activation checkpointing it keeps the input of each segment of blocks only.

    Segments of about sqrt(n) of the n blocks need about 2 sqrt(n) activations at once instead of n, for one more
    forward pass (Chen et al. 2016, arXiv 1604.06174).
    """

    def __init__(self, *blocks: nn.Module, activation_checkpointing: bool = False) -> None:
        super().__init__(*blocks)
        self.activation_checkpointing = activation_checkpointing

    def forward(self, x: Tensor) -> Tensor:
        if not (self.activation_checkpointing and self.training):
            return super().forward(x)
        blocks = list(self)
        length = max(1, round(math.sqrt(len(blocks))))
        for start in range(0, len(blocks), length):
            segment = nn.Sequential(*blocks[start : start + length])

            def contexts(segment: nn.Module = segment) -> tuple[Context, Context]:
                return contextlib.nullcontext(), frozen_statistics(segment)

            x = checkpoint(segment, x, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
        return x


@contextlib.contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Batch norm sees the recomputed batch too; without this it would count each batch twice in its running mean."""
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, _, count in before:
        norm.momentum = 0.0  # the new mean is then the old one, exactly
        norm.num_batches_tracked = None if count is None else count.clone()
    try:
        yield
    finally:
        for norm, momentum, count in before:
            norm.momentum, norm.num_batches_tracked = momentum, count


class ResNet(nn.Module):
    """A plain or residual net; the two differ by ``shortcut`` alone.

    :param blocks: blocks of each stage, ``(9, 9, 9)`` for depth 56; from the second stage on, the first block has
        stride 2 and doubles the channels.
    :param width: channels of the first stage.
    :param shortcut: ``None`` for a plain net, or option ``"A"``, ``"B"``, ``"C"``.
    :param stem: ``"3x3"`` or ``"7x7"``.
    :param activation_checkpointing: trade one more forward pass for memory; the numbers stay the same.
    """

    def __init__(
        self,
        *,
        blocks: Sequence[int],
        width: int,
        shortcut: str | None,
        stem: str,
        in_channels: int,
        classes: int,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.stem = Stem(in_channels, width, stem)
        self.stages = nn.Sequential()
        channels = width
        for index, count in enumerate(blocks):
            out_channels = width * 2**index
            stage = []
            for position in range(count):
                stride = 2 if index > 0 and position == 0 else 1
                stage.append(Block(channels, out_channels, stride, shortcut))
                channels = out_channels
            self.stages.append(Stage(*stage, activation_checkpointing=activation_checkpointing))
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages(self.stem(x))  # (N, in, H, W) -> (N, C, h, w)
        return self.head(x.mean(dim=(2, 3)))  # global average pooling -> (N, C) -> (N, classes)


@torch.no_grad()
def he_init(net: nn.Module, generator: torch.Generator) -> None:
    """He et al. 2015, arXiv 1502.01852, Eq. 10: weights of variance 2 / fan-in, biases zero, batch norm at identity."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu", generator=generator)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.BatchNorm2d):
            module.weight.fill_(1)
            module.bias.zero_()
