"""One self-contained HTML page of all that has been run: verdicts, curves, tables, mechanisms, and their origins."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from bokeh.resources import Resources

import resexp
from resexp import UserError, config
from resexp.report import plots
from resexp.run.files import write_text
from resexp.run.progress import duration
from resexp.run.reader import Run
from resexp.run.store import runs_at, stores
from resexp.studies import finding
from resexp.studies.claims import Outcome, judge
from resexp.studies.find import REFERENCE, RUNS, StudyRuns, find_study, readable
from resexp.studies.finding import Finding
from resexp.studies.groups import Group, describe_runs, group_runs, number
from resexp.studies.popular import ANALYSIS, answer_all, answer_rows
from resexp.studies.popular import COLUMNS as ANSWER_COLUMNS
from resexp.studies.tables import DISTANCE_COLUMNS, TABLE_COLUMNS, distance_rows, table_rows
from resexp.studies.verdicts import VERDICT_COLUMNS, verdict_rows

FILE = "report.html"
CLASSES = {
    Outcome.HOLDS: "good",
    "yes": "good",
    Outcome.FAILS: "bad",
    "NO": "bad",
    Outcome.AGAINST: "bad",
    Outcome.UNDECIDED: "open",
    Outcome.OPEN: "open",
    Outcome.NEITHER: "open",
    Outcome.AS_CLAIMED: "",
}
RUN_COLUMNS = ("run", "status", "train error %", "test error %", "command", "commit", "time", "images/s", "machine")
MACHINE_COLUMNS = ("machine", "device", "processor", "versions")


@dataclass(frozen=True, kw_only=True)
class Section:
    """A study with its runs, or runs that belong to none."""

    key: str
    title: str
    about: str
    plot: dict[str, Any]
    table: list[list[str]]
    run_table: list[list[str]]
    distances: list[list[str]] = field(default_factory=list)
    verdicts: list[list[str]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Mechanism:
    """An analysis: the keys of its panels, and its table."""

    title: str
    about: str
    plots: list[str]
    table: list[list[str]]


class Machines:
    """The machines and versions of all runs, numbered in the order in which they are met."""

    def __init__(self) -> None:
        self.numbers: dict[tuple[str, str, str], str] = {}

    def of(self, run: Run) -> str:
        hardware = run.env.get("hardware", {})
        versions = ", ".join(f"{name} {version}" for name, version in run.env.get("versions", {}).items())
        cpu = f"{hardware.get('cores', '?')} cores of {hardware.get('cpu', '?')}"
        return self.numbers.setdefault((str(hardware.get("device", "?")), cpu, versions), f"M{len(self.numbers) + 1}")

    @property
    def rows(self) -> list[list[str]]:
        return [[name, *words] for words, name in self.numbers.items()]


def write_report(output_dir: Path, path: Path, config_dir: Path | None = None) -> int:
    """Write the page in one step, so that a reader never sees half of one. Returns how many runs it shows.

    :raises UserError: if there is nothing to show, or the file cannot be written.
    """
    config.check(bool(path.name) and not path.is_dir(), "--out", path, "a folder; name a file")
    machines = Machines()
    names = sorted(config.names("study", config_dir), key=lambda name: (name != "degradation", "-small" in name, name))
    studies = [found for name in names if (found := find_study(name, output_dir, config_dir))]
    shown = {run.path for found in studies for run in found.runs}
    sections = [_study_section(found, machines) for found in studies]
    for title, note, runs in _other_runs(output_dir, shown, config_dir):
        shown |= {run.path for run in runs}
        sections.append(_section(title, title, note, group_runs(runs), machines))
    drawn = {section.key: section.plot for section in sections}
    mechanisms = [_mechanism(name, found, note, drawn) for name, found, note in _findings(output_dir)]
    if not drawn:
        raise UserError(f"no runs under {output_dir}; start with: resexp study degradation")
    words = [row[0] for section in sections for row in section.verdicts]
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("resexp", "report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    templates.policies["json.dumps_kwargs"] = {"sort_keys": True, "separators": (",", ":")}
    text = templates.get_template("report.html.j2").render(
        version=resexp.__version__,
        now=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        bokeh=Resources(mode="inline", components=["bokeh", "bokeh-api"]).render_js(),
        plots=drawn,
        sections=sections,
        mechanisms=mechanisms,
        machines=machines.rows,
        answers=answer_rows(answer_all(output_dir, studies)),
        counts=[(word, words.count(word)) for word in CLASSES if word in words],
        run_count=len(shown),
        CLASSES=CLASSES,
        TABLE_COLUMNS=TABLE_COLUMNS,
        VERDICT_COLUMNS=VERDICT_COLUMNS,
        RUN_COLUMNS=RUN_COLUMNS,
        DISTANCE_COLUMNS=DISTANCE_COLUMNS,
        FINDING_COLUMNS=finding.COLUMNS,
        ANSWER_COLUMNS=ANSWER_COLUMNS,
        MACHINE_COLUMNS=MACHINE_COLUMNS,
    )
    _write(path, text)
    return len(shown)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); name another file with --out") from None


def _study_section(found: StudyRuns, machines: Machines) -> Section:
    study, groups = found.study, found.groups
    how = "After" if study.published_on else "Compared with"
    source = f"{how} {study.source}. " if study.source else ""
    verdicts = verdict_rows(judge(study.claims, groups), study)
    return _section(study.name, study.title, source + found.note, groups, machines, study=study, verdicts=verdicts)


def _section(
    key: str,
    title: str,
    about: str,
    groups: list[Group],
    machines: Machines,
    *,
    study: config.Study | None = None,
    verdicts: Sequence[list[str]] = (),
) -> Section:
    return Section(
        key=key,
        title=title,
        about=f"{describe_runs(groups)} {about}",
        plot=plots.curves(groups),
        table=table_rows(groups, study),
        distances=distance_rows(groups),
        verdicts=list(verdicts),
        run_table=[_run_row(run, machines) for group in groups for run in group.runs],
    )


def _other_runs(output_dir: Path, shown: set[Path], config_dir: Path | None) -> list[tuple[str, str, list[Run]]]:
    """(title, origin, runs) of what no study has: own runs by data set and protocol, the reference runs by file."""
    own: dict[str, list[Run]] = {}
    folders = sorted(path for path in (output_dir / RUNS).glob("*") if path.is_dir() and path not in shown)
    for run in readable(map(Run, folders)):
        title = f"Other runs: {run.config['dataset']['name']}, protocol {run.config['protocol']['name']}"
        own.setdefault(title, []).append(run)
    others = [(title, "Own runs.", runs) for title, runs in own.items()]
    taken = {config.outline_study(name, config_dir).reference for name in config.names("study", config_dir)}
    for file in stores(output_dir / REFERENCE):
        if file.stem not in taken:
            runs = readable(runs_at(file).values())
            others.append((f"Other runs: {file.stem}", "Reference runs, committed with resexp.", runs))
    return [other for other in others if other[2]]


def _findings(output_dir: Path) -> list[tuple[str, Finding, str]]:
    """One's own, and the reference ones of what one has not measured: name, finding, whose it is."""
    theirs, own = (finding.findings_in(folder) for folder in (output_dir / REFERENCE / ANALYSIS, output_dir / ANALYSIS))
    return [
        (name, found, "Own measurement" if name in own else "Reference, committed with resexp")
        for name, found in {**theirs, **own}.items()
    ]


def _mechanism(name: str, found: Finding, note: str, drawn: dict[str, Any]) -> Mechanism:
    panels = {f"{name}-{index}": plots.panel(panel) for index, panel in enumerate(found.panels)}
    drawn |= panels
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    about = f"{found.about} {note}: resexp analyze {found.analysis}; {versions}."
    return Mechanism(title=found.title, about=about, plots=list(panels), table=finding.table(found))


def _run_row(run: Run, machines: Machines) -> list[str]:
    """Where a number comes from."""
    seconds, rate = number(run.summary.get("seconds")), number(run.images_per_s)
    errors = (number(run.summary.get(key)) for key in ("train_error", "test_error"))
    return [
        run.path.name,
        run.status,
        *("-" if error is None else f"{error:.2f}" for error in errors),
        str(run.env.get("command", "-")),
        str(run.env.get("git_commit") or "-")[:12],
        "-" if seconds is None else duration(seconds),
        "-" if rate is None else f"{rate:,.0f}",
        machines.of(run),
    ]
