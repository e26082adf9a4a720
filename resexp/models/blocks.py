"""A block is a transform F and a connection that joins x and F(x) (He et al. 2015, Eq. 1 and 2, Fig. 2 and 5)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resexp.models.connections import Add, Concatenate, Connection
from resexp.models.conv1x1 import Conv1x1
from resexp.models.conv3x3 import Conv3x3
from resexp.models.norm_relu import BatchNorm


class Order(NamedTuple):
    """Where batch norm and ReLU stand; between two convolutions of F there are always both."""

    before: str  # F
    after: str  # F, before the join
    joined: str  # after the join


ORDERS = {  # He et al. 2016, Table 2 and Fig. 4, (a) to (e)
    "original": Order("", "norm", "relu"),
    "bn-after-addition": Order("", "", "norm relu"),
    "relu-before-addition": Order("", "norm relu", ""),
    "relu-only": Order("relu", "norm", ""),
    "full": Order("norm relu", "", ""),
}


class NormReLU(nn.Module):
    """``"norm relu"``, ``"relu"`` or nothing, as the words say. (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int, words: str) -> None:
        super().__init__()
        self.words = words
        if "norm" in words:
            self.bn = BatchNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        match self.words:
            case "":
                return x
            case "relu":
                return F.relu(x)
        return self.bn.relu(x)


def conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    """A convolution of odd kernel that keeps the size but for its stride, without bias: batch norm has one."""
    if (kernel, groups) == (3, 1):
        return Conv3x3(in_channels, out_channels, stride)
    if (kernel, groups) == (1, 1):
        return Conv1x1(in_channels, out_channels, stride)
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False)


class Paths(nn.Module):
    """One of the convolutions of a ResNeXt block as separate paths (Xie et al. 2017, Fig. 3 a and b).

    :param joins: ``"concat"`` the paths' outputs, or ``"sum"`` them.
    :param splits: each path reads its own part of the channels, not all of them.
    """

    def __init__(self, paths: Sequence[nn.Module], *, splits: bool, joins: str) -> None:
        super().__init__()
        self.paths = nn.ModuleList(paths)
        self.splits = splits
        self.joins = joins

    def forward(self, x: Tensor) -> Tensor:
        parts = x.chunk(len(self.paths), dim=1) if self.splits else [x] * len(self.paths)
        outputs = [path(part) for path, part in zip(self.paths, parts, strict=True)]
        return torch.cat(outputs, dim=1) if self.joins == "concat" else torch.stack(outputs).sum(dim=0)


class SqueezeExcite(nn.Module):
    """One gate per channel, from the means of all channels (Hu et al. 2018, Eq. 2 to 4, without biases as in Eq. 5)."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(channels, max(1, channels // reduction), bias=False)
        self.excite = nn.Linear(max(1, channels // reduction), channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.excite(F.relu(self.squeeze(x.mean(dim=(2, 3))))).sigmoid()  # (N, C, H, W) -> (N, C)
        return x * gate[:, :, None, None]


class Transform(nn.Module):
    """F: convolutions, with batch norm and ReLU between them, and before or after them as the order says.

    (N, C, H, W) -> (N, out, H/stride, W/stride).

    :param convs: the convolutions, and
    :param widths: the channels before the first and after each of them.
    :param activates: False where x comes activated already.
    :param dropout: rate, in training, before the last convolution.
    :param reduction: of a squeeze-and-excitation gate at the end of F; None: without one.
    """

    def __init__(
        self,
        convs: Sequence[nn.Module],
        widths: Sequence[int],
        order: str,
        *,
        activates: bool = True,
        dropout: float = 0.0,
        reduction: int | None = None,
    ) -> None:
        super().__init__()
        before, after, _ = ORDERS[order]
        self.dropout = dropout
        if before and activates:
            self.before = NormReLU(widths[0], before)
        for index, module in enumerate(convs, start=1):
            self.add_module(f"conv{index}", module)
            if index < len(convs):
                self.add_module(f"bn{index}", BatchNorm(widths[index]))
        self.count = len(convs)
        if "norm" in after:
            self.add_module(f"bn{self.count}", BatchNorm(widths[-1]))
        self.after = after
        self.gate = SqueezeExcite(widths[-1], reduction) if reduction else None

    def convolve(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """All of F up to its last convolution, and x for the shortcut."""
        skip = x
        if hasattr(self, "before"):
            x = self.before(x)
        for index in range(1, self.count + 1):
            conv = getattr(self, f"conv{index}")
            if index == self.count:
                x = F.dropout(x, self.dropout, self.training)
            if index == 1 and x is skip and self.training and isinstance(conv, Conv3x3) and conv.shares_input:
                x, skip = conv.beside(x)  # nothing came between: both read the same x
            else:
                x = conv(x)
            if index < self.count:
                x = getattr(self, f"bn{index}").relu(x)
        return x, skip

    @property
    def last_norm(self) -> BatchNorm:
        return getattr(self, f"bn{self.count}")

    def forward(self, x: Tensor) -> Tensor:
        x, _ = self.convolve(x)
        if self.after:
            x = self.last_norm.relu(x) if "relu" in self.after else self.last_norm(x)
        return x if self.gate is None else self.gate(x)


class ScaledGradient(torch.autograd.Function):
    """x as it is, and on the way back its gradient times a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.factor * gradients[0], None


class Block(nn.Module):
    """``connection(x, F(x))``, or ``F(x)`` without a connection, and what the order puts after the join.

    :param before: acts on x before the two paths part; None: nothing does.
    :param gradient_scale: what the block multiplies the gradient by on its way back. What the net computes stays.
    :param gradient_paths: ``"all"``; ``"long"``: none passes back through a shortcut, so that it takes the one path
        through every F; ``"short"``: none passes back through F, so that each F learns by the path through it alone.
    :param survival: the probability that F takes part in a training step (Huang et al. 2016, Eq. 2); evaluation scales
        F by it.
    """

    def __init__(
        self,
        transform: Transform,
        connection: Connection | Concatenate | None,
        order: str,
        *,
        channels: int,
        before: NormReLU | None = None,
        survival: float = 1.0,
        gradient_scale: float = 1.0,
        gradient_paths: str = "all",
    ) -> None:
        super().__init__()
        self.before = before
        self.gradient_scale = gradient_scale
        self.gradient_paths = gradient_paths
        self.transform = transform
        self.connection = connection
        self.survival = survival
        self.joined = NormReLU(channels, ORDERS[order].joined)
        sums = connection is None or (isinstance(connection, Add) and connection.dropout == 0)
        if survival < 1 and not isinstance(connection, Connection):
            raise ValueError("stochastic depth needs a shortcut to take the place of the block")
        self._is_original = order == "original" and sums and transform.gate is None

    @property
    def last_norm(self) -> nn.Module | None:
        """Batch norm at the end of F, where the order has one."""
        return self.transform.last_norm if self.transform.after else None

    @property
    def fuses(self) -> bool:
        """Whether the last batch norm, the sum and the ReLU are one operation."""
        return self._is_original and self.survival == 1 and self.gradient_paths == "all"

    def forward(self, x: Tensor) -> Tensor:
        if self.before is not None:
            x = self.before(x)
        if self.gradient_scale != 1:
            x = ScaledGradient.apply(x, self.gradient_scale)
        if self.fuses:
            fx, x = self.transform.convolve(x)
            skip = self.connection.shortcut(x) if isinstance(self.connection, Connection) else None
            return self.transform.last_norm.relu(fx, skip)
        if self.connection is None:
            return self.joined(self.transform(x))
        if self._is_dropped():
            assert isinstance(self.connection, Connection)
            return self.joined(self.connection.shortcut(x))
        fx = self.transform(x.detach() if self.gradient_paths == "short" else x)
        if self.survival < 1 and not self.training:
            fx = self.survival * fx
        return self.joined(self.connection(x.detach() if self.gradient_paths == "long" else x, fx))

    def _is_dropped(self) -> bool:
        return self.training and self.survival < 1 and float(torch.rand(())) >= self.survival
