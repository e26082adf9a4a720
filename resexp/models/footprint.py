"""How many floats of one image a net keeps for its backward pass, by family; for estimates of memory. No torch.

Each function takes the net's settings, the side of its images, and whether activations are recomputed (checkpointing).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from resexp.models.stages import SMALL_SIDE, VGG_CONVOLUTIONS, densenet_blocks, patch_side, stages

BASIC_MAPS = 4  # kept for backward by a basic block: what each convolution reads, and what each batch norm reads
GATED_MAPS = 4  # by a gate, a scaled sum or a norm after the sum: what they read and make
OTHER_ACTIVATION_MAPS = 2  # of an activation that is not fused with batch norm: what it reads
VGG_MAPS = 3
INCEPTION_FLOATS = 12e6  # of one image of 224 pixels

Knobs = Mapping[str, Any]


def staged(knobs: Knobs, side: int, checkpointing: bool) -> float:
    large = knobs["stem"] == "auto" and knobs["layout"] == "imagenet" and side > SMALL_SIDE
    maps = _block_maps(knobs)
    channels = knobs["width"] * knobs.get("widen", 1)
    kept = [(channels * 2**index * maps, count) for index, count in enumerate(stages(knobs))]
    return _halving(kept, side // 4 if knobs["stem"] == "7x7" or large else side, checkpointing)


def vgg(knobs: Knobs, side: int, checkpointing: bool) -> float:
    counts = VGG_CONVOLUTIONS[knobs["variant"]]
    kept = [(VGG_MAPS * knobs["width"] * min(2**index, 8), count) for index, count in enumerate(counts)]
    return _halving(kept, side, checkpointing, halvings=knobs["pools"])


def densenet(knobs: Knobs, side: int, checkpointing: bool) -> float:
    kept, channels, growth = [], knobs["width"], knobs["growth"]
    blocks = densenet_blocks(knobs)
    for count in blocks:
        made = channels + count * growth  # each layer keeps all before it twice, joined and normalised
        kept.append((channels + made + 9 * growth, count))
        channels = int(made * knobs["compression"])
    return _halving(kept, side // 4 if len(blocks) == 4 and side > SMALL_SIDE else side, checkpointing)


def googlenet(knobs: Knobs, side: int, checkpointing: bool) -> float:
    return INCEPTION_FLOATS * (side / 224) ** 2 * (16 if side <= SMALL_SIDE else 1)


def transformer(knobs: Knobs, side: int, checkpointing: bool) -> float:
    tokens = (side // patch_side(knobs, side)) ** 2
    return knobs["depth"] * tokens * knobs["width"] * (12 + 2 * knobs["mlp_ratio"])


def mlp(knobs: Knobs, side: int, checkpointing: bool) -> float:
    return knobs["depth"] * knobs["width"] * BASIC_MAPS


def _halving(kept: Sequence[tuple[float, int]], side: int, checkpointing: bool, *, halvings: int = 99) -> float:
    """Of stages of (floats per pixel of a block, blocks), each of the first so many followed by half its side."""
    floats = 0.0
    for index, (channels, count) in enumerate(kept):
        held: float = count
        if checkpointing:  # the inputs of sqrt(n) segments, and all of one segment
            segment = max(1, round(math.sqrt(count)))
            held = count / segment / BASIC_MAPS + segment
        # two more maps: the stem's, or the shortcut's where the width changes
        floats += channels * (held + 2 / BASIC_MAPS) * max(1, side // 2 ** min(index, halvings)) ** 2
    return floats


def _block_maps(knobs: Knobs) -> float:
    """Maps of the first stage's width that one of its blocks keeps."""
    if knobs["family"] == "highway":
        return BASIC_MAPS + GATED_MAPS
    maps = float(BASIC_MAPS)
    if knobs["transform"] == "bottleneck":
        inner = knobs["cardinality"] * knobs["group_width"] / knobs["width"] if "cardinality" in knobs else 1.0
        maps = 2 * (2 * inner + 4)
    usual = knobs.get("order", "original") == "original" and knobs.get("connection", "add") == "add"
    maps += OTHER_ACTIVATION_MAPS * (knobs.get("activation", "relu") != "relu")
    return maps + GATED_MAPS * (not usual) + GATED_MAPS / 2 * bool(knobs["reduction"])
