"""Data sources. Each becomes one ``Dataset``; but for streamed images nothing is decoded while a net trains."""

import os
from collections.abc import Sequence
from pathlib import Path

from resexp import UserError
from resexp.data.cifar import load_cifar
from resexp.data.dataset import Dataset, Images, shrink
from resexp.data.digits import load_digits
from resexp.data.imagefolder import Progress, load_imagefolder
from resexp.data.imagenet import load_imagenet
from resexp.data.pack import Pack
from resexp.data.stream import Stream
from resexp.data.synthetic import load_synthetic

__all__ = ["Dataset", "Images", "Pack", "Stream", "build_data"]


def build_data(
    *,
    source: str,
    root: str | None = None,
    download: bool = False,
    image_size: int | None = None,
    examples: int | None = None,
    classes: int | None = None,
    wnids: Sequence[str] = (),
    images_per_class: int | None = None,
    pack: str | None = None,
    pack_gb: float = 8,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Read a data set from ``root``, or from the folder that the variable RESEXP_DATA names. Raises UserError."""
    match source:
        case "digits":
            return load_digits()
        case "synthetic":
            return load_synthetic(image_size=image_size or 8, examples=examples or 512)
        case "cifar10" | "cifar100":
            whole = load_cifar(source, _root(root, source), download=download, progress=progress)
            return whole if image_size is None else shrink(whole, image_size)
        case "imagefolder":
            return load_imagefolder(_root(root, source), image_size=image_size, progress=progress)
        case "imagenet":
            return load_imagenet(
                _root(root, source),
                image_size=image_size,
                classes=classes,
                wnids=wnids,
                images_per_class=images_per_class,
                pack=pack,
                pack_gb=pack_gb,
                workers=workers,
                progress=progress,
            )
    raise ValueError(f"source {source!r}: no such data source")


def _root(root: str | None, source: str) -> Path:
    folder = root or os.environ.get("RESEXP_DATA")
    if not folder:
        raise UserError(f"{source}: where are the images? Name their folder: dataset.root=/path, or export RESEXP_DATA")
    return Path(folder).expanduser()
