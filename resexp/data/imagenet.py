"""ImageNet, or any part of it: wnid folders, a flat ``val/`` with its annotation file, subsets; packed or streamed."""

import hashlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from resexp import UserError, did_you_mean, system
from resexp.data.crops import PAPER_CROP, in_proportion
from resexp.data.dataset import Dataset
from resexp.data.decode import read_image
from resexp.data.pack import Pack, read_pack, write_pack
from resexp.data.registry import Progress
from resexp.data.root import cache_dir, data_root
from resexp.data.source import Source
from resexp.data.stream import Stream
from resexp.data.tree import ANNOTATIONS, annotation_files, class_folders, is_image

LONGEST = 480  # the largest shorter side of the paper, at a crop of 224: a pack keeps no more
ASPECT = 4 / 3  # of a photograph, for the estimate of a pack's size


@dataclass(frozen=True)
class Files:
    """One split: paths relative to the split's folder, and class numbers, in an order that is a hash's."""

    folder: Path
    names: list[str]
    labels: np.ndarray

    def paths(self) -> list[Path]:
        return [self.folder / name for name in self.names]


def load_imagenet(
    *,
    root: str | Path | None = None,
    image_size: int | None = None,
    classes: int | None = None,
    wnids: Sequence[str] = (),
    images_per_class: int | None = None,
    pack: str | None = None,
    pack_gb: float = 8,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Training images of ``root/train``, test images of ``root/val``, packed or streamed.

    :param image_size: side of the crops, 224 by default.
    :param classes: number of wnids, from the first.
    :param wnids: only these.
    :param images_per_class: number of training images of each class, in the order of their hashes.
    :param pack: folder of the packs; None: the cache folder.
    :param pack_gb: images that would take more than this are streamed from their files; 0 streams all.
    :param workers: processes that decode streamed images; None: one per core.
    :raises UserError: for a folder that is no such tree, unknown wnids, unreadable images, a pack of another tree.
    """
    tree = data_root(root, "imagenet")
    crop = image_size or PAPER_CROP
    longest = in_proportion(LONGEST, crop)
    chosen = choose_classes(tree, classes, wnids)
    splits = (list_split(tree, "train", chosen, images_per_class), list_split(tree, "val", chosen, None))
    count = sum(len(files.names) for files in splits)
    if count * 3 * longest**2 * ASPECT > pack_gb * 1e9:
        loaded: list[Source] = [_stream(files, crop, workers) for files in splits]
        fingerprint = "".join(_fingerprint(files, 0) for files in splits)
    else:
        prints = [_fingerprint(files, longest) for files in splits]
        folder = (
            system.expand_home(pack, "dataset.pack")
            if pack
            else cache_dir() / "packs" / f"{tree.resolve().name}-{prints[0][:12]}"
        )
        loaded = [
            _packed(files, folder, print_, crop, longest, progress)
            for files, print_ in zip(splits, prints, strict=True)
        ]
        fingerprint = "".join(prints)
    _note_enlargement(splits[0], crop)
    digest = hashlib.sha256(" ".join([fingerprint, str(crop), *chosen]).encode()).hexdigest()[:16]
    return Dataset(train=loaded[0], test=loaded[1], classes=tuple(chosen), fingerprint=digest)


def choose_classes(root: Path, classes: int | None, wnids: Sequence[str]) -> list[str]:
    """The wnids of a tree, sorted, or the part of them that was asked for. Raises UserError."""
    for folder, what in (
        (root, "no such folder"),
        (root / "train", "no train/ in it"),
        (root / "val", "no val/ in it"),
    ):
        if not folder.is_dir():
            raise UserError(
                f"data set {root}: {what}; it needs train/<wnid>/ and val/<wnid>/, or a flat val/ "
                "with its annotation file"
            )
    found = list(class_folders(root / "train"))
    unknown = sorted(set(wnids) - set(found))
    if unknown:
        raise UserError(
            f"dataset.wnids: {unknown[0]} is not in {root / 'train'} ({len(unknown)} of {len(wnids)} are "
            f"not); {did_you_mean(unknown[0], found[:10])}"
        )
    chosen = sorted(set(wnids)) or found
    if classes is not None and classes > len(chosen):
        raise UserError(f"dataset.classes={classes}: {root} has only {len(chosen)}; take fewer")
    chosen = chosen[:classes]
    if len(chosen) < 2:
        raise UserError(f"data set {root / 'train'}: {len(chosen)} class folders; it needs at least two")
    return chosen


def list_split(root: Path, split: str, classes: Sequence[str], images_per_class: int | None) -> Files:
    """The images of a split's classes. Raises UserError if a class has none."""
    folder = root / split
    annotated = _annotated(root) if split == "val" else None
    names: list[tuple[bytes, str, int]] = []
    for label, wnid in enumerate(classes):
        if annotated is not None:
            members = annotated.get(wnid, [])
        else:
            where = folder / wnid / "images" if (folder / wnid / "images").is_dir() else folder / wnid
            members = _images(where, folder)
        if not members:
            what = "no images" if annotated is not None or (folder / wnid).is_dir() else "no such class folder"
            raise UserError(
                f"data set {folder}: {what} of {wnid}, which train/ has; unpack it again, or leave the "
                "class out with dataset.wnids="
            )
        # Of the name without its folder: the order is the same in every layout of the same images.
        keyed = sorted(
            (hashlib.blake2b(os.fsencode(f"{wnid}/{Path(name).name}"), digest_size=16).digest(), name)
            for name in members
        )
        names += [(key, name, label) for key, name in keyed[:images_per_class]]
    others = set(class_folders(folder)) - set(class_folders(root / "train")) if annotated is None else set()
    if split == "val" and others:
        raise UserError(
            f"data set {folder}: class {min(others)} is not in train/; remove it, or add its training images"
        )
    names.sort()
    return Files(folder, [name for _, name, _ in names], np.array([label for _, _, label in names]))


def _images(folder: Path, base: Path) -> list[str]:
    if not folder.is_dir():
        return []
    prefix = folder.relative_to(base).as_posix()
    found = (entry.name for entry in os.scandir(folder) if is_image(entry.name))
    return [name if prefix == "." else f"{prefix}/{name}" for name in found]


def _annotated(root: Path) -> dict[str, list[str]] | None:
    """The images of a flat ``val/`` by wnid; None if ``val/`` has class folders."""
    val = root / "val"
    folder = val / "images" if (val / "images").is_dir() else val
    images = sorted(_images(folder, val))
    if not images:
        return None
    files = annotation_files(root)
    if not files:
        raise UserError(
            f"data set {val}: images without class folders, and none of {', '.join(ANNOTATIONS)} beside them; add one"
        )
    lines = [
        line.replace(",", " ").split() for line in files[0].read_text(encoding="utf-8").splitlines() if line.strip()
    ]
    lines = [line for line in lines if line[0] != "ImageId"]  # the header of a table
    if all(len(line) == 1 for line in lines):
        if len(lines) != len(images):
            raise UserError(f"{files[0]}: {len(lines):,} lines for {len(images):,} images; unpack both again")
        pairs = dict(zip(images, (line[0] for line in lines), strict=True))
    else:
        labels = {Path(line[0]).stem: line[1] for line in lines if len(line) > 1}
        missing = next((name for name in images if Path(name).stem not in labels), None)
        if missing:
            raise UserError(f"{files[0]}: no line for {missing}; unpack both again")
        pairs = {name: labels[Path(name).stem] for name in images}
    found: dict[str, list[str]] = {}
    for name, wnid in pairs.items():
        found.setdefault(wnid, []).append(name)
    return found


def _fingerprint(files: Files, longest: int) -> str:
    """Of names and labels; where they are packed, of the sizes of the files too: a changed tree is packed again."""
    sha = hashlib.sha256(f"v1 {longest}\n".encode())
    for name, label in zip(files.names, files.labels, strict=True):
        size = (files.folder / name).stat().st_size if longest else ""
        sha.update(os.fsencode(f"{Path(name).name} {label} {size}\n"))
    return sha.hexdigest()


def _packed(files: Files, folder: Path, fingerprint: str, crop: int, longest: int, progress: Progress | None) -> Pack:
    path = folder / f"{files.folder.name}.pack"
    if not path.is_file():
        write_pack(
            path,
            files.paths(),
            files.labels,
            fingerprint=fingerprint,
            longest=longest,
            progress=progress,
            name=str(files.folder),
        )
    return read_pack(path, fingerprint=fingerprint, crop=crop)


def _stream(files: Files, crop: int, workers: int | None) -> Stream:
    paths = np.array([os.fsencode(path) for path in files.paths()])
    labels = torch.from_numpy(files.labels.astype(np.int64))
    return Stream(paths, labels, crop, system.cores() if workers is None else workers)


def _note_enlargement(files: Files, crop: int) -> None:
    side = min(read_image(files.folder / files.names[0]).size)
    if side < crop:
        print(
            f"{files.folder.parent.name}: images of {side} pixels are enlarged for crops of {crop}; "
            f"dataset.image_size={side} enlarges them less",
            file=sys.stderr,
        )
