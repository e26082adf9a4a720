"""Augmentation of a whole batch on its device (He et al. 2015, Sec. 4.2): first the draws, then a function of them."""

import torch
import torch.nn.functional as F
from torch import Tensor


def draw(count: int, *, pad: int, flip: bool, generator: torch.Generator) -> tuple[Tensor | None, Tensor | None]:
    """What is random for N images: crop offsets int64 (2, N) and mirroring bool (N,), None where there is none."""
    device = generator.device
    offsets = torch.randint(0, 2 * pad + 1, (2, count), generator=generator, device=device) if pad else None
    mirrored = torch.rand(count, generator=generator, device=device) < 0.5 if flip else None
    return offsets, mirrored


def augment(images: Tensor, offsets: Tensor | None, mirrored: Tensor | None, *, pad: int) -> Tensor:
    """Pad with ``pad`` zeros, crop each image at its one of (2 pad + 1)^2 offsets, mirror it or not.

    :param images: uint8 (N, C, H, W).
    :return: uint8 (N, C, H, W).
    """
    count, _, height, width = images.shape
    if offsets is not None:
        windows = F.pad(images, (pad, pad, pad, pad)).unfold(2, height, 1).unfold(3, width, 1)
        # (N, C, 2 pad + 1, 2 pad + 1, H, W): a view, of which one window an image is copied
        images = windows[torch.arange(count, device=images.device), :, offsets[0], offsets[1]]
    if mirrored is not None:
        images = torch.where(mirrored.view(count, 1, 1, 1), images.flip(3), images)
    return images


def pixel_mean(images: Tensor) -> Tensor:
    """The mean image, of values 0 to 1. uint8 (N, C, H, W) -> float32 (C, H, W)."""
    # In parts: torch turns all it sums into the sum's type first, eight times the data set.
    total = torch.stack([part.sum(dim=0, dtype=torch.int64) for part in images.split(1000)]).sum(dim=0)
    return (total.double() / (255 * len(images))).float()


def channel_statistics(images: Tensor) -> Tensor:
    """Mean and standard deviation of each channel, of values 0 to 1. uint8 (N, C, H, W) -> float32 (2, C, H, W)."""
    values = images.transpose(0, 1).flatten(1)  # (C, N H W)
    count = values.shape[1]
    total = torch.stack([part.double().sum(dim=1) for part in values.split(1_000_000, dim=1)]).sum(dim=0)
    squares = torch.stack([part.double().square().sum(dim=1) for part in values.split(1_000_000, dim=1)]).sum(dim=0)
    mean = total / count
    statistics = torch.stack((mean, (squares / count - mean**2).sqrt().clamp_(min=1))) / 255
    return statistics.float()[..., None, None].expand(2, *images.shape[1:]).contiguous()


def normalize(images: Tensor, mean: Tensor | None) -> Tensor:
    """uint8 (N, C, H, W) -> values 0 to 1, less the mean image (C, H, W), of its precision, channels last in memory.

    The papers' protocols scale no further, which batch norm behind the first convolution would undo; others divide by
    a standard deviation, the second of a ``mean`` (2, C, H, W).
    """
    dtype = torch.float32 if mean is None else mean.dtype
    x = images.to(dtype, memory_format=torch.channels_last).div_(255)
    if mean is None:
        return x
    return x.sub_(mean) if mean.dim() == 3 else x.sub_(mean[0]).div_(mean[1])
