"""A data set: training, test and perhaps validation images, in an order that depends on nothing but the pixels."""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from resexp import UserError
from resexp.data.images import Images
from resexp.data.source import Source


@dataclass(frozen=True)
class Dataset:
    """Training images, test images, and validation images where a protocol holds some out.

    :param fingerprint: of images that are not read at the start; None: ``digest`` reads them.
    """

    train: Source
    test: Source
    classes: tuple[str, ...]
    val: Source | None = None
    fingerprint: str | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.train.image_shape

    def hold_out(self, count: int) -> "Dataset":
        """Move the first ``count`` training images to the validation split; they are in the random order of a hash."""
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
        for split in (self.train, self.test, *([self.val] if self.val else [])):
            sha.update(split.sample().cpu().numpy().data)
            sha.update(split.labels.cpu().numpy().data)
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

    def smaller(source: Source) -> Images:
        squares = source.sample().unflatten(2, (side, old // side)).unflatten(4, (side, old // side))
        # (N, C, side, k, side, k) -> (N, C, side, side); in chunks, for the means are floats
        means = [some.float().mean(dim=(3, 5)).round().to(torch.uint8) for some in squares.split(1000)]
        return Images(torch.cat(means), source.labels)

    val = smaller(dataset.val) if dataset.val else None
    return dataclasses.replace(dataset, train=smaller(dataset.train), val=val, test=smaller(dataset.test))


def relabel(labels: Sequence[int], classes: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Number the classes by their sorted names, as class folders do."""
    order = sorted(classes)
    new = np.array([order.index(name) for name in classes])
    return new[np.asarray(labels)], tuple(order)
