"""A transformer encoder on image patches (Vaswani et al. 2017; Dosovitskiy et al. 2021), each part switchable."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resexp import UserError
from resexp.models.resnet import Stage
from resexp.models.stages import patch_side


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, Sec. 3.2.2). (N, T, width) -> (N, T, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        for linear in (self.qkv, self.out):
            linear.gain = 1  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        count, tokens, width = x.shape
        # (N, T, 3 width) -> three times (N, heads, T, width / heads)
        q, k, v = self.qkv(x).view(count, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(count, tokens, width))


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between (Vaswani et al. 2017, Sec. 3.3). (N, T, width) -> (N, T, width)."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, ratio * width)
        self.linear2 = nn.Linear(ratio * width, width)
        self.linear2.gain = 1  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(F.relu(self.linear1(x)))


class SubLayer(nn.Module):
    """F, with a residual connection and layer norm, each of them or not.

    Post: ``norm(x + F(x))``, as in the paper; pre: ``x + F(norm(x))``.
    """

    def __init__(
        self, transform: nn.Module, width: int, *, residual: bool, norm: bool, position: str, dropout: float
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.transform = transform
        self.residual = residual
        self.norm_position = position
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        fx = self.transform(self.norm(x) if self.norm_position == "pre" else x)
        fx = F.dropout(fx, self.dropout, self.training)
        y = x + fx if self.residual else fx
        return y if self.norm_position == "pre" else self.norm(y)


class Transformer(nn.Module):
    """Patches, learned positions, layers of attention and feed-forward, the mean over patches, a linear classifier."""

    def __init__(
        self,
        knobs: dict[str, Any],
        in_channels: int,
        tokens: int,
        patch: int,
        classes: int,
        activation_checkpointing: bool,
    ) -> None:
        super().__init__()
        width = knobs["width"]
        self.patches = nn.Conv2d(in_channels, width, patch, stride=patch)
        self.position = nn.Parameter(torch.zeros(1, tokens, width))

        def sub_layer(name: str, transform: nn.Module) -> SubLayer:
            residual, norm = (knobs[key] in ("both", name) for key in ("residual", "layer_norm"))
            return SubLayer(
                transform,
                width,
                residual=residual,
                norm=norm,
                position=knobs["norm_position"],
                dropout=knobs["dropout"],
            )

        layers: list[nn.Module] = []
        for _ in range(knobs["depth"]):
            attention = sub_layer("attention", Attention(width, knobs["heads"]))
            layers.append(nn.Sequential(attention, sub_layer("mlp", FeedForward(width, knobs["mlp_ratio"]))))
        self.layers = Stage(*layers, activation_checkpointing=activation_checkpointing)
        pre = knobs["norm_position"] == "pre" and knobs["layer_norm"] != "none"
        self.last = nn.LayerNorm(width) if pre else nn.Identity()
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)  # (N, C, H, W) -> (N, T, width)
        x = self.last(self.layers(x + self.position))
        return self.head(x.mean(dim=1))  # -> (N, width) -> (N, classes)


def build_transformer(
    knobs: dict[str, Any], *, image_shape: tuple[int, int, int], classes: int, activation_checkpointing: bool
) -> Transformer:
    """A net of ``catalog.resolve``'s settings. Raises UserError for patches that do not tile the image."""
    channels, height, side = image_shape
    patch = patch_side(knobs, side)
    if height % patch or side % patch:
        raise UserError(f"model.patch={patch}: does not divide images of {height}x{side} pixels; set one that does")
    tokens = (height // patch) * (side // patch)
    return Transformer(knobs, channels, tokens, patch, classes, activation_checkpointing)
