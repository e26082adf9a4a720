"""GoogLeNet (Szegedy et al. 2015) as torchvision has it, with batch norm, and with a gate on every Inception module."""

from typing import Any

from torch import nn

from resexp import UserError
from resexp.models.blocks import SqueezeExcite
from resexp.models.norm_relu import BatchNorm
from resexp.models.resnet import Stem
from resexp.models.stages import SMALL_SIDE

LEAST_SIDE = 4  # two poolings of 3x3 with stride 2


def build_googlenet(
    knobs: dict[str, Any], *, image_shape: tuple[int, int, int], classes: int, activation_checkpointing: bool
) -> nn.Module:
    """torchvision's net without its auxiliary classifiers; small images get a 3x3 stem.

    :raises UserError: for activation checkpointing, which it does not have.
    """
    if activation_checkpointing:
        raise UserError("activation_checkpointing=true: googlenet has none; drop it, or take another net")
    from torchvision.models import googlenet
    from torchvision.models.googlenet import Inception

    net = googlenet(weights=None, num_classes=classes, aux_logits=False, init_weights=False)
    for layer in [m for m in net.modules() if isinstance(getattr(m, "bn", None), nn.BatchNorm2d)]:
        layer.bn = BatchNorm(layer.bn.num_features, eps=layer.bn.eps)  # ours knows groups of images
    channels, side = image_shape[0], min(image_shape[1:])
    if side < LEAST_SIDE:
        where = "in the pooling after the third stage of googlenet"
        raise UserError(f"images of {side} pixels vanish {where}; take at least {LEAST_SIDE}")
    width = net.conv1.conv.out_channels
    if side <= SMALL_SIDE:
        net.conv1, net.maxpool1 = Stem(channels, width, "3x3"), nn.Identity()
    elif channels != net.conv1.conv.in_channels:
        net.conv1.conv = nn.Conv2d(channels, width, kernel_size=7, stride=2, padding=3, bias=False)
    if knobs["reduction"]:
        for name, module in list(net.named_children()):
            if isinstance(module, Inception):
                gate = SqueezeExcite(out_channels(module), knobs["reduction"])
                setattr(net, name, nn.Sequential(module, gate))
    return net


def out_channels(inception: Any) -> int:
    """Of the four branches together."""
    ends = (inception.branch1, inception.branch2[-1], inception.branch3[-1], inception.branch4[-1])
    return sum(end.conv.out_channels for end in ends)
