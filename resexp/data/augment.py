"""Augmentation of a whole batch on its device, drawn from an explicit generator (He et al. 2015, Sec. 4.2)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def augment(images: Tensor, *, pad: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Pad with ``pad`` zeros, crop each image at one of (2 pad + 1)^2 offsets, mirror half of them.

    :param images: uint8 (N, C, H, W).
    :return: uint8 (N, C, H, W).
    """
    count, _, height, width = images.shape
    device = images.device
    if pad:
        windows = F.pad(images, (pad, pad, pad, pad)).unfold(2, height, 1).unfold(3, width, 1)
        # (N, C, 2 pad + 1, 2 pad + 1, H, W): a view, of which one window an image is copied
        offsets = torch.randint(0, 2 * pad + 1, (2, count), generator=generator, device=device)
        images = windows[torch.arange(count, device=device), :, offsets[0], offsets[1]]
    if flip:
        mirrored = torch.rand(count, 1, 1, 1, generator=generator, device=device) < 0.5
        images = torch.where(mirrored, images.flip(3), images)
    return images


def pixel_mean(images: Tensor) -> Tensor:
    """The mean image, of values 0 to 1. uint8 (N, C, H, W) -> float32 (C, H, W)."""
    # In parts: torch turns all it sums into the sum's type first, eight times the data set.
    total = torch.stack([part.sum(dim=0, dtype=torch.int64) for part in images.split(1000)]).sum(dim=0)
    return (total.double() / (255 * len(images))).float()


def normalize(images: Tensor, mean: Tensor | None) -> Tensor:
    """uint8 (N, C, H, W) -> float32 of values 0 to 1, less the mean image (C, H, W), channels last in memory.

    Batch norm behind the first convolution undoes any further scaling, so there is none.
    """
    x = images.to(torch.float32, memory_format=torch.channels_last) / 255
    return x if mean is None else x - mean
