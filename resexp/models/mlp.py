"""Fully connected nets of equal layers: plain and highway (Srivastava et al. 2015, Sec. 3.1)."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from resexp.models.connections import Gated
from resexp.models.resnet import Stage


class Layer(nn.Module):
    """``connection(x, relu(W x))``. (N, width) -> (N, width)."""

    def __init__(self, width: int, connection: nn.Module | None) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.connection = connection

    def forward(self, x: Tensor) -> Tensor:
        fx = F.relu(self.linear(x))
        return fx if self.connection is None else self.connection(x, fx)


class FullyConnected(nn.Module):
    """A plain first layer, equal layers, and a linear classifier. (N, C, H, W) -> (N, classes)."""

    def __init__(self, inputs: int, width: int, layers: Stage, classes: int) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, width)
        self.layers = layers
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(F.relu(self.first(x.flatten(1)))))


def build_mlp(
    knobs: dict[str, Any], *, image_shape: tuple[int, int, int], classes: int, activation_checkpointing: bool
) -> FullyConnected:
    """``depth`` counts all layers with weights, of which the first and the last change the width."""
    width = knobs["width"]

    def connection() -> nn.Module | None:
        if knobs["family"] == "mlp":
            return None
        return Gated(nn.Identity(), nn.Linear(width, width), knobs["gate_bias"], exclusive=True)

    channels, height, side = image_shape
    layers = [Layer(width, connection()) for _ in range(knobs["depth"] - 2)]
    stage = Stage(*layers, activation_checkpointing=activation_checkpointing)
    return FullyConnected(channels * height * side, width, stage, classes)
