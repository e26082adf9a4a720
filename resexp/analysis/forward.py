"""x_L = x_l + sum F, and the two terms of the gradient, checked on a pre-activation net (He et al. 2016, Eq. 4 and 5).

With identity shortcuts and nothing after the sum, the gradient at x_l is the gradient at x_L, unhindered, plus what
passes through the transforms. The first term cannot vanish.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resexp import UserError
from resexp.analysis.subject import Trained, about, blocks_of, is_sum
from resexp.studies.finding import Finding, Panel, Row, Series

TOLERANCE = 1e-9  # relative, in float64


def analyze(nets: Sequence[Trained], *, images: int = 64) -> Finding:
    """Both equations within each stage, whose shortcuts are identities, in float64.

    :param images: number of test images, from the first.
    """
    panels, rows = [], []
    for net in nets:
        check_fits(net)
        inputs, labels = net.images("test", images)
        double = copy.deepcopy(net.net).double()
        stages = _stages(double, inputs.double())
        if not stages:
            raise UserError(f"forward: {net.label}: no shortcut is the identity; take model.shortcut=A or B")
        for number, (stage, x) in enumerate(stages, start=1):
            found = two_terms(double, stage, x, labels)
            layers = range(1, len(found["whole"]) + 1)
            panels.append(
                Panel(
                    title=f"{net.label}, stage {number}",
                    x="block",
                    y="norm of the gradient",
                    log_y=True,
                    series=[
                        Series(label="dE/dx_l", x=layers, y=found["whole"]),
                        Series(label="first term, dE/dx_L", x=layers, y=found["direct"], style="thin"),
                        Series(label="second term, through F", x=layers, y=found["through"]),
                    ],
                )
            )
            for what, key in (("x_L - (x_l + sum F)", "forward"), ("dE/dx_l - the two terms", "backward")):
                rows.append(
                    Row(
                        id="sum" if key == "forward" else "two-terms",
                        what=f"{net.label}, stage {number}: {what}, relative",
                        measured=f"{max(found[key]):.1e}",
                        expected=f"0, to {TOLERANCE:.0e}",
                        source="He et al. 2016, Eq. 4" if key == "forward" else "He et al. 2016, Eq. 5",
                        agrees=max(found[key]) < TOLERANCE,
                    )
                )
    return Finding(
        analysis="forward",
        title="Pre-activation: the gradient and its two terms",
        about=about(nets) + f"; {images} test images, float64, evaluation mode.",
        panels=panels,
        rows=rows,
    )


def check_fits(net: Trained) -> None:
    """Raise UserError unless all blocks are sums with nothing after them."""
    blocks = [stage[index] for stage, index in blocks_of(net)]
    if not all(is_sum(block) and not block.joined.words for block in blocks):
        raise UserError(
            f"forward: {net.label} has more than x + F(x) in its blocks; take a pre-activation net, as preresnet110"
        )


def _stages(net: Any, x: Tensor) -> list[tuple[list[Any], Tensor]]:
    """The blocks of each stage whose shortcuts are identities, and what comes before them."""
    found = []
    x = net.stem(x)
    for stage in net.stages:
        parts = list(stage)
        skipped = 0
        while skipped < len(parts) and not isinstance(parts[skipped].connection.shortcut, nn.Identity):
            skipped += 1
        start = x
        for part in parts[:skipped]:
            start = part(start)
        found.append((parts[skipped:], start.detach()))
        x = stage(x)
    return [(parts, start) for parts, start in found if parts]


def two_terms(net: Any, blocks: Sequence[Any], x: Tensor, labels: Tensor) -> dict[str, list[float]]:
    """For each block l of one stage: norms of the gradient and of its two terms, and what is left of both equations."""
    xs = [x.requires_grad_()]
    for block in blocks:  # the net's own way, forward and backward; the equations must come to the same
        xs.append(block(xs[-1]))
    residuals = [block.survival * block.transform(before) for block, before in zip(blocks, xs, strict=False)]
    after = xs[-1]
    own = next(number for number, stage in enumerate(net.stages) if blocks[-1] in list(stage))
    rest = after
    for stage in list(net.stages)[own + 1 :]:
        rest = stage(rest)
    logits = net.head(net.last(rest).mean(dim=(2, 3)))
    loss = F.cross_entropy(logits, labels)
    grads = torch.autograd.grad(loss, xs, retain_graph=True)
    direct = grads[-1]
    found: dict[str, list[float]] = {key: [] for key in ("whole", "direct", "through", "forward", "backward")}
    for index in range(len(blocks)):
        total = torch.stack(residuals[index:]).sum(dim=0)
        through = torch.autograd.grad(total, xs[index], direct, retain_graph=True)[0]
        found["whole"].append((grads[index].norm()).item())
        found["direct"].append((direct.norm()).item())
        found["through"].append((through.norm()).item())
        found["forward"].append(((after - xs[index] - total).norm() / after.norm()).item())
        found["backward"].append(((grads[index] - direct - through).norm() / grads[index].norm()).item())
    return found
