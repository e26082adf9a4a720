"""The runs of a study: the user's own, or the reference runs committed with the project."""

import functools
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from resexp import UserError, config
from resexp.config import Config, Study
from resexp.console import message
from resexp.run.reader import CONFIG, Run, check_run
from resexp.run.store import SUFFIX, runs_at
from resexp.studies.groups import Group, describe_runs, group_runs, rate_drops

RUNS, REFERENCE = "runs", "reference"  # folders of output_dir: own runs, and those committed with the project


@dataclass(frozen=True)
class StudyRuns:
    """A study, and the runs that there are of it.

    :param reference: whether they are those committed with the project, because there are no own runs.
    """

    study: Study
    groups: list[Group]
    reference: bool

    @property
    def runs(self) -> list[Run]:
        return [run for group in self.groups for run in group.runs]

    @property
    def note(self) -> str:
        """Where the runs come from, as a sentence."""
        machines = dict.fromkeys(str(run.env.get("hardware", {}).get("cpu", "?")) for run in self.runs)
        whose = "Reference runs, committed with resexp" if self.reference else "Own runs"
        return f"{whose} ({', '.join(machines)})."


def find_study(
    name: str, output_dir: Path, config_dir: Path | None = None, *, only: str | None = None
) -> StudyRuns | None:
    """The runs of a study in any seed; None if there are none. Raises UserError if there is no such study.

    One's own, if they are all that the study asks for, or if there are no reference runs; else the reference runs:
    two runs that another study shares with this one do not hide what is known of it.

    :param only: ``RUNS`` or ``REFERENCE``: from there alone.
    """
    outline = config.outline_study(name, config_dir)
    datasets = outline.datasets
    stored = {} if only == RUNS else runs_at(output_dir / REFERENCE / f"{outline.reference}{SUFFIX}")
    names = [*stored, *(path.name for path in (output_dir / RUNS).glob("*-s*"))]
    # Composing a study takes a tenth of a second and more: not where no run can be one of its.
    if not any(datasets is None or any(f"-{dataset}-" in run for dataset in datasets) for run in names):
        return None
    study = outline.study
    cfgs = config.own_runs(name, study.folder)
    own = [] if only == REFERENCE else runs_of(cfgs, runs_at(output_dir / RUNS))
    seeds = {run.config["seed"] for run in own}
    have = {run.path.name for run in own}
    whole = all(not have.isdisjoint(cfg.run_names(seeds)) for cfg in cfgs)
    if own and (whole or only == RUNS):
        return StudyRuns(study, group_runs(own), reference=False)
    if theirs := runs_of(cfgs, stored):
        return StudyRuns(study, group_runs(theirs), reference=True)
    return StudyRuns(study, group_runs(own), reference=False) if own else None


def runs_of(jobs: Sequence[Config], runs: Mapping[str, Run]) -> list[Run]:
    """Those of ``runs``, given by name, that are of these jobs, in any seed."""
    seeds: dict[str, set[int]] = defaultdict(set)  # by the start of the names
    for name in runs:
        if match := re.fullmatch(r"(.+)-s(\d+)-[0-9a-f]{8}", name):
            seeds[match[1]].add(int(match[2]))
    found: dict[str, Run] = {}
    for job in jobs:
        if there := seeds.get(job.name_start):
            found |= {name: runs[name] for name in sorted(job.run_names(there)) if name in runs}
    return readable(found.values())


def readable(runs: Iterable[Run]) -> list[Run]:
    """Those that can be read; a damaged one is left out with a line on stderr."""
    kept = []
    for run in runs:
        try:
            groups = group_runs([check_run(run)])
            describe_runs(groups)
            rate_drops(groups)
            kept.append(run)
        except UserError as error:
            _say_once(f"left out: {error}")
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            _say_once(f"left out: {run.path}: its {CONFIG} is damaged ({type(error).__name__}: {error})")
    return kept


@functools.cache  # several studies may look at one run
def _say_once(line: str) -> None:
    message(line)
