"""The error of a trained net without one block, without k of them, with blocks swapped (Veit et al. 2016, Sec. 4).

If a residual net behaves like an ensemble of paths, a lost block costs little, and the error grows smoothly with more.
A plain net has one path.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import kendalltau
from torch import Tensor, nn

from resexp import UserError
from resexp.analysis.subject import Trained, about, blocks_of, error_of, replaced
from resexp.console import message
from resexp.finding import Finding, Panel, Row, Series
from resexp.models.shortcuts import make_shortcut
from resexp.models.vgg import Layer

SOURCE = "Veit et al. 2016, Fig. 3"
MOST = 20  # blocks dropped together: about where the published curve reaches chance
SMALL, CHANCE = 5.0, 0.75  # points of error that are little; the part of chance's error that counts as chance


class Dropped(nn.Module):
    """A block without F: what the connection makes of x and nothing, with what stands before and behind.

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


def analyze(
    nets: Sequence[Trained],
    *,
    deletions: int = 0,
    repeats: int = 10,
    swaps: int = 12,
    images: int = 1000,
    seed: int = 0,
) -> Finding:
    """The three lesions on each net; ``repeats`` draws for each number of deletions and of swaps.

    :param deletions: most blocks dropped together; 0: 20, or all of a net that has fewer.
    :param swaps: most exchanges of two blocks of one shape.
    :param images: the first so many test images.
    """
    for net in nets:
        if deletions > len(blocks_of(net)):
            raise UserError(f"lesion deletions={deletions}: {net.label} has {len(blocks_of(net))} blocks; drop no more")
    singles, several, swapped, rows = [], [], [], []
    for net in nets:
        inputs, labels = net.images("test", images)
        count = len(blocks_of(net))
        whole = error_of(net.net, inputs, labels)
        one = [_error_without(net, [index], inputs, labels) for index in range(count)]
        message(f"lesion: {net.label}: {count} single blocks dropped")
        singles.append(Series(label=net.label, x=range(1, count + 1), y=one))
        random = np.random.default_rng(seed)
        ks = range(1, (deletions or min(MOST, count)) + 1)
        several.append(_quartiles(net.label, ks, [
            [_error_without(net, random.choice(count, k, replace=False), inputs, labels) for _ in range(repeats)]
            for k in ks
        ]))  # fmt: skip
        message(f"lesion: {net.label}: up to {ks[-1]} dropped together")
        swapped.append(_swap(net, swaps, repeats, random, inputs, labels))
        message(f"lesion: {net.label}: up to {swaps} swaps")
        rows += _judge(net, whole, one)
    return Finding(
        analysis="lesion", title="Lesions: blocks dropped and swapped after training",
        about=about(nets) + f"; {len(labels)} test images; {repeats} draws each, median and "
        f"quartiles, seed {seed}.",
        panels=[
            Panel(title="one block dropped", x="block", y="test error (%)", series=singles),
            Panel(title="k random blocks dropped", x="k", y="test error (%)", series=several),
            Panel(title="blocks of one shape swapped", x="Kendall's tau of the order", y="test error (%)",
                  series=swapped),
        ],
        rows=rows,
        settings={"deletions": deletions, "repeats": repeats, "swaps": swaps, "images": images, "seed": seed},
    )  # fmt: skip


def _error_without(net: Trained, indices: Sequence[int] | np.ndarray, inputs: Tensor, labels: Tensor) -> float:
    places = blocks_of(net)
    chosen = [places[index] for index in indices]
    with replaced(chosen, [Dropped(stage[index]) for stage, index in chosen]):
        return error_of(net.net, inputs, labels)


def _swap(
    net: Trained, swaps: int, repeats: int, random: np.random.Generator, inputs: Tensor, labels: Tensor
) -> Series:
    """Errors after exchanges of blocks of one shape, by how far the order is kept."""
    places = blocks_of(net)
    shapes = [shape_of(stage[index]) for stage, index in places]
    alike = [[i for i, shape in enumerate(shapes) if shape == wanted] for wanted in dict.fromkeys(shapes)]
    alike = [members for members in alike if len(members) > 1]
    found: dict[float, list[float]] = {}
    for count in range(1, swaps + 1) if alike else ():
        for _ in range(repeats):
            order = list(range(len(places)))
            for _ in range(count):
                members = alike[random.choice(len(alike), p=_shares(alike))]
                first, second = random.choice(members, 2, replace=False)
                order[first], order[second] = order[second], order[first]
            moved = [i for i, j in enumerate(order) if i != j]
            parts = [places[order[i]][0][places[order[i]][1]] for i in moved]
            with replaced([places[i] for i in moved], parts):
                error = error_of(net.net, inputs, labels)
            tau = kendalltau(range(len(order)), order).statistic
            found.setdefault(round(round(tau * 50) / 50, 2), []).append(error)
    taus = sorted(found, reverse=True)
    return _quartiles(net.label, taus, [found[tau] for tau in taus])


def _shares(alike: list[list[int]]) -> list[float]:
    total = sum(map(len, alike))
    return [len(members) / total for members in alike]


def _quartiles(label: str, x: Sequence[float], values: list[list[float]]) -> Series:
    low, middle, high = ([float(np.percentile(one, q)) for one in values] for q in (25, 50, 75))
    return Series(label=label, x=list(x), y=middle, low=low, high=high)


def _judge(net: Trained, whole: float, one: list[float]) -> list[Row]:
    classes = len(net.data.classes)
    chance = 100 * (1 - 1 / classes)
    median, worst = float(np.median(one)), max(one)
    first = one.index(worst) + 1
    plain = all(connection_of(stage[index]) is None for stage, index in blocks_of(net))
    measured = f"{whole:.1f} % whole, {median:.1f} % in the median, {worst:.1f} % at most (block {first})"
    if plain:
        return [Row(what=f"{net.label}: one block dropped", measured=measured, source=SOURCE,
                    expected="chance: VGG-15 on CIFAR-10 from 8.6 to 89 or more",
                    agrees=median >= CHANCE * chance if whole < CHANCE * chance else None)]  # fmt: skip
    return [Row(what=f"{net.label}: one block dropped", measured=measured, source=SOURCE,
                expected="little: 110 layers on CIFAR-10 from 6.1 to 6 or 7, the first block to 42",
                agrees=median <= whole + SMALL)]  # fmt: skip
