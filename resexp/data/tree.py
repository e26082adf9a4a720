"""Folders of images as people leave them: which folders are classes, which files are images, and what is left out."""

import functools
import hashlib
import os
import unicodedata
from collections import Counter
from pathlib import Path

from PIL import Image

from resexp import UserError
from resexp.console import message

NOT_CLASSES = ("__MACOSX",)  # what a Mac's archives add
SPLITS = ("train", "val", "test")
ANNOTATIONS = (  # of a flat val/: one file name and wnid per line, or one wnid per line in the order of the files
    "val_annotations.txt",
    "LOC_val_solution.csv",
    "synset_labels.txt",
    "imagenet_2012_validation_synset_labels.txt",
)


@functools.cache
def suffixes() -> frozenset[str]:
    """Of the files that Pillow can open, as ``.png``."""
    Image.init()
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in Image.OPEN)


def is_image(name: str) -> bool:
    """By a file's name. Hidden files are none: a Mac leaves ``._x.png`` beside ``x.png``."""
    return not name.startswith(".") and Path(name).suffix.lower() in suffixes()


def class_folders(folder: Path) -> dict[str, Path]:
    """The class folders directly below one, by name, sorted; hidden ones are none.

    Names that differ only in how an accent is written are one name. Raises UserError if two folders have it.
    """
    found: dict[str, Path] = {}
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir() and not entry.name.startswith(".") and entry.name not in NOT_CLASSES:
            name = unicodedata.normalize("NFC", entry.name)
            if name in found:
                raise UserError(f"data set {folder}: two folders of the name {name}; move their images into one")
            found[name] = Path(entry.path)
    return dict(sorted(found.items()))


def image_files(folder: Path, left_out: Counter[str]) -> list[str]:
    """The images at any depth below a folder, as paths relative to it, sorted folder by folder.

    :param left_out: takes the number of other files, by what they are.
    """
    found = []
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in NOT_CLASSES)
        for name in sorted(names):
            if is_image(name):
                found.append((Path(place) / name).relative_to(folder).as_posix())
            else:
                left_out["hidden" if name.startswith(".") else Path(name).suffix.lower() or "no suffix"] += 1
    return found


def say_left_out(folder: Path, left_out: Counter[str]) -> None:
    """One line, if anything was."""
    if left_out:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(left_out.items()))
        message(f"data set {folder}: left out files that are no images: {kinds}")


def annotation_files(root: Path) -> list[Path]:
    """Those that say what the images of a flat ``val/`` are, in it or beside it."""
    return [path for place in (root / "val", root) for name in ANNOTATIONS if (path := place / name).is_file()]


def fingerprint(root: Path, *, sizes: bool) -> str:
    """Of the names of all images and annotations of a data set, and of their sizes if these are asked for.

    Nothing else below the folder counts: file managers leave their own files there, and a run may be written into it.
    """
    images = [root / split / name for split in SPLITS for name in image_files(root / split, Counter())]
    sha = hashlib.sha256()
    for path in [*images, *annotation_files(root)]:
        size = path.stat().st_size if sizes and path.exists() else ""
        sha.update(os.fsencode(f"{path.relative_to(root)} {size}\n"))
    return sha.hexdigest()[:16]
