"""Save and load all state of a run: atomic to write, verified to read."""

import io
import zipfile
from pathlib import Path
from typing import Any

import torch

from resexp import UserError, system
from resexp.config import Config, flatten, identity
from resexp.run.files import write_bytes

EARLIER_VERSION = "its checkpoint is of an earlier version"


def save(path: Path, state: dict[str, Any]) -> None:
    """Write ``state``: ``path`` is old or new, never half. Raises OSError if the disk is full, say."""
    buffer = io.BytesIO()  # serialised first: a full disk then shows as an OSError of our own write
    torch.save(state, buffer)
    write_bytes(path, buffer.getbuffer())


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint, into the CPU's memory, after checking every part's CRC. Raises UserError if it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"{damaged} does not match its checksum")
        saved = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(saved, dict):
            raise EOFError("holds no state of a run")
        return saved
    except Exception as error:  # zipfile, pickle and torch raise anything, each at damage of its own
        if system.lacks_memory(error):
            raise
        if system.refuses_to_read(error):
            raise UserError(f"{path}: cannot be read ({error}); the checkpoint itself may be whole") from None
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: truncated or damaged ({reason}); remove it to start the run again") from None


def load_matching(path: Path, cfg: Config) -> dict[str, Any] | None:
    """The checkpoint at ``path`` if there is one. Raises UserError if it is damaged or of another configuration."""
    if not path.is_file():
        return None
    saved = load(path)
    kept = saved.get("identity")
    theirs, ours = flatten(kept if isinstance(kept, dict) else {}), flatten(identity(cfg))
    for key in sorted(theirs.keys() | ours.keys()):
        if theirs.get(key) != ours.get(key):
            raise UserError(
                f"{path}: of another configuration ({key} is {theirs.get(key, 'the default')} there, "
                f"{ours.get(key, 'the default')} here); remove it to start the run again"
            )
    return saved


def check_data(saved: dict[str, Any], digest: str, name: str, run_dir: Path) -> None:
    """Raise UserError if a checkpoint was trained on other images than these."""
    if saved["data"] != digest:
        raise UserError(
            f"{run_dir}: {name} has other images than when this run started, or they were packed then and are not now "
            "(dataset.pack_gb); set another dataset.name or output_dir"
        )
