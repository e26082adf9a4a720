"""Fully connected stacks of several activations and starts, and the gradients of their layers through training."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resexp.analysis.subject import Trained
from resexp.console import message
from resexp.studies.finding import Panel, Row, Series

NAIVE = 0.01  # the standard deviation of the weights before Glorot & Bengio 2010
SIGMOID_SLOPE = 0.25  # at most
TINY = 1e-300  # where a gradient has vanished altogether
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


def measure_stacks(
    net: Trained, layers: int, width: int, steps: int, rate: float, seed: int
) -> tuple[list[Panel], list[Row]]:
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
