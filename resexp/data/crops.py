"""Scale augmentation and the views of evaluation (He et al. 2015, Sec. 3.4): where a crop lies, and its pixels.

Sizes are given for a crop of 224 pixels, the paper's, and keep their proportion to any other crop. A crop is cut out of
the image resized to a shorter side; here both happen at once, as two matrix products with the weights of an
antialiased bilinear filter, Pillow's and torchvision's: a batch of images of any sizes is resized on its device.
"""

import torch
from torch import Tensor

from resexp.data.source import Augmentation

PAPER_CROP = 224
CENTRE_SCALE = 256  # shorter side of the image whose centre or ten crops are evaluated


def in_proportion(scale: float, crop: int) -> int:
    """``in_proportion(256, 64)`` -> 73: the shorter side that is to a crop of 64 what 256 is to 224."""
    return round(scale * crop / PAPER_CROP)


def draw_places(count: int, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Where the crops of N images lie: float64 (N, 4).

    A place is (scale, top, left, mirrored), each from 0 to 1: it fits any image, wherever the image is decoded.
    """
    places = torch.rand(count, 4, dtype=torch.float64, generator=generator, device=generator.device)
    places[:, 3] = places[:, 3].lt(0.5) if augmentation.flip else 0
    if augmentation.scales is None:
        places[:, 1:3] = 0.5  # the centre
    return places


def crop_scales(augmentation: Augmentation, crop: int) -> tuple[int, int]:
    """Shortest and longest shorter side of the image before a crop of ``crop`` pixels."""
    low, high = augmentation.scales or (CENTRE_SCALE, CENTRE_SCALE)
    return in_proportion(low, crop), in_proportion(high, crop)


def place_crops(sides: Tensor, places: Tensor, scales: tuple[int, int], crop: int) -> tuple[Tensor, Tensor]:
    """Sizes of the resized images and offsets of the crops in them, int64 (N, 2) each, height before width.

    :param sides: int64 (N, 2), of the images as they are.
    :param places: of ``draw_places``.
    :param scales: shortest and longest shorter side, both possible.
    """
    low, high = scales
    shorter = low + (places[:, 0] * (high - low + 1)).long()
    resized = resized_sides(sides, shorter)
    return resized, (places[:, 1:3] * (resized - crop + 1)).long()


def resized_sides(sides: Tensor, shorter: Tensor | int) -> Tensor:
    """int64 (N, 2): the sides when the shorter one becomes ``shorter``; the other is cut to a whole number."""
    wanted = torch.as_tensor(shorter, device=sides.device).expand(len(sides))
    least = sides.min(dim=1).values
    return wanted[:, None] * sides // least[:, None]


def view_offsets(resized: Tensor, crop: int, view: str) -> list[tuple[Tensor, bool]]:
    """(offsets int64 (N, 2), mirrored) of each crop of a view: ``centre``, or ``ten-crop`` (with the corners)."""
    most = resized - crop
    half = most // 2
    centre = (half + most % 2 * (half % 2), False)  # to the nearest even offset, as torchvision rounds
    if view == "centre":
        return [centre]
    zero = torch.zeros_like(most)
    corners = [torch.stack((high[:, 0], wide[:, 1]), dim=1) for high in (zero, most) for wide in (zero, most)]
    return [(offsets, mirrored) for mirrored in (False, True) for offsets in (*corners, centre[0])]


def filter_weights(side: Tensor, resized: Tensor, start: Tensor, count: int, first: Tensor, taps: int) -> Tensor:
    """Of each new pixel, its weights over ``taps`` old ones from ``first`` on: float32 (N, count, taps).

    :param side: int64 (N,), old length; ``resized`` the new one; ``start`` the first of the ``count`` new pixels.
    """
    scale = side.double() / resized
    positions = torch.arange(count, device=side.device)
    centre = (start[:, None] + positions + 0.5) * scale[:, None]  # (N, count), in old pixels
    support = scale.clamp(min=1)[:, None, None]
    old = first[:, None] + torch.arange(taps, device=side.device)  # (N, taps)
    distance = (old[:, None, :] + 0.5 - centre[:, :, None]).abs() / support
    weights = (1 - distance).clamp_(min=0) * ((old >= 0) & (old < side[:, None]))[:, None, :]
    return (weights / weights.sum(dim=2, keepdim=True)).float()


def first_tap(side: Tensor, resized: Tensor, start: Tensor) -> Tensor:
    """The first old pixel, int64 (N,), that the new pixel ``start`` reads."""
    scale = side.double() / resized
    return ((start + 0.5) * scale - scale.clamp(min=1)).floor().clamp(min=0).long()


def taps_needed(side: int, scale: float, crop: int) -> int:
    """How many old pixels, out of ``side``, ``crop`` new ones read at most; ``scale`` is old over new."""
    return min(side, int(crop * scale + 2 * max(scale, 1.0)) + 3)
