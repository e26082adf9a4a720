"""A run folder: what is written into it and how it is read back, in one file.

``config.yaml``, ``env.json``, ``metrics.jsonl``, ``summary.json``, ``checkpoint.pt``, ``tb/``; DESIGN in the README.
"""

import contextlib
import fcntl
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from resexp import UserError

METRICS, SUMMARY, CONFIG, ENV, CHECKPOINT = "metrics.jsonl", "summary.json", "config.yaml", "env.json", "checkpoint.pt"
EVENTS = "tb"
QUANTITIES: tuple[str, ...] = ("loss", "error", "lr", "images_per_s")  # of a line of the log
SPLITS = ("train", "val", "test")
STATUSES = ("finished", "interrupted", "diverged", "failed")


@contextlib.contextmanager
def open_folder(run_dir: Path) -> Iterator[None]:
    """Make the folder and hold it: a second process gets a UserError. The kernel lets go when the first one ends."""
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


def write_text(path: Path, text: str) -> None:
    """Write all of it or nothing."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # file names may be no text
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: dict[str, Any]) -> None:
    write_text(path, json.dumps(value, indent=2) + "\n")


def versions() -> dict[str, str]:
    return {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("torch", "torchvision", "numpy")},
    }


def hardware(device: str) -> dict[str, Any]:
    return {"cpu": _cpu_name(), "cores": len(os.sched_getaffinity(0)), "device": device}


def write_env(
    run_dir: Path, *, step: int, device: str, threads: int, fast_paths: Sequence[str], world_size: int = 1
) -> None:
    """Where and how this run runs; a resumed one adds an entry to ``resumed`` and keeps what its first process said."""
    here = {
        "start": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["resexp", *sys.argv[1:]]),
        "git_commit": _git_commit(),
        "versions": versions(),
        "hardware": hardware(device),
        "threads": threads,
        "fast_paths": list(fast_paths),
        "world_size": world_size,
    }
    path = run_dir / ENV
    if step and path.is_file():
        first = json.loads(path.read_text())
        first.setdefault("resumed", []).append({"step": step, **here})
        here = first
    write_json(path, here)


def _git_commit() -> str | None:
    """The commit of the checkout this program runs from, with ``+`` behind it if files differ; None in a wheel."""
    checkout = Path(__file__).resolve().parent.parent
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


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


class MetricsLog:
    """Appends to ``metrics.jsonl`` and to TensorBoard's events.

    :param size: bytes of the log that belong to the resumed checkpoint; what a killed run wrote past them is cut off.
    :param step: the step at which this process starts; TensorBoard hides what an earlier one wrote past it.
    """

    def __init__(self, run_dir: Path, *, size: int, step: int, tensorboard: bool) -> None:
        path = run_dir / METRICS
        path.touch()
        if path.stat().st_size < size:
            raise UserError(f"{path}: shorter than its checkpoint says; remove {run_dir} to start the run again")
        os.truncate(path, size)
        self.file = path.open("a")
        self.events = TensorBoardEvents(run_dir, step=step) if tensorboard else None

    def write(
        self, *, step: int, epoch: float, split: str, loss: float, error: float, lr: float, images_per_s: float
    ) -> None:
        """One line. ``split`` is train, val or test; ``error`` in percent; ``lr`` that of the last update."""
        values = {"loss": loss, "error": error, "lr": lr, "images_per_s": round(images_per_s, 1)}
        self.file.write(json.dumps({"step": step, "epoch": round(epoch, 4), "split": split, **values}) + "\n")
        self.file.flush()
        if self.events:
            self.events.write(split, values, step=step)

    def size(self) -> int:
        """Bytes written so far, on the disk."""
        self.file.flush()
        os.fsync(self.file.fileno())
        return self.file.tell()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a full disk has been reported by the write that met it
            self.file.close()
        with contextlib.suppress(OSError):
            if self.events:
                self.events.file.close()


class TensorBoardEvents:
    """TensorBoard's event file, written at once: its own writer's thread would print a traceback on a full disk.

    It begins with the run's settings, for TensorBoard's table of hyper-parameters.

    :param step: TensorBoard is told to hide what an earlier process wrote past this step.
    """

    def __init__(self, run_dir: Path, *, step: int) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.event_pb2, self.summary_pb2 = event_pb2, summary_pb2
        folder = run_dir / EVENTS
        folder.mkdir(exist_ok=True)
        self.file = (folder / f"events.out.tfevents.{time.time():.6f}.{os.getpid()}").open("wb")
        self.records = RecordWriter(self.file)
        self._write(file_version="brain.Event:2")
        self._write(summary=hparams_pb(_hyper_parameters(Run(run_dir).config), trial_id=run_dir.name))
        if step:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(step=step + 1, session_log=start)

    def write(self, split: str, values: dict[str, float], *, step: int) -> None:
        """``error/test``, ``loss/train`` and so on: one chart a quantity and split, with a curve a run."""
        Value = self.summary_pb2.Summary.Value
        summary = [Value(tag=f"{name}/{split}", simple_value=value) for name, value in values.items()]
        self._write(step=step, summary=self.summary_pb2.Summary(value=summary))

    def _write(self, **content: Any) -> None:
        self.records.write(self.event_pb2.Event(wall_time=time.time(), **content).SerializeToString())
        self.file.flush()


def _hyper_parameters(config: dict[str, Any]) -> dict[str, Any]:
    """The settings that decide a run's result, without what its net does not have."""
    groups = ("model", "dataset", "protocol")
    known = {"seed": config["seed"], **{f"{group}.{key}": v for group in groups for key, v in config[group].items()}}
    return {
        key: value if isinstance(value, bool | int | float | str) else str(value)
        for key, value in known.items()
        if value is not None and key != "dataset.root"
    }


def write_missing_events(run: "Run") -> bool:
    """TensorBoard's events from the log of a run that has none, as a reference run. Returns whether it had none."""
    if any((run.path / EVENTS).glob("events.*")):
        return False
    events = TensorBoardEvents(run.path, step=0)
    with events.file:
        for record in run.metrics:
            values = {key: record[key] for key in QUANTITIES if is_number(record.get(key))}
            events.write(record["split"], values, step=record["step"])
    return True


class Silent:
    """The log and the progress of a process that writes nothing, because the first of its run does."""

    def __getattr__(self, _name: str) -> Callable[..., None]:
        return lambda *_args, **_kwargs: None


class ProgressLine:
    """Live progress on a terminal, a plain line every ten seconds elsewhere; both on stderr."""

    PLAIN_SECONDS = 10.0
    LIVE_SECONDS = 0.5

    def __init__(self, *, step: int, steps: int) -> None:
        self.console = Console(stderr=True)
        self.first, self.steps = step, steps
        self.started = self.shown = time.monotonic()
        self.live: Progress | None = None
        if self.console.is_terminal:
            columns = (
                BarColumn(bar_width=20),
                TextColumn("step {task.completed}/{task.total}  {task.fields[text]}"),
                TimeRemainingColumn(elapsed_when_finished=True),
                TextColumn("left"),
            )
            self.live = Progress(*columns, console=self.console, transient=True)
            self.task = self.live.add_task("", total=steps, completed=step, text="")
            self.live.start()

    def due(self) -> bool:
        """Whether it is time to show more: asked at every step, so that a net of 40 s a step still reports."""
        return time.monotonic() - self.shown >= (self.LIVE_SECONDS if self.live else self.PLAIN_SECONDS)

    def show(self, step: int, *, loss: float, train_error: float, test_error: float | None, rate: float) -> None:
        """:param rate: images/s."""
        self.shown = time.monotonic()
        test = f"{test_error:.2f}%" if test_error is not None else "-"
        text = f"loss {loss:.3f}  train {train_error:.2f}%  test {test}  {rate:,.0f} images/s"
        if self.live:
            self.live.update(self.task, completed=step, text=text)
        else:
            left = (self.shown - self.started) / max(1, step - self.first) * (self.steps - step)
            self.note(f"step {step}/{self.steps}  {text}  {duration(left)} left")

    def note(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        if self.live:
            self.live.stop()


def print_progress(what: str, done: int, total: int) -> None:
    """Progress of reading data: one changing line on a terminal, a line every tenth elsewhere; on stderr."""
    if sys.stderr.isatty():
        print(f"\r{what}: {done:,} of {total:,}", end="\n" if done == total else "", file=sys.stderr, flush=True)
    elif done == total or done * 10 // total > (done - 500) * 10 // total:
        print(f"{what}: {done:,} of {total:,}", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """``duration(4000)`` -> ``"1 h 07 min"``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


@dataclass(frozen=True)
class Run:
    """A run folder, read."""

    path: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        return _read(self.path / CONFIG, lambda text: yaml.load(text, Loader=_YAML))

    @cached_property
    def env(self) -> dict[str, Any]:
        return _read(self.path / ENV, json.loads)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Empty for a run that was killed or is still running."""
        return _read(self.path / SUMMARY, json.loads)

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """All complete lines; a line that a kill cut short is not one."""
        path = self.path / METRICS
        records = []
        for line in path.read_text(errors="replace").splitlines() if path.is_file() else []:
            with contextlib.suppress(json.JSONDecodeError):
                records.append(json.loads(line))
        return [r for r in records if isinstance(r, dict) and r.get("split") in SPLITS and type(r.get("step")) is int]

    def curve(self, split: str, key: str = "error") -> tuple[list[int], list[float]]:
        """(steps, values) of one split: ``train``, ``val`` or ``test``."""
        records = [record for record in self.metrics if record["split"] == split and is_number(record.get(key))]
        return [record["step"] for record in records], [record[key] for record in records]

    @property
    def status(self) -> str:
        """The summary's status; without a summary ``partial`` if there is a checkpoint, else ``new``."""
        if self.summary:
            return self.summary["status"]
        return "partial" if (self.path / CHECKPOINT).is_file() else "new"

    def refuse_other_root(self, source: str, root: str | None) -> None:
        """Raise UserError if this run is finished and its images came from another folder than ``root``."""
        by_folder = source in ("imagefolder", "imagenet")
        earlier = self.config["dataset"]["root"] if self.status == "finished" and by_folder else root
        if earlier != root:
            raise UserError(
                f"{self.path}: finished with the images of {earlier}; name those of {root}: dataset.name=..."
            )

    @property
    def step(self) -> int:
        step = self.summary.get("step")
        return step if type(step) is int and step else max((record["step"] for record in self.metrics), default=0)

    @property
    def images_per_s(self) -> float | None:
        """Training speed: the summary's, or the last line's of a run that has none yet."""
        if is_number(self.summary.get("images_per_s")):
            return self.summary["images_per_s"]
        rates = self.curve("train", "images_per_s")[1]
        return rates[-1] if rates else None


_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML has it


def _read(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    """A file of a run folder; empty if there is none. Raises UserError if it is damaged."""
    try:
        value = parse(path.read_text()) if path.is_file() else {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        value = str(error).splitlines()[0]
    if isinstance(value, dict):
        return value
    raise UserError(f"{path}: damaged ({value}); restore it, or remove {path.parent} and repeat the run")


def read_run(path: Path) -> Run:
    """Raises UserError if ``path`` is no run folder, or a damaged one."""
    if not (path / CONFIG).is_file():
        raise UserError(f"{path}: not a run folder (it has no {CONFIG})")
    run = Run(path)
    groups = ("model", "dataset", "protocol")
    lacking = [key for key in groups if not isinstance(run.config.get(key), dict)]
    if lacking or type(run.config.get("seed")) is not int:
        raise UserError(f"{path}: not a run folder (its {CONFIG} has no {', '.join(lacking) or 'seed'})")
    for key in ("hardware", "versions"):
        if not isinstance(run.env.get(key, {}), dict):
            raise UserError(f"{path / ENV}: damaged ({key} is {run.env[key]!r}); restore it, or repeat the run")
    if run.summary and run.summary.get("status") not in STATUSES:
        raise UserError(f"{path / SUMMARY}: damaged (no status); restore it, or remove it and repeat the run")
    return run


def is_number(value: Any) -> bool:
    """NaN is one: a diverged run has it."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def find_runs(root: Path) -> list[Run]:
    """All run folders directly below ``root``, by name."""
    return [Run(path.parent) for path in sorted(root.glob(f"*/{CONFIG}"))]
