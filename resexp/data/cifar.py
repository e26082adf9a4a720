"""CIFAR-10 and CIFAR-100, from the official archive or from class folders of the same images."""

from pathlib import Path
from typing import Any

import numpy as np

from resexp import UserError
from resexp.data.dataset import Dataset, canonical, relabel, shrink
from resexp.data.imagefolder import load_imagefolder
from resexp.data.registry import Progress
from resexp.data.root import data_root

SIZES = (50_000, 10_000)  # training and test images of both data sets


def load_cifar10(**settings: Any) -> Dataset:
    """CIFAR-10: ``load_cifar`` with the name filled in."""
    return load_cifar("cifar10", **settings)


def load_cifar100(**settings: Any) -> Dataset:
    """CIFAR-100: ``load_cifar`` with the name filled in."""
    return load_cifar("cifar100", **settings)


def load_cifar(
    name: str,
    *,
    root: str | None = None,
    download: bool = False,
    image_size: int | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Images (N, 3, 32, 32) of ``cifar10`` or ``cifar100``, or averaged to ``image_size`` pixels.

    Looks for the class folders ``root/<name>/train`` first, then for the official archive (unpacked or not), which
    torchvision verifies by its MD5 sums, and fetches it with ``download=True``.

    :raises UserError: if neither is there, or if what is there is incomplete.
    """
    folder = data_root(root, name)
    tree = folder / name
    if (tree / "train").is_dir():
        dataset = load_imagefolder(root=str(tree), progress=progress)
    else:
        dataset = _official(name, folder, download)
    for split, images, expected in zip(("training", "test"), (dataset.train, dataset.test), SIZES, strict=True):
        if len(images) != expected:
            raise UserError(f"{name} in {folder}: {len(images):,} {split} images of {expected:,}; unpack it again")
    return dataset if image_size is None else shrink(dataset, image_size)


def _official(name: str, root: Path, download: bool) -> Dataset:
    from torchvision.datasets import CIFAR10, CIFAR100
    from torchvision.datasets.utils import check_integrity

    source = {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]
    folder, archive = root / source.base_folder, root / source.filename
    if not download and not folder.is_dir() and not archive.is_file():
        raise UserError(
            f"{name}: found in {root} neither {name}/train/<class>/ nor {source.base_folder}/; unpack it there, "
            "name its folder with dataset.root= or RESEXP_DATA, or fetch it with dataset.download=true"
        )
    try:
        if archive.is_file() and not folder.is_dir():
            if not download and not check_integrity(str(archive), source.tgz_md5):
                raise RuntimeError(f"{archive.name} does not have its MD5 sum")
            download = True  # torchvision unpacks a good archive that lies there without fetching it again
        train, test = (source(str(root), train=train, download=download) for train in (True, False))
    except (RuntimeError, OSError, EOFError) as error:
        reason = str(error).splitlines()[0]
        if not folder.is_dir() and not archive.is_file():
            remedy = f"check the connection, or put {archive.name} into {root} by hand"
            raise UserError(f"{name}: cannot be fetched ({reason}); {remedy}") from None
        raise UserError(f"{name}: {folder} is incomplete or damaged ({reason}); remove it and fetch it again") from None
    splits = []
    for split in (train, test):
        labels, classes = relabel(split.targets, split.classes)
        splits.append(canonical(np.asarray(split.data), labels))  # (N, 32, 32, 3)
    return Dataset(train=splits[0], test=splits[1], classes=classes)
