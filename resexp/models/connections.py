"""How a block joins x and F(x): the one idea that tells the families apart.

======================  =======================================  =====================================================
connection              what the block passes on                 where it comes from
======================  =======================================  =====================================================
None                    F(x)                                     plain nets, VGG
Add                     shortcut(x) + F(x)                       He et al. 2015; with dropout He et al. 2016, Table 1
Scaled                  a shortcut(x) + b F(x)                   He et al. 2016, Table 1, constant scaling
SkipInit                shortcut(x) + b F(x), b learned          De & Smith 2020
Fading                  a shortcut(x) + F(x), a from 1 to 0      Monti et al. 2018: shortcuts for the training alone
Gated, exclusive        (1 - g) shortcut(x) + g F(x)             Srivastava et al. 2015; He et al. 2016, Table 1
Gated, shortcut only    (1 - g) shortcut(x) + F(x)               He et al. 2016, Table 1
Concatenate             [x, F(x)]                                Huang et al. 2017
Mix                     W [shortcut(x), F(x)]                    the sum with weights that are learned
======================  =======================================  =====================================================

Each is called with x and F(x), both (N, C, H, W), or (N, C) in a fully connected net.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resexp.models.norm_relu import BatchNorm


class Connection(nn.Module):
    """What all that have a shortcut share: it brings x to the shape of F(x)."""

    def __init__(self, shortcut: nn.Module) -> None:
        super().__init__()
        self.shortcut = shortcut


class Add(Connection):
    """``shortcut(x) + F(x)``; in training the shortcut is dropped out at the rate ``dropout``."""

    def __init__(self, shortcut: nn.Module, dropout: float = 0.0) -> None:
        super().__init__(shortcut)
        self.dropout = dropout

    def forward(self, x: Tensor, fx: Tensor) -> Tensor:
        return F.dropout(self.shortcut(x), self.dropout, self.training) + fx


class Scaled(Connection):
    """``skip_scale * shortcut(x) + transform_scale * F(x)``, both constant."""

    def __init__(self, shortcut: nn.Module, skip_scale: float, transform_scale: float) -> None:
        super().__init__(shortcut)
        self.skip_scale = skip_scale
        self.transform_scale = transform_scale

    def forward(self, x: Tensor, fx: Tensor) -> Tensor:
        return self.skip_scale * self.shortcut(x) + self.transform_scale * fx


class SkipInit(Connection):
    """``shortcut(x) + b F(x)`` with one learned number b, which starts at 0 (De & Smith 2020, Sec. 3)."""

    def __init__(self, shortcut: nn.Module) -> None:
        super().__init__(shortcut)
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, fx: Tensor) -> Tensor:
        return self.shortcut(x) + self.scale * fx


class Fading(Connection):
    """``strength * shortcut(x) + F(x)``; the training takes the strength from 1 to 0: the block ends as a plain one.

    Monti et al. 2018 phase shortcuts out by a constraint that tightens; here the strength falls with the step.
    """

    strength: Tensor

    def __init__(self, shortcut: nn.Module) -> None:
        super().__init__(shortcut)
        self.register_buffer("strength", torch.ones(()))

    def forward(self, x: Tensor, fx: Tensor) -> Tensor:
        return self.strength * self.shortcut(x) + fx


class Gated(Connection):
    """A learned gate ``g = sigmoid(gate(x))`` weighs the shortcut with 1 - g, and F(x) with g if it is exclusive.

    :param gate: a convolution or linear layer with a bias, from x to the shape of F(x).
    :param bias: the bias at the start; the more negative, the more of x passes.
    """

    def __init__(self, shortcut: nn.Module, gate: nn.Conv2d | nn.Linear, bias: float, exclusive: bool) -> None:
        super().__init__(shortcut)
        self.gate = gate
        self.bias = bias
        self.exclusive = exclusive

    def forward(self, x: Tensor, fx: Tensor) -> Tensor:
        gate = self.gate(x).sigmoid()
        if self.exclusive:
            return torch.lerp(self.shortcut(x), fx, gate)
        return (1 - gate) * self.shortcut(x) + fx

    def init(self) -> None:
        """The bias at its start."""
        assert self.gate.bias is not None
        nn.init.constant_(self.gate.bias, self.bias)


class Concatenate(nn.Module):
    """``[x, F(x)]``: (N, C, H, W) and (N, k, H, W) -> (N, C + k, H, W)."""

    def forward(self, x: Tensor, fx: Tensor) -> Tensor:
        return torch.cat((x, fx), dim=1)


class Mix(Connection):
    """Skips that are concatenated instead of added, and a 1x1 convolution that brings the channels back to those of F.

    The sum is the special case whose weights are two identities. Batch norm follows, as in the projections of options B
    and C: without it a net of 56 layers diverges at the papers' rate.
    """

    def __init__(self, shortcut: nn.Module, channels: int) -> None:
        super().__init__(shortcut)
        self.mix = nn.Sequential(nn.Conv2d(2 * channels, channels, kernel_size=1, bias=False), BatchNorm(channels))

    def forward(self, x: Tensor, fx: Tensor) -> Tensor:
        return self.mix(torch.cat((self.shortcut(x), fx), dim=1))  # (N, 2C, H, W) -> (N, C, H, W)
