"""Where and how a run ran: versions, hardware, the commit, the command."""

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import resexp
from resexp import system
from resexp.run.files import write_json
from resexp.run.reader import ENV


def versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("torch", "torchvision", "numpy")},
    }


def hardware(device: str) -> dict[str, Any]:
    return {"cpu": system.cpu_name(), "cores": system.cores(), "device": device}


def write_env(
    run_dir: Path, *, step: int, device: str, threads: int, fast_paths: Sequence[str], world_size: int = 1
) -> None:
    """Where and how this run runs; a resumed one adds an entry to ``resumed`` and keeps what its first process said."""
    here = {
        "start": datetime.now(UTC).isoformat(timespec="seconds"),
        "pid": os.getpid(),
        "command": shlex.join(["resexp", *sys.argv[1:]]),
        "git_commit": _git_commit(),
        "versions": versions(),
        "hardware": hardware(device),
        "threads": threads,
        "fast_paths": list(fast_paths),
        "world_size": world_size,
    }
    path = run_dir / ENV
    if step and path.is_file():
        try:
            first = json.loads(path.read_text(encoding="utf-8"))
            first.setdefault("resumed", []).append({"step": step, **here})
            here = {**first, "start": first["start"]}
        except (ValueError, AttributeError, KeyError, TypeError):  # a damaged file must not stop the run that can go on
            here = {**here, "step": step, "earlier": "unknown: the file was damaged"}
    write_json(path, here)


def _git_commit() -> str | None:
    """The commit of the checkout this program runs from, with ``+`` after it if files differ; None in a wheel."""
    checkout = Path(resexp.__file__).resolve().parent.parent
    if not (checkout / ".git").exists():
        return None
    try:
        commit, changes = (
            subprocess.run(["git", *words], cwd=checkout, capture_output=True, text=True, check=True).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changes else "")
