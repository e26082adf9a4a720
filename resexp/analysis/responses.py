"""How strongly each layer responds: standard deviations after batch norm (He et al. 2015, Sec. 4.2, Fig. 7).

Residual nets are thought of as small corrections of the identity; then their layers respond less than plain ones, and
less the deeper the net. The figure compares the layers sorted by their response, and so do the verdicts here: at each
quartile of the sorted layers one net lies below the other. Means would do for no such claim, as a few layers rule them.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from resexp import UserError
from resexp.analysis.subject import Trained, about, families_alike, judged, of_one_depth
from resexp.models.norm_relu import BatchNorm
from resexp.studies.finding import Finding, Panel, Row, Series

SOURCE = "He et al. 2015, Fig. 7, read off"
RANK = 10
PUBLISHED = {"plain20": 1.9, "plain56": 2.0, "resnet20": 1.6, "resnet56": 1.3, "resnet110": 1.3}  # the tenth strongest
QUARTILES = 75, 50, 25  # percentiles of the layers at which sorted responses are compared


def analyze(nets: Sequence[Trained], *, images: int = 1000) -> Finding:
    """Standard deviations of all layers of each net, in order and sorted.

    :param images: number of test images, from the first.
    """
    found = {net.label: layer_responses(net.net, net.images("test", images)[0], net.label) for net in nets}
    order = [Series(label=label, x=range(1, len(values) + 1), y=values) for label, values in found.items()]
    ranked = [Series(label=s.label, x=s.x, y=sorted(s.y, reverse=True)) for s in order]
    rows = [
        Row(
            id="tenth",
            what=f"{net.label}: the {RANK}th strongest layer",
            measured=f"{sorted(found[net.label])[-RANK]:.2f}",
            source=SOURCE,
            expected=f"{PUBLISHED[net.label]}" if net.label in PUBLISHED and net.cfg.dataset.name == "cifar10" else "",
        )
        for net in nets
        if len(found[net.label]) >= RANK
    ]
    rows += [
        Row(id="mean", what=f"{label}: mean of its {len(values)} layers", measured=f"{np.mean(values):.2f}")
        for label, values in found.items()
    ]
    rows += [_compare(found, less, more) for less, more in _expected_order(nets)]
    return Finding(
        analysis="responses",
        title="Layer responses: standard deviation after batch norm",
        about=about(nets) + f"; {len(nets[0].images('test', images)[1])} test images.",
        panels=[
            Panel(title="in order", x="layer", y="standard deviation", series=order, log_y=True),
            Panel(title="sorted by magnitude", x="rank", y="standard deviation", series=ranked, log_y=True),
        ],
        rows=rows,
    )


@torch.inference_mode()
def layer_responses(net: nn.Module, inputs: Tensor, label: str = "the net") -> list[float]:
    """The standard deviation over all values of each layer's output, after batch norm, before ReLU and addition.

    Batch norms of shortcuts are no layers of the paper's count. Raises UserError for a net without batch norm.
    """
    values: dict[str, float] = {}

    def keep(name: str) -> object:
        return lambda _module, _inputs, output: values.__setitem__(name, float(output.std()))

    norms = {name: m for name, m in net.named_modules() if isinstance(m, BatchNorm) and "shortcut" not in name}
    if not norms:
        raise UserError(f"responses: {label} has no batch norm whose output could be measured")
    hooks = [module.register_forward_hook(keep(name)) for name, module in norms.items()]  # type: ignore[arg-type]
    try:
        net(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return [values[name] for name in norms if name in values]


def _expected_order(nets: Sequence[Trained]) -> list[tuple[Trained, Trained]]:
    """Which net should respond less than which: residual less than plain, deeper residual less than shallower."""
    pairs = [(residual, plain) for plain, residual in of_one_depth(nets)]
    steps = [step for group in families_alike(nets, "resnet") for step in itertools.pairwise(group)]
    return pairs + [(deep, shallow) for shallow, deep in steps if deep.cfg.model.depth > shallow.cfg.model.depth]


def _compare(found: dict[str, list[float]], less: Trained, more: Trained) -> Row:
    one, two = (np.percentile(found[net.label], QUARTILES) for net in (less, more))
    measured = " against ".join(", ".join(f"{value:.2f}" for value in side) for side in (one, two))
    same_depth = less.cfg.model.depth == more.cfg.model.depth
    return Row(
        id="residual-below-plain" if same_depth else "deeper-below-shallower",
        what=f"sorted responses at {', '.join(map(str, QUARTILES))} % of the layers: {less.label} below {more.label}",
        measured=measured,
        expected="below at each",
        source="He et al. 2015, Sec. 4.2",
        agrees=judged(bool((one < two).all()), less, more),
    )
