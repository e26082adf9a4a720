"""The norm of each layer's gradient, through training: where it vanishes, and where it explodes.

He et al. 2015, Sec. 1 and 4.1, hold vanishing gradients an unlikely cause of the degradation: with batch norm the
signals of their plain nets keep healthy norms in both directions. Yang et al. 2019 show that with batch norm the
gradient of a fresh plain net grows by a factor a layer towards the input: it explodes, and its first update throws the
first layers off. So the question has two sides here: a gradient may be too small or too large.
"""

import copy
import dataclasses
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resexp import UserError
from resexp.analysis.stacks import TINY, measure_stacks
from resexp.analysis.subject import Trained, about, judged
from resexp.builder import build_net, build_schedule, place_net
from resexp.console import message
from resexp.models.blocks import Block
from resexp.models.norm_relu import BatchNorm
from resexp.studies.finding import Finding, Panel, Row, Series

LEAST = {"layers": 2}  # of the settings

YANG = "Yang et al. 2019, Sec. 1"
ENDS = 3  # layers at both ends that are compared
HEALTHY = 0.01, 100.0  # of the gradient at the other end: below it has vanished, above it has exploded


def analyze(
    nets: Sequence[Trained],
    *,
    layers: int = 20,
    width: int = 64,
    steps: int = 300,
    rate: float = 0.01,
    images: int = 256,
    seed: int = 0,
) -> Finding:
    """The convolutions' gradients of the given nets, fresh and trained; then stacks of each kind, through training.

    :param layers: of the stacks, with ``width`` units.
    :param steps: of their training, at the learning ``rate``, momentum 0.9, batches of 64.
    :param images: training images of a gradient.
    """
    net_panel, net_rows = _nets(nets, images, seed)
    stack_panels, stack_rows = measure_stacks(nets[0], layers, width, steps, rate, seed)
    return Finding(
        analysis="gradients",
        title="Gradients of each layer",
        about=about(nets) + f"; {images} training images, training mode. Stacks: {layers} "
        f"fully connected layers of {width}, SGD at {rate}, seed {seed}. He et al. 2015 hold vanishing gradients an "
        "unlikely cause of the degradation: with batch norm they do not vanish; in a deep plain net they explode.",
        panels=[net_panel, *stack_panels],
        rows=[*net_rows, *stack_rows],
    )


def _nets(nets: Sequence[Trained], images: int, seed: int) -> tuple[Panel, list[Row]]:
    """The gradients of each net, fresh and trained."""
    rows, lines = [], []
    for net in nets:
        inputs, labels = net.images("train", images)
        fresh = place_net(build_net(dataclasses.replace(net.cfg, seed=seed), net.data), inputs.device)
        weights, norms = layer_gradients(fresh, inputs, labels, net.label)
        rate = build_schedule(net.cfg).lr(0)  # of a warm-up, where there is one
        moves = [rate * g / max(w, TINY) for w, g in zip(weights, norms, strict=True)]
        lines.append(Series(label=f"{net.label}, fresh", x=range(1, len(norms) + 1), y=norms, style="thin"))
        rows += [*_ends_rows(net, "fresh", norms), _first_update_row(net, moves)]

        trained = copy.deepcopy(net.net)
        weights, norms = layer_gradients(trained, inputs, labels)
        # A layer before batch norm does the same at any length of its weights, and its gradient shrinks with them:
        # trained weights are compared by the product, which that length does not touch.
        sizes = [a * b for a, b in zip(weights, norms, strict=True)]
        lines.append(Series(label=f"{net.label}, trained", x=range(1, len(sizes) + 1), y=sizes))
        rows += [*_ends_rows(net, "trained", sizes), _scales_row(net, trained, weights)]
        message(f"gradients: {net.label}")
    panel = Panel(
        title="convolutions of the nets",
        x="layer",
        y="norm of the gradient\n(trained: times that of the weights)",
        series=lines,
        log_y=True,
    )
    return panel, rows


def _ends_rows(net: Trained, state: str, sizes: Sequence[float]) -> list[Row]:
    """The first layers against the last ones: whether the gradient vanishes, and whether it explodes.

    :raises UserError: for so few layers that the first are the last.
    """
    if len(sizes) < 2 * ENDS:
        raise UserError(
            f"gradients: {net.label} has {len(sizes)} convolutions, of which the first and last {ENDS} are compared; "
            "take a deeper net"
        )
    ratio, (least, most) = growth(sizes), HEALTHY
    unknown = math.isnan(ratio)
    what = "gradient" if state == "fresh" else "gradient times weight"
    return [
        Row(
            id=f"{state}-{word}-{net.label}",
            what=f"{net.label}, {state}: {what} of the first {ENDS} layers over that of the last {ENDS}",
            measured="no gradient in the last ones" if unknown else f"{ratio:.3g}",
            expected=expected,
            source="our bound; healthy gradients: He et al. 2015, Sec. 4.1",
            agrees=None if unknown else healthy if state == "fresh" else judged(healthy, net),
        )
        for word, expected, healthy in (
            ("lasts", f"above {least}: it does not vanish", ratio > least),
            ("stays", f"below {most:g}: it does not explode", ratio < most),
        )
    ]


def _first_update_row(net: Trained, moves: Sequence[float]) -> Row:
    return Row(
        id=f"first-update-{net.label}",
        what=f"{net.label}: length of the first update of layer 1, in that of its weights (last layer)",
        measured=f"{moves[0]:.3g} ({moves[-1]:.3g})",
        expected="below 1: the layer keeps its start",
        source=YANG,
        agrees=moves[0] < 1,
    )


def _scales_row(net: Trained, trained: nn.Module, weights: Sequence[float]) -> Row:
    return Row(
        id=f"scales-{net.label}",
        what=f"{net.label}, trained: largest batch-norm scale and norm of the weights in layers 1 to 5",
        measured=f"{largest_scale(trained):.1f}; {max(weights[:5]):.1f}",
        expected="the scale starts at 1",
    )


def growth(sizes: Sequence[float]) -> float:
    """Of the first layers' gradients over the last ones'; infinite if one of them overflows.

    NaN without any gradient in the last ones, as behind a last scale of zero, and for so few layers that the first are
    the last.
    """
    if len(sizes) < 2 * ENDS:
        return math.nan
    if not all(map(math.isfinite, sizes)):
        return math.inf
    last = sum(sizes[-ENDS:])
    return sum(sizes[:ENDS]) / last if last else math.nan


def layer_gradients(
    net: nn.Module, inputs: Tensor, labels: Tensor, label: str = "the net"
) -> tuple[list[float], list[float]]:
    """The norms of the weights of each convolution but those of shortcuts, and of the loss' gradient for them.

    In training mode, with all blocks of a net of stochastic depth, and the same dropout each time.

    :raises UserError: for a net without convolutions.
    """
    named = [(name, module) for name, module in net.named_modules() if isinstance(module, nn.Conv2d)]
    weights = [module.weight for name, module in named if "shortcut" not in name]
    if not weights:
        raise UserError(f"{label}: has no convolutions whose gradients could be compared; take another net")
    dropping = [(module, module.survival) for module in net.modules() if isinstance(module, Block)]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for block, _ in dropping:
            block.survival = 1.0
        loss = F.cross_entropy(net.train()(inputs), labels)
        for block, survival in dropping:
            block.survival = survival
    gradients = torch.autograd.grad(loss, weights, materialize_grads=True)  # behind a scale of zero there are none
    return [float(one.detach().norm()) for one in weights], [float(one.norm()) for one in gradients]


def largest_scale(net: nn.Module, layers: int = 5) -> float:
    """Of the first batch norms' scales, the largest in size."""
    norms = [module for name, module in net.named_modules() if isinstance(module, BatchNorm) and "shortcut" not in name]
    return max((float(norm.weight.detach().abs().max()) for norm in norms[:layers]), default=math.nan)
