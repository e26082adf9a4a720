"""Save and load all state of a run: atomic to write, verified to read."""

import contextlib
import io
import os
import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from resexp import UserError


def save(path: Path, state: dict[str, Any]) -> None:
    """Write ``state`` beside ``path``, force it to the disk, move it into place: ``path`` is old or new, never half.

    :raises OSError: if the disk is full, say; the previous file is then still there.
    """
    buffer = io.BytesIO()  # serialised first: a full disk then shows as an OSError of our own write
    torch.save(state, buffer)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name too must survive a power failure
    finally:
        os.close(folder)


def load(path: Path, device: torch.device) -> dict[str, Any]:
    """Read a checkpoint after checking the CRC of every part of it. Raises UserError if it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"{damaged} does not match its checksum")
        return torch.load(path, map_location=device, weights_only=True)
    except (zipfile.BadZipFile, EOFError, RuntimeError, pickle.UnpicklingError, zlib.error) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: truncated or damaged ({reason}); remove it to start the run again") from None
