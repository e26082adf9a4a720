"""The weights at the start: one rule for all nets."""

import torch
from torch import nn

from resexp.models.connections import Gated


@torch.no_grad()
def he_init(net: nn.Module, generator: torch.Generator) -> None:
    """He et al. 2015, arXiv 1502.01852, Eq. 10: weights of variance 2 / fan-in, biases zero, norms at identity.

    Gates have the bias that their net names. Linear layers that no ReLU follows, those of attention, have ``gain`` 1:
    variance 1 / fan-in. Positions start as the sinusoids of Vaswani et al. 2017, Sec. 3.5, of the size of what they are
    added to: from small random ones a short training does not learn where a patch is.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            if getattr(module, "gain", None) == 1:
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear", generator=generator)
            else:
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            module.weight.fill_(1)
            module.bias.zero_()
        position = getattr(module, "position", None)
        if isinstance(position, nn.Parameter):
            position.copy_(sinusoids(*position.shape[1:]))
    for module in net.modules():
        if isinstance(module, Gated):
            module.init()


def sinusoids(tokens: int, width: int) -> torch.Tensor:
    """Vaswani et al. 2017, Sec. 3.5: sines and cosines of wavelengths from 2 pi to 20,000 pi. -> (tokens, width)."""
    place = torch.arange(tokens)[:, None]
    channel = torch.arange(width)[None]
    angle = place / 10_000 ** (2 * (channel // 2) / width)
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos())
