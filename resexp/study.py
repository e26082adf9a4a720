"""From run folders to statements: which runs belong to a study, their table, and the verdicts on its claims."""

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resexp import catalog, runlog
from resexp.config import Claim, Config, Study
from resexp.published import published
from resexp.runlog import Run
from resexp.stats import Summary, summarize

RUNS, REFERENCE = "runs", "reference"  # folders of output_dir: one's own runs, and those committed with the project


@dataclass(frozen=True)
class Group:
    """The runs that differ in nothing but their seed."""

    label: str  # the net, and all settings in which runs of that net differ
    net: str
    runs: tuple[Run, ...]
    words: frozenset[str] = frozenset()  # all its settings, as in order=full

    @property
    def name(self) -> str:
        """The label for a person: of several settings those that are not the paper's."""
        words = self.label.split()[1:]
        return " ".join([self.net, *(words if len(words) < 2 else [word for word in words if word not in self.usual])])

    @property
    def usual(self) -> set[str]:
        """The settings of the paper's net, as words."""
        implied = catalog.resolve({"family": self.family, "depth": self.depth})
        return {f"{key}={value}" for key, value in implied.items()}

    @property
    def family(self) -> str:
        return self.runs[0].config["model"]["family"]

    @property
    def depth(self) -> int:
        return self.runs[0].config["model"]["depth"]

    @property
    def seeds(self) -> list[int]:
        return sorted(run.config["seed"] for run in self.runs)

    @property
    def parameters(self) -> int | None:
        """Of the net, as its finished runs counted them."""
        return next((run.summary["params"] for run in self.runs if "params" in run.summary), None)

    def error(self, metric: str) -> Summary | None:
        """Mean over the finished runs; None if there are none, or if they have no such number."""
        values = [run.summary.get(metric) for run in self.runs if run.status == "finished"]
        known = [value for value in values if value is not None]
        return summarize(known) if known else None


def find_study_runs(name: str, jobs: Sequence[Config], output_dir: Path) -> tuple[list[Run], bool]:
    """The runs of a study in any seed, and whether they are reference runs because there are none of one's own.

    Reference runs are those of the folder of the study's name, where there is one.
    """
    own = _matching(jobs, [output_dir / RUNS])
    if own:
        return own, False
    reference = output_dir / REFERENCE
    folders = (
        [reference / name] if (reference / name).is_dir() else sorted(p for p in reference.glob("*") if p.is_dir())
    )
    return _matching(jobs, folders), True


def _matching(jobs: Sequence[Config], folders: Sequence[Path]) -> list[Run]:
    found: dict[str, Run] = {}
    for job in jobs:
        prefix = job.run_name.rpartition("-s")[0]
        for folder in folders:
            for path in sorted(folder.glob(f"{prefix}-s*")):
                match = re.fullmatch(re.escape(prefix) + r"-s(\d+)-[0-9a-f]{8}", path.name)
                same = match and dataclasses.replace(job, seed=int(match[1])).run_name == path.name
                if same and (path / runlog.CONFIG).is_file():
                    found.setdefault(path.name, Run(path))
    return list(found.values())


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Runs of the same settings together, plain before residual, shallow before deep.

    A label is the net's name, and behind it the settings in which runs of that net differ.
    """
    settings = {run: _settings(run.config) for run in runs}
    nets = {run: catalog.net_name(catalog.resolve(run.config["model"])) for run in runs}
    groups: dict[str, list[Run]] = {}
    for run in runs:
        same_net = [settings[other] for other in runs if nets[other] == nets[run]]
        varied = {key: value for key, value in settings[run].items() if any(s.get(key) != value for s in same_net)}
        if "protocol.name" in varied:  # the name says it all
            varied = {key: value for key, value in varied.items() if not key.startswith("protocol.")} | {
                "protocol.name": varied["protocol.name"]
            }
        words = [word for key, value in varied.items() for word in _words({key: value})]
        groups.setdefault(" ".join([nets[run], *words]), []).append(run)
    ordered = [
        Group(label, nets[members[0]], tuple(members), _words(settings[members[0]]))
        for label, members in groups.items()
    ]
    families = list(catalog.FAMILIES)
    return sorted(ordered, key=lambda group: (families.index(group.family), group.depth, group.label))


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """What decides a run's result but for net and seed, flat."""
    config = {**config, "model": catalog.resolve(config["model"])}  # an older run knows fewer knobs
    flat = {
        f"{group}.{key}": value for group in ("model", "dataset", "protocol") for key, value in config[group].items()
    }
    ignored = {"model.family", "model.depth", "dataset.root", "dataset.download", "dataset.sweep_width",
               "dataset.source"}  # fmt: skip
    return {
        key: str(value).replace(" ", "")
        for key, value in flat.items()
        if key not in ignored and key != "protocol.save_seconds" and value is not None
    }


def _words(settings: dict[str, str]) -> frozenset[str]:
    """``{"model.order": "full"}`` -> ``{"order=full"}``."""
    return frozenset(f"{key.removesuffix('.name').removeprefix('model.')}={value}" for key, value in settings.items())


def matches(group: Group, words: str) -> bool:
    """Whether a group is of the net, and has the settings, that ``words`` name: ``resnet110 order=full``."""
    net, *settings = words.split()
    return group.net == net and set(settings) <= group.words


TABLE_COLUMNS = ("net", "width", "parameters", "seeds", "steps", "train error %", "test error %", "published", "source")


def table_rows(groups: Sequence[Group], study: Study | None = None) -> list[list[str]]:
    """The final errors, mean ± standard deviation over seeds, with the published test error beside them."""
    rows = []
    for group in groups:
        steps = sorted({run.step for run in group.runs})
        row = [
            group.name,
            str(group.runs[0].config["model"]["width"] or "-"),
            f"{group.parameters:,}" if group.parameters else "-",
            ",".join(map(str, group.seeds)),
            "-".join(f"{step:,}" for step in (steps if len(steps) < 2 else (steps[0], steps[-1]))),
            *(_cell(group, metric) for metric in ("train_error", "test_error")),
            *_published(group, study),
        ]
        rows.append(row)
    return rows


def _published(group: Group, study: Study | None) -> tuple[str, str]:
    """The published number and its source: the study's own, else that of the net."""
    own = [words for words in (study.published if study else {}) if matches(group, words)]
    if study and own:
        return study.published[max(own, key=len)], study.source
    is_papers = catalog.is_papers(group.runs[0].config["model"])
    known = published(group.net, "test_error") if is_papers and not (study and study.published) else None
    return (f"{known} on {known.dataset}", known.source) if known else ("-", "-")


def _cell(group: Group, metric: str) -> str:
    value = group.error(metric)
    unfinished = [run.status for run in group.runs if run.status != "finished"]
    if value is None:
        return unfinished[0] if unfinished else "-"
    tens = group.error("ten_crop_error") if metric == "test_error" else None
    text = f"{value}; ten crops {tens}" if tens else str(value)
    return f"{text} ({len(unfinished)} unfinished)" if unfinished else text


@dataclass(frozen=True)
class Verdict:
    """A claim against the measurements: ``holds`` is None while a run that it needs is missing."""

    claim: Claim
    holds: bool | None
    seeds: tuple[int, ...]
    effects: tuple[float, ...]  # points, one a seed

    @property
    def word(self) -> str:
        return {True: "holds", False: "FAILS", None: "open"}[self.holds]


def judge(claims: Sequence[Claim], groups: Sequence[Group]) -> list[Verdict]:
    """A claim holds if it holds in every seed, and every setting, in which both nets have finished or diverged."""
    verdicts = []
    for claim in claims:
        measured = [_by_setting_and_seed(groups, words, claim.metric) for words in (claim.net, claim.minus)]
        pairs = sorted(measured[0].keys() & measured[1].keys())
        seeds = tuple(seed for _, seed in pairs)
        effects = tuple(measured[0][pair] - measured[1][pair] for pair in pairs)
        low = -math.inf if claim.at_least is None else claim.at_least
        high = math.inf if claim.at_most is None else claim.at_most
        verdicts.append(Verdict(claim, all(low <= e <= high for e in effects) if effects else None, seeds, effects))
    return verdicts


def _by_setting_and_seed(groups: Sequence[Group], words: str, metric: str) -> dict[tuple[str, int], float]:
    """The finished runs' numbers. Where ``words`` name several groups, each is compared with the one most like it."""
    meant = [group for group in groups if matches(group, words)]
    return {
        (_rest(group, words) if len(meant) > 1 else "", run.config["seed"]): value
        for group in meant
        for run in group.runs
        if (value := final_error(run, metric)) is not None
    }


def final_error(run: Run, metric: str) -> float | None:
    """A finished run's number; that of guessing for a diverged one, which ends with no better net; else None."""
    if run.status == "diverged":
        return 100 * (1 - 1 / run.summary.get("classes", 10))
    return run.summary.get(metric) if run.status == "finished" else None


def _rest(group: Group, words: str) -> str:
    """The settings of a group that ``words`` leave open."""
    return " ".join(word for word in group.label.split() if word not in words.split())


VERDICT_COLUMNS = ("verdict", "claim", "difference", "asked, points", "measured", "95 % interval", "seeds")


def verdict_rows(verdicts: Sequence[Verdict]) -> list[list[str]]:
    rows = []
    for verdict in verdicts:
        claim = verdict.claim
        bounds = [f">= {claim.at_least:g}"] if claim.at_least is not None else []
        bounds += [f"<= {claim.at_most:g}"] if claim.at_most is not None else []
        effect = summarize(verdict.effects) if verdict.effects else None
        interval = f"{effect.low:.1f} to {effect.high:.1f}" if effect and effect.count > 1 else "-"
        rows.append(
            [
                verdict.word,
                claim.text,
                f"{claim.metric.replace('_', ' ')}: {claim.net} - {claim.minus}",
                " and ".join(bounds),
                ", ".join(f"{value:+.1f}" for value in verdict.effects) or "-",
                interval,
                ",".join(map(str, verdict.seeds)) or "-",
            ]
        )
    return rows
