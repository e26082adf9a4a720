"""The variable under study: what carries a block's input to its output (He et al. 2015, Sec. 3.3 and Table 3).

================  ===================================  ==========================================
shortcut          where the shape stays                where the stage changes width and size
================  ===================================  ==========================================
A                 identity                             identity, subsampled and zero-padded
B                 identity                             1x1 convolution, batch norm
C                 1x1 convolution, batch norm          1x1 convolution, batch norm
================  ===================================  ==========================================
"""

import torch.nn.functional as F
from torch import Tensor, nn

from resexp.models.conv1x1 import Conv1x1
from resexp.models.norm_relu import BatchNorm


class ZeroPad(nn.Module):
    """Option A: every ``stride``-th pixel, and new channels of zeros. No parameters.

    :param padding: ``"end"``: the zeros follow the channels of x; ``"both"``: half of them come before. The
        two are equivalent up to a permutation of the channels.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, padding: str = "end") -> None:
        super().__init__()
        self.stride = stride
        extra = out_channels - in_channels
        self.before = extra // 2 if padding == "both" else 0
        self.after = extra - self.before

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]  # (N, C, H, W) -> (N, C, H/stride, W/stride)
        return F.pad(x, (0, 0, 0, 0, self.before, self.after))  # -> (N, out, H/stride, W/stride)


def projection(in_channels: int, out_channels: int, stride: int, norm: bool = True) -> nn.Module:
    """Options B and C: a 1x1 convolution and batch norm. (N, C, H, W) -> (N, out_channels, H/stride, W/stride).

    :param norm: False after a pre-activation, whose batch norm comes first (He et al. 2016, the authors' code).
    """
    conv = Conv1x1(in_channels, out_channels, stride)
    return nn.Sequential(conv, BatchNorm(out_channels)) if norm else conv


def make_shortcut(
    option: str, in_channels: int, out_channels: int, stride: int, norm: bool = True, padding: str = "end"
) -> nn.Module:
    """The shortcut of one block.

    :param option: ``"A"``, ``"B"`` or ``"C"``; raises ValueError for anything else.
    :param padding: where option A puts its zeros, see ``ZeroPad``.
    """
    same_shape = stride == 1 and in_channels == out_channels
    match option:
        case "A":
            return nn.Identity() if same_shape else ZeroPad(in_channels, out_channels, stride, padding)
        case "B":
            return nn.Identity() if same_shape else projection(in_channels, out_channels, stride, norm)
        case "C":
            return projection(in_channels, out_channels, stride, norm)
    raise ValueError(f"shortcut {option!r}: choose from 'A', 'B', 'C'")
