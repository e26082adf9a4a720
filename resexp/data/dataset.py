"""What every source becomes: uint8 images and labels in an order that depends on nothing but the pixels."""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from resexp import UserError


@dataclass(frozen=True)
class Images:
    """Images and labels of one part of a data set.

    :param images: uint8 (N, C, H, W).
    :param labels: int64 (N,).
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def device(self) -> torch.device:
        return self.images.device

    def to(self, device: torch.device) -> "Images":
        return Images(self.images.to(device), self.labels.to(device))

    def take(self, part: slice) -> "Images":
        return Images(self.images[part], self.labels[part])

    def views(self, view: str, batch: int) -> Iterator[tuple[list[Tensor], Tensor]]:
        """Batches of all images in order, as they are: uint8 (N, C, H, W), and labels. There is no view but that."""
        if view != "centre":
            raise UserError(f"{view}: only images larger than their crop have more than one view (dataset=imagenet)")
        for images, labels in zip(self.images.split(batch), self.labels.split(batch), strict=True):
            yield [images], labels

    def sample(self) -> Tensor:
        """What the mean image is made of: all."""
        return self.images


class Part(Protocol):
    """One part of a data set as training and evaluation see it: ``Images``, ``Pack`` or ``Stream``."""

    labels: Tensor

    def __len__(self) -> int: ...
    @property
    def image_shape(self) -> tuple[int, int, int]: ...
    @property
    def device(self) -> torch.device: ...
    def to(self, device: torch.device) -> Any: ...
    def take(self, part: slice) -> Any: ...
    def views(self, view: str, batch: int) -> Iterator[tuple[list[Tensor], Tensor]]: ...
    def sample(self) -> Tensor: ...


@dataclass(frozen=True)
class Dataset:
    """A training part, a test part, and a validation part where a protocol holds one out.

    :param fingerprint: of images that are not read at the start; None: ``digest`` reads them.
    """

    train: Any  # each a Part
    test: Any
    classes: tuple[str, ...]
    val: Any = None
    fingerprint: str | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.train.image_shape

    def hold_out(self, count: int) -> "Dataset":
        """Move the first ``count`` training images to the validation part; their order is a hash's, so a random one."""
        if count == 0:
            return self
        if count >= len(self.train):
            raise ValueError(f"cannot hold {count} of {len(self.train)} training images out")
        return dataclasses.replace(self, val=self.train.take(slice(count)), train=self.train.take(slice(count, None)))

    def to(self, device: torch.device) -> "Dataset":
        val = self.val.to(device) if self.val else None
        return dataclasses.replace(self, train=self.train.to(device), test=self.test.to(device), val=val)

    def digest(self) -> str:
        """A fingerprint of pixels and labels: a resumed run refuses another data set under the same name."""
        if self.fingerprint:
            return self.fingerprint
        sha = hashlib.sha256()
        for part in (self.train, self.test, *([self.val] if self.val else [])):
            sha.update(part.images.cpu().numpy().data)
            sha.update(part.labels.cpu().numpy().data)
        return sha.hexdigest()[:16]


def canonical(images: np.ndarray, labels: np.ndarray) -> Images:
    """Sort by a hash of the pixels: an archive and a folder tree of the same images then give the same run.

    :param images: uint8 (N, H, W, C).
    :param labels: integers (N,).
    """
    images = np.ascontiguousarray(images)
    keys = [
        (hashlib.blake2b(image.data, digest_size=16).digest(), int(label))
        for image, label in zip(images, labels, strict=True)
    ]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    channels_first = np.ascontiguousarray(images[order].transpose(0, 3, 1, 2))
    return Images(torch.from_numpy(channels_first), torch.from_numpy(np.asarray(labels, dtype=np.int64)[order]))


def shrink(dataset: Dataset, side: int) -> Dataset:
    """The same images averaged to ``side`` pixels: each new pixel is the mean of a square of old ones, rounded.

    :raises UserError: if ``side`` does not divide theirs.
    """
    old = dataset.image_shape[1]
    if old % side:
        raise UserError(f"dataset.image_size={side}: does not divide {old}; take {old // 2} or {old // 4}")

    def part(images: Images) -> Images:
        squares = images.images.unflatten(2, (side, old // side)).unflatten(4, (side, old // side))
        # (N, C, side, k, side, k) -> (N, C, side, side); in parts, for the means are floats
        means = [some.float().mean(dim=(3, 5)).round().to(torch.uint8) for some in squares.split(1000)]
        return Images(torch.cat(means), images.labels)

    return dataclasses.replace(dataset, train=part(dataset.train), test=part(dataset.test))


def relabel(labels: Sequence[int], classes: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Number the classes by their sorted names, as class folders do."""
    order = sorted(classes)
    new = np.array([order.index(name) for name in classes])
    return new[np.asarray(labels)], tuple(order)
