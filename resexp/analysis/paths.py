"""How many paths there are, how much gradient each carries, and training short ones only (Veit et al. 2016, Sec. 5).

A net of n residual blocks is the sum of 2^n paths, binomial in their length. The gradient of a path shrinks with its
length, so that few, short ones carry nearly all of it.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resexp import UserError
from resexp.analysis.few_blocks import train_both
from resexp.analysis.subject import JUDGED_ON, Trained, about, blocks_of, is_sum, judged, replaced
from resexp.analysis.units import check_fits
from resexp.console import message
from resexp.studies.finding import Finding, Panel, Row, Series

LEAST = {"train_steps": 0}  # of the settings
GREATEST = {"share": 1}

MOST = 0.95  # the part of the gradient that the effective paths carry
BLOCKS = 54  # of the paper's net
NEAR = 3.0  # a share of all paths is that of the paper if it is within this factor
BOOTSTRAPS = 1000


class OnePath(nn.Module):
    """A block whose output is what it was, and whose gradient goes through F alone, or through the shortcut alone."""

    def __init__(self, block: Any, *, through: bool) -> None:
        super().__init__()
        self.block: Any = block
        self.through = through

    def forward(self, x: Tensor) -> Tensor:
        block = self.block
        if block.before is not None:
            x = block.before(x)
        skip, fx = block.connection.shortcut(x), block.survival * block.transform(x)
        return block.joined(skip.detach() + fx if self.through else skip + fx.detach())


def analyze(
    nets: Sequence[Trained],
    *,
    samples: int = 24,
    images: int = 16,
    train_steps: int = 640,
    share: float = 23 / 54,
    seed: int = 0,
) -> Finding:
    """Binomial lengths, sampled gradients, and a training of few blocks at a time, of one net.

    :param samples: paths of each length whose gradient is measured.
    :param images: training images of a path's gradient, drawn for each path.
    :param train_steps: of the two trainings; 0 leaves them out.
    :param share: of the blocks that take part in a step of the short training.
    """
    if len(nets) > 1:
        raise UserError(f"paths: takes one net, not {', '.join(net.label for net in nets)}")
    net = nets[0]
    if not all(is_sum(stage[index]) for stage, index in blocks_of(net)):
        raise UserError(f"paths: {net.label} has no sums of x and F(x), and so one path; take a residual net")
    check_fits(net)
    measured = measure(net, samples, images, seed)
    rows = _rows(net, measured)
    if train_steps:
        rows += train_both(net, train_steps, max(1, round(share * measured.blocks)), seed)
    return Finding(
        analysis="paths",
        title=f"Path lengths of {net.label}",
        about=f"{about([net])}; {samples} paths of each length, each on {images} random training images, seed {seed}.",
        panels=_panels(measured),
        rows=rows,
    )


@dataclass(frozen=True)
class Lengths:
    """What the paths of one net carry, by their length: the number of blocks whose F they go through.

    :param gradient: the mean norm of a path's gradient at the first block.
    :param carried: the share of all gradient that the paths of a length carry together.
    :param effective: the least and the greatest length between which ``MOST`` of the gradient lies.
    :param lows: the 95 % interval of the least, by bootstraps; ``highs`` that of the greatest, and ``shares`` that of
        the paths between, in percent of all.
    """

    blocks: int
    gradient: list[float]
    carried: np.ndarray
    effective: tuple[int, int]
    lows: Sequence[int]
    highs: Sequence[int]
    shares: Sequence[float]

    @property
    def paths(self) -> list[int]:
        """How many there are of each length."""
        return [math.comb(self.blocks, k) for k in range(self.blocks + 1)]


def share_of_paths(paths: Sequence[int], low: int, high: int) -> float:
    """Of the paths of these lengths among all, in percent."""
    return 100 * (sum(paths[low : high + 1]) / sum(paths))


def measure(net: Trained, samples: int, images: int, seed: int) -> Lengths:
    count = len(blocks_of(net))
    inputs, labels = net.images("train", max(images, JUDGED_ON))
    double = copy.deepcopy(net.net).double()  # long paths carry less than single precision can say
    random = np.random.default_rng(seed)
    sampled = []
    for k in range(count + 1):
        drawn = []
        for _ in range(samples):  # each on images of its own: the intervals are over these, too
            batch = random.choice(len(labels), min(images, len(labels)), replace=False)
            blocks = random.choice(count, k, replace=False)
            drawn.append(float(path_gradient(double, blocks, inputs[batch].double(), labels[batch]).norm()))
        sampled.append(drawn)
        if k % 10 == 0:
            message(f"paths: length {k} of {count}")
    paths, gradient = [math.comb(count, k) for k in range(count + 1)], [float(np.mean(values)) for values in sampled]
    carried = share_carried(paths, gradient)
    return Lengths(count, gradient, carried, effective_lengths(carried), *bootstrap_lengths(paths, sampled, random))


def _rows(net: Trained, found: Lengths) -> list[Row]:
    (low, high), lows, highs = found.effective, found.lows, found.highs
    part = share_of_paths(found.paths, low, high)
    published = 100 * 0.0045
    exact = 100 * sum(math.comb(BLOCKS, k) for k in range(5, 18)) / 2**BLOCKS
    return [
        Row(
            id="mean-length",
            what="mean path length",
            measured=f"{found.blocks / 2:.1f} of {found.blocks} blocks",
            expected="27 of 54",
            source="Veit et al. 2016, Sec. 5",
        ),
        Row(
            id="exact-share",
            what="paths of 5 to 17 of 54 blocks, exactly",
            measured=f"{exact:.3f} %",
            expected="0.45 %",
            source="Veit et al. 2016, Sec. 5",
            agrees=abs(exact - 0.45) < 0.01,
        ),
        Row(
            id="short-paths",
            what=f"lengths that carry {100 * MOST:.0f} % of the gradient (95 %: {BOOTSTRAPS:,} bootstraps)",
            measured=f"{low} ({lows[0]} to {lows[1]}) to {high} ({highs[0]} to {highs[1]}) of {found.blocks} blocks",
            expected=f"shorter than the mean of {found.blocks / 2:g}",
            source="Veit et al. 2016, Fig. 6",
            agrees=judged(highs[1] < found.blocks / 2, net),
        ),
        Row(
            id="their-share",
            what="their share of all paths",
            measured=f"{part:.2g} % ({found.shares[0]:.2g} to {found.shares[1]:.2g})",
            expected=f"0.45 % of 54 blocks fully trained, within a factor of {NEAR:g}",
            source="Veit et al. 2016, Sec. 5",
            # Of fewer blocks so short a share is no path at all: 0.45 % of 9 blocks are two paths.
            agrees=judged(published / NEAR <= part <= published * NEAR, net) if found.blocks == BLOCKS else None,
        ),
    ]


def _panels(found: Lengths) -> list[Panel]:
    def panel(title: str, y: str, values: list[float], *, log_y: bool = False) -> Panel:
        series = [Series(label="", x=list(range(found.blocks + 1)), y=values)]
        return Panel(title=title, x="length (blocks)", y=y, log_y=log_y, series=series)

    return [
        panel("paths of each length", "share of all paths", [number / 2**found.blocks for number in found.paths]),
        panel("gradient of one path", "norm at the first block", found.gradient, log_y=True),
        panel("gradient of all paths of a length", "share of all gradient", found.carried.tolist()),
    ]


def path_gradient(model: Any, through: Sequence[int] | np.ndarray, inputs: Tensor, labels: Tensor) -> Tensor:
    """The gradient before the first block that goes through F in these blocks and around it in all others.

    Summed over all sets of blocks it is the whole gradient: each set is one path. (N, C, H, W).
    """
    places = [(stage, index) for stage in model.stages for index in range(len(stage))]
    chosen = set(map(int, through))
    parts = [OnePath(stage[index], through=number in chosen) for number, (stage, index) in enumerate(places)]
    start = model.stem(inputs).detach().requires_grad_()
    with replaced(places, parts):
        features = model.last(model.stages(start)).mean(dim=(2, 3))
        loss = F.cross_entropy(model.head(features), labels)
        return torch.autograd.grad(loss, start)[0]


def effective_lengths(carried: np.ndarray) -> tuple[int, int]:
    """The least and the greatest length between which ``MOST`` lies, an equal part left out on both sides."""
    total = np.cumsum(carried)
    left = (1 - MOST) / 2
    return int(np.searchsorted(total, left)), int(np.searchsorted(total, 1 - left))


def share_carried(paths: Sequence[int], gradient: Sequence[float]) -> np.ndarray:
    """Of each length: its number of paths times the gradient of one, as a share of all; zeros without a gradient."""
    carried = np.array([number * size for number, size in zip(paths, gradient, strict=True)], dtype=float)
    return carried / (carried.sum() or 1.0)


def bootstrap_lengths(
    paths: Sequence[int], sampled: Sequence[Sequence[float]], random: np.random.Generator
) -> tuple[list[int], list[int], list[float]]:
    """The 95 % intervals of the least and the greatest effective length, and of the paths between, in percent of all.

    By resampling each length.
    """
    values = np.array(sampled)  # (lengths, samples)
    ends = []
    for _ in range(BOOTSTRAPS):
        again = np.take_along_axis(values, random.integers(values.shape[1], size=values.shape), axis=1)
        ends.append(effective_lengths(share_carried(paths, again.mean(axis=1).tolist())))
    low, high = (
        np.percentile(one, (2.5, 97.5), method="nearest").astype(int).tolist() for one in zip(*ends, strict=True)
    )
    shares = np.percentile([share_of_paths(paths, *one) for one in ends], (2.5, 97.5)).tolist()
    return low, high, shares
