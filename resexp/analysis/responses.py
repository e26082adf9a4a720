"""How strongly each layer responds: standard deviations behind batch norm (He et al. 2015, Sec. 4.2, Fig. 7).

Residual nets are thought of as small corrections of the identity; then their layers respond less than plain ones, and
less the deeper the net.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from resexp import UserError
from resexp.analysis.subject import Trained, about
from resexp.finding import Finding, Panel, Row, Series
from resexp.models.norm_relu import BatchNorm

SOURCE = "He et al. 2015, Fig. 7, read off"
RANK = 10
PUBLISHED = {"plain20": 1.9, "plain56": 2.0, "resnet20": 1.6, "resnet56": 1.3, "resnet110": 1.3}  # the tenth strongest


def analyze(nets: Sequence[Trained], *, images: int = 1000) -> Finding:
    """Standard deviations of all layers of each net, in order and sorted.

    :param images: the first so many test images.
    """
    found = {net.label: layer_responses(net.net, net.images("test", images)[0], net.label) for net in nets}
    order = [Series(label=label, x=range(1, len(values) + 1), y=values) for label, values in found.items()]
    ranked = [Series(label=s.label, x=s.x, y=sorted(s.y, reverse=True)) for s in order]
    rows = [
        Row(what=f"{label}: the {RANK}th strongest layer", measured=f"{sorted(values)[-RANK]:.2f}",
            expected=f"{PUBLISHED[label]} on CIFAR-10" if label in PUBLISHED else "", source=SOURCE)
        for label, values in found.items() if len(values) >= RANK
    ]  # fmt: skip
    means = {label: sum(values) / len(values) for label, values in found.items()}
    rows += [Row(what=f"{label}: mean of its {len(found[label])} layers", measured=f"{mean:.2f}")
             for label, mean in means.items()]  # fmt: skip
    rows += [_compare(means, less, more) for less, more in _expected_order(list(found))]
    return Finding(
        analysis="responses", title="Layer responses: standard deviation behind batch norm",
        about=about(nets) + f"; {len(nets[0].images('test', images)[1])} test images.",
        panels=[
            Panel(title="in order", x="layer", y="standard deviation", series=order, log_y=True),
            Panel(title="sorted by magnitude", x="rank", y="standard deviation", series=ranked, log_y=True),
        ],
        rows=rows, settings={"images": images},
    )  # fmt: skip


@torch.inference_mode()
def layer_responses(net: nn.Module, inputs: Tensor, label: str = "the net") -> list[float]:
    """The standard deviation over all values of each layer's output, behind batch norm, before ReLU and addition.

    Batch norms of shortcuts are no layers of the paper's count. Raises UserError for a net without batch norm.
    """
    values: dict[str, float] = {}

    def keep(name: str) -> object:
        return lambda _module, _inputs, output: values.__setitem__(name, float(output.std()))

    norms = {name: m for name, m in net.named_modules() if isinstance(m, BatchNorm) and "shortcut" not in name}
    if not norms:
        raise UserError(f"responses: {label} has no batch norm to look behind")
    hooks = [module.register_forward_hook(keep(name)) for name, module in norms.items()]  # type: ignore[arg-type]
    try:
        net(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return [values[name] for name in norms if name in values]


def _expected_order(labels: Sequence[str]) -> list[tuple[str, str]]:
    """Which net should respond less than which."""
    pairs = [(f"resnet{depth}", f"plain{depth}") for depth in (20, 32, 44, 56, 110)]
    pairs += [("resnet56", "resnet20"), ("resnet110", "resnet56")]
    return [(less, more) for less, more in pairs if less in labels and more in labels]


def _compare(means: dict[str, float], less: str, more: str) -> Row:
    return Row(what=f"mean response: {less} below {more}", measured=f"{means[less]:.2f} against {means[more]:.2f}",
               expected="below", source="He et al. 2015, Sec. 4.2", agrees=means[less] < means[more])  # fmt: skip
