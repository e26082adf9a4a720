"""VGG (Simonyan & Zisserman 2015, Table 1): stacks of 3x3 convolutions with max pooling between, and no connections."""

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from resexp import UserError, catalog
from resexp.models.blocks import SqueezeExcite
from resexp.models.norm_relu import BatchNorm
from resexp.models.resnet import Stage
from resexp.models.stages import SMALL_SIDE, VGG_CONVOLUTIONS

HIDDEN = 4096  # units of each of the two hidden linear layers
GRID = 7  # the side of the maps that they read


class Layer(nn.Module):
    """Convolution, batch norm if asked, ReLU, and the gate after the ReLU (Hu et al. 2018, Sec. 3.3).

    (N, C, H, W) -> (N, out, H, W).
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, *, batch_norm: bool, reduction: int | None
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
        self.bn = BatchNorm(out_channels) if batch_norm else None
        self.gate = SqueezeExcite(out_channels, reduction) if reduction else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = F.relu(x) if self.bn is None else self.bn.relu(x)
        return x if self.gate is None else self.gate(x)


class VGG(nn.Module):
    """Five stages of layers, pooling after each, and a classifier.

    :param stages: the layers.
    :param classifier: from (N, C, h, w) to (N, classes).
    """

    def __init__(self, stages: list[nn.Module], classifier: nn.Module) -> None:
        super().__init__()
        self.stages = nn.Sequential(*stages)
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.stages(x))


def lrn_alpha(in_channels: int) -> float:
    """The alpha at which local response normalisation acts on our first layer as 1e-4 does on the papers'.

    It acts on squared activations (Krizhevsky et al. 2012, Sec. 3.3). The papers' pixels go to 255 and their weights
    start with the deviation 0.01; ours go to 1 and start as He et al. have it. torch divides alpha by the five
    channels.
    """
    he = math.sqrt(2 / (9 * in_channels))
    return 5 * 1e-4 * (255 * 0.01 / he) ** 2


def build_vgg(
    knobs: dict[str, Any], *, image_shape: tuple[int, int, int], classes: int, activation_checkpointing: bool
) -> VGG:
    """Large images get the paper's three linear layers, small ones global average pooling and a single one.

    :raises UserError: for an image that the pooling layers make vanish.
    """
    channels, side = image_shape[0], min(image_shape[1:])
    small = side <= SMALL_SIDE
    variant, pools = knobs["variant"], knobs["pools"]
    stages: list[nn.Module] = []
    for index, count in enumerate(VGG_CONVOLUTIONS[variant]):
        out = knobs["width"] * min(2**index, 8)
        layers: list[nn.Module] = []
        for position in range(count):
            kernel = 5 if variant == "b_5x5" else 1 if variant == "c" and index >= 2 and position == 2 else 3
            layers.append(Layer(channels, out, kernel, batch_norm=knobs["batch_norm"], reduction=knobs["reduction"]))
            channels = out
            if variant == "a_lrn" and index == 0:
                layers.append(nn.LocalResponseNorm(5, alpha=lrn_alpha(image_shape[0]), k=2))
        stages.append(Stage(*layers, activation_checkpointing=activation_checkpointing))
        if index < pools:
            if side < 2:
                where = f"in the pooling after stage {index + 1} of {catalog.net_name(knobs)}"
                remedy = f"set model.pools={index}, or take larger images"
                raise UserError(f"images of {image_shape[1]} pixels vanish {where}; {remedy}")
            stages.append(nn.MaxPool2d(2))
            side //= 2
    if small:
        classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
    else:
        rate = knobs["dropout"]
        classifier = nn.Sequential(
            nn.AdaptiveAvgPool2d(GRID),
            nn.Flatten(),
            nn.Linear(channels * GRID**2, HIDDEN),
            nn.ReLU(),
            nn.Dropout(rate),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(),
            nn.Dropout(rate),
            nn.Linear(HIDDEN, classes),
        )
    return VGG(stages, classifier)
