"""Images of one size, decoded and held in memory: the CIFARs, the digits, small image folders."""

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from resexp import UserError
from resexp.data.augment import augment, draw
from resexp.data.source import Augmentation, Drawn


@dataclass(frozen=True)
class Images:
    """Images and labels of one split.

    :param images: uint8 (N, C, H, W).
    :param labels: int64 (N,).
    """

    images: Tensor
    labels: Tensor
    views_differ = False

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def device(self) -> torch.device:
        return self.images.device

    @property
    def draws_on(self) -> torch.device:
        return self.images.device

    def to(self, device: torch.device) -> "Images":
        return Images(self.images.to(device), self.labels.to(device))

    def take(self, part: slice) -> "Images":
        return Images(self.images[part], self.labels[part])

    def draw(self, count: int, augmentation: Augmentation, generator: torch.Generator) -> Drawn:
        """Crop offsets int64 (N, 2) and mirroring bool (N,)."""
        return draw(count, pad=augmentation.pad, flip=augmentation.flip, generator=generator)

    def prepare(self, drawn: Iterable[Drawn], augmentation: Augmentation) -> Generator[Drawn, None, None]:
        yield from drawn

    def batch(self, augmentation: Augmentation, *prepared: Tensor | None) -> tuple[Tensor, Tensor]:
        indices, offsets, mirrored = prepared
        assert indices is not None
        images = self.images[indices]
        pad, mode = augmentation.pad, augmentation.pad_mode
        return augment(images, offsets, mirrored, pad=pad, pad_mode=mode), self.labels[indices]

    def views(self, view: str, batch: int) -> Iterator[tuple[list[Tensor], Tensor]]:
        """There is no view but the image as it is."""
        if view != "centre":
            raise UserError(f"{view}: only images larger than their crop have more than one view (dataset=imagenet)")
        for images, labels in zip(self.images.split(batch), self.labels.split(batch), strict=True):
            yield [images], labels

    def wholes(self, indices: Iterable[int]) -> Iterator[Tensor]:
        raise UserError("multi-scale: only images larger than their crop have more than one scale (dataset=imagenet)")

    def sample(self) -> Tensor:
        return self.images
