"""The loss around a trained net's weights, along random directions as long as they, filter by filter (Li et al. 2018).

Without the normalisation a net with small weights would look sharp, as the same step changes it more.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from resexp.analysis.subject import Trained, about, loss_of
from resexp.console import message
from resexp.finding import Finding, Panel, Row, Series

SOURCE = "Li et al. 2018, Fig. 5"


def analyze(
    nets: Sequence[Trained], *, points: int = 41, side: int = 17, radius: float = 1.0, images: int = 256, seed: int = 0
) -> Finding:
    """The loss along one direction and in the plane of two.

    :param points: along the line; ``side``: along each edge of the square, 0 leaves it out.
    :param radius: of both, in lengths of the weights.
    :param images: the first so many training images.
    """
    lines, panels, rows = [], [], []
    rises: dict[str, float] = {}
    for net in nets:
        inputs, labels = net.images("train", images)
        copied = copy.deepcopy(net.net)  # the stored net is never changed
        first, second = (direction(copied, seed + number) for number in (0, 1))
        steps = torch.linspace(-radius, radius, points).tolist()
        values = [loss_at(copied, [(a, first)], inputs, labels) for a in steps]
        lines.append(Series(label=net.label, x=steps, y=values))
        edge = torch.linspace(-radius, radius, side).tolist() if side else []
        grid = [[loss_at(copied, [(a, first), (b, second)], inputs, labels) for a in edge] for b in edge]
        message(f"landscape: {net.label}: {len(steps) + len(edge) ** 2} losses")
        if edge:
            panels.append(Panel(title=net.label, x="first direction", y="second direction", grid=grid, side=edge))
        centre = loss_at(copied, [], inputs, labels)
        rise, convex = max(values) - centre, convexity(values)
        rows.append(Row(what=f"{net.label}: loss at the weights, highest rise, share of the line that bends upwards",
                        measured=f"{centre:.3f}, {rise:.2f}, {100 * convex:.0f} %", source=SOURCE,
                        expected="shortcuts: smooth and convex; deep plain: chaotic"))  # fmt: skip
        rises[net.label] = rise
    for deep in {label.removeprefix("plain") for label in rises if label.startswith("plain")}:
        if f"resnet{deep}" in rises:
            smooth, rough = rises[f"resnet{deep}"], rises[f"plain{deep}"]
            rows.append(Row(what=f"highest rise: resnet{deep} below plain{deep}", expected="below",
                            measured=f"{smooth:.3g} against {rough:.3g}", source=SOURCE,
                            agrees=smooth < rough))  # fmt: skip
    panels.insert(0, Panel(title="along one direction", x="distance, in lengths of the weights", y="training loss",
                           series=lines, log_y=True))  # fmt: skip
    return Finding(
        analysis="landscape", title="The loss around the trained weights, filter-normalised directions",
        about=about(nets) + f"; {images} training images, evaluation mode, batch norm "
        f"kept; seed {seed}.",
        panels=panels, rows=rows,
        settings={"points": points, "side": side, "radius": radius, "images": images, "seed": seed},
    )  # fmt: skip


def direction(net: nn.Module, seed: int) -> list[Tensor]:
    """A random direction, each filter as long as the net's; zero for biases and batch norm (Li et al., Sec. 4)."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for weight in net.parameters():
        drawn = torch.randn(weight.shape, generator=generator).to(weight)
        if weight.dim() < 2:
            found.append(torch.zeros_like(drawn))
            continue
        lengths, wanted = (t.detach().flatten(1).norm(dim=1) for t in (drawn, weight))
        scale = (wanted / lengths.clamp(min=1e-12)).view(-1, *[1] * (weight.dim() - 1))
        found.append(drawn * scale)
    return found


@torch.no_grad()
def loss_at(net: nn.Module, moves: Sequence[tuple[float, list[Tensor]]], inputs: Tensor, labels: Tensor) -> float:
    """The loss at the weights plus the sum of distance times direction; the weights are then put back."""
    before = [weight.clone() for weight in net.parameters()]
    for distance, along in moves:
        for weight, step in zip(net.parameters(), along, strict=True):
            weight.add_(distance * step)
    loss = loss_of(net, inputs, labels)
    for weight, old in zip(net.parameters(), before, strict=True):
        weight.copy_(old)
    return loss


def convexity(values: Sequence[float]) -> float:
    """The share of inner points at which the curve bends upwards."""
    bends = [values[i - 1] + values[i + 1] - 2 * values[i] for i in range(1, len(values) - 1)]
    return sum(bend >= 0 for bend in bends) / len(bends)
