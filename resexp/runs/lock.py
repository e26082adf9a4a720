"""The lock of a run folder: one process at a time trains a run."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from resexp import UserError


@contextlib.contextmanager
def open_folder(run_dir: Path) -> Iterator[None]:
    """Make the folder and lock it; the kernel releases the lock when this process ends.

    :raises UserError: if another process has the lock, or the folder cannot be written.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = (run_dir / ".lock").open("a+")
    except OSError as error:
        raise UserError(
            f"cannot write into {run_dir}: {error.strerror}; set output_dir= to a writable folder"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise UserError(
                f"{run_dir}: process {lock.read().strip()} is training this run; leaving it alone"
            ) from None
        try:
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
        except OSError as error:
            raise UserError(f"cannot write into {run_dir}: {error.strerror}; make room and repeat") from None
        yield
