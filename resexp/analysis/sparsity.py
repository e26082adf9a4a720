"""Zeros after each ReLU, and channels that no image activates, in trained nets.

Articles say that ReLU destroys what it sets to zero, and that the shortcut keeps it: then a residual net should have
fewer zeros than the plain net of its depth. Both are counted on test images.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from resexp import UserError
from resexp.analysis.subject import BATCH, Trained, about, judged, of_one_depth
from resexp.models.norm_relu import BatchNorm
from resexp.models.remedies import ShiftThen
from resexp.studies.finding import Finding, Panel, Row, Series

SOURCE = "popular articles on ReLU and shortcuts"


def analyze(nets: Sequence[Trained], *, images: int = 1000) -> Finding:
    """The share of zeros in each layer's output, and that of channels which are zero for all images.

    :param images: number of test images, from the first.
    """
    found = {net.label: count_zeros(net.net, net.images("test", images)[0], net.label) for net in nets}
    zeros = [
        Series(label=label, x=range(1, len(one) + 1), y=[100 * share for share, _ in one])
        for label, one in found.items()
    ]
    dead = [
        Series(label=label, x=range(1, len(one) + 1), y=[100 * share for _, share in one])
        for label, one in found.items()
    ]
    mean = {label: [sum(column) / len(one) for column in zip(*one, strict=True)] for label, one in found.items()}
    rows = [
        Row(
            id="zeros",
            what=f"{label}: zeros, and channels that no image activates, mean of {len(found[label])} ReLUs",
            measured=f"{100 * zero:.1f} %, {100 * idle:.1f} %",
        )
        for label, (zero, idle) in mean.items()
    ]
    for plain, residual in of_one_depth(nets):
        one, two = mean[residual.label][0], mean[plain.label][0]
        rows.append(
            Row(
                id="fewer-zeros",
                what=f"zeros: {residual.label} below {plain.label}",
                measured=f"{100 * one:.1f} % against {100 * two:.1f} %",
                expected="below",
                source=SOURCE,
                agrees=judged(one < two, plain, residual),
            )
        )
    return Finding(
        analysis="sparsity",
        title="Zeros after each ReLU",
        about=about(nets)
        + f"; {len(nets[0].images('test', images)[1])} test images, evaluation mode; a residual block's "
        "last ReLU acts on the sum.",
        panels=[
            Panel(title="zeros", x="ReLU", y="share (%)", series=zeros),
            Panel(title="channels that no image activates", x="ReLU", y="share (%)", series=dead),
        ],
        rows=rows,
    )


@torch.inference_mode()
def count_zeros(net: nn.Module, inputs: Tensor, label: str = "the net") -> list[tuple[float, float]]:
    """For each ReLU after batch norm or a bias: the share of zeros, and of channels that are zero for all inputs.

    Raises UserError for a net without any.
    """
    copied = copy.deepcopy(net)
    norms = [module for module in copied.modules() if isinstance(module, BatchNorm | ShiftThen)]
    zeros: dict[int, int] = {}
    values: dict[int, int] = {}
    active: dict[int, Tensor] = {}

    def counted(number: int, relu: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def act(x: Tensor, shortcut: Tensor | None = None) -> Tensor:
            y = relu(x, shortcut)
            zeros[number] = zeros.get(number, 0) + int((y == 0).sum())
            values[number] = values.get(number, 0) + y.numel()
            some = (y != 0).any(dim=3).any(dim=2).any(dim=0)  # (N, C, H, W) -> (C,)
            active[number] = active[number] | some if number in active else some
            return y

        return act

    for number, norm in enumerate(norms):
        acting: Any = norm
        acting.relu = counted(number, norm.relu)
    for part in inputs.split(BATCH):
        copied(part)
    if not values:
        raise UserError(f"sparsity: {label} has no ReLU after a batch norm")
    return [(zeros[n] / values[n], 1 - float(active[n].float().mean())) for n in sorted(values)]
