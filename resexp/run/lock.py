"""The lock of a run folder: one process at a time trains a run."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from resexp import UserError
from resexp.console import message

LOCK, HOLDER = ".lock", ".pid"  # who holds it stands beside it: on Windows nobody else can read a locked file
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)  # Lustre, NFS and the like


@contextlib.contextmanager
def open_folder(run_dir: Path) -> Iterator[None]:
    """Make the folder and lock it; the system releases the lock when this process ends.

    :raises UserError: if another process has the lock, or the folder cannot be written.
    """
    lock = _lock(run_dir, patience=0.1)  # whoever asks who holds it has it for a moment
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        _take(lock)
    except Timeout:
        raise UserError(f"{run_dir}: process {_holder(run_dir)} is training this run; leaving it alone") from None
    except OSError as error:
        raise UserError(
            f"cannot write into {run_dir}: {error.strerror}; set output_dir= to a writable folder"
        ) from None
    try:
        try:
            (run_dir / HOLDER).write_text(str(os.getpid()), encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write into {run_dir}: {error.strerror}; make room and repeat") from None
        yield
    finally:
        with contextlib.suppress(OSError):
            (run_dir / HOLDER).unlink()
        lock.release()


def is_held(run_dir: Path) -> bool:
    """Whether another process holds the folder."""
    if not (run_dir / LOCK).is_file():
        return False
    lock = _lock(run_dir, patience=0)
    try:
        _take(lock, quiet=True)
    except Timeout:
        return True
    except OSError:
        return False
    lock.release()
    return False


def _lock(run_dir: Path, *, patience: float) -> FileLock:
    """Not yet taken; ``patience`` is how many seconds it is tried for."""
    # Kept when it is released, and never another kind of lock: one that a killed process leaves behind would block.
    return FileLock(run_dir / LOCK, timeout=patience, poll_interval=0.02, preserve_lock_file=True)


def _holder(run_dir: Path) -> str:
    with contextlib.suppress(OSError):
        return (run_dir / HOLDER).read_text(encoding="utf-8").strip()
    return "of another user"


def _take(lock: FileLock, *, quiet: bool = False) -> None:
    """Raises Timeout if another process has it. Where the file system has no locks, says so and goes without."""
    try:
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        if isinstance(error, Timeout) or (isinstance(error, OSError) and error.errno not in NO_LOCKS):
            raise
        if not quiet:
            message(f"{lock.lock_file}: this file system has no locks; do not train one run twice at a time")
