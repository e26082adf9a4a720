"""What the system and the environment say, and what Linux, macOS and Windows do each in their own way. No torch."""

import contextlib
import ctypes
import errno
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from resexp import UserError

WINDOWS = sys.platform == "win32"
PARENT = "RESEXP_PARENT"  # the variable with the process id of the sweep that started this run
PARENT_SECONDS = 1.0  # between two looks whether it is still there


def signal_numbers(*names: str) -> tuple[int, ...]:
    """Those of the named signals that this system has; SIGBREAK is Windows' way to ask a process to end."""
    return tuple(getattr(signal, name) for name in (*names, "SIGBREAK") if hasattr(signal, name))


def is_ignored(name: str) -> bool:
    """Whether this process was started with a signal ignored, as by nohup."""
    number = getattr(signal, name, None)
    return number is not None and signal.getsignal(number) == signal.SIG_IGN


def expand_home(path: str | Path, key: str) -> Path:
    """A path with ``~`` and ``~name`` written out. Raises UserError where there is no such home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{key}={path}: there is no such home folder; write the path in full") from None


NO_MEMORY = (
    "not enough memory; take a smaller protocol.batch_size, dataset.image_size or model.width, or "
    "activation_checkpointing=true"
)


def lacks_memory(error: BaseException) -> bool:
    """Whether this is what Python, torch or a GPU raises where memory ends."""
    phrases = ("can't allocate memory", "out of memory", "not enough memory", "alloc_failed")  # the last: cuBLAS, cuDNN
    found = isinstance(error, RuntimeError) and any(phrase in str(error).lower() for phrase in phrases)
    return found or isinstance(error, MemoryError)


def refuses_to_read(error: BaseException) -> bool:
    """Whether the system would not let a file be read. EINVAL says no such thing: it is what damage leads to."""
    return isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)


def own_group() -> dict[str, Any]:
    """For Popen: a process group of its own, so that a terminal's Ctrl-C reaches the parent alone.

    Not a new session, which would be nice 0 again.
    """
    return {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)} if WINDOWS else {"process_group": 0}


def ask_to_stop(process: "subprocess.Popen[bytes]", number: int) -> None:
    """Pass a signal on to a process with a group of its own; a closed terminal's becomes SIGTERM."""
    if WINDOWS:
        process.send_signal(signal.CTRL_BREAK_EVENT)  # type: ignore[attr-defined]  # the only one that can be handled
        return
    process.send_signal(signal.SIGTERM if number == getattr(signal, "SIGHUP", None) else number)


def stop_with_parent(parent: int) -> None:
    """SIGTERM to this process when its parent is gone: a killed sweep must leave no process training unseen."""

    def is_there() -> bool:  # on Windows a process keeps the number of a parent that is gone
        return psutil.pid_exists(parent) if WINDOWS else os.getppid() == parent

    def watch() -> None:
        while is_there():
            time.sleep(PARENT_SECONDS)
        signal.raise_signal(signal.SIGTERM)  # os.kill would end the process at once on Windows

    threading.Thread(target=watch, daemon=True).start()


def cores() -> int:
    """That this process may use; macOS does not say, and has all of them."""
    with contextlib.suppress(AttributeError, psutil.Error):
        return len(psutil.Process().cpu_affinity() or ())
    return os.cpu_count() or 1


def available_memory() -> int:
    """Bytes that can be had without swapping."""
    return int(psutil.virtual_memory().available)


def peak_memory() -> int:
    """Bytes that this process has had at most.

    Not getrusage's on Linux: a process inherits that number from a larger one that started it.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        return int(status.read_text(encoding="utf-8").partition("VmHWM:")[2].split()[0]) * 1024
    memory = psutil.Process().memory_info()
    if hasattr(memory, "peak_wset"):  # Windows
        return int(memory.peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def gpu() -> str:
    """The kind of GPU that this machine most likely has, asked without torch: ``cuda``, ``mps`` or nothing."""
    if any(Path("/dev").glob("nvidia[0-9]*")) or (WINDOWS and shutil.which("nvidia-smi")):
        return "cuda"
    return "mps" if sys.platform == "darwin" and platform.machine() == "arm64" else ""


def cpu_name() -> str:
    """As the system calls the processor."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    return platform.processor() or platform.machine()


def user_name() -> str:
    """For a folder of this user's among temporary files, where there is no home."""
    number = getattr(os, "getuid", None)
    return str(number()) if number else os.environ.get("USERNAME", "user")


def return_freed_memory() -> None:
    """Give large tensors pages of their own, which go back to the system when they are freed (M_MMAP_THRESHOLD).

    Otherwise a deep net's small gradients come to lie between the freed activations and pin twice what it needs:
    ResNet-1202's step peaked at 3.5 to 4 GB without this. It costs page faults, so only those who asked to save
    memory pay for it. Another C library than Linux' has nothing to set.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(-3, 1 << 20)


def allow_open_files(count: int = 4096) -> None:
    """Let this process open so many files, if the system allows: every batch on its way from a worker is one."""
    with contextlib.suppress(ImportError, OSError, ValueError):  # Windows; or not allowed
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def world_size() -> int:
    """How many processes train the run together; 1 without a launcher."""
    return max(1, _number("WORLD_SIZE", 1))


def rank() -> int:
    """This process's place among them; 0 without a launcher."""
    if world_size() > 1 and not os.environ.get("RANK"):
        raise UserError("WORLD_SIZE is set and RANK is not: start with torchrun, or unset WORLD_SIZE")
    return _number("RANK", 0) if world_size() > 1 else 0


def local_rank() -> int:
    """Its place among those of this machine, which decides its GPU."""
    return _number("LOCAL_RANK", 0)


def _number(name: str, usual: int) -> int:
    text = os.environ.get(name, "").strip()
    if text and not text.isdecimal():
        raise UserError(f"{name}={text}: must be a whole number; start with torchrun, or unset it")
    return int(text) if text else usual
