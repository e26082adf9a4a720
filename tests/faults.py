"""A disk that fails at a chosen operation: a run is trained in a forked process whose file operations are counted.

Operations are those on files below the run's folder: opening to write, writing, syncing, renaming, removing, cutting.
At the chosen one the fault happens. ``kill`` is the process gone without another word, ``lost`` a power cut that also
takes what was never synced.
"""

# ruff: noqa: PTH100, PTH115  the layer below pathlib is what is watched here

import builtins
import errno
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ERRORS = {"ENOSPC": errno.ENOSPC, "EDQUOT": errno.EDQUOT, "EIO": errno.EIO, "EACCES": errno.EACCES}
KINDS = (*ERRORS, "kill", "short", "torn", "lost")
KILLED = 77  # exit code of a process that the fault ended


class Disk:
    """Counts operations below ``root`` and lets one of them fail.

    :param at: the number of the operation, from 1; 0: none.
    """

    def __init__(self, root: Path, kind: str = "", at: int = 0) -> None:
        self.root, self.kind, self.at = str(root.resolve()), kind, at
        self.count = 0
        self.synced: dict[str, bytes] = {}  # what a power cut leaves of files written since the start
        self.real_open, self.real_replace = io.open, os.replace

    def install(self) -> None:
        """From here on this process' files are on this disk."""
        builtins.open = io.open = self.open  # type: ignore[assignment]
        for name in ("replace", "rename", "unlink", "truncate", "fsync"):
            setattr(os, name, self.watched(getattr(os, name), name))

    def is_ours(self, path: Any) -> bool:
        return isinstance(path, str | bytes | os.PathLike) and os.path.abspath(os.fsdecode(path)).startswith(self.root)

    def operation(self, torn: Callable[[], Any] = lambda: None) -> None:
        """Count, and fail if it is this one's turn. ``torn`` does half of the operation."""
        self.count += 1
        if self.count != self.at:
            return
        if self.kind in ERRORS:
            raise OSError(ERRORS[self.kind], os.strerror(ERRORS[self.kind]))
        if self.kind in ("short", "torn"):
            torn()
        if self.kind == "short":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self.kind == "lost":
            self.cut_power()
        os._exit(KILLED)

    def cut_power(self) -> None:
        for path, content in self.synced.items():
            if Path(path).is_file():
                with self.real_open(path, "wb") as file:
                    file.write(content)

    def open(self, file: Any, mode: str = "r", *more: Any, **settings: Any) -> Any:
        writes = self.is_ours(file) and any(letter in mode for letter in "wax+")
        if not writes:
            return self.real_open(file, mode, *more, **settings)
        self.operation()
        path = os.path.abspath(os.fsdecode(file))
        before = Path(path).read_bytes() if Path(path).is_file() and "w" not in mode else b""
        opened = self.real_open(file, mode, *more, **settings)
        self.synced.setdefault(path, before)
        if "w" in mode:
            self.synced[path] = b""
        return Watched(opened, self)

    def watched(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(target: Any, *more: Any, **settings: Any) -> Any:
            path = target
            if name == "fsync" and isinstance(target, int):
                path = os.readlink(f"/proc/self/fd/{target}")
            if not self.is_ours(path):
                return real(target, *more, **settings)
            self.operation()
            result = real(target, *more, **settings)
            path = os.path.abspath(os.fsdecode(path))
            if name == "fsync" and Path(path).is_file():
                self.synced[path] = Path(path).read_bytes()
            elif name in ("replace", "rename"):
                self.synced[os.path.abspath(os.fsdecode(more[0]))] = self.synced.pop(path, b"")
            elif name == "unlink":
                self.synced.pop(path, None)
            elif name == "truncate" and path in self.synced:
                self.synced[path] = self.synced[path][: more[0]]
            return result

        return call


class Watched:
    """An open file whose writes are counted."""

    def __init__(self, file: Any, disk: Disk) -> None:
        self.__dict__.update(file=file, disk=disk)

    def write(self, content: Any) -> Any:
        def half() -> None:
            self.file.write(content[: len(content) // 2])
            self.file.flush()

        self.disk.operation(half)
        return self.file.write(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> "Watched":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __iter__(self) -> Any:
        return iter(self.file)


def train_on(disk: Disk, words: list[str], said: Path) -> tuple[int, int]:
    """Train in a forked process on this disk. Returns its exit code, and how many operations it did.

    :param said: takes what it printed.
    """
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        code = 99  # a traceback
        try:
            output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for stream in (1, 2):
                os.dup2(output, stream)
            sys.stdout, sys.stderr = (io.open(stream, "w", buffering=1, closefd=False) for stream in (1, 2))  # noqa: UP020, SIM115
            from resexp.cli import main

            disk.install()
            code = main(["train", *words])
        except BaseException as error:
            print(f"Traceback: {type(error).__name__}: {error}", flush=True)
        finally:
            os.write(send, str(disk.count).encode())
            os._exit(code)
    os.close(send)
    _, status = os.waitpid(child, 0)
    with os.fdopen(receive) as answer:
        count = answer.read()
    return os.waitstatus_to_exitcode(status), int(count or 0)
