"""What every kind of training and test images offers: one protocol, so that nobody asks which kind it is."""

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor

Drawn = tuple[Tensor | None, ...]  # what is random for a batch, image by image, and None for what is not used


@dataclass(frozen=True)
class Augmentation:
    """How training images are varied.

    :param pad: pixels around an image in memory before its random crop; 0: no crop.
    :param pad_mode: what they are: ``"zeros"``, or ``"reflect"``: the image's own, mirrored at its border.
    :param flip: mirror half of the images.
    :param scales: shortest and longest shorter side of a photograph before its random crop, for a crop of 224 pixels
        and in proportion for others; None: the centre crop.
    :param colour: standard deviation of the shift along the principal components of the colours; 0: no shift.
    """

    pad: int = 0
    pad_mode: str = "zeros"
    flip: bool = False
    scales: tuple[int, int] | None = None
    colour: float = 0.0


class Source(Protocol):
    """The images of one split and their labels: ``Images``, ``Pack`` or ``Stream``.

    A training batch is made in three moves. ``draw`` says what is random. ``prepare`` does what can be done ahead of
    the step, by other processes. ``batch`` does the rest on the device, within the step.
    """

    def __len__(self) -> int: ...

    @property
    def labels(self) -> Tensor:
        """int64 (N,)."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of what the net sees."""

    @property
    def device(self) -> torch.device:
        """Where batches come out."""

    @property
    def draws_on(self) -> torch.device:
        """Where random numbers are drawn: where the images are cropped."""

    @property
    def views_differ(self) -> bool:
        """Whether images are larger than their crop, so that several views of one exist."""

    def to(self, device: torch.device) -> Self: ...

    def take(self, part: slice) -> Self:
        """Some of the images, in their order."""

    def draw(self, count: int, augmentation: Augmentation, generator: torch.Generator) -> Drawn:
        """Random crops for ``count`` images: tensors whose first dimension is the image."""

    def prepare(self, drawn: Iterable[Drawn], augmentation: Augmentation) -> Generator[Drawn, None, None]:
        """What ``batch`` takes of each batch, from its indices (N,) and crops; may read ahead."""

    def batch(self, augmentation: Augmentation, *prepared: Tensor | None) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) of values 0 to 255, and labels (N,)."""

    def views(self, view: str, batch: int) -> Iterator[tuple[list[Tensor], Tensor]]:
        """All images in order, in batches: the crops of a view, (N, C, H, W) each, and labels. Raises UserError."""

    def wholes(self, indices: Iterable[int]) -> Iterator[Tensor]:
        """Whole images, uint8 (C, h, w) each. Raises UserError if there is no more to them than their one view."""

    def sample(self) -> Tensor:
        """uint8 (n, C, H, W): the images that the mean is taken over; all of them, or a random sample."""
