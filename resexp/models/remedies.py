"""What a plain net can have in place of shortcuts, against what they are said to cure.

Other activations, no batch norm, convolutions that contain the identity. Each takes the place of modules of a net that
is built already, so that the nets themselves stay as the papers have them.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resexp.models.blocks import Transform
from resexp.models.conv3x3 import Conv3x3
from resexp.models.norm_relu import BatchNorm

SLOPE = 0.25  # below zero: of leaky ReLUs, and of parametric ones at the start (He et al. 2015b, Sec. 2.1)
WITHOUT_GAIN = ("tailored-relu", "tanh")  # weights need no gain of sqrt(2) before these, as they do before ReLUs
COSINE = 0.9  # after all layers, of two images that have 0 before them: the default of Zhang et al. 2022


class CReLU(nn.Module):
    """``[relu(x), relu(-x)]``: keeps what ReLU cuts off (Shang et al. 2016). (N, C, H, W) -> (N, 2C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, -x), dim=1).relu()


class TailoredReLU(nn.Module):
    """A leaky ReLU that keeps the mean square of what is normally distributed (Zhang et al. 2022). Of any shape."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope, self.scale = slope, math.sqrt(2 / (1 + slope**2))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * F.leaky_relu(x, self.slope)


def tailored_slope(layers: int) -> float:
    """The slope below zero with which so many plain layers bring two orthogonal images to a cosine of 0.9, no nearer.

    That is for wide layers without batch norm, with weights of variance 1 / fan-in (Zhang et al. 2022, Sec. 4). ReLUs
    bring all images together, and the more so, the more layers there are.

    :param layers: at least 1.
    """
    low, high = 0.0, 1.0  # the higher, the less
    while (slope := (low + high) / 2) not in (low, high):
        cosine = 0.0
        for _ in range(layers):
            cosine = _next_cosine(cosine, slope)
        low, high = (slope, high) if cosine > COSINE else (low, slope)
    return slope


def _next_cosine(cosine: float, slope: float) -> float:
    """Of two inputs of a leaky ReLU, jointly normal with this cosine, what their outputs have."""
    bend = (1 - slope) ** 2 / (math.pi * (1 + slope**2))
    return min(cosine + bend * (math.sqrt(1 - cosine**2) - cosine * math.acos(cosine)), 1.0)


class Activated(nn.Module):
    """A module with any activation after it. The method keeps the name ``relu``, by which blocks call it."""

    activation: nn.Module

    def relu(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        x = self(x)
        return self.activation(x if shortcut is None else x + shortcut)


class NormThen(Activated, BatchNorm):
    """Batch norm, and an activation after it."""

    def __init__(self, channels: int, activation: nn.Module) -> None:
        super().__init__(channels)
        self.activation = activation


class ShiftThen(Activated):
    """A bias for each channel where batch norm was, and an activation after it."""

    def __init__(self, channels: int, activation: nn.Module) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias[:, None, None]


class Undecayed(nn.Parameter):
    """A parameter without weight decay, and so are its copies."""

    def __init__(self, data: Tensor, requires_grad: bool = True) -> None:
        super().__init__()
        self.decays = False  # what the optimiser asks; of the instance, as a pickle keeps no class of a parameter


class DiracConv3x3(Conv3x3):
    """A 3x3 convolution by ``a I + b W/|W|``, with a and b for each output channel (Zagoruyko & Komodakis 2017, Eq. 3).

    a starts at 1 and b at 0.1, neither has weight decay, and |W| is the norm of an output channel's weights, as in the
    authors' code. Their nets have the ReLU before the convolution; ours have it where all plain nets have it. Where
    channels double, half of the outputs have no identity.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__(in_channels, out_channels, stride)
        self.identity: Tensor
        self.register_buffer("identity", nn.init.dirac_(torch.empty_like(self.weight)), persistent=False)
        self.identity_scale = Undecayed(torch.ones(out_channels))
        self.weight_scale = Undecayed(torch.full((out_channels,), 0.1))

    def folded(self) -> Tensor:
        """The weights of the plain convolution that does the same. (out, in, 3, 3)."""
        normalized = F.normalize(self.weight.flatten(1)).view_as(self.weight)
        return self.identity_scale.view(-1, 1, 1, 1) * self.identity + self.weight_scale.view(-1, 1, 1, 1) * normalized

    def beside(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return F.conv2d(x, self.folded(), stride=self.stride, padding=self.padding), x


def make_activation(name: str, channels: int, slope: float) -> nn.Module:
    """By its name. A parametric ReLU learns a slope for each channel, without weight decay (He et al. 2015b).

    :param slope: below zero, of those that have one.
    """
    match name:
        case "leaky-relu":
            return nn.LeakyReLU(slope)
        case "prelu":
            prelu = nn.PReLU(channels, init=slope)
            prelu.weight = Undecayed(prelu.weight.data)
            return prelu
        case "crelu":
            return CReLU()
        case "tailored-relu":
            return TailoredReLU(slope)
        case "tanh":
            return nn.Tanh()
        case "none":
            return nn.Identity()
    return nn.ReLU()


def apply_remedies(net: nn.Module, settings: Mapping[str, Any]) -> None:
    """Replace the modules of a net of one family by those that its settings name.

    With ``crelu`` every convolution makes half of its channels, so that the next one reads as many as before. With
    ``linear-ends`` a block has ReLUs between its convolutions alone, not at its end (Sandler et al. 2018, Sec. 3.2).
    """
    activation, norm = settings.get("activation", "relu"), settings.get("norm", "batch")
    slope = SLOPE
    if activation == "tailored-relu":
        slope = tailored_slope(sum(isinstance(module, BatchNorm) for module in net.modules()))
    if activation in WITHOUT_GAIN:
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.gain = 1  # type: ignore[assignment]
    if activation == "crelu":
        for name, module in net.named_modules():
            if isinstance(module, nn.Conv2d):
                _halve(module)
                module.reads_crelu = not name.startswith("stem")  # type: ignore[assignment]
            elif isinstance(module, BatchNorm):
                module.num_features //= 2
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, BatchNorm):
                here = _activation_here(activation, parent, name)
                if (here, norm) != ("relu", "batch"):
                    channels = child.num_features
                    kind = NormThen if norm == "batch" else ShiftThen
                    setattr(parent, name, kind(channels, make_activation(here, channels, slope)))
            elif isinstance(child, Conv3x3) and settings.get("convolution") == "dirac":
                setattr(parent, name, DiracConv3x3(child.in_channels, child.out_channels, child.stride[0]))


def _activation_here(activation: str, parent: nn.Module, name: str) -> str:
    """What follows a batch norm, by its place."""
    if activation != "linear-ends":
        return activation
    return "none" if isinstance(parent, Transform) and name == f"bn{parent.count}" else "relu"


def _halve(conv: nn.Conv2d) -> None:
    conv.out_channels //= 2
    conv.weight = nn.Parameter(conv.weight[: conv.out_channels].detach().clone())
