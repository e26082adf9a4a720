"""Build a net and count what it costs."""

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from resexp import catalog
from resexp.models.conv3x3 import Conv3x3
from resexp.models.families import FAMILIES
from resexp.models.initialise import initialise
from resexp.models.norm_relu import BatchNorm
from resexp.models.remedies import apply_remedies


def build_model(
    *,
    family: str,
    depth: int,
    image_shape: tuple[int, int, int] = (3, 32, 32),
    classes: int = 10,
    seed: int = 0,
    activation_checkpointing: bool = False,
    fast: bool = False,
    **knobs: Any,
) -> nn.Module:
    """A freshly initialised net on the CPU, the same for the same arguments.

    :param knobs: of ``catalog.KNOBS``; what is missing or None has the value of the family's paper.
    :param image_shape: (channels, height, width) of the images.
    :param fast: take our kernels where they apply; the numbers stay the same up to rounding.
    :raises resexp.UserError: for a depth or a knob that the family does not have, or images that are too small.
    """
    settings = catalog.resolve({"family": family, "depth": depth, **knobs})
    with torch.random.fork_rng(devices=[]):  # torch's own initial weights, drawn here, are overwritten below
        net = builder_of(family)(
            settings, image_shape=image_shape, classes=classes, activation_checkpointing=activation_checkpointing
        )
        apply_remedies(net, settings)
    use_kernels(net, fast)
    if not next(net.parameters()).is_meta:
        initialise(net, torch.Generator().manual_seed(seed), settings)
    return net


def use_kernels(net: nn.Module, fast: bool) -> None:
    """Take our kernels where they apply, or torch's own operations, which can be differentiated twice."""
    for module in net.modules():
        if isinstance(module, BatchNorm | Conv3x3):
            module.fast = fast


def builder_of(family: str) -> Callable[..., nn.Module]:
    """The function that builds a family's nets from their settings."""
    module, _, name = FAMILIES[family].builder.partition(":")
    return getattr(importlib.import_module(f"resexp.models.{module}"), name)


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
