"""The deeper net could copy the shallower one, and plain layers do not find the identity (He et al. 2015, Sec. 1).

Two experiments: identity blocks after those of a trained shallow net, against the deep net trained from its start; and
stacks of plain and of residual layers that are to learn y = x, or nearly so.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resexp import UserError
from resexp.analysis.subject import Trained, about, error_of, families_alike, judged
from resexp.console import message
from resexp.studies.finding import Finding, Panel, Row, Series

LEAST = {"layers": 2, "distances": 0}  # of the settings

SOURCE = "He et al. 2015, Sec. 1"


def analyze(
    nets: Sequence[Trained],
    *,
    layers: int = 10,
    width: int = 32,
    steps: int = 4000,
    seeds: int = 3,
    distances: tuple[float, ...] = (0.0, 0.1, 0.3, 1.0),
    seed: int = 0,
) -> Finding:
    """Shallow and deep nets of one family each: the deep one made from the shallow one, and the one that was trained.

    :param layers: of the stacks that learn a map close to the identity, and ``width`` their units.
    :param steps: of their training.
    :param distances: of the targets from y = x.
    """
    rows = [row for shallow, deep in _pairs(nets) for row in _compare(shallow, deep)]
    torch.set_num_threads(1)  # a stack is too small for two
    panels = [_fit(residual, layers, width, steps, seeds, distances, seed) for residual in (False, True)]
    last = [[float(series.y[-1]) for series in panel.series] for panel in panels]
    rows += [
        Row(
            id="fit",
            what=f"fit y = x + {distance} g(x): mean square error, residual below plain (of the mean of y)",
            measured=f"{residual_loss:.2g} against {plain_loss:.2g} ({trivial_loss(distance, width):.3g})",
            expected="below",
            source="He et al. 2015, Sec. 3.1",
            agrees=residual_loss < plain_loss,
        )
        for distance, plain_loss, residual_loss in zip(distances, *last, strict=True)
    ]
    subject = about(nets)
    return Finding(
        analysis="identity",
        title=f"Fitting y = x and near it: {layers} layers of {width} units",
        about=f"{subject}. Stacks: ReLU, batch norm, He weights, Adam at 0.001, {steps} steps of 128 positive inputs, "
        f"median of {seeds} seeds; g is a random net of two layers.",
        panels=panels,
        rows=rows,
    )


def _compare(shallow: Trained, deep: Trained) -> list[Row]:
    """The deep net made from the shallow one, and the one that was trained from its start."""
    part = shallow.images("train")
    family, is_plain = shallow.cfg.model.family, shallow.cfg.model.family == "plain"
    before, trained = (error_of(net, *part) for net in (shallow.net, deep.net))
    rows = []
    for where, at in (("at the end of each stage", "end"), ("in the middle of each stage", "middle")):
        after = error_of(deepened(shallow.net, deep.net, at=at), *part)
        rows.append(
            Row(
                id=f"{at}-{family}",
                what=f"{shallow.label} with identity blocks {where}, to {deep.cfg.model.depth}: training error",
                measured=f"{after:.2f} % from {before:.2f} %",
                expected="the same, by construction",
                source=SOURCE,
                agrees=judged(abs(after - before) < 0.2, shallow),
            )
        )
    rows.append(
        Row(
            id=f"trained-{family}",
            what=f"{deep.label} trained from its start, against it",
            measured=f"{trained:.2f} %",
            expected="higher: the solver misses it" if is_plain else "higher by one point at most",
            source=SOURCE,
            agrees=judged(trained > before if is_plain else trained <= before + 1, shallow, deep),
        )
    )
    return rows


def _pairs(nets: Sequence[Trained]) -> list[tuple[Trained, Trained]]:
    """(shallow, deep) of each family. Raises UserError if there is none."""
    groups = [group for family in ("plain", "resnet") for group in families_alike(nets, family)]
    found = [(group[0], group[-1]) for group in groups if group[0].cfg.model.depth < group[-1].cfg.model.depth]
    if not found:
        raise UserError(
            "identity: takes a shallow and a deep net of one family, plain or resnet, as resnet20 and resnet56, "
            "alike in width, images and protocol"
        )
    return found


def deepened(shallow: Any, deep: Any, *, at: str = "end") -> Any:
    """The shallow net with blocks that pass x on in each stage, up to the deep net's number.

    A residual block passes x on if F is zero, a plain one if its convolutions and batch norms are identities: its ReLU
    changes nothing, as x comes out of one.

    :param at: ``end`` of each stage, or its ``middle``.
    """
    kinds = {net.stages[0][0].transform.count for net in (shallow, deep)}  # convolutions of a block
    if len(kinds) > 1:
        raise UserError("identity: one of the two nets has bottlenecks; take two of one kind")
    made = copy.deepcopy(shallow)
    for ours, theirs in zip(made.stages, deep.stages, strict=True):
        added = [as_identity(copy.deepcopy(theirs[index])) for index in range(len(ours), len(theirs))]
        place = len(ours) if at == "end" else max(1, len(ours) // 2)
        for number, block in enumerate(added):
            ours.insert(place + number, block)
    return made.eval()


@torch.no_grad()
def as_identity(block: Any) -> Any:
    """Raises UserError for a block that cannot be one."""
    if block.fuses and block.connection is not None:
        block.transform.last_norm.weight.zero_()
        block.transform.last_norm.bias.zero_()
        return block.eval()
    if not block.fuses or block.transform.count != 2:
        raise UserError("identity: takes plain nets of basic blocks and original residual nets: these can pass x on")
    for index in (1, 2):
        nn.init.dirac_(getattr(block.transform, f"conv{index}").weight)
        norm = getattr(block.transform, f"bn{index}")
        norm.running_mean.zero_()
        norm.running_var.fill_(1 - norm.eps)
        norm.weight.fill_(1)
        norm.bias.zero_()
    return block.eval()


class Stack(nn.Module):
    """Blocks as the paper's, fully connected: relu(F(x)) or relu(x + F(x)), F of two linear layers with batch norm.

    (N, width) -> (N, width). No ReLU after the last block.
    """

    def __init__(self, layers: int, width: int, *, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.transforms = nn.ModuleList()
        for _ in range(layers // 2):
            first, second = (nn.Linear(width, width, bias=False) for _ in range(2))
            for linear in (first, second):
                nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
            parts = (first, nn.BatchNorm1d(width), nn.ReLU(), second, nn.BatchNorm1d(width))
            self.transforms.append(nn.Sequential(*parts))

    def forward(self, x: Tensor) -> Tensor:
        for index, transform in enumerate(self.transforms, start=1):
            x = x + transform(x) if self.residual else transform(x)
            x = x if index == len(self.transforms) else F.relu(x)
        return x


def _fit(
    residual: bool, layers: int, width: int, steps: int, seeds: int, distances: Sequence[float], seed: int
) -> Panel:
    """Mean square errors through training, the median over the seeds."""
    series = []
    for distance in distances:
        curves = torch.tensor(
            [fit_stack(residual, layers, width, steps, distance, seed + number) for number in range(seeds)]
        )
        every = max(1, steps // 60)
        median = curves.median(dim=0).values[every - 1 :: every].tolist()
        series.append(Series(label=f"distance {distance}", x=range(every, steps + 1, every), y=median))
    message(f"identity: {'residual' if residual else 'plain'} stacks fitted")
    return Panel(title="residual" if residual else "plain", x="steps", y="mean square error", series=series, log_y=True)


def trivial_loss(distance: float, width: int) -> float:
    """The mean square error of the best constant, the mean of y: what a stack reaches that learns nothing of x."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(4096, width, generator=random).abs()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        y = x + distance * Stack(2, width, residual=False)(x)
    return float(y.var(dim=0, correction=0).mean())


def fit_stack(residual: bool, layers: int, width: int, steps: int, distance: float, seed: int) -> list[float]:
    """The loss at each step of learning y = x + distance g(x)."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        stack, g = Stack(layers, width, residual=residual), Stack(2, width, residual=False)
        optimizer = torch.optim.Adam(stack.parameters(), lr=0.001)
        losses = []
        for _ in range(steps):
            x = torch.randn(128, width).abs()  # as after a ReLU: plain layers too can pass it on
            loss = F.mse_loss(stack(x), x + distance * g(x).detach())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses
