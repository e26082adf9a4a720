"""The data set of a run: settings that check themselves."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

from resexp import UserError
from resexp.config.keys import as_name, check, check_choice, check_name, setting
from resexp.data.registry import READERS
from resexp.system import expand_home


def read_wnids(file: str) -> list[str]:
    """The first word of each line. Raises UserError."""
    try:
        lines = expand_home(file, "dataset.wnid_file").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"dataset.wnid_file={file}: cannot read it ({error}); name a text file of wnids") from None
    wnids = [line.split()[0] for line in lines if line.strip()]
    check(bool(wnids), "dataset.wnid_file", file, "has no wnids; write one per line")
    return wnids


@dataclass(kw_only=True, slots=True)
class DatasetConfig:
    """The data set."""

    name: str = setting(doc="its name in tables and run folders")
    about: str = setting("", doc="what it is, in one line for the lists", decides=False)
    source: str = setting(doc=", ".join(READERS))
    root: str | None = setting(None, doc="folder of the images; null: the variable RESEXP_DATA", decides=False)
    download: bool = setting(False, doc="fetch and verify the official archive if it is missing", decides=False)
    image_size: int | None = setting(
        None, doc="imagefolder: resize the short side, crop the centre; cifar: average to it; synthetic: side"
    )
    examples: int | None = setting(None, doc="synthetic: training images")
    classes: int | None = setting(None, doc="imagenet: number of wnids, from the first")
    wnids: list[str] = setting([], doc="imagenet: only these, as in [n01443537,n01629819]")
    wnid_file: str | None = setting(
        None, doc="imagenet: a file of wnids, one per line, for dataset.wnids", decides=False
    )
    images_per_class: int | None = setting(None, doc="imagenet: number of training images per class")
    pack: str | None = setting(None, doc="imagenet: folder of the packs; null: the cache folder", decides=False)
    pack_gb: float = setting(
        8.0, doc="imagenet: up to this size images are decoded once into a pack; 0: always streamed", decides=False
    )
    workers: int | None = setting(
        None, doc="imagenet: processes that decode streamed images; null: one per core", decides=False
    )
    sweep_width: int | None = setting(None, doc="width of every net in a sweep that sets none", decides=False)

    def __post_init__(self) -> None:
        check_choice("dataset.source", self.source, list(READERS))
        folder = self.root or os.environ.get("RESEXP_DATA")
        if READERS[self.source].named_by_folder and folder:
            expanded = expand_home(folder, "dataset.root" if self.root else "RESEXP_DATA")
            beneath = expanded / self.name
            named = self.root is None and (beneath / "train").is_dir()  # RESEXP_DATA may hold several data sets
            self.root = str((beneath if named else expanded).resolve())
            if self.name == self.source:
                self.name = as_name(Path(self.root).name)
        if self.wnid_file:
            self.wnids, self.wnid_file = read_wnids(self.wnid_file), None
        used = {"name", "about", "source", "sweep_width", *READERS[self.source].options}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            unset = [] if f.name == "wnids" else f.default
            rule = f"dataset={self.name} does not use it; drop it"
            check(value == unset or f.name in used, f"dataset.{f.name}", value, rule)
        check(self.pack_gb >= 0, "dataset.pack_gb", self.pack_gb, "must be at least 0")
        check(self.workers is None or self.workers >= 0, "dataset.workers", self.workers, "must be at least 0")
        for key in ("image_size", "examples", "classes", "images_per_class"):
            value = getattr(self, key)
            check(value is None or value >= 1, f"dataset.{key}", value, "must be at least 1")
        check_name("dataset.name", self.name)
