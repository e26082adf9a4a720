"""A pack: images decoded once into one memory-mapped file of uint8, each in its own size, and how batches come out."""

import contextlib
import functools
import json
import os
import time
import zlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from resexp import UserError
from resexp.data.crops import (
    CENTRE_SCALE,
    crop_scales,
    draw_places,
    filter_weights,
    first_tap,
    in_proportion,
    place_crops,
    resized_sides,
    taps_needed,
    view_offsets,
)
from resexp.data.decode import read_image, shorter_side_to
from resexp.data.registry import Progress
from resexp.data.source import Augmentation, Drawn

HEADER = 4096  # bytes; they stay zero until all else is written
CHUNK = 64  # images resized at once: it bounds the memory beside the batch
SAMPLE = 4096  # images whose centre crops give the mean: their order is random, and so is the sample


@dataclass(frozen=True)
class Pack:
    """Images of any sizes on one device, seen through crops.

    :param pixels: uint8 (pixels of all images, 3).
    :param starts: int64 (N,): where each image begins; its rows follow each other.
    :param sides: int64 (N, 2): height and width.
    :param labels: int64 (N,).
    :param crop: side of the crops.
    :param limits: (longest side, longest shorter side) of all images.
    """

    pixels: Tensor
    starts: Tensor
    sides: Tensor
    labels: Tensor
    crop: int
    limits: tuple[int, int]
    views_differ = True

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return 3, self.crop, self.crop

    @property
    def device(self) -> torch.device:
        return self.labels.device

    @property
    def draws_on(self) -> torch.device:
        return self.labels.device

    def to(self, device: torch.device) -> "Pack":
        if device.type == "mps":
            raise UserError("device=mps: crops from a pack need float64; set dataset.pack_gb=0 to stream the images")
        moved = {name: getattr(self, name).to(device) for name in ("pixels", "starts", "sides", "labels")}
        return replace(self, **moved)

    def take(self, part: slice) -> "Pack":
        return replace(self, starts=self.starts[part], sides=self.sides[part], labels=self.labels[part])

    def draw(self, count: int, augmentation: Augmentation, generator: torch.Generator) -> Drawn:
        """The places of the crops, float64 (N, 4)."""
        return (draw_places(count, augmentation, generator),)

    def prepare(self, drawn: Iterable[Drawn], augmentation: Augmentation) -> Generator[Drawn, None, None]:
        yield from drawn

    def batch(self, augmentation: Augmentation, *prepared: Tensor | None) -> tuple[Tensor, Tensor]:
        indices, places = prepared
        assert indices is not None and places is not None
        return self.crops(indices, places, crop_scales(augmentation, self.crop)), self.labels[indices]

    def crops(self, indices: Tensor, places: Tensor, scales: tuple[int, int]) -> Tensor:
        """Drawn crops: float32 (N, 3, crop, crop) of values 0 to 255."""
        resized, offsets = place_crops(self.sides[indices], places, scales, self.crop)
        images = self._cut(indices, resized, offsets, scales[0])
        return torch.where(places[:, 3].bool().view(-1, 1, 1, 1), images.flip(3), images)

    def views(self, view: str, batch: int) -> Iterator[tuple[list[Tensor], Tensor]]:
        """Batches of all images in order: the crops of a view, each float32 (N, 3, crop, crop), and labels."""
        scale = in_proportion(CENTRE_SCALE, self.crop)
        for indices in torch.arange(len(self), device=self.device).split(batch):
            resized = resized_sides(self.sides[indices], scale)
            crops = [
                self._cut(indices, resized, offsets, scale).flip(3)
                if mirrored
                else self._cut(indices, resized, offsets, scale)
                for offsets, mirrored in view_offsets(resized, self.crop, view)
            ]
            yield crops, self.labels[indices]

    def wholes(self, indices: Iterable[int]) -> Iterator[Tensor]:
        """Whole images, uint8 (3, h, w) each."""
        for index in indices:
            high, wide = self.sides[index].tolist()
            start = int(self.starts[index])
            yield self.pixels[start : start + high * wide].view(high, wide, 3).permute(2, 0, 1)

    def sample(self) -> Tensor:
        """Centre crops of the first images, uint8 (n, 3, crop, crop): a random sample, for the mean."""
        return torch.cat(
            [crops[0].round().to(torch.uint8) for crops, _ in self.take(slice(SAMPLE)).views("centre", 256)]
        )

    def _cut(self, indices: Tensor, resized: Tensor, offsets: Tensor, least: int) -> Tensor:
        """Crops at ``offsets`` of the images ``resized`` to a shorter side of ``least`` or more."""
        longest, shorter = self.limits
        taps = taps_needed(longest, shorter / least * (1 + 1 / least), self.crop)
        chunks = zip(indices.split(CHUNK), resized.split(CHUNK), offsets.split(CHUNK), strict=True)
        return torch.cat([self._resample(*chunk, taps) for chunk in chunks])

    def _resample(self, indices: Tensor, resized: Tensor, offsets: Tensor, taps: int) -> Tensor:
        sides = self.sides[indices]
        firsts = [first_tap(sides[:, axis], resized[:, axis], offsets[:, axis]) for axis in (0, 1)]
        rows, columns = (
            (first[:, None] + torch.arange(taps, device=self.device)).minimum(sides[:, axis, None] - 1)
            for axis, first in enumerate(firsts)
        )
        places = self.starts[indices, None, None] + rows[:, :, None] * sides[:, 1, None, None] + columns[:, None, :]
        region = self.pixels[places].permute(0, 3, 1, 2).float()  # (N, taps, taps, 3) -> (N, 3, taps, taps)
        down, across = (
            filter_weights(sides[:, axis], resized[:, axis], offsets[:, axis], self.crop, firsts[axis], taps)[:, None]
            for axis in (0, 1)
        )
        return down @ region @ across.transpose(2, 3)  # (N, 1, crop, taps) on both sides


def write_pack(
    path: Path,
    files: Sequence[Path],
    labels: np.ndarray,
    *,
    fingerprint: str,
    longest: int,
    progress: Progress | None,
    name: str = "",
) -> None:
    """Decode ``files`` into a pack, images with a shorter side above ``longest`` resized to it. Raises UserError.

    Written under another name and moved into place; a header of zeros marks one that was not finished.

    :param name: of the files, for ``progress``.
    """
    decode = functools.partial(_decode, longest=longest)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    sides = np.empty((len(files), 2), dtype=np.int64)
    began = time.monotonic()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as out, ThreadPoolExecutor() as pool:
            out.write(bytes(HEADER))
            crc32 = 0
            for group in range(0, len(files), 1024):  # never more decoded images than these in memory
                for index, image in enumerate(pool.map(decode, files[group : group + 1024]), start=group):
                    sides[index] = image.shape[:2]
                    crc32 = _put(out, image.tobytes(), crc32)
                done = min(group + 1024, len(files))
                if progress:
                    progress(f"packing {name}", done, len(files))
            pixels = int(sides.prod(axis=1).sum())
            # The arrays after the pixels begin at a multiple of 8.
            for part in (bytes(-(3 * pixels) % 8), sides.tobytes(), labels.astype(np.int64).tobytes()):
                crc32 = _put(out, part, crc32)
            header = {
                "fingerprint": fingerprint,
                "images": len(files),
                "pixels": pixels,
                "crc32": crc32,
                "seconds": round(time.monotonic() - began, 1),
            }
            out.seek(0)
            out.write(json.dumps(header).encode().ljust(HEADER))
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(path)
    except OSError as error:
        raise UserError(
            f"cannot write the pack {path}: {error.strerror}; make room, set dataset.pack= to another "
            "folder, or dataset.pack_gb=0 to stream the images"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _put(out: BinaryIO, content: bytes, crc32: int) -> int:
    """Write, and return the checksum of all that has been written."""
    out.write(content)
    return zlib.crc32(content, crc32)


def _decode(file: Path, *, longest: int) -> np.ndarray:
    """uint8 (h, w, 3)."""
    image = read_image(file)
    if min(image.size) > longest:
        image = image.resize(shorter_side_to(longest, *image.size), Image.Resampling.BILINEAR)
    return np.asarray(image)


def read_pack(path: Path, *, fingerprint: str, crop: int) -> Pack:
    """Map a pack into memory. Raises UserError if it is of other images, or not whole."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(HEADER).rstrip(b" \0")
    try:
        header = json.loads(head)
        count, pixels, theirs = header["images"], header["pixels"], header["fingerprint"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"pack {path}: half written, or no pack; remove it, and it is made again") from None
    index = HEADER + 3 * pixels + -(3 * pixels) % 8
    if size != index + 24 * count:
        raise UserError(
            f"pack {path}: {size:,} bytes of {index + 24 * count:,}, half written; remove it, and it is made again"
        )
    if theirs != fingerprint:
        raise UserError(f"pack {path}: made from another tree, subset or size; remove it, or set another dataset.pack=")
    # Copy on write: torch wants writable memory, and nobody writes. Processes share the pages.
    mapped = np.memmap(path, dtype=np.uint8, mode="c")
    if "crc32" in header and zlib.crc32(mapped[HEADER:].data) != header["crc32"]:
        raise UserError(f"pack {path}: damaged (its checksum is another); remove it, and it is made again")
    sides = torch.from_numpy(np.array(mapped[index : index + 16 * count]).view(np.int64)).view(count, 2)
    labels = torch.from_numpy(np.array(mapped[index + 16 * count :]).view(np.int64))
    areas = sides.prod(dim=1)
    return Pack(
        pixels=torch.from_numpy(mapped[HEADER : HEADER + 3 * pixels]).view(pixels, 3),
        starts=areas.cumsum(0) - areas,
        sides=sides,
        labels=labels,
        crop=crop,
        limits=(int(sides.max()), int(sides.min(dim=1).values.max())),
    )
