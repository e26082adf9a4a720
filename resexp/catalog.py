"""What nets there are: families, layouts, legal depths and golden counts. Imports no torch, so that names cost nothing.

Two layouts stand in He et al. 2015: three stages for CIFAR (Sec. 4.2, depth 6n+2) and four stages for ImageNet
(Table 1, depths 18 and 34). A name is a family and a depth: ``plain56``, ``resnet110``.
"""

import re
from dataclasses import dataclass

from resexp import UserError, did_you_mean

FAMILIES = ("plain", "resnet")
SHORTCUTS = ("A", "B", "C")
STEMS = ("auto", "3x3", "7x7")
LAYOUTS = ("auto", "cifar", "imagenet")

BASE_WIDTH = {"cifar": 16, "imagenet": 64}  # channels of the first stage; each later stage doubles them
IMAGENET_STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}  # Table 1, blocks of two 3x3 convolutions
# Depths whose names belong to bottleneck nets (Table 1; He et al. 2016, Table 1), which this version does not build.
BOTTLENECK_DEPTHS = {50: "imagenet", 101: "imagenet", 152: "imagenet", 164: "cifar", 1001: "cifar"}

# The side of the images and the number of classes for which the papers, and the counts below, describe each layout.
PAPER_IMAGE = {"cifar": (32, 10), "imagenet": (224, 1000)}


@dataclass(frozen=True)
class Net:
    """A named net as the paper describes it, with golden counts that a test recounts from the built net."""

    family: str
    depth: int
    parameters: int
    macs: int  # multiply-adds of convolutions and the classifier for one image of PAPER_IMAGE

    @property
    def name(self) -> str:
        return f"{self.family}{self.depth}"

    @property
    def layout(self) -> str:
        return layout_of(self.depth)


# Plain nets and option A have the same parameters and multiply-adds: an identity has none.
_COUNTS = {
    18: (11_515_688, 1_794_805_760),
    34: (21_623_848, 3_644_493_824),
    20: (269_722, 40_551_040),
    32: (464_154, 68_862_592),
    44: (658_586, 97_174_144),
    56: (853_018, 125_485_696),
    110: (1_727_962, 252_887_680),
    1202: (19_421_274, 2_829_238_912),
}
NAMED = tuple(Net(family, depth, *counts) for family in FAMILIES for depth, counts in _COUNTS.items())


def parse_name(name: str) -> tuple[str, int]:
    """``"plain56"`` -> ``("plain", 56)``. Raises UserError for an unknown family or a missing depth."""
    match = re.fullmatch(r"([a-z]+)(\d+)", name)
    if match and match[1] in FAMILIES:
        return match[1], int(match[2])
    if name in FAMILIES:
        raise UserError(f"model={name} names a family without a depth: write model={name}56, or depth=56 family={name}")
    nets = [net.name for net in NAMED]
    raise UserError(f"model={name}: no such net; {did_you_mean(name, nets)} (resexp models lists them)")


def layout_of(depth: int) -> str:
    """The layout that a name of this depth means: 18 and 34 (50, 101, 152 too) are ImageNet nets, all others CIFAR."""
    return "imagenet" if depth in IMAGENET_STAGES or BOTTLENECK_DEPTHS.get(depth) == "imagenet" else "cifar"


def stages(depth: int, layout: str = "auto") -> tuple[int, ...]:
    """Blocks of each stage: ``stages(56)`` -> ``(9, 9, 9)``. Raises UserError if no such net can be built.

    With ``layout="auto"`` a depth that the papers use for bottleneck nets is refused; an explicit layout builds it
    from basic blocks where the depth allows.
    """
    if layout == "auto" and depth in BOTTLENECK_DEPTHS:
        hint = ", or set model.layout=cifar for basic blocks" if depth % 6 == 2 else ""
        raise UserError(f"depth={depth} names a bottleneck net, which this version does not build: take 18 or 34{hint}")
    if layout == "auto":
        layout = layout_of(depth)
    if layout == "imagenet":
        if depth not in IMAGENET_STAGES:
            raise UserError(f"depth={depth} is not an ImageNet depth of basic blocks: choose from 18, 34")
        return IMAGENET_STAGES[depth]
    if depth < 8 or depth % 6 != 2:
        below, above = max(8, depth - (depth - 2) % 6), max(8, depth + (2 - depth) % 6)
        near = str(below) if below == above else f"{below} or {above}"
        raise UserError(f"depth={depth} is not 6n+2, the depth of a CIFAR net: the nearest are {near}")
    return ((depth - 2) // 6,) * 3
