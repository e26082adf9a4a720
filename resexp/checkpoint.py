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
from torch import Tensor, nn

from resexp import UserError
from resexp.config import Config, identity

SAFETENSORS = ".safetensors"
EARLIER_VERSION = "its checkpoint is of an earlier version"


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


def load_matching(path: Path, cfg: Config, device: torch.device) -> dict[str, Any] | None:
    """The checkpoint at ``path`` if there is one. Raises UserError if it is damaged or of another configuration."""
    if not path.is_file():
        return None
    saved = load(path, device)
    theirs, ours = _flat(saved.get("identity", {})), _flat(identity(cfg))
    for key in sorted(theirs.keys() | ours.keys()):
        if theirs.get(key) != ours.get(key):
            raise UserError(
                f"{path}: of another configuration ({key} is {theirs.get(key, 'the default')} there, "
                f"{ours.get(key, 'the default')} here); remove it to start the run again"
            )
    return saved


def _flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def check_data(saved: dict[str, Any], digest: str, name: str, run_dir: Path) -> None:
    """Raise UserError if a checkpoint was trained on other images than these."""
    if saved["data"] != digest:
        raise UserError(
            f"{run_dir}: {name} has other images than when this run started; set another dataset.name or output_dir"
        )


def load_weights(net: nn.Module, path: Path) -> None:
    """Copy anybody's weights into ``net``: a state dict, alone or as ``state_dict``, ``model`` or ``net`` of a file.

    Its tensors must be those of ``net`` in order and shape; names do not matter, nor do counters of batches. A
    safetensors file keeps its tensors sorted by name, so that their order says nothing: there the names must be ours.

    :raises UserError: if the file is not one, or at the first tensor that does not fit.
    """
    if path.suffix == SAFETENSORS:
        _load_by_name(net, path)
        return
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"weights={path}: {error.strerror or error}") from None
    except Exception as error:  # a file of something else makes the reader raise anything
        raise UserError(f"weights={path}: no file of tensors ({type(error).__name__})") from None
    for key in ("state_dict", "model", "net"):
        if isinstance(saved, dict) and isinstance(saved.get(key), dict):
            saved = saved[key]
    tensors = _comparable(saved) if isinstance(saved, dict) else []
    if not tensors:
        raise UserError(f"weights={path}: holds no state dict")
    ours = _comparable(net.state_dict())
    for number, ((theirs, tensor), (name, mine)) in enumerate(zip(tensors, ours, strict=False), start=1):
        if tensor.shape != mine.shape:
            raise UserError(
                f"weights={path}: tensor {number}, {theirs} {tuple(tensor.shape)}, does not fit {name} "
                f"{tuple(mine.shape)}; take the net, classes and images of these weights"
            )
    if len(tensors) != len(ours):
        longer, missing = (tensors, "the net") if len(tensors) > len(ours) else (ours, "the file")
        first = longer[min(len(tensors), len(ours))][0]
        raise UserError(f"weights={path}: {len(tensors)} tensors for {len(ours)}; {first} is not in {missing}")
    with torch.no_grad():
        for (_, tensor), (_, mine) in zip(tensors, ours, strict=True):
            mine.copy_(tensor)


def _load_by_name(net: nn.Module, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        saved = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"weights={path}: cannot be read as safetensors ({str(error).splitlines()[0]})") from None
    ours = dict(_comparable(net.state_dict()))
    if other := sorted(saved.keys() ^ ours.keys()):
        where = "the net" if other[0] in saved else "the file"
        raise UserError(f"weights={path}: {other[0]} is not in {where}; take the net of these weights")
    with torch.no_grad():
        for name, mine in ours.items():
            if saved[name].shape != mine.shape:
                raise UserError(
                    f"weights={path}: {name} {tuple(saved[name].shape)} does not fit {tuple(mine.shape)}; "
                    "take the net, classes and images of these weights"
                )
            mine.copy_(saved[name])


def _comparable(state: dict[str, Any]) -> list[tuple[str, Tensor]]:
    """Names, without the prefix of a parallel wrapper, and tensors that decide what a net computes."""
    return [
        (name.removeprefix("module."), tensor)
        for name, tensor in state.items()
        if isinstance(tensor, Tensor) and not name.endswith("num_batches_tracked")
    ]
