"""Augmentation of images in memory, a whole batch at a time on its device (He et al. 2015, Sec. 4.2)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def draw(count: int, *, pad: int, flip: bool, generator: torch.Generator) -> tuple[Tensor | None, Tensor | None]:
    """What is random for N images: crop offsets int64 (N, 2) and mirroring bool (N,); None for what is switched off."""
    device = generator.device
    offsets = torch.randint(0, 2 * pad + 1, (2, count), generator=generator, device=device).T if pad else None
    mirrored = torch.rand(count, generator=generator, device=device) < 0.5 if flip else None
    return offsets, mirrored


def augment(
    images: Tensor, offsets: Tensor | None, mirrored: Tensor | None, *, pad: int, pad_mode: str = "zeros"
) -> Tensor:
    """Pad by ``pad`` pixels, crop each image at its one of (2 pad + 1)^2 offsets, mirror it or not.

    :param images: uint8 (N, C, H, W).
    :return: uint8 (N, C, H, W).
    """
    count, _, height, width = images.shape
    if offsets is not None:
        windows = padded(images, pad, pad_mode).unfold(2, height, 1).unfold(3, width, 1)
        # (N, C, 2 pad + 1, 2 pad + 1, H, W): a view, of which one window per image is copied
        images = windows[torch.arange(count, device=images.device), :, offsets[:, 0], offsets[:, 1]]
    if mirrored is not None:
        images = torch.where(mirrored.view(count, 1, 1, 1), images.flip(3), images)
    return images


def padded(images: Tensor, pad: int, mode: str) -> Tensor:
    """Zeros around, or the image's own pixels, mirrored at its border. (N, C, H, W) -> (N, C, H + 2 pad, W + 2 pad)."""
    if mode == "zeros":
        return F.pad(images, (pad, pad, pad, pad))
    rows, columns = (_mirrored(side, pad, images.device) for side in images.shape[2:])
    return images[:, :, rows[:, None], columns]


def _mirrored(side: int, pad: int, device: torch.device) -> Tensor:
    """Which pixel of a line lies at each place from -pad on: 2 1 0 1 2 3 2 1. torch's own takes no bytes on a GPU."""
    last = side - 1
    return last - (last - torch.arange(-pad, side + pad, device=device).abs()).abs()
