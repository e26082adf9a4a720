"""A residual net of single convolutions as a plain net that computes the same (as RepVGG folds its branches).

In evaluation mode ``relu(norm(W x) + shortcut(x))`` is one convolution with a bias and a ReLU: the scale of batch norm
goes into the weights, and the shortcut is what a kernel adds at its centre (Ding et al. 2021, Sec. 3.3). With two
convolutions in F there is a ReLU between them, which no kernel can pass by.
"""

from typing import Any

import torch
from torch import Tensor, nn

from resexp.models.blocks import Block
from resexp.models.connections import Add
from resexp.models.norm_relu import BatchNorm


@torch.no_grad()
def fold(net: nn.Module) -> dict[str, Tensor]:
    """The state of the plain net: that of ``model.transform=single model.norm=none`` with the same depth and width.

    :param net: a residual net with ``model.transform=single``, its order the original one.
    :raises ValueError: for a net of another form.
    """
    net = net.eval()
    parts: Any = net
    weight, bias = _with_norm(parts.stem.conv.weight, parts.stem.bn)
    state = {"stem.conv.weight": weight, "stem.bn.bias": bias}
    for name, block in net.named_modules():
        if not isinstance(block, Block):
            continue
        single = block.fuses and block.transform.count == 1 and isinstance(block.last_norm, BatchNorm)
        if not (single and isinstance(block.connection, Add)):
            raise ValueError(f"{name}: only blocks of one convolution, batch norm and an added shortcut are folded")
        conv: Any = block.transform.conv1
        weight, bias = _with_norm(conv.weight, block.last_norm)
        kernel, shift = _kernel_of(block.connection.shortcut, conv.in_channels, weight.dtype)
        weight[:, :, 1, 1] += kernel
        state |= {f"{name}.transform.conv1.weight": weight, f"{name}.transform.bn1.bias": bias + shift}
    return state | {"head.weight": parts.head.weight.clone(), "head.bias": parts.head.bias.clone()}


def _with_norm(weight: Tensor, norm: Any) -> tuple[Tensor, Tensor]:
    """A convolution without bias and the batch norm after it, as a convolution with a bias."""
    if not isinstance(norm, BatchNorm):
        raise ValueError("there is no batch norm to fold")
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale


def _kernel_of(shortcut: nn.Module, channels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """What a shortcut makes of a pixel: a matrix (out, in), and a bias (out,). Every option is linear in each pixel."""
    pixels = torch.cat((torch.eye(channels), torch.zeros(1, channels)))[:, :, None, None]
    made = shortcut(pixels.to(dtype))[:, :, 0, 0]  # (in + 1, out)
    return (made[:-1] - made[-1]).T, made[-1]
