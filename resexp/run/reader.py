"""A run, read back: settings, environment, curves and summary. The files of a run folder have their names here."""

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from resexp import UserError
from resexp.run.files import CHECKSUMS, crc32_of, load_checked

METRICS, SUMMARY, CONFIG, ENV, CHECKPOINT = "metrics.jsonl", "summary.json", "config.yaml", "env.json", "checkpoint.pt"
EVENTS = "tb"
QUANTITIES: tuple[str, ...] = ("loss", "error", "lr", "images_per_s")  # of a line of the log
TAIL = 1 << 16  # bytes of a log that hold the last line of every split, unless it is evaluated very seldom
SPLITS = ("train", "val", "test")
LEARNED = 0.5  # of the error of guessing: a net above it has not learned, or does not compute what it was trained for


class Status(StrEnum):
    """How far a run is."""

    FINISHED = "finished"
    INTERRUPTED = "interrupted"
    DIVERGED = "diverged"
    FAILED = "failed"
    PARTIAL = "partial"  # a checkpoint and no summary: it was killed, or is still running
    NEW = "new"


DONE = (Status.FINISHED, Status.DIVERGED)  # those with a result, which never train again
ENDED = (Status.FINISHED, Status.INTERRUPTED, Status.DIVERGED, Status.FAILED)  # those of a summary


@dataclass(frozen=True)
class Run:
    """A run folder, read."""

    path: Path

    def load(self, name: str) -> dict[str, Any]:
        """One of the run's small files; empty if there is none. Raises UserError if it is damaged."""
        return _read(self.path / name, load_yaml if name == CONFIG else load_checked)

    @cached_property
    def config(self) -> dict[str, Any]:
        return self.load(CONFIG)

    @cached_property
    def env(self) -> dict[str, Any]:
        return self.load(ENV)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Empty for a run that was killed or is still running."""
        return self.load(SUMMARY)

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """All complete lines; a line that a kill cut short is not one."""
        path = self.path / METRICS
        return _records(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else []

    @property
    def latest(self) -> dict[str, dict[str, Any]]:
        """The last line of each split, read anew from the end of the log, which may be long."""
        try:
            with (self.path / METRICS).open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL))
                tail = file.read().decode("utf-8", errors="replace")
        except OSError:
            return {}
        return {record["split"]: record for record in _records(tail)}

    def verify(self) -> None:
        """Compare the files with the checksums that the summary has of them. Raises UserError for a damaged one."""
        for name, crc32 in self.summary.get(CHECKSUMS, {}).items():
            path = self.path / name
            if not path.is_file() or crc32_of(self.path, name)[name] != crc32:
                raise UserError(f"{path}: damaged (its checksum is another); restore it, or repeat the run")

    def curve(self, split: str, key: str = "error") -> tuple[list[int], list[float]]:
        """(steps, values) of one split: ``train``, ``val`` or ``test``."""
        records = [record for record in self.metrics if record["split"] == split and is_number(record.get(key))]
        return [record["step"] for record in records], [record[key] for record in records]

    @property
    def status(self) -> str:
        """The summary's status; without a summary ``partial`` if there is a checkpoint, else ``new``.

        :raises UserError: for a damaged summary.
        """
        if self.summary and self.summary.get("status") not in ENDED:
            remedy = "restore it, or remove it and repeat the run"
            raise UserError(f"{self.path / SUMMARY}: damaged (no status); {remedy}")
        return self.status_to_train

    @property
    def status_to_train(self) -> str:
        """As ``status``, but a damaged summary is as good as none: the run resumes and writes it again."""
        if self.whole_summary:
            return self.whole_summary["status"]
        return Status.PARTIAL if (self.path / CHECKPOINT).is_file() else Status.NEW

    @cached_property
    def whole_summary(self) -> dict[str, Any]:
        """The summary; empty if it is damaged."""
        try:
            return self.summary if self.summary.get("status") in ENDED else {}
        except UserError:
            return {}

    @property
    def step(self) -> int:
        step = self.whole_summary.get("step")
        return step if type(step) is int and step else max((last["step"] for last in self.latest.values()), default=0)

    @property
    def images_per_s(self) -> float | None:
        """Training speed: the summary's, or the last line's of a run that has none yet."""
        if is_number(self.summary.get("images_per_s")):
            return self.summary["images_per_s"]
        rates = self.curve("train", "images_per_s")[1]
        return rates[-1] if rates else None


_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML has it


def _records(text: str) -> list[dict[str, Any]]:
    """The lines of a log, or of a part of it, that are whole."""
    records = []
    for line in text.splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            records.append(json.loads(line))
    return [r for r in records if isinstance(r, dict) and r.get("split") in SPLITS and type(r.get("step")) is int]


def load_yaml(text: str) -> Any:
    """What ``yaml.safe_dump`` wrote, names of folders that are no text included. Raises yaml.YAMLError."""
    try:
        return yaml.load(text, Loader=_YAML)
    except yaml.YAMLError:  # the fast one refuses the escapes of such names
        return yaml.safe_load(text)


def _read(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    """A file of a run folder; empty if there is none. Raises UserError if it is damaged."""
    try:
        value = parse(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        value = str(error).splitlines()[0]
    if isinstance(value, dict):
        return value
    raise UserError(f"{path}: damaged ({value}); restore it, or remove {path.parent} and repeat the run")


def read_run(path: Path) -> Run:
    """Raises UserError if ``path`` is no run folder, or a damaged one."""
    if not (path / CONFIG).is_file():
        raise UserError(f"{path}: not a run folder (it has no {CONFIG})")
    return check_run(Run(path))


def check_run(run: Run) -> Run:
    """The run itself. Raises UserError if a part of it is damaged."""
    path = run.path
    if not run.config:
        raise UserError(f"{path}: not a run folder (it has no {CONFIG})")
    groups = ("model", "dataset", "protocol")
    lacking = [key for key in groups if not isinstance(run.config.get(key), dict)]
    if lacking or type(run.config.get("seed")) is not int:
        raise UserError(f"{path}: not a run folder (its {CONFIG} has no {', '.join(lacking) or 'seed'})")
    for key in ("hardware", "versions"):
        if not isinstance(run.env.get(key, {}), dict):
            raise UserError(f"{path / ENV}: damaged ({key} is {run.env[key]!r}); restore it, or repeat the run")
    _ = run.status  # a damaged summary is found here
    run.verify()
    return run


def is_number(value: Any) -> bool:
    """NaN is one: a diverged run has it."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def find_runs(root: Path) -> list[Run]:
    """All run folders directly below ``root``, by name."""
    return [Run(path.parent) for path in sorted(root.glob(f"*/{CONFIG}"))]
