"""The staged nets: plain, residual, highway, ResNeXt and wide; CIFAR and ImageNet layout (He et al. 2015).

They differ by the transforms and connections of their blocks, and by nothing else.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from resexp.models.blocks import ORDERS, Block, NormReLU, Paths, Transform, conv
from resexp.models.connections import Add, Connection, Fading, Gated, Mix, Scaled, SkipInit
from resexp.models.conv1x1 import Conv1x1
from resexp.models.norm_relu import BatchNorm
from resexp.models.shortcuts import make_shortcut
from resexp.models.stages import SMALL_SIDE, stages

Context = contextlib.AbstractContextManager[None]


class Stem(nn.Module):
    """The first layers. ``3x3``: one convolution, same size. ``7x7``: stride 2, then 3x3 max pooling with stride 2.

    ``3x3``: (N, in, H, W) -> (N, width, H, W); ``7x7``: (N, in, H, W) -> (N, width, H/4, W/4).

    :param activates: with batch norm and ReLU behind the convolution.
    """

    def __init__(self, in_channels: int, width: int, kind: str, *, activates: bool = True) -> None:
        kernel, stride = {"3x3": (3, 1), "7x7": (7, 2)}[kind]
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, kernel, stride=stride, padding=kernel // 2, bias=False)
        if activates:
            self.bn = BatchNorm(width)
        self.activates = activates
        self.pool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1) if kind == "7x7" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.pool(self.bn.relu(x) if self.activates else x)


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

            keeps = has_dropout(segment) or drops_blocks(segment)
            x = checkpoint(segment, x, use_reentrant=False, preserve_rng_state=keeps, context_fn=contexts)
        return x


def has_dropout(net: nn.Module) -> bool:
    """Whether a training step draws numbers on the device."""
    rates = (getattr(m, "p", 0) if isinstance(m, nn.Dropout) else getattr(m, "dropout", 0) for m in net.modules())
    return any(isinstance(rate, float) and rate > 0 for rate in rates)


def drops_blocks(net: nn.Module) -> bool:
    """Whether the host decides in each training step which blocks take part: stochastic depth."""
    return any(getattr(module, "survival", 1) < 1 for module in net.modules())


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
    """Stem, stages of blocks, global average pooling and a linear classifier.

    :param stages: the blocks.
    :param channels: after the last of them.
    :param last: what pre-activation nets put after the last block.
    :param stem: ``"3x3"`` or ``"7x7"``.
    :param stem_activates: with batch norm and ReLU behind the stem's convolution.
    :param activation_checkpointing: trade one more forward pass for memory; the numbers stay the same.
    """

    def __init__(
        self,
        stages: Sequence[Sequence[nn.Module]],
        *,
        width: int,
        channels: int,
        last: str,
        stem: str,
        stem_activates: bool,
        in_channels: int,
        classes: int,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.stem = Stem(in_channels, width, stem, activates=stem_activates)
        self.stages = nn.Sequential(*(Stage(*s, activation_checkpointing=activation_checkpointing) for s in stages))
        self.last = NormReLU(channels, last)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.stages(self.stem(x)))  # (N, in, H, W) -> (N, C, h, w)
        return self.head(x.mean(dim=(2, 3)))  # global average pooling -> (N, C) -> (N, classes)


def build_staged(
    knobs: dict[str, Any], *, image_shape: tuple[int, int, int], classes: int, activation_checkpointing: bool
) -> ResNet:
    """A net of ``catalog.resolve``'s settings; from the second stage on, the first block halves the size."""
    width, order = knobs["width"], knobs.get("order", "original")
    counts = stages(knobs)
    total = sum(counts)
    survival = knobs.get("survival", 1.0)
    # The first block of a wide net activates what it reads itself, as all others do (the authors' code).
    stem_activates = knobs["family"] != "wrn"
    channels = width
    built: list[list[Block]] = []
    for index, count in enumerate(counts):
        stage = []
        for position in range(count):
            number = sum(counts[:index]) + position + 1  # from 1 to total
            stride = 2 if index > 0 and position == 0 else 1
            activated = number == 1 and stem_activates
            block = make_block(
                knobs, channels, index, stride, activated=activated, survival=1 - number / total * (1 - survival)
            )
            stage.append(block)
            channels = out_channels(knobs, index)
        built.append(stage)
    stem = knobs["stem"]
    if stem == "auto":
        stem = "7x7" if knobs["layout"] == "imagenet" and image_shape[1] > SMALL_SIDE else "3x3"
    return ResNet(
        built,
        width=width,
        channels=channels,
        last=ORDERS[order].before,
        stem=stem,
        stem_activates=stem_activates,
        in_channels=image_shape[0],
        classes=classes,
        activation_checkpointing=activation_checkpointing,
    )


def out_channels(knobs: dict[str, Any], stage: int) -> int:
    """Channels after a block of a stage; a bottleneck has four times those of its 3x3 convolution."""
    return knobs["width"] * knobs.get("widen", 1) * 2**stage * (4 if knobs.get("transform") == "bottleneck" else 1)


def make_block(
    knobs: dict[str, Any], in_channels: int, stage: int, stride: int, *, activated: bool, survival: float
) -> Block:
    """One block of a staged net.

    :param activated: the block reads what a ReLU made: that of the stem (He et al. 2016, Sec. 3.2).
    :param survival: of this block.
    """
    out = out_channels(knobs, stage)
    if knobs["family"] == "highway":
        return highway_block(in_channels, out, stride, knobs["gate_bias"])
    order = knobs.get("order", "original")
    changes = stride > 1 or in_channels != out
    words = ORDERS[order].before
    convs, widths = convolutions(knobs, in_channels, out, stage, stride)
    transform = Transform(
        convs,
        widths,
        order,
        activates=not (activated or changes),
        dropout=knobs.get("dropout", 0.0),
        reduction=knobs["reduction"],
    )
    connection = make_connection(knobs, in_channels, out, stride, norm=not words) if "shortcut" in knobs else None
    # Where the shape changes, the shortcut too starts from the activation (the authors' code).
    before = NormReLU(in_channels, words) if words and changes and not activated else None
    return Block(
        transform,
        connection,
        order,
        channels=out,
        before=before,
        survival=survival,
        gradient_scale=knobs["gradient_scale"],
        gradient_paths=knobs.get("gradient_paths", "all"),
    )


def highway_block(in_channels: int, out: int, stride: int, gate_bias: float) -> Block:
    """One gated convolution; where the shape changes a plain one (Srivastava et al. 2015, Sec. 2.1)."""
    order = "relu-before-addition"
    transform = Transform([conv(in_channels, out, 3, stride)], [in_channels, out], order)
    if stride > 1 or in_channels != out:
        return Block(transform, None, order, channels=out)
    gate = nn.Conv2d(in_channels, out, 3, padding=1)
    return Block(transform, Gated(nn.Identity(), gate, gate_bias, exclusive=True), order, channels=out)


def convolutions(
    knobs: dict[str, Any], in_channels: int, out: int, stage: int, stride: int
) -> tuple[list[nn.Module], list[int]]:
    """The convolutions of F, and the channels before and after each: single, basic, bottleneck, or aggregated.

    The paper's bottleneck has its stride in the first 1x1 convolution (He et al. 2015, Table 1), Xie et al. and
    torchvision have it in the 3x3 one.
    """
    if knobs["transform"] == "single":  # a shortcut around each convolution (He et al. 2016, Table 3)
        return [conv(in_channels, out, 3, stride)], [in_channels, out]
    if knobs["transform"] == "basic":
        return [conv(in_channels, out, 3, stride), conv(out, out, 3)], [in_channels, out, out]
    paths = knobs.get("cardinality", 1)
    inner = paths * knobs["group_width"] * 2**stage if "cardinality" in knobs else out // 4
    first, second = (stride, 1) if knobs["stride_in"] == "1x1" else (1, stride)
    widths = [in_channels, inner, inner, out]
    form = knobs.get("form", "grouped")
    if form == "grouped":
        middle = conv(inner, inner, 3, second, groups=paths)
        return [conv(in_channels, inner, 1, first), middle, conv(inner, out, 1)], widths
    part = inner // paths
    opening = Paths([conv(in_channels, part, 1, first) for _ in range(paths)], splits=False, joins="concat")
    middle = Paths([conv(part, part, 3, second) for _ in range(paths)], splits=True, joins="concat")
    closing = (
        conv(inner, out, 1)
        if form == "concatenated"
        else Paths([conv(part, out, 1) for _ in range(paths)], splits=True, joins="sum")
    )
    return [opening, middle, closing], widths


def make_connection(knobs: dict[str, Any], in_channels: int, out: int, stride: int, *, norm: bool) -> Connection | None:
    """What joins x and F(x): the sum, nothing, or one of the variants of He et al. 2016, Table 1."""
    if knobs["connection"] == "none":
        return None
    shortcut = make_shortcut(knobs["shortcut"], in_channels, out, stride, norm, knobs["zero_padding"])
    match knobs["connection"]:
        case "add":
            return Add(shortcut)
        case "dropout":
            return Add(shortcut, dropout=knobs["skip_dropout"])
        case "scaled":
            return Scaled(shortcut, knobs["skip_scale"], knobs["transform_scale"])
        case "fading":
            return Fading(shortcut)
        case "skip-init":
            return SkipInit(shortcut)
        case "concatenate":
            return Mix(shortcut, out)
    gate = Conv1x1(in_channels, out, stride, bias=True)
    return Gated(shortcut, gate, knobs["gate_bias"], exclusive=knobs["connection"] == "exclusive-gate")
