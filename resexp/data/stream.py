"""Images that do not fit into memory: worker processes decode and crop them with torchvision's transforms.

What is random comes from the training process, image by image, so that neither the number of workers nor how far they
are ahead decides anything. The rate is bounded by decoding and resizing in the workers: some hundred photographs
a second and core (``resexp bench --images``).
"""

import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from resexp import UserError, system
from resexp.data.crops import (
    CENTRE_SCALE,
    crop_scales,
    draw_places,
    in_proportion,
    place_crops,
    resized_sides,
    view_offsets,
)
from resexp.data.decode import read_image
from resexp.data.pack import SAMPLE
from resexp.data.source import Augmentation, Drawn

EVAL_BATCH = 64
Task = tuple[int, list[float]]  # an image, and its place as in ``draw_places``


@dataclass(frozen=True)
class Stream:
    """Images in files, seen through crops.

    :param files: bytes (N,): paths, in one array: a million of them must not be a million objects in each worker.
    :param labels: int64 (N,).
    :param crop: side of the crops.
    :param workers: processes that decode.
    """

    files: np.ndarray
    labels: Tensor
    crop: int
    workers: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    views_differ = True

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return 3, self.crop, self.crop

    def to(self, device: torch.device) -> "Stream":
        return replace(self, labels=self.labels.to(device), device=device)

    def take(self, part: slice) -> "Stream":
        return replace(self, files=self.files[part], labels=self.labels[part])

    @property
    def draws_on(self) -> torch.device:
        return torch.device("cpu")

    def draw(self, count: int, augmentation: Augmentation, generator: torch.Generator) -> Drawn:
        """The places of the crops, float64 (N, 4)."""
        return (draw_places(count, augmentation, generator),)

    def prepare(self, drawn: Iterable[Drawn], augmentation: Augmentation) -> Generator[Drawn, None, None]:
        """The crops of each batch, uint8 (N, 3, crop, crop), decoded ahead of their use, and labels."""
        waiting: deque[Tensor] = deque()

        def tasks() -> Iterator[list[Task]]:
            for indices, places in drawn:
                assert indices is not None and places is not None
                waiting.append(indices)
                yield list(zip(indices.tolist(), places.tolist(), strict=True))

        for crops in self._loader(_Crops(self.files, self.crop, crop_scales(augmentation, self.crop)), tasks()):
            yield crops.to(self.device, non_blocking=True), self.labels[waiting.popleft().to(self.device)]

    def batch(self, augmentation: Augmentation, *prepared: Tensor | None) -> tuple[Tensor, Tensor]:
        crops, labels = prepared
        assert crops is not None and labels is not None
        return crops, labels

    def views(self, view: str, batch: int) -> Iterator[tuple[list[Tensor], Tensor]]:
        """Batches of all images in order: the crops of a view, each uint8 (N, 3, crop, crop), and labels."""
        ranges = [list(range(first, min(first + batch, len(self)))) for first in range(0, len(self), batch)]
        loaded = self._loader(_Views(self.files, self.crop, view), ranges)
        for crops, indices in zip(loaded, ranges, strict=True):  # crops: (N, views, 3, crop, crop)
            yield list(crops.to(self.device).unbind(dim=1)), self.labels[indices[0] : indices[-1] + 1]

    def wholes(self, indices: Iterable[int]) -> Iterator[Tensor]:
        """Whole images, uint8 (3, h, w) each."""
        for index in indices:
            yield _pixels(self.files[index]).to(self.device)

    def sample(self) -> Tensor:
        """Centre crops of the first images, uint8 (n, 3, crop, crop): a random sample, for the mean."""
        return torch.cat([crops[0] for crops, _ in self.take(slice(SAMPLE)).views("centre", EVAL_BATCH)])

    def _loader(self, images: TorchDataset[Any], batches: Iterable[list[Any]]) -> Iterator[Tensor]:
        import torchvision.transforms.v2.functional  # noqa: F401  before the workers: each would take seconds for it

        system.allow_open_files()
        loader = DataLoader(
            images,
            batch_sampler=batches,
            num_workers=self.workers,
            collate_fn=torch.stack,
            pin_memory=self.device.type == "cuda",
            generator=torch.Generator(),  # else it would draw from torch's own, whose dropout a resumed run repeats
        )
        try:
            yield from loader
        except UserError as error:  # a worker's comes with the worker's traceback
            raise UserError(str(error).strip().splitlines()[-1].removeprefix("resexp.UserError: ")) from None


def _pixels(file: bytes) -> Tensor:
    return torch.from_numpy(np.array(read_image(os.fsdecode(file)))).permute(2, 0, 1)  # (H, W, 3) -> (3, H, W)


def _resize(image: Tensor, sides: Sequence[int]) -> Tensor:
    from torchvision.transforms.v2.functional import resize

    return resize(image, list(sides), antialias=True)


def _cut(image: Tensor, offsets: Sequence[int], crop: int) -> Tensor:
    top, left = offsets
    return image[:, top : top + crop, left : left + crop]


class _Crops(TorchDataset[Tensor]):
    def __init__(self, files: np.ndarray, crop: int, scales: tuple[int, int]) -> None:
        self.files, self.crop, self.scales = files, crop, scales

    def __getitem__(self, task: Task) -> Tensor:
        index, place = task
        image = _pixels(self.files[index])
        places = torch.tensor([place], dtype=torch.float64)
        resized, offsets = place_crops(torch.tensor([image.shape[1:]]), places, self.scales, self.crop)
        cut = _cut(_resize(image, resized[0].tolist()), offsets[0].tolist(), self.crop)
        return cut.flip(2) if place[3] else cut


class _Views(TorchDataset[Any]):
    def __init__(self, files: np.ndarray, crop: int, view: str) -> None:
        self.files, self.crop, self.view = files, crop, view

    def __getitem__(self, index: int) -> Tensor:
        image = _pixels(self.files[index])
        resized = resized_sides(torch.tensor([image.shape[1:]]), in_proportion(CENTRE_SCALE, self.crop))
        image = _resize(image, resized[0].tolist())
        crops = []
        for offsets, mirrored in view_offsets(resized, self.crop, self.view):
            cut = _cut(image, offsets[0].tolist(), self.crop)
            crops.append(cut.flip(2) if mirrored else cut)
        return torch.stack(crops)
