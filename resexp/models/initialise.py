"""The weights at the start: He's rule, or what a net's settings name instead."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from resexp.models.blocks import Block
from resexp.models.connections import Gated
from resexp.models.norm_relu import BatchNorm

NAIVE = 0.01  # the standard deviation that He et al. 2015b, Sec. 2.2, compare theirs with


@torch.no_grad()
def initialise(net: nn.Module, generator: torch.Generator, settings: Mapping[str, Any]) -> None:
    """He et al. 2015, arXiv 1502.01852, Eq. 10: weights of variance 2 / fan-in, biases zero, norms at identity.

    Gates have the bias that their net names. Layers that no ReLU follows, as in attention, have ``gain`` 1: variance
    1 / fan-in. Positions start as the sinusoids of Vaswani et al. 2017, Sec. 3.5, of the size of what they are
    added to: from small random ones a short training does not learn where a patch is.

    :param settings: of the net: ``init``, the rule for the weights of all convolutions and linear layers;
        ``norm_scale``, the scale of every batch norm; ``last_scale``, that of the last one of every F.
    """
    rule, norm_scale, last_scale = (settings.get(key) for key in ("init", "norm_scale", "last_scale"))
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            _fill(module, rule, generator)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            module.weight.fill_(1 if norm_scale is None else norm_scale)
            if rule == "torch7":  # which left the scales of batch norm at random
                module.weight.uniform_(generator=generator)
            module.bias.zero_()
        position = getattr(module, "position", None)
        if isinstance(position, nn.Parameter):
            position.copy_(sinusoids(*position.shape[1:]))
    for module in net.modules():
        if isinstance(module, Gated):
            module.init()
        elif isinstance(module, Block) and last_scale is not None and isinstance(module.last_norm, BatchNorm):
            module.last_norm.weight.fill_(last_scale)


def _fill(layer: nn.Conv2d | nn.Linear, rule: str | None, generator: torch.Generator) -> None:
    weight, gain = layer.weight, getattr(layer, "gain", math.sqrt(2))
    follows: Literal["linear", "relu"] = "linear" if gain == 1 else "relu"
    match rule:
        case "he-fan-out" | "torch7" if (
            weight.dim() == 2
        ):  # the authors' frameworks leave the classifier as torch fills it
            nn.init.uniform_(weight, -(bound := weight.shape[1] ** -0.5), bound, generator=generator)
        case "he-fan-out" | "torch7":
            nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity=follows, generator=generator)
        case "xavier":
            nn.init.xavier_normal_(weight, generator=generator)
        case "naive":
            nn.init.normal_(weight, std=NAIVE, generator=generator)
        case "orthogonal":
            nn.init.orthogonal_(weight, gain=gain, generator=generator)
        case "delta-orthogonal":
            _delta_orthogonal(weight, gain, generator)
        case "looks-linear":
            _looks_linear(layer, generator)
        case _:
            nn.init.kaiming_normal_(weight, nonlinearity=follows, generator=generator)
            if rule == "dirac" and weight.dim() == 4 and len(weight) >= weight.shape[1] > 3:
                nn.init.dirac_(weight[: weight.shape[1]])


def _delta_orthogonal(weight: Tensor, gain: float, generator: torch.Generator) -> None:
    """Zero but for the centre, which is orthogonal (Xiao et al. 2018, Algorithm 1); sqrt(2) is critical for ReLU."""
    matrix = nn.init.orthogonal_(torch.empty(weight.shape[:2]), gain=gain, generator=generator)
    if weight.dim() == 2:
        weight.copy_(matrix)
        return
    weight.zero_()[:, :, weight.shape[2] // 2, weight.shape[3] // 2] = matrix


def _looks_linear(layer: nn.Conv2d | nn.Linear, generator: torch.Generator) -> None:
    """[W, -W] on what a CReLU makes, W orthogonal (Balduzzi et al. 2017, Sec. 4): linear, but for batch norm."""
    weight = layer.weight
    if not getattr(layer, "reads_crelu", weight.dim() == 2):  # the first layer reads the image
        nn.init.orthogonal_(weight, generator=generator)
        return
    half = nn.init.orthogonal_(weight[:, : weight.shape[1] // 2].clone(), generator=generator)
    weight.copy_(torch.cat((half, -half), dim=1))


def sinusoids(tokens: int, width: int) -> torch.Tensor:
    """Vaswani et al. 2017, Sec. 3.5: sines and cosines of wavelengths from 2 pi to 20,000 pi. -> (tokens, width)."""
    place = torch.arange(tokens)[:, None]
    channel = torch.arange(width)[None]
    angle = place / 10_000 ** (2 * (channel // 2) / width)
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos())
