"""The norm of each layer's gradient, through training: where it vanishes, and where it explodes.

He et al. 2015, Sec. 1 and 4.1, hold vanishing gradients an unlikely cause of the degradation: with batch norm the
signals of their plain nets keep healthy norms in both directions. Yang et al. 2019 show that with batch norm the
gradient of a fresh plain net grows by a factor a layer towards the input: it explodes, and its first update throws the
first layers off. So the question has two sides here: a gradient may be too small or too large.
"""

import copy
import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resexp.analysis.subject import Trained, about, judged
from resexp.builder import build_net, place_net
from resexp.console import message
from resexp.models.norm_relu import BatchNorm
from resexp.studies.finding import Finding, Panel, Row, Series

LEAST = {"layers": 2}  # of the settings

NAIVE = 0.01  # the standard deviation of the weights before Glorot & Bengio 2010
SIGMOID_SLOPE = 0.25  # at most
TINY = 1e-300  # where a gradient has vanished altogether
ENDS = 3  # layers at both ends that are compared
HEALTHY = 0.01, 100.0  # of the gradient at the other end: below it has vanished, above it has exploded
YANG = "Yang et al. 2019, Sec. 1"
# A layer's factor with batch norm, fresh: a ReLU that is centred keeps 1 - 1/pi of the variance that it is scaled to.
NORM_FACTOR = math.sqrt(math.pi / (math.pi - 1))


@dataclass(frozen=True)
class Kind:
    """One way to build a fully connected stack."""

    name: str
    activation: str = "relu"
    norm: bool = False
    init: str = "he"


KINDS = (
    Kind("ReLU, He, batch norm", norm=True),
    Kind("ReLU, He"),
    Kind(f"ReLU, normal({NAIVE})", init="naive"),
    Kind("sigmoid, Glorot", activation="sigmoid", init="glorot"),
    Kind("sigmoid, Glorot, batch norm", activation="sigmoid", init="glorot", norm=True),
)


class Stack(nn.Module):
    """``layers`` hidden layers of ``width`` units and a classifier. (N, inputs) -> (N, classes)."""

    def __init__(self, kind: Kind, inputs: int, width: int, layers: int, classes: int) -> None:
        super().__init__()
        sizes = [inputs, *[width] * layers]
        self.kind = kind
        self.linears = nn.ModuleList([nn.Linear(a, b) for a, b in itertools.pairwise(sizes)])
        self.norms = nn.ModuleList([nn.BatchNorm1d(width) if kind.norm else nn.Identity() for _ in range(layers)])
        self.head = nn.Linear(width, classes)
        linear: Any
        for linear in self.linears:
            nn.init.zeros_(linear.bias)
            if kind.init == "he":
                nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
            elif kind.init == "glorot":
                nn.init.xavier_normal_(linear.weight)
            else:
                nn.init.normal_(linear.weight, std=NAIVE)

    def forward(self, x: Tensor, kept: list[Tensor] | None = None) -> Tensor:
        for linear, norm in zip(self.linears, self.norms, strict=True):
            x = norm(linear(x))
            if kept is not None:
                x.retain_grad()
                kept.append(x)
            x = x.relu() if self.kind.activation == "relu" else x.sigmoid()
        return self.head(x)


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
    stack_panels, stack_rows = _stacks(nets[0], layers, width, steps, rate, seed)
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
        weights, norms = layer_gradients(fresh, inputs, labels)
        moves = [net.cfg.protocol.lr * g / max(w, TINY) for w, g in zip(weights, norms, strict=True)]
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
        y="norm of the gradient (trained: times that of the weights)",
        series=lines,
        log_y=True,
    )
    return panel, rows


def _ends_rows(net: Trained, state: str, sizes: Sequence[float]) -> list[Row]:
    """The first layers against the last ones: whether the gradient vanishes, and whether it explodes."""
    ratio = sum(sizes[:ENDS]) / max(sum(sizes[-ENDS:]), TINY)
    least, most = HEALTHY
    what = "gradient" if state == "fresh" else "gradient times weight"
    return [
        Row(
            id=f"{state}-{word}-{net.label}",
            what=f"{net.label}, {state}: {what} of the first {ENDS} layers over that of the last {ENDS}",
            measured=f"{ratio:.3g}",
            expected=expected,
            source="He et al. 2015, Sec. 4.1",
            agrees=healthy if state == "fresh" else judged(healthy, net),
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


def _stacks(net: Trained, layers: int, width: int, steps: int, rate: float, seed: int) -> tuple[list[Panel], list[Row]]:
    """Stacks of each kind, on a net's training images."""
    images, labels = net.images("train")
    data = images.flatten(1).cpu().double(), labels.cpu()  # in float64, where a vanishing gradient has a size
    start, end, losses, rows = [], [], [], []
    for kind in KINDS:
        found = train_stack(kind, layers, width, steps, rate, seed, *data)
        x = range(1, layers + 1)
        start.append(Series(label=kind.name, x=x, y=found["first"]))
        end.append(Series(label=kind.name, x=x, y=found["last"]))
        losses.append(Series(label=kind.name, x=range(1, steps + 1), y=found["loss"]))
        rows += _stack_rows(kind, found, layers, steps)
        message(f"gradients: {kind.name}: {steps} steps")
    tail = f"stacks, last tenth of {steps} steps"
    panels = [
        Panel(title="stacks at the start", x="layer", y="norm of the gradient", series=start, log_y=True),
        Panel(title=tail, x="layer", y="norm of the gradient", series=end, log_y=True),
        Panel(title="stacks in training", x="step", y="training loss", series=losses),
    ]
    return panels, rows


def _stack_rows(kind: Kind, found: dict[str, list[float]], layers: int, steps: int) -> list[Row]:
    """The factor of the gradient per layer, beside its theory where there is one."""
    factor = (found["signal"][0] / max(found["signal"][-1], TINY)) ** (1 / (layers - 1))
    rows = [
        Row(
            id="stack",
            what=f"{kind.name}: factor a layer of the gradient at the start; loss after {steps} steps",
            measured=f"{factor:.2f}; {found['loss'][-1]:.2f}",
        )
    ]
    if kind.activation == "relu" and kind.norm:
        rows.append(
            Row(
                id="batch-norm-grows",
                what=f"{kind.name}: factor a layer at the start: it grows towards the first layer",
                measured=f"{factor:.3f}",
                expected=f"{NORM_FACTOR:.3f}, infinite width and batch",
                source="Yang et al. 2019, mean field theory of batch norm",
                agrees=abs(factor - NORM_FACTOR) < 0.05,
            )
        )
    if kind.activation == "sigmoid" and not kind.norm:
        worst = max(found["bound"])
        rows.append(
            Row(
                id="sigmoid-bound",
                what=f"{kind.name}: factor a layer over its bound, {SIGMOID_SLOPE} |W|, at most",
                measured=f"{worst:.3f}",
                expected="at most 1: a bound, with the weights in it",
                source="chain rule",
                agrees=worst <= 1 + 1e-6,
            )
        )
    return rows


def layer_gradients(net: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[list[float], list[float]]:
    """The norms of the weights of each convolution but those of shortcuts, and of the loss' gradient for them.

    In training mode.
    """
    named = [(name, module) for name, module in net.named_modules() if isinstance(module, nn.Conv2d)]
    weights = [module.weight for name, module in named if "shortcut" not in name]
    loss = F.cross_entropy(net.train()(inputs), labels)
    gradients = torch.autograd.grad(loss, weights, allow_unused=True)  # stochastic depth may leave blocks out
    known = [(weight, gradient) for weight, gradient in zip(weights, gradients, strict=True) if gradient is not None]
    return [float(weight.detach().norm()) for weight, _ in known], [float(gradient.norm()) for _, gradient in known]


def largest_scale(net: nn.Module, layers: int = 5) -> float:
    """Of the first batch norms' scales, the largest in size."""
    norms = [module for name, module in net.named_modules() if isinstance(module, BatchNorm) and "shortcut" not in name]
    return max((float(norm.weight.detach().abs().max()) for norm in norms[:layers]), default=math.nan)


def train_stack(
    kind: Kind, layers: int, width: int, steps: int, rate: float, seed: int, inputs: Tensor, labels: Tensor
) -> dict[str, list[float]]:
    """Train one stack; gradients of its layers' weights at the ``first`` step and as the mean over the ``last`` tenth.

    ``signal``: norms of the gradient in front of each activation at the start; ``bound``: how much of
    0.25 times the spectral norm of the weights each layer's factor of it reaches.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        stack: Any = Stack(kind, inputs.shape[1], width, layers, int(labels.max()) + 1).to(inputs.dtype)
        optimizer = torch.optim.SGD(stack.parameters(), lr=rate, momentum=0.9)
        found: dict[str, list[float]] = {"loss": []}
        tail = [0.0] * layers
        late = max(1, steps // 10)
        for step in range(steps):
            chosen = torch.randint(len(inputs), (64,))
            kept: list[Tensor] = []
            loss = F.cross_entropy(stack(inputs[chosen], kept if step == 0 else None), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            norms = [float(linear.weight.grad.norm()) for linear in stack.linears]
            if step == 0:
                found["first"] = norms
                found["signal"] = [float(one.grad.norm()) for one in kept if one.grad is not None]
                found["bound"] = [
                    found["signal"][i]
                    / max(found["signal"][i + 1], TINY)
                    / (SIGMOID_SLOPE * float(torch.linalg.matrix_norm(stack.linears[i + 1].weight.detach(), ord=2)))
                    for i in range(layers - 1)
                ]
            if step >= steps - late:
                tail = [a + b / late for a, b in zip(tail, norms, strict=True)]
            optimizer.step()
            found["loss"].append(loss.item())
    return {**found, "last": tail}
