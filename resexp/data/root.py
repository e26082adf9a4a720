"""Where the images are: ``dataset.root``, or the environment variable ``RESEXP_DATA``; and where caches go."""

import os
import tempfile
from pathlib import Path

from resexp import UserError, system


def data_root(root: str | Path | None, source: str) -> Path:
    """The folder of the images. Raises UserError if neither the setting nor the variable names one."""
    folder = root or os.environ.get("RESEXP_DATA")
    if not folder:
        raise UserError(f"{source}: where are the images? Name their folder: dataset.root=/path, or export RESEXP_DATA")
    return system.expand_home(folder, "dataset.root" if root else "RESEXP_DATA")


def cache_dir() -> Path:
    """``RESEXP_CACHE``, else the user's cache folder, else, for a user without a home, one among temporary files."""
    if base := os.environ.get("RESEXP_CACHE"):
        return Path(base)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "resexp"
    try:
        home = Path.home()
    except RuntimeError:  # a number of a user that the system does not know, as in docker --user 1234
        return Path(tempfile.gettempdir()) / f"resexp-{system.user_name()}"
    return home / ".cache" / "resexp"
