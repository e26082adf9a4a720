"""What a trained net can lose: blocks of residual nets, single layers of plain ones, and what stands in their place."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from resexp import UserError
from resexp.analysis.subject import Trained, blocks_of
from resexp.models.blocks import Paths
from resexp.models.shortcuts import make_shortcut
from resexp.models.vgg import Layer


class Dropped(nn.Module):
    """A block without F: what the connection makes of x and nothing, with what stands before and after.

    A plain block, or a layer of VGG, has no connection: x itself takes its place, by option A where the shape changes.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.block: Any = block
        channels, self.out, self.stride = shape_of(block)
        self.bridge = None if connection_of(block) else make_shortcut("A", channels, self.out, self.stride)

    def forward(self, x: Tensor) -> Tensor:
        if self.bridge is not None:
            return self.bridge(x)
        block = self.block
        if block.before is not None:
            x = block.before(x)
        height, width = (-(-side // self.stride) for side in x.shape[2:])
        return block.joined(block.connection(x, x.new_zeros(len(x), self.out, height, width)))


class LayersDropped(nn.Module):
    """A plain block without some of its layers (from 1): x passes them by, by option A where the shape changes."""

    def __init__(self, block: Any, layers: Collection[int]) -> None:
        super().__init__()
        transform = block.transform
        self.steps = nn.ModuleList()
        for number in range(1, transform.count + 1):
            conv = getattr(transform, f"conv{number}")
            if number in layers:
                self.steps.append(make_shortcut("A", conv.in_channels, conv.out_channels, conv.stride[0]))
            else:
                self.steps.append(_PlainLayer(conv, getattr(transform, f"bn{number}")))

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return x


class _PlainLayer(nn.Module):
    def __init__(self, conv: nn.Module, norm: Any) -> None:
        super().__init__()
        self.conv, self.norm = conv, norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm.relu(self.conv(x))


@dataclass(frozen=True)
class Unit:
    """What is dropped at once: a block that has a connection or is one layer, or one layer of a plain block."""

    stage: Any
    index: int
    layer: int | None = None


def units_of(net: Trained) -> list[Unit]:
    """In the order in which the net applies them."""
    units = []
    for stage, index in blocks_of(net):
        block = stage[index]
        layers = _layers_of(block)
        units += [Unit(stage, index, number) for number in layers] if layers else [Unit(stage, index)]
    return units


def _layers_of(block: Any) -> range | None:
    """The numbers of a plain block's layers; None for what is dropped as a whole."""
    if connection_of(block) is not None or isinstance(block, Layer):
        return None
    usual = block.fuses and block.transform.count > 1 and block.before is None
    return range(1, block.transform.count + 1) if usual else None


def connection_of(block: Any) -> Any:
    """None for what passes on F(x) alone."""
    return getattr(block, "connection", None)


def shape_of(block: Any) -> tuple[int, int, int]:
    """Channels in, channels of F, stride."""
    if isinstance(block, Layer):
        return block.conv.in_channels, block.conv.out_channels, block.conv.stride[0]
    transform = block.transform
    convs = [getattr(transform, f"conv{number}") for number in range(1, transform.count + 1)]
    return convs[0].in_channels, convs[-1].out_channels, math.prod(conv.stride[0] for conv in convs)


def check_fits(net: Trained) -> None:
    """Raise UserError for blocks that cannot pass x on alone: separate paths, or twice the channels behind a ReLU."""
    for stage, index in blocks_of(net):
        if any(isinstance(part, Paths) for part in stage[index].modules()):
            raise UserError(f"{net.label}: its blocks are separate paths; take model.form=grouped")
    if getattr(net.cfg.model, "activation", None) == "crelu":
        raise UserError(f"{net.label}: its layers read twice the channels that they write; take another activation")
