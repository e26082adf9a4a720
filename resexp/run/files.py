"""Files written whole or not at all, and on the disk before they take the place of the old ones."""

import contextlib
import errno
import json
import os
import zlib
from pathlib import Path
from typing import Any

from resexp import UserError

CHECKSUM, CHECKSUMS = "checksum", "crc32"  # of a file itself, and of those beside it
NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EACCES, errno.EBADF)  # of folders: CIFS, WSL and the like


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """``path`` is old or new, never half, also after a power failure.

    :raises OSError: if the disk is full, say; the previous file is then still there.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """As ``write_bytes``; file names in the text need not be text themselves."""
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def write_json(path: Path, value: dict[str, Any]) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_checked(path: Path, value: dict[str, Any]) -> None:
    """As JSON, with a checksum that ``load_checked`` compares."""
    write_json(path, {**value, CHECKSUM: _checksum(value)})


def load_checked(text: str) -> Any:
    """JSON, without its checksum if it has one. Raises ValueError if it is another's."""
    value = json.loads(text)
    if not isinstance(value, dict) or not {CHECKSUM, CHECKSUMS} & value.keys():  # none was kept
        return value
    if value.pop(CHECKSUM, None) != _checksum(value):
        raise ValueError("its checksum is another")
    return value


def _checksum(value: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def crc32_of(folder: Path, *names: str) -> dict[str, int]:
    """The checksums of files, by name."""
    return {name: zlib.crc32((folder / name).read_bytes()) for name in names}


def check_target(option: str, path: Path | None) -> None:
    """Raise UserError, before anything long begins, if no file can be written at ``path``."""
    if path and (path.is_dir() or not path.parent.is_dir()):
        raise UserError(
            f"{option} {path}: {'is a folder' if path.is_dir() else f'no folder {path.parent}'}; name a file"
        )


def sync_folder(path: Path) -> None:
    """Put new names in a folder on the disk, where the file system can."""
    try:
        folder = os.open(path, os.O_RDONLY)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise
        return
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise
    finally:
        os.close(folder)
