"""From run folders to statements: which runs belong to a study, their table, and the verdicts on its claims."""

import dataclasses
import functools
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resexp import UserError, catalog, config
from resexp.config import Config, Study
from resexp.console import message
from resexp.published import Published, published
from resexp.runs.reader import CONFIG, Run, Status, is_number, read_run
from resexp.stats import Summary, summarize

RUNS, REFERENCE = "runs", "reference"  # folders of output_dir: own runs, and those committed with the project


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
        counted = (run.summary.get("params") for run in self.runs)
        return next((count for count in counted if isinstance(count, int)), None)

    def error(self, metric: str) -> Summary | None:
        """Mean over the runs that have ended; None if there are none, or if they have no such number.

        A diverged run counts as guessing, here as in every verdict and figure.
        """
        known = [value for run in self.runs if (value := final_error(run, metric)) is not None]
        return summarize(known) if known else None

    def measured(self, metric: str) -> bool:
        """Whether any of its runs reports this number."""
        return any(number(run.summary.get(metric)) is not None for run in self.runs)

    def curves(self, split: str) -> tuple[list[int], dict[int, list[float]]]:
        """The steps that all seeds have, and each seed's errors there.

        Of the finished runs, if there are any: one seed that has just begun would cut the rest.
        """
        finished = [run for run in self.runs if run.status == Status.FINISHED]
        found = {run.config["seed"]: dict(zip(*run.curve(split), strict=True)) for run in finished or self.runs}
        found = {seed: curve for seed, curve in found.items() if curve}
        steps = sorted(set.intersection(*(set(curve) for curve in found.values()))) if found else []
        return steps, {seed: [curve[step] for step in steps] for seed, curve in found.items()}


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
    datasets, reference = outline.datasets, output_dir / REFERENCE / outline.reference
    names = [path.name for folder in (output_dir / RUNS, reference) for path in folder.glob("*-s*")]
    # Composing a study takes a tenth of a second and more: not where no run can be one of its.
    if not any(datasets is None or any(f"-{dataset}-" in run for dataset in datasets) for run in names):
        return None
    study, jobs = config.load_study(name, config_dir=config_dir)
    cfgs = [cfg for _, cfg in jobs]
    own = [] if only == REFERENCE else runs_in(output_dir / RUNS, cfgs)
    seeds = {run.config["seed"] for run in own}
    have = {run.path.name for run in own}
    whole = all(any(dataclasses.replace(cfg, seed=seed).run_name in have for seed in seeds) for cfg in cfgs)
    if own and (whole or only == RUNS):
        return StudyRuns(study, group_runs(own), reference=False)
    if theirs := [] if only == RUNS else runs_in(reference, cfgs):
        return StudyRuns(study, group_runs(theirs), reference=True)
    return StudyRuns(study, group_runs(own), reference=False) if own else None


def runs_in(folder: Path, jobs: Sequence[Config]) -> list[Run]:
    """The runs of these jobs, in any seed, directly below a folder."""
    found: dict[str, Path] = {}
    for job in jobs:
        prefix = job.run_name.rpartition("-s")[0]
        for path in sorted(folder.glob(f"{prefix}-s*")):
            match = re.fullmatch(re.escape(prefix) + r"-s(\d+)-[0-9a-f]{8}", path.name)
            if match and dataclasses.replace(job, seed=int(match[1])).run_name == path.name:
                found[path.name] = path
    return readable_runs(list(found.values()))


def readable_runs(paths: Sequence[Path]) -> list[Run]:
    """The run folders among ``paths``; one that is not, or is damaged, is left out with a line on stderr."""
    runs = []
    for path in paths:
        try:
            run = read_run(path)
            groups = group_runs([run])
            describe_runs(groups)
            rate_drops(groups)
            runs.append(run)
        except UserError as error:
            _say_once(f"left out: {error}")
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            _say_once(f"left out: {path}: its {CONFIG} is damaged ({type(error).__name__}: {error})")
    return runs


@functools.cache  # several studies may look at one run
def _say_once(line: str) -> None:
    message(line)


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Runs of the same settings together, plain before residual, shallow before deep.

    A label is the net's name, and after it what tells the runs apart: knobs in which runs of that net differ, and
    settings of data set and protocol in which any of the runs differ, so that no two protocols are compared unlabelled.
    """
    settings = {run: _settings(run.config) for run in runs}
    nets = {run: catalog.net_name(catalog.resolve(run.config["model"])) for run in runs}

    def scope(run: Run, key: str) -> str:
        return nets[run] if key.startswith("model.") else "all"

    total = Counter([*nets.values(), *["all"] * len(runs)])
    shared = Counter((scope(run, key), key, value) for run in runs for key, value in settings[run].items())
    groups: dict[str, list[Run]] = {}
    for run in runs:
        varied = {
            key: value
            for key, value in settings[run].items()
            if shared[scope(run, key), key, value] < total[scope(run, key)]
        }
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


def describe_runs(groups: Sequence[Group], *, seeds_as: str = "mean") -> str:
    """Data set, protocol, seeds and steps, as the runs' own configurations say: a figure's caption.

    :param seeds_as: what is drawn of several seeds.
    """
    runs = [run for group in groups for run in group.runs]
    configs = [run.config for run in runs]

    def listed(values: Sequence[object]) -> str:
        return ", ".join(map(str, sorted(set(values), key=lambda value: (str(type(value)), value))))

    seeds = sorted({config["seed"] for config in configs})
    steps = listed([config["protocol"]["steps"] for config in configs])
    text = (
        f"Data set {listed([_data_set(c['dataset']) for c in configs])}; "
        f"protocol {listed([c['protocol']['name'] for c in configs])}, {steps} steps of "
        f"{listed([c['protocol']['batch_size'] for c in configs])} images, "
        f"{listed([c['protocol']['precision'] for c in configs])}, "
        f"learning rate {listed([c['protocol']['lr'] for c in configs])}; "
        f"width {listed([c['model']['width'] or 'as built' for c in configs])}; "
        f"seed{'s' * (len(seeds) > 1)} {listed(seeds)}"
    )
    if len(seeds) > 1:
        text += f" ({seeds_as})"
    unfinished = sum(run.status != Status.FINISHED for run in runs)
    return text + (f"; {unfinished} of {len(runs)} runs unfinished." if unfinished else ".")


def _data_set(settings: dict[str, Any]) -> str:
    """Its name, and what was taken of it; logs of older runs lack the later settings."""
    classes = len(settings.get("wnids") or []) or settings.get("classes")
    each = settings.get("images_per_class")
    text = settings["name"] + (f", {classes} classes" if classes else "") + (f", {each} images a class" if each else "")
    side = settings.get("image_size")
    return text + (f" at {side} pixels" if side and settings["source"] != "synthetic" else "")


def rate_drops(groups: Sequence[Group]) -> list[int]:
    """The steps at which learning rates fall: those of the protocols, and those that plateaus gave."""
    found = set()
    for run in (run for group in groups for run in group.runs):
        protocol = run.config["protocol"]
        found |= {drop for drop in protocol["lr_drops"] if drop < protocol["steps"]}
        if protocol.get("plateau_window"):
            steps, rates = run.curve("train", "lr")
            found |= {steps[i] for i in range(1, len(steps)) if rates[i] < rates[i - 1] / 2}
    return sorted(found)


def _settings(settings: dict[str, Any]) -> dict[str, Any]:
    """What decides a run's result but for net and seed, flat."""
    groups = {"model": catalog.resolve(settings["model"])} | {
        "dataset": config.completed(config.DatasetConfig, settings["dataset"]),
        "protocol": config.completed(config.ProtocolConfig, settings["protocol"]),
    }
    ignored = {"model.family", "model.depth", "dataset.source"}
    return {
        f"{group}.{key}": str(value).replace(" ", "")
        for group, its in groups.items()
        for key, value in its.items()
        if f"{group}.{key}" not in ignored and value is not None
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
        like = not study.published_on and on_its_images(study, group.runs[0].config)
        return (study.published[max(own, key=len)], study.source) if like else ("-", "-")
    known = published_like(group.runs[0].config) if not (study and study.published) else None
    return (str(known), known.source) if known else ("-", "-")


def other_rows(study: Study) -> list[list[str]]:
    """Published runs of other lengths: source, length, and the test error of each net that the first of them names."""
    nets = study.others[0].nets if study.others else {}
    return [[other.source, other.length, *(other.nets.get(net, "-") for net in nets)] for other in study.others]


def on_its_images(study: Study, config: dict[str, Any]) -> bool:
    """Whether a run is on a data set that the study names, and not on another one by an override."""
    dataset = config["dataset"]
    whole = dataset["source"] in study.datasets and not dataset.get("image_size")  # a tree of any name
    return whole or dataset["name"] in study.datasets


def published_like(config: dict[str, Any]) -> Published | None:
    """The published test error of a run's net, if the run is of the same data, width and length; else None.

    A number of other images or of a longer training would be read as what the run should have reached.
    """
    net = catalog.net_name(catalog.resolve(config["model"]))
    known = published(net, "test_error")
    papers = catalog.is_papers(config["model"], with_width=True)
    return known if known and papers and known.is_of(config) else None


def _cell(group: Group, metric: str) -> str:
    value = group.error(metric)
    ended = (Status.FINISHED, Status.DIVERGED)
    others = [run.status for run in group.runs if run.status not in ended]
    diverged = sum(run.status == Status.DIVERGED for run in group.runs)
    if value is None:
        return others[0] if others else "-"
    tens = group.error("ten_crop_error") if metric == "test_error" and group.measured("ten_crop_error") else None
    notes = [f"{diverged} diverged, as guessing"] * bool(diverged) + [f"{len(others)} unfinished"] * bool(others)
    text = f"{value}; ten crops {tens}" if tens else str(value)
    return f"{text} ({', '.join(notes)})" if notes else text


def final_error(run: Run, metric: str) -> float | None:
    """A finished run's number; that of guessing for a diverged one, which ends with no better net; else None.

    The one rule for tables, figures, verdicts and distances.
    """
    if run.status == Status.DIVERGED:
        return 100 * (1 - 1 / run.summary.get("classes", 10))
    return number(run.summary.get(metric)) if run.status == Status.FINISHED else None


def number(value: Any) -> float | None:
    """What a log has, if it is a finite number."""
    return value if is_number(value) and math.isfinite(value) else None
