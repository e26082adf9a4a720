"""Where the images are: ``dataset.root``, or the environment variable ``RESEXP_DATA``; and where caches go."""

import os
from pathlib import Path

from resexp import UserError


def data_root(root: str | Path | None, source: str) -> Path:
    """The folder of the images. Raises UserError if neither the setting nor the variable names one."""
    folder = root or os.environ.get("RESEXP_DATA")
    if not folder:
        raise UserError(f"{source}: where are the images? Name their folder: dataset.root=/path, or export RESEXP_DATA")
    return Path(folder).expanduser()


def cache_dir() -> Path:
    """``RESEXP_CACHE``, else the user's cache folder."""
    base = os.environ.get("RESEXP_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "resexp"
