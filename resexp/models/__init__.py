"""Build a net and count what it costs."""

import torch
from torch import Tensor, nn

from resexp import catalog
from resexp.models.conv3x3 import Conv3x3
from resexp.models.norm_relu import BatchNorm
from resexp.models.resnet import ResNet, he_init

__all__ = ["ResNet", "build_model", "count_macs", "count_parameters"]


def build_model(
    *,
    family: str,
    depth: int,
    width: int | None = None,
    layout: str = "auto",
    stem: str = "auto",
    shortcut: str | None = None,
    image_shape: tuple[int, int, int] = (3, 32, 32),
    classes: int = 10,
    seed: int = 0,
    activation_checkpointing: bool = False,
    fast: bool = False,
) -> ResNet:
    """A freshly initialised net on the CPU, the same for the same arguments.

    :param width: channels of the first stage; None takes the paper's (16 for CIFAR, 64 for ImageNet nets).
    :param stem: ``"auto"`` takes the 7x7 stem for ImageNet nets on images of more than 64 pixels, else the 3x3 one.
    :param shortcut: ``"A"``, ``"B"`` or ``"C"`` for a residual net, None for a plain one.
    :param image_shape: (channels, height, width) of the images.
    :param fast: take our kernels where they apply; the numbers stay the same up to rounding.
    :raises resexp.UserError: for a depth that is not legal.
    """
    if (family == "plain") != (shortcut is None):
        raise ValueError(f"family {family!r} with shortcut {shortcut!r}: a plain net has none, a residual net has one")
    blocks = catalog.stages(depth, layout)
    if layout == "auto":
        layout = catalog.layout_of(depth)
    channels, height, _ = image_shape
    if stem == "auto":
        stem = "7x7" if layout == "imagenet" and height > 64 else "3x3"
    net = ResNet(
        blocks=blocks,
        width=width or catalog.BASE_WIDTH[layout],
        shortcut=shortcut,
        stem=stem,
        in_channels=channels,
        classes=classes,
        activation_checkpointing=activation_checkpointing,
    )
    for module in net.modules():
        if isinstance(module, BatchNorm | Conv3x3):
            module.fast = fast
    if not next(net.parameters()).is_meta:
        he_init(net, torch.Generator().manual_seed(seed))
    return net


def count_parameters(net: nn.Module) -> int:
    """Trainable numbers: convolutions, batch norm's scale and shift, the classifier. Running statistics not counted."""
    return sum(parameter.numel() for parameter in net.parameters())


def count_macs(net: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Multiply-adds of convolutions and linear layers for one image, counted as the net runs (Table 1's FLOPs)."""
    total = 0

    def count(module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        weight = module.weight
        assert isinstance(weight, Tensor)
        positions = output[0].numel() // weight.shape[0]
        total += positions * weight.numel()

    hooks = [m.register_forward_hook(count) for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    parameter = next(net.parameters())
    training = net.training
    net.eval()
    with torch.no_grad():
        net(torch.empty(1, *image_shape, device=parameter.device, dtype=parameter.dtype))
    net.train(training)
    for hook in hooks:
        hook.remove()
    return total
