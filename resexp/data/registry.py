"""The sources of images by name: which function reads each, and which settings it takes. No torch."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resexp.data.dataset import Dataset

FINGERPRINT = "2-"  # begins those that count images and annotations alone; earlier ones counted every file
Progress = Callable[[str, int, int], None]  # (what, done, total)


@dataclass(frozen=True)
class Reader:
    """One source of images.

    :param function: ``module:name`` below ``resexp.data``; it takes the ``options`` as keywords.
    :param options: the settings of ``dataset.`` that it reads; any other that is set is a mistake.
    :param side: pixels along a side of its images, where ``dataset.image_size`` does not say; for estimates of memory.
    :param bytes: of its images in memory, whole; 0 where only reading them tells.
    :param named_by_folder: two folders are two data sets, so that a run is named by its folder.
    :param photographs: its images are larger than the crops that a net sees.
    :param watched: what of its files tells whether a folder still holds the images of a finished run: their names and
        ``sizes``, or their ``names`` alone, where there are a million; empty: its images are always the same.
    :param quick: it is read in a moment, and so takes no ``progress``.
    """

    function: str
    options: tuple[str, ...] = ()
    side: int = 32
    bytes: int = 0
    named_by_folder: bool = False
    photographs: bool = False
    watched: str = ""
    quick: bool = False

    def side_at(self, image_size: int | None) -> int:
        """Pixels along a side of its images, resized to ``image_size`` if that is given."""
        return image_size or self.side


_CIFAR10 = Reader("cifar:load_cifar10", options=("root", "download", "image_size"), bytes=60_000 * 3 * 32 * 32)
READERS: Mapping[str, Reader] = {
    "digits": Reader("digits:load_digits", side=8, bytes=1797 * 8 * 8, quick=True),
    "cifar10": _CIFAR10,
    "cifar100": replace(_CIFAR10, function="cifar:load_cifar100"),
    "imagefolder": Reader(
        "imagefolder:load_imagefolder", options=("root", "image_size"), side=224, named_by_folder=True, watched="sizes"
    ),
    "synthetic": Reader("synthetic:load_synthetic", options=("image_size", "examples"), quick=True),
    "imagenet": Reader(
        "imagenet:load_imagenet",
        options=(
            "root",
            "image_size",
            "classes",
            "wnids",
            "wnid_file",
            "images_per_class",
            "pack",
            "pack_gb",
            "workers",
        ),
        side=224,
        named_by_folder=True,
        photographs=True,
        watched="names",
    ),
}


def folder_fingerprint(source: str, root: str | None) -> str | None:
    """Of the files of a source, without reading them; None where they are always the same."""
    watched = READERS[source].watched
    if not watched or not root:
        return None
    from resexp.data.tree import fingerprint

    return FINGERPRINT + fingerprint(Path(root), sizes=watched == "sizes")


def build_data(source: str, *, progress: Progress | None = None, **settings: Any) -> "Dataset":
    """Read a data set. Settings that are None, or that the source does not take, are left out.

    :param progress: called with (what, done, total) now and then while images are decoded.
    :raises UserError: for images that are missing or damaged.
    """
    reader = READERS[source]
    module, _, name = reader.function.partition(":")
    function = getattr(importlib.import_module(f"resexp.data.{module}"), name)
    given = {key: settings[key] for key in reader.options if settings.get(key) is not None}
    return function(**given) if reader.quick else function(**given, progress=progress)
