"""The lock of a run folder: one process at a time trains a run."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from resexp import UserError
from resexp.console import message

LOCK = ".lock"
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # Lustre, NFS and the like


@contextlib.contextmanager
def open_folder(run_dir: Path) -> Iterator[None]:
    """Make the folder and lock it; the kernel releases the lock when this process ends.

    :raises UserError: if another process has the lock, or the folder cannot be written.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = (run_dir / LOCK).open("a+")
    except OSError as error:
        raise UserError(
            f"cannot write into {run_dir}: {error.strerror}; set output_dir= to a writable folder"
        ) from None
    with lock:
        if not _take(lock):
            lock.seek(0)
            raise UserError(f"{run_dir}: process {lock.read().strip()} is training this run; leaving it alone")
        try:
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
        except OSError as error:
            raise UserError(f"cannot write into {run_dir}: {error.strerror}; make room and repeat") from None
        yield


def is_held(run_dir: Path) -> bool:
    """Whether another process holds the folder."""
    try:
        with (run_dir / LOCK).open("r+") as lock:
            return not _take(lock, quiet=True)
    except OSError:
        return False


def _take(lock: IO[str], *, quiet: bool = False) -> bool:
    """Lock an open file, unless another process has. Where the file system has no locks, say so and go without."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        if not quiet:
            message(f"{lock.name}: this file system has no locks; do not train one run twice at a time")
    return True
