"""Runs side by side: which differ in nothing but their seed, what tells the others apart, and their curves."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from resexp import catalog, config
from resexp.run.reader import DONE, Run, Status, is_number
from resexp.studies.stats import LEAST_SEEDS, Summary, summarize


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
        implied = catalog.resolve(catalog.parse_name(self.net))
        return {f"{key}={value}" for key, value in implied.items()}

    @property
    def family(self) -> str:
        return self.runs[0].config["model"]["family"]

    @property
    def depth(self) -> int:
        return self.runs[0].config["model"]["depth"]

    @property
    def kind(self) -> str:
        """The net's name without its depth: what nets that differ in depth alone share, as ``plain`` or ``wrn_4``."""
        return self.net.replace(str(self.depth), "", 1)

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
        known = self.values(metric)
        return summarize(known) if known else None

    def by_seed(self, metric: str) -> dict[int, float]:
        """The numbers of its runs that have ended."""
        found = {run.config["seed"]: final_error(run, metric) for run in self.runs}
        return {seed: value for seed, value in found.items() if value is not None}

    def values(self, metric: str) -> list[float]:
        """The same, without their seeds."""
        return list(self.by_seed(metric).values())

    def mean(self, metric: str) -> float:
        """Of ``error``; infinite where there is none."""
        known = self.error(metric)
        return known.mean if known else math.inf

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


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Runs of the same settings together, plain before residual, shallow before deep.

    A label is the net's name, and after it what tells the runs apart: knobs in which runs of that net differ, and
    settings of data set and protocol in which any of the runs differ, so that no two protocols are compared unlabelled.
    Of protocols with different names the name says how they differ; beside it stands what differs under one name.
    """
    settings = {run: _settings(run.config) for run in runs}
    nets = {run: catalog.net_name(catalog.resolve(run.config["model"])) for run in runs}

    def scope(run: Run, key: str) -> str:
        """The runs with which one is compared in a setting."""
        if key.startswith("protocol.") and key != "protocol.name":
            return f"protocol {settings[run]['protocol.name']}"
        return nets[run] if key.startswith("model.") else "all"

    protocols = [f"protocol {its['protocol.name']}" for its in settings.values()]
    total = Counter([*nets.values(), *protocols, *["all"] * len(runs)])
    shared = Counter((scope(run, key), key, value) for run in runs for key, value in settings[run].items())
    groups: dict[str, list[Run]] = {}
    for run in runs:
        varied = {
            key: value
            for key, value in settings[run].items()
            if shared[scope(run, key), key, value] < total[scope(run, key)]
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
    steps = sorted({config["protocol"]["steps"] for config in configs})
    text = (
        f"Data set {listed([_data_set(c['dataset']) for c in configs])}; "
        f"protocol {listed([c['protocol']['name'] for c in configs])}, {', '.join(f'{n:,}' for n in steps)} steps of "
        f"{listed([c['protocol']['batch_size'] for c in configs])} images, "
        f"{listed([c['protocol']['precision'] for c in configs])}, "
        f"learning rate {listed([c['protocol']['lr'] for c in configs])}; "
        f"width {listed([c['model']['width'] or 'as built' for c in configs])}; "
        f"seed{'s' * (len(seeds) > 1)} {listed(seeds)}"
    )
    if len(seeds) > 1:
        text += f" ({seeds_as})"
    diverged = sum(run.status == Status.DIVERGED for run in runs)
    unfinished = sum(run.status not in DONE for run in runs)
    counts = {"diverged": diverged, "unfinished": unfinished}
    return text + "".join(f"; {number} of {len(runs)} runs {what}" for what, number in counts.items() if number) + "."


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
    start = {key: settings[key] for key in ("init_digest", "resumed_run") if settings.get(key)}
    return start | {
        f"{group}.{key}": str(value).replace(" ", "")
        for group, its in groups.items()
        for key, value in its.items()
        if f"{group}.{key}" not in ignored and value is not None
    }


def _words(settings: dict[str, str]) -> frozenset[str]:
    """``{"model.order": "full"}`` -> ``{"order=full"}``."""
    return frozenset(f"{key.removesuffix('.name').removeprefix('model.')}={value}" for key, value in settings.items())


def matches(group: Group, words: str) -> bool:
    """Whether a group is of the net, and has the settings, that ``words`` name: ``resnet110 order=full``.

    ``protocol.norm_group=null`` names those that do not have it.
    """
    net, *settings = words.split()
    unset = {word.removesuffix("null") for word in settings if word.endswith("=null")}
    has = any(word.startswith(key) for word in group.words for key in unset)
    return group.net == net and not has and {word for word in settings if not word.endswith("=null")} <= group.words


def final_error(run: Run, metric: str) -> float | None:
    """A finished run's number; that of guessing for a diverged one, which ends with no better net; else None.

    The one rule for tables, figures, verdicts and distances.
    """
    if run.status == Status.DIVERGED:
        return guessing_error(run)
    return number(run.summary.get(metric)) if run.status == Status.FINISHED else None


def best_of(groups: Sequence[Group], metric: str) -> Group:
    """The one with the lowest mean over the seeds that all have that compete, or over its own where they share none.

    A setting that was tried in one or two seeds does not compete with one that was tried in three: it may be luck.
    Raises ValueError if none has a value.
    """
    values = [(group, group.by_seed(metric)) for group in groups]
    enough = min(LEAST_SEEDS, max((len(own) for _, own in values), default=0))
    competing = [(group, own) for group, own in values if own and len(own) >= enough]
    shared = set.intersection(*(set(own) for _, own in competing)) if competing else set()
    return min(competing, key=lambda one: fmean(one[1][seed] for seed in shared or one[1]))[0]


def guessing_error(run: Run) -> float:
    """In percent, of a net that takes each class as often as any other."""
    return 100 * (1 - 1 / run.summary.get("classes", 10))


def number(value: Any) -> float | None:
    """What a log has, if it is a finite number."""
    return value if is_number(value) and math.isfinite(value) else None
