"""Runs kept as the lines of one JSONL file: settings, environment, log and summary of each, without checkpoints.

``outputs/reference/STUDY.jsonl`` holds a study's reference runs this way. A run that several studies share is a line of
one file; in the others a line ``{"name": ..., "kept_in": STUDY}`` points to it. A file that would be large goes on in
``STUDY.2.jsonl``, ``STUDY.3.jsonl`` and so on, which are read and written with it.
"""

import itertools
import json
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from resexp import UserError
from resexp.run.files import CHECKSUMS, crc32_of, write_checked, write_json, write_text
from resexp.run.reader import CONFIG, ENV, METRICS, SUMMARY, Run, find_runs

SUFFIX = ".jsonl"
PART_BYTES = 900_000  # of a file, before it goes on in another one
MACHINES = ("dataset.root=", "dataset.pack=", "output_dir=", "--config-dir=")  # words of a command that name folders


@dataclass(frozen=True)
class StoredRun(Run):
    """A run of such a file: its ``path`` is the file's and, below it, the run's name."""

    record: dict[str, Any] = field(repr=False, compare=False)

    def verify(self) -> None:
        """Its files are parts of one line."""

    def load(self, name: str) -> dict[str, Any]:
        return self.record[name]

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        log = self.record[METRICS]
        return [dict(zip(log["columns"], row, strict=True)) for row in log["rows"]]

    @property
    def latest(self) -> dict[str, dict[str, Any]]:
        return {record["split"]: record for record in self.metrics}


def runs_at(path: Path) -> dict[str, Run]:
    """The runs directly below a folder, or those of a ``.jsonl`` file, by name; none if there is no such path.

    :raises UserError: for a damaged file.
    """
    if path.suffix != SUFFIX:
        return {run.path.name: run for run in find_runs(path)}
    lines = _read_lines(path)
    keepers = {line["kept_in"] for line in lines.values() if "kept_in" in line}
    kept = {keeper: _read_lines(path.with_name(keeper + SUFFIX)) for keeper in keepers}
    found: dict[str, Run] = {}
    for name, line in lines.items():
        record = kept[line["kept_in"]].get(name, line) if "kept_in" in line else line
        if "kept_in" in record:
            raise UserError(f"{path}: {name} is not in {line['kept_in']}{SUFFIX}; restore both files")
        found[name] = StoredRun(path / name, record)
    return found


def _read_lines(path: Path) -> dict[str, dict[str, Any]]:
    """The lines of a file, by the names of their runs."""
    found = {}
    for file in _parts(path):
        for number, text in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                line = json.loads(text)
                needed = () if "kept_in" in line else (CONFIG, ENV, SUMMARY, METRICS)
                if not all(isinstance(line[key], dict) for key in needed):
                    raise TypeError
                found[line["name"]] = line
            except (ValueError, KeyError, TypeError):
                raise UserError(f"{file}, line {number}: damaged; restore the file") from None
    return found


def stores(folder: Path) -> list[Path]:
    """The ``.jsonl`` files of runs in a folder, sorted; of one in several parts the first."""
    return [path for path in sorted(folder.glob(f"*{SUFFIX}")) if not re.search(r"\.\d+$", path.stem)]


def _part(path: Path, number: int) -> Path:
    return path if number == 1 else path.with_name(f"{path.stem}.{number}{SUFFIX}")


def _parts(path: Path) -> list[Path]:
    """The files there are of one, in order."""
    return list(itertools.takewhile(Path.is_file, (_part(path, number) for number in itertools.count(1))))


def _write_lines(path: Path, lines: Mapping[str, dict[str, Any]]) -> None:
    """By name, in as many parts as their size asks for; the last part first: a file that grows never lacks a run."""
    texts = [""]
    for name in sorted(lines):
        text = json.dumps(lines[name]) + "\n"
        if texts[-1] and len(texts[-1]) + len(text) > PART_BYTES:
            texts.append("")
        texts[-1] += text
    before = _parts(path)
    for number in range(len(texts), 0, -1):
        write_text(_part(path, number), texts[number - 1])
    for file in before[len(texts) :]:
        file.unlink()


def keep_runs(runs: Iterable[Run], path: Path) -> None:
    """Add runs to a ``.jsonl`` file, without the folders of the machine they ran on.

    A run that another file of the folder keeps already, with the same curves, is pointed to. Trained again on another
    kind of processor, which rounds differently, it is kept again.
    """
    lines = _read_lines(path)
    others = {other.stem: _read_lines(other) for other in stores(path.parent) if other != path}
    for run in runs:
        name, record = run.path.name, _record(run)
        keepers = [keeper for keeper, theirs in others.items() if name in theirs and _alike(theirs[name], record)]
        pointed_to = any(theirs.get(name, {}).get("kept_in") == path.stem for theirs in others.values())
        lines[name] = {"name": name, **({"kept_in": keepers[0]} if keepers and not pointed_to else record)}
    if not lines:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_lines(path, lines)


def _record(run: Run) -> dict[str, Any]:
    env = _without_folders(run.env)
    columns = list(run.metrics[0]) if run.metrics else []
    config = {**run.config, "dataset": {**run.config["dataset"], "root": None, "pack": None}, "output_dir": "outputs"}
    for key in ("init_from", "resume_from"):
        if config.get(key):
            config[key] = Path(config[key]).name
    return {
        CONFIG: config,
        ENV: env,
        SUMMARY: {key: value for key, value in run.summary.items() if key != CHECKSUMS},
        METRICS: {"columns": columns, "rows": [[line[key] for key in columns] for line in run.metrics]},
    }


def _without_folders(env: dict[str, Any]) -> dict[str, Any]:
    """An environment, and those in which the run was resumed."""
    kept = dict(env)
    if "command" in env:
        kept["command"] = _command_without_folders(env["command"])
    if "resumed" in env:
        kept["resumed"] = [_without_folders(entry) for entry in env["resumed"]]
    return kept


def _command_without_folders(command: str) -> str:
    try:
        words = shlex.split(command)
    except ValueError:  # written by an earlier version, without quotes
        words = command.split()
    kept = []
    for before, word in zip(["", *words], words, strict=False):
        key, equals, value = word.partition("=")
        if word == "--config-dir" or before == "--config-dir" or word.startswith(MACHINES):
            continue
        kept.append(f"{key}={Path(value).name}" if equals and key in ("init_from", "resume_from") else word)
    return shlex.join(kept)


def _alike(one: dict[str, Any], two: dict[str, Any]) -> bool:
    """Whether both are records, with the same numbers in every line of the log but for the speed."""

    def numbers(record: dict[str, Any]) -> list[list[Any]]:
        kept = [index for index, key in enumerate(record[METRICS]["columns"]) if key != "images_per_s"]
        return [[row[index] for index in kept] for row in record[METRICS]["rows"]]

    return "kept_in" not in one and numbers(one) == numbers(two)


def unpack_run(run: Run, folder: Path) -> None:
    """Write a run folder with all but the checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    record = _record(run)
    write_json(folder / ENV, record[ENV])
    write_text(folder / METRICS, "".join(json.dumps(line) + "\n" for line in run.metrics))
    write_text(folder / CONFIG, yaml.safe_dump(record[CONFIG], sort_keys=False))
    checksums = {CHECKSUMS: crc32_of(folder, CONFIG, ENV, METRICS)}
    write_checked(folder / SUMMARY, {**record[SUMMARY], **checksums})  # last, as in training
