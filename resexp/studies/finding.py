"""What an analysis found: numbers beside published ones, and what to draw. Written and read as JSON, without torch."""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resexp import UserError
from resexp.run.files import write_text


@dataclass(frozen=True, kw_only=True)
class Series:
    """One curve, or one set of points.

    :param low: with ``high`` a band around ``y``.
    :param style: ``line``, ``thin`` (dashed) or ``dots``.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    style: str = "line"


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One pair of axes, with series, or with a ``grid`` of values over ``x`` and ``y``.

    :param image: the grid as a picture, from -1 (blue) to 1 (red); False: as level curves.
    """

    title: str
    x: str
    y: str
    series: Sequence[Series] = ()
    log_x: bool = False
    log_y: bool = False
    grid: Sequence[Sequence[float]] = ()
    side: Sequence[float] = ()  # the values of x, and of y, along the grid
    image: bool = False

    @property
    def hues(self) -> list[int]:
        """Which colour each series has, from 0: a thin one without a label has that of the series that it goes with."""
        numbers: list[int] = []
        for one in self.series:
            with_last = bool(numbers) and one.style == "thin" and not one.label
            numbers.append(numbers[-1] if with_last else len(set(numbers)))
        return numbers


@dataclass(frozen=True, kw_only=True)
class Row:
    """One number and what it is compared with.

    :param agrees: None where there is nothing to agree with, or where the nets cannot say.
    :param id: what other files call the row; several rows of one kind share it.
    """

    id: str = ""
    what: str
    measured: str
    expected: str = ""
    source: str = ""
    agrees: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One analysis of one subject.

    :param about: nets, data, seeds and settings: what was measured.
    """

    analysis: str
    title: str
    about: str
    panels: Sequence[Panel] = ()
    rows: Sequence[Row] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)


COLUMNS = ("what", "measured", "expected", "agrees", "source")


def table(finding: Finding) -> list[list[str]]:
    """The rows as words, for ``COLUMNS``."""
    words = {True: "yes", False: "NO", None: "-"}
    return [[row.what, row.measured, row.expected or "-", words[row.agrees], row.source or "-"] for row in finding.rows]


def save(finding: Finding, path: Path) -> None:
    text = json.dumps(_rounded(dataclasses.asdict(finding)), indent=1)
    path.write_text(text + "\n", encoding="utf-8")


def read(path: Path) -> Finding:
    """Raises UserError if the file is no finding."""
    try:
        return _parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: no finding of resexp analyze ({error})") from None


def _parse(text: str) -> Finding:
    found = json.loads(text)
    panels = [Panel(**{**p, "series": [Series(**s) for s in p["series"]]}) for p in found["panels"]]
    return Finding(**{**found, "panels": panels, "rows": [Row(**row) for row in found["rows"]]})


KEPT = "findings.jsonl"  # the reference's: a line a finding, its name before it


def find(folder: Path, name: str) -> Finding | None:
    """A folder's finding of a name: a JSON file, or a line of the one that keeps many. Raises UserError if damaged."""
    path = folder / f"{name}.json"
    if path.is_file():
        return read(path)
    return next((_parse_kept(folder, text) for one, text in _kept(folder) if one == name), None)


def findings_in(folder: Path) -> dict[str, Finding]:
    """All that ``find`` finds, by name."""
    found = {name: _parse_kept(folder, text) for name, text in _kept(folder)}
    return dict(sorted({**found, **{path.stem: read(path) for path in folder.glob("*.json")}}.items()))


def _kept(folder: Path) -> Iterator[tuple[str, str]]:
    kept = folder / KEPT
    for line in kept.read_text(encoding="utf-8").splitlines() if kept.is_file() else ():
        name, _, text = line.partition("\t")
        yield name, text


def _parse_kept(folder: Path, text: str) -> Finding:
    try:
        return _parse(text)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / KEPT}: no findings of resexp analyze ({error}); restore it") from None


def keep(findings: Mapping[str, Finding], folder: Path) -> None:
    """Put findings among those that a folder keeps in one file; one of the same name is replaced."""
    lines = [
        f"{name}\t{json.dumps(_rounded(dataclasses.asdict(found)))}\n"
        for name, found in sorted({**findings_in(folder), **findings}.items())
    ]
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / KEPT, "".join(lines))


def _rounded(value: Any) -> Any:
    """Five digits are more than a figure shows, and JSON has no infinities."""
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple | range):
        return [_rounded(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value
