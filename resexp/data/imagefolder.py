"""Any ``train/`` and ``val/`` (or ``test/``) of class folders, decoded once and cached as uint8."""

import contextlib
import hashlib
import os
import zipfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from resexp import UserError
from resexp.data.dataset import Dataset, canonical
from resexp.data.decode import read_image
from resexp.data.images import Images
from resexp.data.registry import Progress
from resexp.data.root import cache_dir, data_root
from resexp.data.tree import class_folders, image_files, say_left_out


def load_imagefolder(
    *, root: str | None = None, image_size: int | None = None, progress: Progress | None = None
) -> Dataset:
    """Training images of ``root/train``, test images of ``root/test`` or ``root/val``; (N, 3, H, W) each.

    With all three folders, ``val`` holds validation images. Images may lie at any depth below their class folder.

    :param image_size: resize the short side to this and crop the centre; None asks for images of one size.
    :raises UserError: for a missing folder, a class without images or unknown in training, an unreadable image.
    """
    base = data_root(root, "imagefolder")
    train = base / "train"
    test = base / "test" if (base / "test").is_dir() else base / "val"
    val = base / "val" if test.name == "test" and (base / "val").is_dir() else None
    for folder, what in ((base, "no such folder"), (train, "no train/ in it"), (test, "no val/ or test/ in it")):
        if not folder.is_dir():
            raise UserError(f"data set {base}: {what}; it needs train/ and val/ (or test/) of class folders")
    classes = tuple(class_folders(train))
    if len(classes) < 2:
        found = f"only the class {classes[0]}" if classes else "no class folder"
        raise UserError(f"data set {train}: {found}; it needs a folder for each of at least two classes")
    others = [folder for folder in (test, val) if folder]
    for folder in others:
        if unknown := sorted(set(class_folders(folder)) - set(classes)):
            remedy = "remove it, or add its training images"
            raise UserError(f"data set {folder}: class {unknown[0]} is not in {train}; {remedy}")
    splits = [_load_split(folder, classes, image_size, progress) for folder in (train, *others)]
    for folder, split in zip(others, splits[1:], strict=True):
        ours, theirs = (tuple(one.images.shape[1:]) for one in (splits[0], split))
        if ours != theirs:
            what = "test" if folder == test else "validation"
            raise UserError(f"data set {base}: training images {ours}, {what} images {theirs}; set dataset.image_size")
    return Dataset(train=splits[0], test=splits[1], classes=classes, val=splits[2] if val else None)


def _load_split(folder: Path, classes: tuple[str, ...], image_size: int | None, progress: Progress | None) -> Images:
    files: list[tuple[str, int]] = []
    fingerprint = hashlib.sha256(f"v2 {image_size}".encode())
    folders, left_out = class_folders(folder), Counter[str]()
    for label, name in enumerate(classes):
        members = image_files(folders[name], left_out) if name in folders else []
        for member in members:
            path = folders[name] / member
            status = path.stat()
            fingerprint.update(os.fsencode(f"{name}/{member} {status.st_size} {status.st_mtime_ns}\n"))
            files.append((str(path), label))
        if not members and folder.name == "train":
            raise UserError(f"data set {folder / name}: no images; remove the folder, or unpack the data set again")
    say_left_out(folder, left_out)
    if not files:
        raise UserError(f"data set {folder}: no images; unpack the data set again")
    cache = cache_dir() / f"{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]}.npz"
    arrays = _read_cache(cache, fingerprint.hexdigest())
    if arrays is None:
        arrays = _decode(files, folder, image_size, progress)
        _write_cache(cache, fingerprint.hexdigest(), *arrays)
    return canonical(*arrays)


def _read_cache(path: Path, fingerprint: str) -> tuple[np.ndarray, np.ndarray] | None:
    """The cached arrays, or None if they are missing, of other files, or damaged (numpy checks the archive's CRC)."""
    try:
        with np.load(path, allow_pickle=False) as cache:
            if str(cache["fingerprint"]) != fingerprint:
                return None
            return cache["images"], cache["labels"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _write_cache(path: Path, fingerprint: str, images: np.ndarray, labels: np.ndarray) -> None:
    temporary = path.with_name(f"{path.stem}.{os.getpid()}.tmp")  # of this process: two may decode side by side
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            np.savez(file, fingerprint=np.array(fingerprint), images=images, labels=labels)
        temporary.replace(path)
    except OSError:  # a cache is a convenience: without room for it, the next start decodes again
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _decode(
    files: list[tuple[str, int]], folder: Path, image_size: int | None, progress: Progress | None
) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (N, H, W, 3) and labels (N,). Pillow decodes outside the interpreter's lock, so threads help."""
    images: np.ndarray | None = None
    pool = ThreadPoolExecutor()
    try:
        decoded = pool.map(lambda file: _read_image(file[0], image_size), files)
        for index, image in enumerate(decoded):
            if images is None:
                images = np.empty((len(files), *image.shape), dtype=np.uint8)
            if image.shape != images.shape[1:]:
                here, first = ("x".join(map(str, shape[1::-1])) for shape in (image.shape, images.shape[1:]))
                raise UserError(
                    f"{files[index][0]}: {here} pixels, the images before it {first}; set dataset.image_size"
                )
            images[index] = image
            if progress and ((index + 1) % 500 == 0 or index + 1 == len(files)):
                progress(f"decoding {folder}", index + 1, len(files))
    finally:
        pool.shutdown(cancel_futures=True)  # after a mistake, or Ctrl-C, the rest is not decoded first
    if images is None:
        raise ValueError("no files to decode")
    return images, np.array([label for _, label in files])


def _read_image(path: str, image_size: int | None) -> np.ndarray:
    image = read_image(path)
    if image_size is not None and image.size != (image_size, image_size):
        scale = image_size / min(image.size)
        wide, high = (max(image_size, round(scale * side)) for side in image.size)
        image = image.resize((wide, high), Image.Resampling.BILINEAR)
        left, top = (wide - image_size) // 2, (high - image_size) // 2
        image = image.crop((left, top, left + image_size, top + image_size))
    return np.asarray(image)
